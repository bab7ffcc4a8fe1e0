//! What instances hold: one alone, and all of a node together.
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use waymark_core::{
    model::{Endpoint, ServiceName},
    policy::{BuildError, NoRequest, PickContext, PickError, Picker, Plan, Policy as _, Scope},
};

use crate::{Engine, EngineConfig, Grants, Kind, Limits, WasmPolicy};

const MIB: usize = 1 << 20;

/// It takes all memory that it is given, of eight memories.
const GREEDY: &[u8] = include_bytes!("../../dist/test/takes_all_memory.wasm");

/// Each of its eight tables takes as many elements as it is given.
const HOARDS_TABLES: &[u8] = include_bytes!("../../dist/test/hoards_tables.wasm");

fn engine(total_memory: usize, limits: Limits) -> Engine {
    Engine::new(EngineConfig { instances: 2, total_memory, limits, ..EngineConfig::default() }).unwrap()
}

fn limited(mib: usize) -> Limits {
    Limits { memory: mib * MIB, build_deadline: std::time::Duration::from_secs(10), ..Limits::default() }
}

fn greedy(engine: &Engine) -> WasmPolicy {
    engine.load(GREEDY, "takes_all_memory").unwrap().into_policy("{}").unwrap()
}

fn build(policy: &WasmPolicy, service: &str, endpoints: u8) -> Result<Plan, BuildError> {
    let endpoints: Vec<_> = (0..endpoints).map(|n| Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())).collect();
    policy.build(&Scope { service: ServiceName::new(service).unwrap(), zone: "".into() }, &endpoints)
}

fn picker(plan: Plan) -> Box<dyn Picker> {
    match plan {
        Plan::EachRequest(picker) => picker,
        other => panic!("a picker was expected, not a {}", other.kind()),
    }
}

const CONTEXT: PickContext = PickContext { sequence: 0, random: (0, 0), hash: None, attempt: 0 };

#[test]
fn all_memories_and_tables_of_an_instance_are_bounded_together() {
    let engine = engine(1024 * MIB, limited(8));
    let policy = greedy(&engine);
    let plan = build(&policy, "svc", 3).unwrap();
    let peak = policy.plugin().take_memory_peak();
    assert!((7 * MIB..=8 * MIB).contains(&peak), "an instance that may have 8 MiB has {peak}");
    assert!((7 << 20..=9 << 20).contains(&engine.usage().memory));
    assert!(picker(plan).pick(CONTEXT, &NoRequest("/a.B/C")).is_ok());
    assert_eq!(engine.usage().instances, 0);

    let limits = Limits { table_elements: 10_000_000, ..limited(8) };
    let policy =
        engine.load_with(HOARDS_TABLES, "hoards_tables", limits, Grants::NONE).unwrap().into_policy("{}").unwrap();
    let _plan = build(&policy, "svc", 3).unwrap();
    let peak = policy.plugin().take_memory_peak();
    assert!((7 * MIB..=8 * MIB).contains(&peak), "tables take {peak}");
}

#[test]
fn greedy_newcomers_are_refused_and_those_who_run_and_the_small_ones_are_not() {
    let engine = engine(68 * MIB, limited(16));
    let (greedy, small) = (greedy(&engine), engine.load_bundled(Kind::Policy, "least_request").unwrap());
    let small = small.into_policy("{}").unwrap();
    let mut running: Vec<_> = (0..3).map(|n| build(&greedy, &format!("greedy{n}"), 3).unwrap()).collect();
    let refused = build(&greedy, "greedy3", 3).map(drop).unwrap_err();
    assert!(matches!(&refused, BuildError::NoRoom { reason, .. } if reason.contains("total-memory-mib")), "{refused}");
    // Who runs may be built anew, and others are served.
    running[1] = build(&greedy, "greedy1", 4).unwrap();
    let _small = build(&small, "small", 3).unwrap();
    running.pop();
    let _now = build(&greedy, "greedy3", 3).unwrap();
    assert_eq!(engine.usage().refused, 1);
}

#[test]
fn a_service_without_endpoints_keeps_no_instance() {
    let engine = engine(64 * MIB, limited(16));
    let plans: Vec<_> = (0..50).map(|n| build(&greedy(&engine), &format!("made-up{n}"), 0).unwrap()).collect();
    assert!(plans.iter().all(|plan| plan.kind() == "each-request"));
    assert_eq!((engine.usage().instances, engine.usage().memory), (0, 0));
}

#[test]
fn another_instance_is_made_when_picks_wait_for_each_other_and_while_there_is_plenty() {
    for (total, expected) in [(64 * MIB, 2), (300 << 10, 1)] {
        let engine = engine(total, limited(1));
        let policy = engine.load_bundled(Kind::Policy, "least_request").unwrap().into_policy("{}").unwrap();
        let picker = picker(build(&policy, "svc", 3).unwrap());
        assert_eq!(engine.usage().instances, 1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        let picked = picker.pick(CONTEXT, &NoRequest("/a.B/C"));
                        // A machine that is busy may have held up the one that has the instance.
                        assert!(matches!(picked, Ok(_) | Err(PickError::Busy)), "{picked:?}");
                    }
                });
            }
            if expected == 2 {
                while engine.usage().instances < expected {
                    thread::yield_now();
                }
            } else {
                (0..3).for_each(|_| engine.finish_restarts());
            }
            done.store(true, Relaxed);
        });
        assert_eq!(engine.usage().instances, expected);
    }
}

#[test]
fn growth_that_the_node_has_no_room_for_fails_as_growth_does() {
    let engine = engine(4 * MIB, limited(64));
    // While it is built it may have what it may have; it cannot be kept, and the reason says so.
    let refused = build(&greedy(&engine), "svc", 3).map(drop).unwrap_err().to_string();
    assert!(refused.contains("hold 0 MiB of 4 MiB"), "{refused}");
    // A pick that wants more than is left traps, as it does at its own limit, and is told why.
    let guest = include_bytes!("../../dist/test/hoards_in_pick.wasm");
    let policy = engine.load(guest, "hoards_in_pick").unwrap().into_policy(r#"{"every": 1}"#).unwrap();
    let error = picker(build(&policy, "svc", 3).unwrap()).pick(CONTEXT, &NoRequest("/a.B/C")).unwrap_err();
    assert!(error.to_string().contains("the node's plugins hold"), "{error}");
}
