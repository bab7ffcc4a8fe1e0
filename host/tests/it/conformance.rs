//! The conformance kit over real components: what is bundled passes, and each guest that misbehaves
//! is found by the right line.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use waymark_node::{
    conformance::{self, Options, Outcome, Report},
    plugin::{Engine, EngineConfig, Limits, bundled},
};

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test")
}

/// The command in a process of its own: the memory that the kit measures is then the kit's.
fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.args(["plugin", "check"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_bundled_component_passes_with_its_claims() {
    for component in bundled::ALL {
        let output = check(&[component.name, "--quick", "--json", "--time-limit", "900"]);
        let shown = format!("{}: {}{}", component.name, text(&output.stdout), text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{shown}"));
        assert!(output.status.success() && report["passed"] == true, "{shown}");
        assert_eq!(report["plugin"], component.name);
        let claims = conformance::bundled_claims(component.name).unwrap_or_default().len();
        assert_eq!(report["claims"].as_array().map(Vec::len), Some(claims), "{shown}");
    }
}

#[test]
fn a_check_that_fails_shows_its_line_and_exits_with_1() {
    let guest = guests().join("plan_out_of_range.wasm");
    let output = check(&[guest.to_str().unwrap(), "--quick"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("FAILED") && line.contains("10 endpoints")), "{shown}");
    assert!(text(&output.stderr).is_empty(), "no progress is shown where there is no terminal");
    // A claim turns an observation into a requirement.
    let output = check(&["round_robin", "--quick", "--claim", "weights"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("FAILED") && line.contains("by weight")), "{shown}");
    assert_eq!(check(&["round_robin", "--claim", "speed"]).status.code(), Some(2));
    assert_eq!(check(&["/no/such/file.wasm"]).status.code(), Some(2));
}

#[test]
fn a_command_that_runs_out_of_time_says_what_it_cut_and_does_not_pass() {
    // It makes ten thousand builds for its memory alone.
    let output = check(&["least_request", "--time-limit", "1"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("NOT FINISHED") && !shown.contains("FAILED"), "{shown}");
    assert!(shown.contains("cut by the time limit of 1 s: ") && shown.contains("memory"), "{shown}");
    assert_eq!(check(&["round_robin", "--time-limit", "0"]).status.code(), Some(2));
    let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
    command.args(["plugin", "simulate", "least_request", "--picks", "1000000000", "--time-limit", "1", "--json"]);
    let output = command.output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert_eq!((&found["wanted"], &found["cut"]), (&1_000_000_000.into(), &"picks, and where keys move".into()));
    assert!(found["picks"].as_u64().is_some_and(|picks| picks < 1_000_000_000), "{found}");
    let shares = found["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["picks"].as_u64().unwrap());
    assert_eq!(shares.sum::<u64>(), found["picks"].as_u64().unwrap(), "what was picked by then is told");
}

/// The report on a test guest, and what failed in it.
fn failed(guest: &str, config: &str) -> (BTreeSet<String>, Report) {
    static ENGINES: OnceLock<[Engine; 2]> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| {
        let limits = Limits {
            // An unoptimised host takes long to hand over 10,000 endpoints.
            build_deadline: Duration::from_secs(3),
            ..Limits::default()
        };
        [(); 2].map(|()| {
            Engine::new(EngineConfig { instances: 1, limits: limits.clone(), ..EngineConfig::default() }).unwrap()
        })
    });
    let bytes = fs::read(guests().join(format!("{guest}.wasm"))).unwrap();
    let options = Options { quick: true, config: config.into(), ..Options::default() };
    let report = match engines.each_ref().map(|engine| engine.load(&bytes, guest)) {
        [Ok(plugin), Ok(again)] => conformance::check(&plugin, &again, &options, &|_| {}).unwrap(),
        [Err(error), _] | [_, Err(error)] => Report::not_loaded(guest, &error, &options),
    };
    // Other tests of this process allocate meanwhile.
    let failed =
        report.lines.iter().filter(|line| line.outcome == Outcome::Failed && line.check != "the host's memory");
    (failed.map(|line| format!("{}: {}", line.section, line.check)).collect(), report)
}

#[test]
fn each_guest_is_found_by_the_line_for_what_it_does() {
    let every_6th = r#"{"every": 6}"#;
    let cases: &[(&str, &str, &[&str])] = &[
        ("asks_for_secrets", "{}", &["component: imports"]),
        ("empty", "{}", &["component: world"]),
        ("other_world", "{}", &["component: world"]),
        ("newer_interface", "{}", &["component: interface version"]),
        ("traps_in_describe", "{}", &["component: description"]),
        ("fails_to_build", "{}", &["plans: 10 endpoints"]),
        ("empty_plan", "{}", &["plans: 10 endpoints"]),
        ("plan_out_of_range", "{}", &["plans: 10 endpoints"]),
        ("loops_in_build", "{}", &["plans: 10 endpoints"]),
        ("hoards_in_build", "{}", &["plans: 10 endpoints"]),
        ("panics", r#"{"in": "build"}"#, &["plans: 10 endpoints"]),
        ("panics", r#"{"in": "pick"}"#, &["picks: index ranges"]),
        ("traps_in_pick", every_6th, &["picks: index ranges"]),
        ("loops_in_pick", every_6th, &["picks: index ranges"]),
        ("hoards_in_pick", every_6th, &["picks: index ranges"]),
        ("overflows_stack", every_6th, &["picks: index ranges"]),
        ("pick_out_of_range", every_6th, &["picks: index ranges"]),
        // More picks than one size of the index ranges gets.
        ("traps_in_pick", r#"{"every": 1500}"#, &["picks: a long run"]),
        ("counts_picks", "{}", &["determinism: picks", "picks: plain requests are sent"]),
        ("writes_elsewhere", "{}", &["keys: under the prefixes"]),
        // What these do is a matter for the limits, not for the interface.
        ("floods_log", "{}", &[]),
        ("hash_table", "{}", &[]),
    ];
    for (guest, config, expected) in cases {
        let (found, report) = failed(guest, config);
        let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(found, expected, "{guest} {config}: {:#?}", report.lines);
    }
}

#[test]
fn a_hash_table_claims_by_being_one_that_its_keys_stay() {
    let (_, report) = failed("hash_table", "{}");
    let line = report.lines.iter().find(|line| line.check == "an endpoint leaves").unwrap();
    assert_eq!(line.outcome, Outcome::Ok, "{line:?}");
}
