//! Holds committed files that are made from others against what they are made from: the Rust code
//! of the protos, their descriptors for reflection, and a Wasm module in binary. Committed, because
//! a build that makes them compiles a proto compiler first.
//!
//! `WRITE=1 cargo test --test generated` writes them anew.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use tonic_prost_build::Builder;

/// The folder above the packages.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a committed file, or writes it.
fn committed(path: &Path, made: &[u8]) {
    if env::var_os("WRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, made).unwrap();
        return;
    }
    let there = fs::read(path).unwrap_or_default();
    let name = path.strip_prefix(root()).unwrap().display();
    assert!(there == made, "{name} is not what it is made from; write it anew: WRITE=1 cargo test --test generated");
}

/// The code of a proto, into this folder, and its descriptors if there is a name for them.
fn proto(file: &str, package: &str, folder: &str, descriptors: Option<&str>, options: impl FnOnce(Builder) -> Builder) {
    let set = protox::compile([file], [root().join("proto")]).unwrap();
    let folder = root().join(folder);
    if let Some(name) = descriptors {
        committed(&folder.join(name), &set.encode_to_vec());
    }
    let made = tempfile::tempdir().unwrap();
    options(tonic_prost_build::configure().out_dir(made.path())).compile_fds(set).unwrap();
    let name = format!("{package}.rs");
    committed(&folder.join(&name), &fs::read(made.path().join(&name)).unwrap());
}

#[test]
fn the_nodes_api() {
    proto("waymark/v1/node.proto", "waymark.v1", "host/src/admin/generated", Some("waymark.bin"), |builder| builder);
}

#[test]
fn the_load_report() {
    let file = "xds/data/orca/v3/orca_load_report.proto";
    proto(file, "xds.data.orca.v3", "host/dataplane/src/observe/generated", None, |builder| builder.btree_map("."));
}

#[test]
fn the_greeter() {
    proto("hello.proto", "hello", "examples/greeter/src/generated", Some("hello.bin"), |builder| builder);
}

#[test]
fn the_interoperability_tests() {
    proto("grpc/testing/interop.proto", "grpc.testing", "examples/interop/src/generated", None, |builder| builder);
}

#[test]
fn the_wasi_with_nothing_behind_it() {
    let text = root().join("host/src/cli/plugin/project/hollow_preview1.wat");
    committed(&text.with_extension("wasm"), &wat::parse_file(&text).unwrap());
}
