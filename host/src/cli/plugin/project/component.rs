//! A component of a core module: what `wasm-tools component new` does, so that nobody needs that to
//! write a plugin.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    path::PathBuf,
    process::ExitCode,
};

use wasm_encoder::reencode::{self, Reencode};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap, WorldId, WorldItem};

use super::{
    super::output::{self, CommandError},
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
pub(in super::super) fn component(args: &ComponentArgs) -> Result<ExitCode, CommandError> {
    let shown = args.module.display();
    let module =
        fs::read(&args.module).map_err(|error| CommandError::usage(format!("cannot read {shown}: {error}")))?;
    let component = encode(module, args.kind)
        .map_err(|error| CommandError::failed(format!("cannot make a component of {shown}: {error:#}")))?;
    fs::write(&args.component, &component)
        .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", args.component.display())))?;
    output::print_line(format_args!("{}: {} bytes", args.component.display(), component.len()));
    Ok(ExitCode::SUCCESS)
}

/// The interface that a module without a word of its own is made for: the newest.
const WIT: [(&str, &str); 4] = [
    ("types.wit", include_str!("../../../../templates/wit/0.1.1/types.wit")),
    ("host.wit", include_str!("../../../../templates/wit/0.1.1/host.wit")),
    ("balancer.wit", include_str!("../../../../templates/wit/0.1.1/balancer.wit")),
    ("key-scheme.wit", include_str!("../../../../templates/wit/0.1.1/key-scheme.wit")),
];

/// A WASI preview 1 with nothing behind it: see `hollow_preview1.wat`.
static HOLLOW_PREVIEW1: &[u8] = include_bytes!("hollow_preview1.wasm");

const PREVIEW1: &str = "wasi_snapshot_preview1";

fn encode(mut module: Vec<u8>, kind: ProjectKind) -> anyhow::Result<Vec<u8>> {
    let found = Found::of(&module)?;
    if !found.has_world {
        let (resolve, world) = world(kind)?;
        let names = whole_names(&resolve, world, &found.exports);
        if !names.is_empty() {
            module = renamed(&module, &names)?;
        }
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module)?;
    if found.imports.contains(PREVIEW1) {
        encoder = encoder.adapter(PREVIEW1, HOLLOW_PREVIEW1)?;
    }
    encoder.encode()
}

fn world(kind: ProjectKind) -> anyhow::Result<(Resolve, WorldId)> {
    let mut sources = SourceMap::default();
    for (name, text) in WIT {
        sources.push_str(name, text);
    }
    let group = sources.parse().map_err(|(_, error)| error)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(group)?;
    let world = resolve.select_world(&[package], Some(kind.world()))?;
    Ok((resolve, world))
}

/// What the world calls exports that have a plain name here (`build`): not every compiler can
/// export a name with `:`, `/` and `#` in it.
fn whole_names(resolve: &Resolve, world: WorldId, exports: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (key, item) in &resolve.worlds[world].exports {
        let WorldItem::Interface { id, .. } = item else { continue };
        let interface = resolve.name_world_key(key);
        for function in resolve.interfaces[*id].functions.keys() {
            for before in ["", "cabi_post_"] {
                let (plain, whole) = (format!("{before}{function}"), format!("{before}{interface}#{function}"));
                if exports.contains(&plain) && !exports.contains(&whole) {
                    names.insert(plain, whole);
                }
            }
        }
    }
    names
}

fn renamed(module: &[u8], names: &BTreeMap<String, String>) -> Result<Vec<u8>, reencode::Error> {
    struct Renamed<'a>(&'a BTreeMap<String, String>);

    impl Reencode for Renamed<'_> {
        type Error = Infallible;

        fn parse_export(
            &mut self,
            exports: &mut wasm_encoder::ExportSection,
            export: wasmparser::Export<'_>,
        ) -> Result<(), reencode::Error> {
            let name = self.0.get(export.name).map_or(export.name, String::as_str);
            exports.export(name, self.export_kind(export.kind)?, self.external_index(export.kind, export.index)?);
            Ok(())
        }
    }

    let mut written = wasm_encoder::Module::new();
    Renamed(names).parse_core_module(&mut written, Parser::new(0), module)?;
    Ok(written.finish())
}

/// What a module says of itself.
#[derive(Default)]
struct Found {
    /// It carries the world that it was made for.
    has_world: bool,
    /// The modules that it imports from.
    imports: BTreeSet<String>,
    /// What it exports.
    exports: BTreeSet<String>,
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
                Payload::ExportSection(section) => {
                    for export in section {
                        found.exports.insert(export?.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A policy of so little that it says nothing of itself; with these names for what it exports.
    fn module(describe: &str, build: &str, imports: &str) -> Vec<u8> {
        let text = format!(
            r#"(module {imports}
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
                (func (export "{describe}") (result i32) (i32.const 0))
                (func (export "{build}") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "cabi_post_build") (param i32))
                (func (export "pick") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0)))"#
        );
        wat::parse_str(text).unwrap()
    }

    fn exports(component: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            if let Payload::ComponentExportSection(section) = payload.unwrap() {
                names.extend(section.into_iter().map(|export| export.unwrap().name.name.to_owned()));
            }
        }
        names
    }

    #[test]
    fn plain_names_of_functions_are_made_whole_and_whole_ones_stay() {
        for (describe, build) in
            [("describe", "build"), ("waymark:plugin/balancer@0.1.1#describe", "waymark:plugin/balancer@0.1.1#build")]
        {
            let component = encode(module(describe, build, ""), ProjectKind::Policy).unwrap();
            assert!(exports(&component).contains(&"waymark:plugin/balancer@0.1.1".to_owned()), "{describe}");
        }
        let refused = format!("{:#}", encode(module("about", "build", ""), ProjectKind::Policy).unwrap_err());
        assert!(refused.contains("describe"), "{refused}");
    }

    #[test]
    fn preview_1_is_answered_inside_of_the_component() {
        let import = r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))"#;
        encode(module("describe", "build", import), ProjectKind::Policy).unwrap();
        let import = r#"(import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32)))"#;
        let refused = format!("{:#}", encode(module("describe", "build", import), ProjectKind::Policy).unwrap_err());
        assert!(refused.contains("sock_accept"), "{refused}");
    }
}
