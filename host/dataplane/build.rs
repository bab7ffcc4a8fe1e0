//! Compiles the load report's proto (gRFC A64), in pure Rust: no `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let protos = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let report = protox::compile(["xds/data/orca/v3/orca_load_report.proto"], [&protos])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(report)?;
    println!("cargo::rerun-if-changed={}", protos.display());
    Ok(())
}
