//! What was released of `waymark:plugin` stays as it is, and stays supported.

use std::{fs, path::Path};

use waymark_node::plugin::{Engine, EngineConfig, LoadError, SUPPORTED_INTERFACES, digest};

/// Every released version with the SHA-256 of its files: name, a zero byte, bytes, another zero
/// byte, in the order of the names. A line is added with a release, and none is ever changed:
/// components in the field were built for exactly these texts.
const RELEASED: &[(&str, &str)] = &[
    ("0.1.0", "7a97ff1158ae9cca8dc6c4c2a50ca41cc53f3f797a5f7586a9b59786ff60e2a5"),
    ("0.1.1", "ff185d3d29554acbfbf707d8af51e828ac3cdd8c1540046d3859ee9288a7ccaa"),
];

fn wit() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_released_interface_is_frozen() {
    for (version, frozen) in RELEASED {
        let folder = wit().join(version);
        let mut bytes = Vec::new();
        for name in names(&folder) {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(fs::read(folder.join(&name)).unwrap());
            bytes.push(0);
        }
        assert_eq!(
            digest(&bytes),
            *frozen,
            "wit/{version} is released: change nothing in it, make a new directory (wit/README.md, \"What may change\")"
        );
    }
}

#[test]
fn every_released_interface_runs_and_every_directory_is_released() {
    let versions: Vec<&str> = RELEASED.iter().map(|(version, _)| *version).collect();
    assert_eq!(SUPPORTED_INTERFACES, versions);
    let directories: Vec<_> = names(&wit()).into_iter().filter(|name| wit().join(name).is_dir()).collect();
    assert_eq!(directories, versions);
}

#[test]
fn a_newer_interface_is_refused_by_its_number_and_ours() {
    let guest =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/test/newer_interface.wasm")).unwrap();
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let error = engine.load(&guest, "newer.wasm").err().unwrap();
    assert!(matches!(error, LoadError::UnsupportedVersion { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("newer.wasm") && told.contains("waymark:plugin@0.1.0"), "{told}");
    let newer = told.split("waymark:plugin/balancer@").nth(1).expect("it names what the component targets");
    assert!(!newer.starts_with("0.1."), "{told}");
}

#[test]
fn the_smallest_policy_stays_small() {
    let round_robin = waymark_node::plugin::bundled::ALL.iter().find(|bundled| bundled.name == "round_robin").unwrap();
    assert!(round_robin.bytes.len() <= 20 << 10, "round_robin has {} bytes", round_robin.bytes.len());
}
