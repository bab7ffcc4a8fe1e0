//! Running targets: the parent watches a process a target, which keeps the input that it works on
//! where the parent finds it.

use std::{
    collections::HashSet,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Arguments, corpus,
    mutate::mutate,
    targets::{TARGETS, Target},
};

/// One input may take so long, on a machine that is busy with other things and in a build without
/// optimization.
const LONGEST: Duration = Duration::from_secs(10);

/// A process may take so much memory.
const MOST_MEMORY: u64 = 2 << 30;

/// Answers that are told apart; more, and new ones are as good as old ones.
const MOST_ANSWERS: usize = 20_000;

/// Whether something panicked, on whatever thread: a server's task that panics takes nothing else
/// with it.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Counts the inputs that were begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// A target with a fault on a thread of its own: a runner that does not find it finds nothing.
pub(crate) const PLANTED: (&str, Target) = ("planted", |input| {
    let input = input.to_vec();
    let other = thread::spawn(move || assert!(input.first() != Some(&b'!'), "the planted fault"));
    drop(other.join());
    String::new()
});

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../fuzz").join(target)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    if target == PLANTED.0 {
        return vec![b" aaa".to_vec()];
    }
    let mut files: Vec<_> = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Whether `cargo fuzz` finds the same targets: a file, a program and seeds each, and no others.
fn laid_out() -> Result<(), String> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap_or_default();
        if !program.contains(&format!("run(\"{name}\"")) || !manifest.contains(&format!("fuzz_targets/{name}.rs")) {
            return Err(format!("{name} is no program of host/fuzz"));
        }
        if !corpus(name).read_dir().is_ok_and(|mut seeds| seeds.next().is_some()) {
            return Err(format!("{name} has no seeds"));
        }
    }
    for folder in ["fuzz_targets", "corpus"] {
        if fs::read_dir(fuzz.join(folder)).unwrap().count() != TARGETS.len() {
            return Err(format!("host/fuzz/{folder} has one that is no target"));
        }
    }
    Ok(())
}

/// Runs these targets, some at once. Prints a line for each.
pub(crate) fn all(names: &[&'static str], arguments: &Arguments) -> ExitCode {
    println!(
        "fuzz: {} targets, {} s each, {} at once, seed {}",
        names.len(),
        arguments.seconds,
        arguments.jobs,
        arguments.seed
    );
    if let Err(why) = laid_out() {
        println!("fuzz: FAILED: {why}");
        return ExitCode::FAILURE;
    }
    let planted = watched(PLANTED.0, &Arguments { seconds: 20, ..arguments.clone() });
    if !planted.as_ref().is_err_and(|why| why.contains("the planted fault")) {
        println!("fuzz: FAILED: the runner does not find a planted fault: {planted:?}");
        return ExitCode::FAILURE;
    }
    let (waiting, failed) = (Mutex::new(names.iter().rev().collect::<Vec<_>>()), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                while let Some(name) = { waiting.lock().unwrap().pop() } {
                    match watched(name, arguments) {
                        Ok(said) => println!("fuzz: {name}: {said}"),
                        Err(why) => {
                            println!("fuzz: {name} FAILED: {why}");
                            failed.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("fuzz: {} passed, {failed} failed", names.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a target in a process of its own; what it said last, or why it failed.
fn watched(name: &str, arguments: &Arguments) -> Result<String, String> {
    let folder = folder(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let output = File::create(folder.join("output")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--child", "--seconds", &arguments.seconds.to_string(), "--seed", &arguments.seed.to_string()])
        .current_dir(&folder)
        .env("WAYMARK_LOG", "off")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    // What takes longer than its time and one slow input has another reason not to end.
    let latest = Duration::from_secs(arguments.seconds) + 6 * LONGEST;
    let result = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) };
        }
        let memory = resident(&child);
        if memory > MOST_MEMORY {
            break Err(format!("it took {} MiB of memory", memory >> 20));
        }
        if begun.elapsed() > latest {
            break Err("it did not end".to_owned());
        }
        thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    let said = fs::read_to_string(folder.join("output")).unwrap_or_default();
    match result {
        Ok(()) => Ok(said.lines().next_back().unwrap_or_default().to_owned()),
        Err(why) => {
            let input = working_on(&folder).unwrap_or_default();
            let kept = folder.join("failed");
            fs::write(&kept, input).unwrap();
            let kept = kept.canonicalize().unwrap_or(kept);
            Err(format!("{why}; to see it again: cargo test --test fuzz -- {name} --input {}\n{said}", kept.display()))
        }
    }
}

/// Its resident memory.
fn resident(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() << 10
}

/// The input that a process was working on when it ended.
fn working_on(folder: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(folder.join("input")).ok()?;
    let (len, rest) = bytes.split_at_checked(8)?;
    let len = u64::from_be_bytes(len.try_into().ok()?) as usize;
    rest.get(..len).map(<[u8]>::to_vec)
}

/// Runs a target in this process: one input, or many for a time.
pub(crate) fn here((name, target): (&str, Target), arguments: &Arguments) -> ExitCode {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, SeqCst);
        default(panic);
    }));
    if let Some(input) = &arguments.input {
        let answer = once(target, &fs::read(input).unwrap());
        println!("{answer:?}");
        return if answer.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    thread::spawn(watch);
    let input = File::create("input").unwrap();
    let mut corpus = seeds(name);
    let mut answers = HashSet::new();
    let mut random = fastrand::Rng::with_seed(arguments.seed);
    let (begun, limit, mut runs, seeds) = (Instant::now(), Duration::from_secs(arguments.seconds), 0, corpus.len());
    while runs < seeds || begun.elapsed() < limit {
        let made = if let Some(seed) = corpus.get(runs).filter(|_| runs < seeds) {
            seed.clone()
        } else {
            let (one, other) = (random.usize(..corpus.len()), random.usize(..corpus.len()));
            mutate(&mut random, &corpus[one], &corpus[other])
        };
        input.write_all_at(&(made.len() as u64).to_be_bytes(), 0).unwrap();
        input.write_all_at(&made, 8).unwrap();
        let Some(answer) = once(target, &made) else { return ExitCode::FAILURE };
        if runs >= seeds && answers.len() < MOST_ANSWERS && answers.insert(kind(&answer)) {
            corpus.push(made);
        }
        runs += 1;
    }
    println!("{runs} inputs in {:.0} s, {seeds} seeds grown to {}", begun.elapsed().as_secs_f64(), corpus.len());
    ExitCode::SUCCESS
}

/// Answers that differ in figures, or in what stands in quotes and so only echoes the input, are of
/// one kind.
fn kind(answer: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut quote = None;
    for c in answer.chars() {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            None if c.is_ascii_digit() => {}
            None => c.hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// What it answers; none when something panicked.
fn once(target: Target, input: &[u8]) -> Option<String> {
    BEGUN.fetch_add(1, SeqCst);
    let answer = catch_unwind(AssertUnwindSafe(|| target(input))).ok();
    answer.filter(|_| !PANICKED.load(SeqCst))
}

/// Ends the process when one input takes too long.
fn watch() {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        thread::sleep(Duration::from_millis(200));
        let begun = BEGUN.load(SeqCst);
        if begun != seen {
            (seen, since) = (begun, Instant::now());
        } else if begun > 1 && since.elapsed() > LONGEST {
            eprintln!("one input takes longer than {LONGEST:?}");
            std::process::abort();
        }
    }
}
