//! A component of a core module: what `wasm-tools component new` does, so that nobody needs that to write a plugin.

use std::{collections::BTreeSet, fs, path::PathBuf, process::ExitCode};

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

use super::{
    super::output::{self, Failure},
    ProjectKind,
};

/// Flags of `waymark plugin component`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct ComponentArgs {
    /// The module that a compiler wrote.
    module: PathBuf,
    /// Where the component goes.
    component: PathBuf,
    /// What it decides; not looked at when the module says so itself, as Rust's do.
    #[arg(long, value_enum, default_value = "policy")]
    kind: ProjectKind,
}

/// Writes the component.
pub(in super::super) fn component(args: &ComponentArgs) -> Result<ExitCode, Failure> {
    let shown = args.module.display();
    let module = fs::read(&args.module).map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    let component = encode(module, args.kind)
        .map_err(|reason| Failure::failed(format!("cannot make a component of {shown}: {reason}")))?;
    fs::write(&args.component, &component)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", args.component.display())))?;
    output::print_line(format_args!("{}: {} bytes", args.component.display(), component.len()));
    Ok(ExitCode::SUCCESS)
}

/// The interface that a module without a word of its own is made for.
const WIT: [(&str, &str); 4] = [
    ("types.wit", include_str!("../../../../../wit/0.1.0/types.wit")),
    ("host.wit", include_str!("../../../../../wit/0.1.0/host.wit")),
    ("balancer.wit", include_str!("../../../../../wit/0.1.0/balancer.wit")),
    ("key-scheme.wit", include_str!("../../../../../wit/0.1.0/key-scheme.wit")),
];

/// A WASI preview 1 with nothing behind it: see `hollow_preview1.wat`.
static HOLLOW_PREVIEW1: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hollow_preview1.wasm"));

const PREVIEW1: &str = "wasi_snapshot_preview1";

fn encode(mut module: Vec<u8>, kind: ProjectKind) -> Result<Vec<u8>, String> {
    let found = Found::of(&module).map_err(|error| error.to_string())?;
    let told = |error: &dyn std::fmt::Display| format!("{error:#}");
    if !found.has_world {
        let mut sources = SourceMap::default();
        for (name, text) in WIT {
            sources.push_str(name, text);
        }
        let group = sources.parse().map_err(|(_, error)| told(&error))?;
        let mut resolve = Resolve::default();
        let package = resolve.push_group(group).map_err(|error| told(&error))?;
        let world = resolve.select_world(&[package], Some(kind.world())).map_err(|error| told(&error))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).map_err(|error| told(&error))?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module).map_err(|error| told(&error))?;
    if found.imports.contains(PREVIEW1) {
        encoder = encoder.adapter(PREVIEW1, HOLLOW_PREVIEW1).map_err(|error| told(&error))?;
    }
    encoder.encode().map_err(|error| told(&error))
}

/// What a module says of itself.
#[derive(Default)]
struct Found {
    /// It carries the world that it was made for.
    has_world: bool,
    /// The modules that it imports from.
    imports: BTreeSet<String>,
}

impl Found {
    fn of(module: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut found = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::CustomSection(section) => found.has_world |= section.name().starts_with("component-type"),
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        found.imports.insert(import?.module.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}
