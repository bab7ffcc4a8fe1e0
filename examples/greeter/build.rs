//! Compiles `proto/hello.proto`, in pure Rust: no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let descriptors = protox::compile(["hello.proto"], [&protos])?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("hello.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed={}", protos.display());
    Ok(())
}
