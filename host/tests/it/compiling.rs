//! Compiling in a process of its own, which can be stopped; and what address space a node needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use wasm_encoder::{
    BlockType, CodeSection, Component, Function, FunctionSection, InstructionSink, Module, ModuleSection, TypeSection,
};
use waymark_node::plugin::{Abandon, CompileLimits, Engine, EngineConfig, Grants, LoadError};

fn engine(cache_dir: Option<&Path>, change: impl FnOnce(&mut CompileLimits)) -> Engine {
    let mut compile = CompileLimits { program: Some(env!("CARGO_BIN_EXE_waymark").into()), ..CompileLimits::default() };
    change(&mut compile);
    Engine::new(EngineConfig { cache_dir: cache_dir.map(PathBuf::from), compile, ..EngineConfig::default() }).unwrap()
}

fn guest(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/dist/test/{name}.wasm"))).unwrap()
}

fn functions(n: usize, body: impl Fn(&mut InstructionSink<'_>)) -> Vec<u8> {
    let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for _ in 0..n {
        declared.function(0);
        let mut function = Function::new([(10, wasm_encoder::ValType::I64)]);
        body(&mut function.instructions());
        function.instructions().end();
        code.function(&function);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    component.finish()
}

/// A compiler takes minutes for it, although it passes the look that comes before.
fn bomb() -> Vec<u8> {
    functions(2, |body| {
        for _ in 0..17_000 {
            body.local_get(0).i64_const(1).i64_add().local_set(1);
            body.loop_(BlockType::Empty).local_get(1).i32_wrap_i64().br_if(0).end();
        }
    })
}

#[test]
fn what_another_process_compiled_is_taken_over_and_lies_signed_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for times in 1..=2 {
        let engine = engine(Some(folder.path()), |_| {});
        assert_eq!(engine.load(&guest("counts_picks"), "counts_picks").unwrap().description.name, "counts_picks");
        assert_eq!(engine.compiles().done, 1);
        assert_eq!(fs::read_dir(folder.path().join("signed")).unwrap().count(), 1, "in round {times}");
    }
    // Without a folder of its own there is one that ends with the engine.
    engine(None, |_| {}).load(&guest("counts_picks"), "counts_picks").unwrap();
    let mut damaged = guest("counts_picks");
    let at = damaged.len() / 2;
    damaged[at..at + 40].fill(0xff);
    let error = engine(None, |_| {}).load(&damaged, "damaged").map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Invalid { .. }), "{error}");
}

#[test]
fn a_compile_ends_with_its_time_and_others_go_on_meanwhile() {
    let engine = engine(None, |limits| limits.deadline = Duration::from_secs(2));
    let bombs: Vec<_> = (0..3)
        .map(|nth| {
            let engine = engine.clone();
            thread::spawn(move || {
                // Each of its own: the same would be compiled once.
                let mut bomb = bomb();
                bomb.extend([0, 2, 0, nth]);
                let refused = || engine.load(&bomb, "bomb").map(drop).unwrap_err();
                (refused(), refused())
            })
        })
        .collect();
    // It is not bundled, and there although bombs have all places for a while. A machine that is
    // too busy for it says so.
    loop {
        match engine.load(&guest("counts_picks"), "counts_picks") {
            Ok(_) => break,
            Err(LoadError::NotCompiled { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    for bomb in bombs {
        match bomb.join().unwrap() {
            (LoadError::TooCostly { reason, .. }, LoadError::TooCostly { reason: again, .. }) => {
                assert!(reason.contains("2 s of processor time") && again.contains("it is tried again in"), "{again}");
            }
            // The machine was too busy to tell.
            (LoadError::NotCompiled { .. }, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_compile_ends_with_whoever_asked_for_it() {
    let engine = engine(None, |limits| limits.deadline = Duration::from_secs(3600));
    let abandon = Abandon::default();
    let (told, hears) = mpsc::channel();
    thread::spawn({
        let (engine, abandon) = (engine.clone(), abandon.clone());
        move || {
            let limits = engine.limits().clone();
            told.send(engine.load_unless(&bomb(), "bomb", limits, Grants::NONE, &abandon).map(drop)).unwrap();
        }
    });
    assert!(hears.try_recv().is_err());
    drop(abandon.on_drop());
    let error = hears.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
    assert!(error.to_string().contains("whoever asked for it has gone"), "{error}");
    assert_eq!(engine.compiles().abandoned, 1);
}

#[test]
fn a_compile_that_takes_too_much_memory_is_ended() {
    let engine = engine(None, |limits| limits.memory = 48 << 20);
    // One long function, of which the compiler has all at once.
    let large = functions(1, |body| {
        for at in 0..250_000 {
            body.local_get(at % 9).i64_const(1).i64_add().local_set(at % 9 + 1);
        }
    });
    let error = engine.load(&large, "large").map(drop).unwrap_err().to_string();
    assert!(error.contains("takes more than 48 MiB of memory to compile"), "{error}");
}

#[tokio::test]
async fn a_node_starts_and_plans_within_4_gib_of_address_space() {
    let mut node = tokio::process::Command::new("sh")
        .args(["-c", r#"ulimit -v 4194304 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_waymark")])
        .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", "none"])
        .args(["--policy", "least_request", "--plugin-cache"])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap();
    assert!(first.as_ref().is_some_and(|line| line.starts_with("node ")), "{first:?}");
}
