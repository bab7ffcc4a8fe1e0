//! What others wrote, and this node reads: a file of the operator, a service config, entries of the
//! registry, files of its own, trailers.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use waymark_node::{
    config::{self, ServiceConfig},
    dataplane,
    model::ServiceName,
    naming::KeyScheme,
    plugin::{Engine, EngineConfig, Kind},
    registry,
    traffic::Traffic,
};

/// `waymark.toml`, down to the node's configuration.
pub(crate) fn configuration(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return String::new() };
    // It names files, which are read; devices never end.
    if text.contains("/dev") || text.contains("/proc") {
        return String::new();
    }
    match config::parse_file(Path::new("waymark.toml"), text).and_then(config::FileConfig::into_node) {
        Ok(node) => format!("{} services, {:?}", node.client.services.len(), node.client.limits),
        // Without the lines that show the place.
        Err(error) => error.to_string().lines().filter(|line| !line.contains('|')).collect(),
    }
}

/// gRPC's service config.
pub(crate) fn service_config(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return String::new() };
    match ServiceConfig::from_service_config(service(), text, &Traffic::default()) {
        Ok(found) => format!("{:?} {:?}", found.policy, found.traffic),
        Err(error) => error.to_string(),
    }
}

/// Entries under the keys of etcd's naming client.
pub(crate) fn etcd_naming(input: &[u8]) -> String {
    static SCHEME: OnceLock<Arc<dyn KeyScheme>> = OnceLock::new();
    changes(&**SCHEME.get_or_init(|| scheme("etcd_naming")), input)
}

/// The same as older clients have them.
pub(crate) fn bare_prefix(input: &[u8]) -> String {
    static SCHEME: OnceLock<Arc<dyn KeyScheme>> = OnceLock::new();
    changes(&**SCHEME.get_or_init(|| scheme("bare_prefix")), input)
}

fn service() -> ServiceName {
    ServiceName::new("svc").expect("a plain name")
}

fn scheme(name: &str) -> Arc<dyn KeyScheme> {
    let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).expect("the engine starts");
    let plugin = engine.load_bundled(Kind::KeyScheme, name).expect("a bundled component loads");
    Arc::new(plugin.into_key_scheme("{}").expect("it needs no configuration"))
}

/// Lines: `KEY VALUE` writes below the service's prefix, `KEY` alone deletes. A value may have any
/// bytes but the end of the line.
fn changes(scheme: &dyn KeyScheme, input: &[u8]) -> String {
    let prefix = scheme.prefixes(&service()).expect("a bundled scheme knows its prefixes").remove(0);
    let lines = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(50);
    let lines: Vec<_> = lines
        .map(|line| {
            let mut parts = line.splitn(2, |byte| *byte == b' ');
            let key = [prefix.as_bytes(), parts.next().unwrap_or_default()].concat();
            (key, parts.next())
        })
        .collect();
    let borrowed: Vec<_> = lines.iter().map(|(key, value)| (&**key, *value)).collect();
    let made = registry::fuzz::changes(scheme, &service(), &borrowed);
    assert!(!made.contains("failed"), "a bundled key scheme fails on no entry: {made}");
    made
}

/// A file of the folder with endpoints that were known before.
pub(crate) fn kept_endpoints(input: &[u8]) -> String {
    registry::fuzz::kept(input)
}

/// The trailer with an instance's load, as it comes and as the report that is in it.
pub(crate) fn load_report(input: &[u8]) -> String {
    dataplane::fuzz::load_report(input)
}
