//! Compiles the node's own protos, in pure Rust: no `protoc` is needed. And lists the guests that misbehave, for the tests.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    let descriptors = protox::compile(["waymark/v1/node.proto"], [&protos])?;
    // Served by reflection.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("waymark.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed={}", protos.display());
    guests()
}

/// An enum of the test guests that were built, so that a test that matches on it does not compile when a guest is added and nothing is
/// said of it.
fn guests() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../plugins/dist/test");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            names.extend(path.file_stem().and_then(|name| name.to_str()).map(ToOwned::to_owned));
        }
    }
    names.sort();
    let variant = |name: &String| {
        name.split('_').fold(String::new(), |mut variant, word| {
            variant.extend(word.chars().take(1).map(|first| first.to_ascii_uppercase()));
            variant + word.get(1..).unwrap_or_default()
        })
    };
    let mut text =
        "/// A guest of `plugins/test-guests`.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub(crate) enum Guest {\n"
            .to_owned();
    for name in &names {
        writeln!(text, "    {},", variant(name))?;
    }
    text += "}\n\nimpl Guest {\n    /// All of them.\n    pub(crate) const ALL: &[Self] = &[\n";
    for name in &names {
        writeln!(text, "        Self::{},", variant(name))?;
    }
    text += "    ];\n\n    /// Its file's name, without the ending.\n    pub(crate) fn name(self) -> &'static str {\n        match self {\n";
    for name in &names {
        writeln!(text, "            Self::{} => {name:?},", variant(name))?;
    }
    text += "        }\n    }\n}\n";
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("guests.rs"), text)?;
    Ok(())
}
