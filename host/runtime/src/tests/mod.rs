//! The bundled components, and bad ones, through the one door.
#![allow(clippy::unwrap_used, reason = "tests")]

mod guest;
mod handles;
mod memory;
mod wasi;

use std::sync::Arc;

use proptest::prelude::*;
use waymark_core::{
    model::{Endpoint, InstanceId, LeaseId, Locality, ServiceName, Ttl},
    naming::{Entry, KeyScheme as _, NamingError},
    policy::{BuildError, Decision, LoadReport, PickContext, Plan, Policy as _, RequestFacts, Scope},
};

use super::*;

fn engine() -> Engine {
    // One for the whole test process: what it compiled is found again.
    static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(EngineConfig { instances: 2, ..EngineConfig::default() }).unwrap()).clone()
}

fn policy(name: &str, config: &str) -> WasmPolicy {
    engine().load_bundled(Kind::Policy, name).unwrap().into_policy(config).unwrap()
}

fn scheme(name: &str) -> WasmKeyScheme {
    engine().load_bundled(Kind::KeyScheme, name).unwrap().into_key_scheme("{}").unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn scope(zone: &str) -> Scope {
    Scope { service: service("svc"), zone: zone.into() }
}

fn endpoint(n: u8, zone: &str, weight: u32) -> Endpoint {
    Endpoint { locality: Locality::zone(zone), weight, ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap()) }
}

fn rotation(plan: Plan) -> Vec<u32> {
    match plan {
        Plan::Rotation(list) => list.into(),
        other => panic!("a rotation was expected, not {}", other.kind()),
    }
}

fn shares(list: &[u32], n: usize) -> Vec<f64> {
    let mut counts = vec![0usize; n];
    for index in list {
        counts[*index as usize] += 1;
    }
    counts.into_iter().map(|count| count as f64 / list.len() as f64).collect()
}

#[test]
fn round_robin_visits_everybody_once() {
    let endpoints: Vec<_> = (1..=5).map(|n| endpoint(n, "", 1)).collect();
    let mut list = rotation(policy("round_robin", "{}").build(&scope(""), &endpoints).unwrap());
    list.sort_unstable();
    assert_eq!(list, [0, 1, 2, 3, 4]);
}

#[test]
fn weighted_shares_follow_the_weights() {
    let endpoints = [endpoint(1, "", 5), endpoint(2, "", 1), endpoint(3, "", 0), endpoint(4, "", 4)];
    let list = rotation(policy("weighted", "{}").build(&scope(""), &endpoints).unwrap());
    assert_eq!(shares(&list, 4), [0.5, 0.1, 0.0, 0.4]);
}

#[test]
fn zone_aware_stays_in_its_zone_and_leaves_it_when_it_is_gone() {
    let endpoints = [endpoint(1, "a", 1), endpoint(2, "a", 1), endpoint(3, "b", 1), endpoint(4, "b", 1)];
    let policy = policy("zone_aware", r#"{"min_endpoints": 2}"#);
    let at_home = shares(&rotation(policy.build(&scope("a"), &endpoints).unwrap()), 4);
    assert!(at_home[2] + at_home[3] < f64::EPSILON, "{at_home:?}");
    let away = shares(&rotation(policy.build(&scope("c"), &endpoints).unwrap()), 4);
    assert!(away.iter().all(|share| *share > 0.2), "{away:?}");
}

struct Load(Vec<u32>);

impl RequestFacts for Load {
    fn path(&self) -> &'static str {
        "/a.B/C"
    }
    fn header(&self, _: &str) -> Option<&str> {
        None
    }
    fn tried(&self, _: u32) -> bool {
        false
    }
    fn in_flight(&self, endpoint: u32) -> u32 {
        self.0[endpoint as usize]
    }
    fn latency_us(&self, _: u32) -> u32 {
        0
    }
}

