//! Generates the SDK's bindings, and those of the examples in C.
//!
//! They are committed because the macro that would generate them during a build costs every clean build a minute of
//! compiling the generator.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, WithOption};
use wit_parser::Resolve;

use crate::workspace::{WIT_VERSION, Workspace};

/// The worlds, each with the file its bindings go to and with the interfaces it takes from the first one's module, so that
/// a description is one type whichever kind of plugin it describes.
const WORLDS: [(&str, &str, &[&str]); 2] =
    [("balancer-plugin", "balancer.rs", &[]), ("key-scheme-plugin", "key_scheme.rs", &["types", "log"])];

/// Generate and write every file.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let folder = workspace.generated();
    fs::create_dir_all(&folder)?;
    for (path, text) in generate(workspace)? {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.strip_prefix(workspace.root()).unwrap_or(&path).display());
    }
    Ok(())
}

/// The files that differ from what the WIT gives, or are missing.
pub(crate) fn stale(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let generated = generate(workspace)?;
    Ok(generated
        .into_iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_deref() != Some(text.as_str()))
        .map(|(path, _)| path)
        .collect())
}

fn generate(workspace: &Workspace) -> Result<Vec<(PathBuf, String)>> {
    let mut generated = Vec::new();
    for (world, file, shared) in WORLDS {
        let context = || format!("cannot generate bindings for the world {world}");
        let text = world_bindings(&workspace.wit(), world, shared).with_context(context)?;
        generated.push((workspace.generated().join(file), text));
        for (file, text) in c_bindings(&workspace.wit(), world).with_context(context)? {
            generated.push((workspace.c_bindings().join(file), text));
        }
    }
    Ok(generated)
}

/// A header and its source. The object with the world is left out: `waymark plugin component` adds the world.
fn c_bindings(wit: &Path, world: &str) -> Result<Vec<(String, String)>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    let options = wit_bindgen_c::Opts { no_object_file: true, ..Default::default() };
    options.build().generate(&mut resolve, world, &mut files)?;
    files.iter().map(|(name, text)| Ok((name.to_owned(), String::from_utf8(text.to_vec())?))).collect()
}

fn world_bindings(wit: &Path, world: &str, shared: &[&str]) -> Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let with = shared.iter().map(|interface| {
        let module = format!("crate::generated::balancer::waymark::plugin::{interface}");
        (format!("waymark:plugin/{interface}@{WIT_VERSION}"), WithOption::Path(module))
    });
    let options = Opts {
        format: true,
        // The SDK's macros, used in other crates, call the generated one. It also keeps the two worlds apart: a guest
        // only says that it exports a world when it uses that world's macro.
        pub_export_macro: true,
        additional_derive_attributes: vec!["PartialEq".to_owned()],
        with: with.collect(),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, text) = files.iter().next().context("the generator wrote nothing")?;
    Ok(String::from_utf8(text.to_vec())?)
}
