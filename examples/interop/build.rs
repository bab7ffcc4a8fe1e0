//! Compiles `proto/grpc/testing/interop.proto`, in pure Rust: no `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let protos = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let descriptors = protox::compile(["grpc/testing/interop.proto"], [&protos])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed={}", protos.join("grpc").display());
    Ok(())
}