#[test]
fn least_request_names_two_and_lets_the_host_compare() {
    let endpoints: Vec<_> = (1..=4).map(|n| endpoint(n, "", 1)).collect();
    let Plan::EachRequest(picker) = policy("least_request", "{}").build(&scope(""), &endpoints).unwrap() else {
        panic!("least_request decides per request");
    };
    let load = Load(vec![9, 9, 9, 0]);
    let mut seen = [0usize; 4];
    let mut random = fastrand::Rng::with_seed(7);
    for sequence in 0..2000 {
        let context = PickContext { sequence, random: (random.u32(..), random.u32(..)), hash: None, attempt: 0 };
        match picker.pick(context, &load).unwrap() {
            Decision::Either(a, b) => {
                seen[a as usize] += 1;
                seen[b as usize] += 1;
            }
            Decision::Endpoint(index) => seen[index as usize] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 700), "{seen:?}");
}

/// A request whose header orders a guest to tell what it sees, and endpoints of which all is known.
struct Told;

impl RequestFacts for Told {
    fn path(&self) -> &'static str {
        "/a.B/C"
    }
    fn header(&self, name: &str) -> Option<&str> {
        (name == "waymark-test").then_some("fail")
    }
    fn tried(&self, _: u32) -> bool {
        false
    }
    fn in_flight(&self, _: u32) -> u32 {
        4
    }
    fn latency_us(&self, _: u32) -> u32 {
        7
    }
    fn failure_rate(&self, _: u32) -> f64 {
        0.25
    }
    fn report(&self, endpoint: u32) -> Option<LoadReport> {
        let age = std::time::Duration::from_millis(1500);
        let said =
            LoadReport { cpu_utilization: 1.25, memory_utilization: 0.5, rps: 12.0, age, ..LoadReport::default() };
        (endpoint == 0).then_some(said)
    }
    fn metric(&self, endpoint: u32, name: &str) -> Option<f64> {
        (endpoint == 0 && name == "queue").then_some(-3.0)
    }
}

#[test]
fn plugins_of_every_interface_run_on_this_host() {
    let endpoints = [endpoint(1, "", 1), endpoint(2, "", 1)];
    let before = "/a.B/C sequence 9 attempt 0 hash None";
    for (guest, interface, told) in [
        (include_bytes!("../../dist/test/old_interface.wasm").as_slice(), "0.1.0", " 0:4/7us 1:4/7us"),
        (
            include_bytes!("../../dist/test/reads_request.wasm"),
            "0.1.1",
            " 0:4/7us failing 0.25 LoadReport { cpu-utilization: 1.25, memory-utilization: 0.5, application-utilization: 0.0, \
             rps: 12.0, eps: 0.0, age-ms: 1500 } queue -3 1:4/7us failing 0.25",
        ),
    ] {
        let plugin = engine().load(guest, "guest.wasm").unwrap();
        assert_eq!(plugin.world(), format!("waymark:plugin/balancer-plugin@{interface}"));
        assert!(plugin.imports.contains(&format!("waymark:plugin/load@{interface}")), "{:?}", plugin.imports);
        let inspection = engine().inspect(guest, "guest.wasm", Grants::NONE).unwrap();
        assert_eq!(inspection.world, Some(plugin.world()));
        assert!(inspection.imports.iter().all(|import| import.access == Access::World));
        let Plan::EachRequest(picker) = plugin.into_policy("{}").unwrap().build(&scope(""), &endpoints).unwrap() else {
            panic!("it decides per request");
        };
        let context = PickContext { sequence: 9, random: (0, 0), hash: None, attempt: 0 };
        assert_eq!(picker.pick(context, &Told).unwrap(), Decision::Fail(format!("{before}{told}")));
    }
}

/// A guest keeps the message of a pick until the next one instead of freeing it in a call of its
/// own.
#[test]
fn messages_of_picks_arrive_whole_and_do_not_add_up() {
    let limits = Limits { memory: 2 << 20, ..Limits::default() };
    let guest = include_bytes!("../../dist/test/reads_request.wasm");
    let plugin = engine().load_with(guest, "reads_request.wasm", limits, Grants::NONE).unwrap();
    let one = [endpoint(1, "", 1)];
    let Plan::EachRequest(picker) = plugin.into_policy("{}").unwrap().build(&scope(""), &one).unwrap() else {
        panic!("it decides per request");
    };
    let context = PickContext { sequence: 0, random: (0, 0), hash: None, attempt: 0 };
    let first = picker.pick(context, &Told).unwrap();
    assert!(matches!(&first, Decision::Fail(told) if told.len() > 20), "{first:?}");
    // Far more than there is memory.
    for _ in 0..200_000 {
        assert_eq!(picker.pick(context, &Told).unwrap(), first);
    }
}

/// A bad configuration for every bundled policy that has fields; the first name in it is the field
/// at fault.
const BAD_CONFIGS: [(&str, &str); 12] = [
    ("zone_aware", r#"{"min_endpoints": "x"}"#),
    ("priority", r#"{"sizes": {"first": 1}}"#),
    ("subset", r#"{"size": 5}"#),
    ("pick_first", r#"{"shuffle": "yes"}"#),
    ("least_request", r#"{"choice_count": 99}"#),
    ("weighted_least_request", r#"{"active_request_bias": -1}"#),
    ("peak_ewma", r#"{"explore": 99}"#),
    ("reported_load", r#"{"utilization": "disk"}"#),
    ("ring_hash", r#"{"min_ring_size": 5000}"#),
    ("maglev", r#"{"table_size": 65536}"#),
    ("sticky", r#"{"header": ""}"#),
    ("canary_by_header", r#"{"percent": 101}"#),
];

#[test]
fn a_refused_configuration_names_its_field() {
    for bundled in bundled::of(Kind::Policy) {
        let plugin = engine().load_bundled(bundled.kind, bundled.name).unwrap();
        let tried = BAD_CONFIGS.iter().any(|(name, _)| *name == bundled.name);
        assert_eq!(tried, !plugin.description.fields.is_empty(), "{}", bundled.name);
    }
    for (name, config) in BAD_CONFIGS {
        let error = policy(name, config).build(&scope(""), &[endpoint(1, "", 1)]).map(|_| ()).unwrap_err();
        let field = config.split('"').nth(1).unwrap();
        assert!(matches!(error, BuildError::Refused { .. }) && error.to_string().contains(field), "{error}");
    }
    let error = policy("round_robin", r#"{"nonsense": 1}"#).build(&scope(""), &[]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    let plugin = engine().load_bundled(Kind::Policy, "round_robin").unwrap();
    assert!(matches!(plugin.into_policy("[1]"), Err(LoadError::BadConfig { .. })));
}

#[test]
fn etcd_naming_writes_what_the_go_client_writes() {
    let scheme = scheme("etcd_naming");
    let service = service("ayang/server1");
    assert_eq!(scheme.prefixes(&service).unwrap(), ["ayang/server1/"]);
    let endpoint = Endpoint::at("127.0.0.1:8080".parse().unwrap());
    let entries = scheme.encode(&service, &endpoint, LeaseId(1), Ttl::DEFAULT).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].key, "ayang/server1/127.0.0.1:8080");
    assert_eq!(entries[0].value, br#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#);
    assert_eq!(scheme.decode(&service, &entries[0]).unwrap().endpoints, [endpoint]);
    assert!(scheme.warning().is_none());
}

#[test]
fn what_an_entry_says_of_weight_and_zone_is_heeded_or_warned_of() {
    let scheme = scheme("etcd_naming");
    let read = |metadata: &str| {
        let value = format!(r#"{{"Op":0,"Addr":"192.0.2.1:80","Metadata":{metadata}}}"#).into_bytes();
        let decoded = scheme.decode(&service("svc"), &Entry { key: "svc/x".into(), value }).unwrap();
        (decoded.endpoints[0].weight, decoded.endpoints[0].locality.zone.to_string(), decoded.warnings.join("; "))
    };
    assert_eq!(read(r#"{"weight":3.0,"zone":1}"#), (3, "1".into(), String::new()));
    let (weight, zone, warnings) = read(r#"{"weight":2.5,"zone":[]}"#);
    assert_eq!((weight, zone.as_str()), (3, ""));
    assert!(warnings.contains("the weight 2.5 is no whole number") && warnings.contains("the zone []"), "{warnings}");
    let (weight, _, warnings) = read(r#"{"weight":4294967296}"#);
    assert!(weight == u32::MAX && warnings.contains("4294967296"), "{weight} {warnings}");
    // A warning is of its entry alone.
    assert_eq!(read(r#"{"weight":"4"}"#), (4, String::new(), String::new()));
}

#[test]
fn an_entry_that_may_be_of_a_service_below_is_warned_of_with_the_way_to_keep_it_apart() {
    let below = Entry { key: "ayang/server1/127.0.0.1:8080".into(), value: br#"{"Addr":"127.0.0.1:8080"}"#.into() };
    let decoded = scheme("etcd_naming").decode(&service("ayang"), &below).unwrap();
    assert_eq!(decoded.endpoints.len(), 1, "as Go has it");
    assert!(decoded.warnings[0].contains(r#"{"nested_ids": false}"#), "{:?}", decoded.warnings);
    assert_eq!(scheme("etcd_naming").decode(&service("ayang/server1"), &below).unwrap().warnings, [""; 0]);
}

#[test]
fn bare_prefix_reproduces_the_mistake_and_warns_of_it() {
    let scheme = scheme("bare_prefix");
    assert_eq!(scheme.prefixes(&service("ayang/server")).unwrap(), ["ayang/server"]);
    assert!(scheme.warning().is_some());
}

#[test]
fn a_value_that_the_scheme_did_not_write_is_unreadable_and_an_address_that_does_not_parse_too() {
    let scheme = scheme("etcd_naming");
    for value in ["", "hello", "{\"Addr\":\"nowhere\"}", "[]"] {
        let entry = Entry { key: "svc/x".into(), value: value.into() };
        let error = scheme.decode(&service("svc"), &entry).unwrap_err();
        assert!(matches!(error, NamingError::Unreadable { .. }), "{value}: {error}");
    }
}

#[test]
fn what_is_not_a_plugin_is_told_apart() {
    let load = |bytes: &[u8]| engine().load(bytes, "x.wasm").map(|_| ()).unwrap_err();
    assert!(matches!(load(b""), LoadError::NotWasm { .. }));
    assert!(load(b"#!/bin/sh\n").to_string().contains("text that begins with"));
    assert!(load(b"\x7fELF....").to_string().contains("ELF"));
    assert!(load(b"(component)").to_string().contains("WebAssembly text"));
    assert!(matches!(load(&wat::parse_str("(module)").unwrap()), LoadError::CoreModule { .. }));
    let component = |text: &str| load(&wat::parse_str(text).unwrap());
    assert!(matches!(component("(component)"), LoadError::OtherWorld { .. }));
    for version in ["0.1.2", "0.2.0", "9.0.0"] {
        let newer = component(&format!(
            r#"(component (instance $i) (export "waymark:plugin/balancer@{version}" (instance $i)))"#
        ));
        let told =
            format!("x.wasm targets waymark:plugin/balancer@{version}; this host supports waymark:plugin@0.1.0, 0.1.1");
        assert_eq!(newer.to_string(), told);
        assert!(matches!(newer, LoadError::UnsupportedVersion { .. }));
    }
    // What is exported is of this version, and what is asked for is of a newer one.
    let newer = component(
        r#"(component (import "waymark:plugin/load@0.1.2" (instance)) (instance $i)
            (export "waymark:plugin/balancer@0.1.1" (instance $i)))"#,
    );
    assert!(newer.to_string().contains("targets waymark:plugin/load@0.1.2; this host supports"), "{newer}");
    let wants = component(
        r#"(component (import "wasi:filesystem/types@0.2.0" (instance)) (instance $i)
            (export "waymark:plugin/balancer@0.1.0" (instance $i)))"#,
    );
    assert!(matches!(&wants, LoadError::NotGranted { import, .. } if import.contains("wasi:filesystem")), "{wants}");
    let hollow = component(r#"(component (instance $i) (export "waymark:plugin/balancer@0.1.0" (instance $i)))"#);
    assert!(matches!(hollow, LoadError::Mismatch { .. }), "{hollow}");
    let mut damaged = bundled::ALL[0].bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    assert!(matches!(load(&damaged), LoadError::Invalid { .. }));
    let large = Limits { component_size: 10, ..Limits::default() };
    let error = engine().load_with(bundled::ALL[0].bytes, "x.wasm", large, Grants::NONE).map(|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { .. }));
}

#[test]
fn a_plugin_of_the_other_kind_is_refused_by_name() {
    let plugin = engine().load_bundled(Kind::KeyScheme, "etcd_naming").unwrap();
    let error = plugin.into_policy("{}").map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("is a key scheme, not a policy"), "{error}");
    let error = engine().load_bundled(Kind::Policy, "nope").map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("round_robin"), "{error}");
}

#[test]
fn compiled_components_are_found_again_in_the_cache_folder_unless_somebody_touched_them() {
    let folder = tempfile::tempdir().unwrap();
    let load = || {
        let config = EngineConfig { cache_dir: Some(folder.path().into()), ..EngineConfig::default() };
        Engine::new(config).unwrap().load_bundled(Kind::Policy, "round_robin").unwrap();
        let modules = std::fs::read_dir(folder.path().join("code/modules")).unwrap().next().unwrap().unwrap().path();
        let mut files = std::fs::read_dir(modules).unwrap().map(|file| file.unwrap().path());
        files.find(|path| path.extension().is_none()).unwrap()
    };
    let written = |path: &std::path::Path| path.metadata().unwrap().modified().unwrap();
    let compiled = load();
    let (bytes, first) = (std::fs::read(&compiled).unwrap(), written(&compiled));
    assert_eq!(written(&load()), first);
    // What is not what was written is not run, but compiled anew.
    std::fs::write(&compiled, b"something else").unwrap();
    assert_eq!(std::fs::read(load()).unwrap(), bytes);
}

fn any_endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let one = ("[a-z]{0,12}", 1u16.., 0usize..4, 0u32..100);
    proptest::collection::vec(one, 0..40).prop_map(|list| {
        let endpoint = |(n, (id, port, zone, weight)): (usize, (String, u16, usize, u32))| Endpoint {
            id: InstanceId::new(format!("{id}{n}")),
            address: format!("192.0.2.7:{port}").parse().unwrap(),
            locality: Locality::zone(["", "a", "b", "c"][zone]),
            weight,
            metadata: Arc::default(),
        };
        list.into_iter().enumerate().map(endpoint).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plans_of_any_endpoints_stay_in_range(endpoints in any_endpoints(), zone in 0usize..3) {
        for name in ["round_robin", "weighted", "zone_aware", "priority", "subset"] {
            match policy(name, "{}").build(&scope(["", "a", "z"][zone]), &endpoints) {
                Ok(Plan::Rotation(list)) => {
                    prop_assert!(list.iter().all(|index| (*index as usize) < endpoints.len()));
                }
                Ok(other) => prop_assert!(false, "{} made a {}", name, other.kind()),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }

    #[test]
    fn any_instance_is_read_back_as_it_was_written(endpoints in any_endpoints()) {
        let (scheme, service) = (scheme("etcd_naming"), service("a/b"));
        for endpoint in endpoints {
            let entries = scheme.encode(&service, &endpoint, LeaseId(5), Ttl::DEFAULT).unwrap();
            prop_assert!(entries.iter().all(|entry| entry.key.starts_with("a/b/")));
            let back = scheme.decode(&service, &entries[0]).unwrap().endpoints;
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(&back[0].address, &endpoint.address);
            prop_assert_eq!(back[0].weight, endpoint.weight);
            prop_assert_eq!(&back[0].locality, &endpoint.locality);
        }
    }
}
