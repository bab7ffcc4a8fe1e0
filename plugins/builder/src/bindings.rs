//! Generates the SDK's bindings, and those of the examples in C.
//!
//! They are committed because the macro that would generate them during a build costs every clean
//! build a minute of compiling the generator.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, WithOption};
use wit_parser::Resolve;

use crate::workspace::{WIT_VERSION, Workspace};

/// The worlds, each with the file its bindings go to and with the interfaces it takes from the
/// first one's module, so that a description is one type whichever kind of plugin it describes.
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

/// A header and its source. The object with the world is left out: `waymark plugin component` adds
/// the world.
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
        // The SDK's macros, used in other crates, call the generated one. It also keeps the two
        // worlds apart: a guest only says that it exports a world when it uses that world's macro.
        pub_export_macro: true,
        additional_derive_attributes: vec!["PartialEq".to_owned()],
        with: with.collect(),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, text) = files.iter().next().context("the generator wrote nothing")?;
    let text = String::from_utf8(text.to_vec())?;
    if resolve.worlds[world].name == PICKS { without_post_return(&text) } else { Ok(text) }
}

/// The world whose `pick` is called for every request.
const PICKS: &str = "balancer-plugin";

/// Takes the call away that frees a pick's answer afterwards: the host makes it after every pick
/// where it is exported, for 430 of the 3,200 instructions of the cheapest pick, and hardly any
/// answer has something to free. The SDK keeps a message until the next one instead.
fn without_post_return(text: &str) -> Result<String> {
    const FORGET: &str = "::core::mem::forget(";
    let mut text = text.to_owned();
    // The exported function, within a macro whose tokens are broken into lines anywhere.
    let name = format!("\"cabi_post_waymark:plugin/balancer@{WIT_VERSION}#pick\"");
    let named = text.find(&name).with_context(|| format!("no {name} in the bindings"))?;
    let begin = text[..named].rfind("#[unsafe").context("it has no attribute")?;
    let end = named + text[named..].find("} }").context("it has no end")? + "} }".len();
    text.replace_range(begin..end, "");
    // What it called.
    let begin = text.find("pub unsafe fn __post_return_pick").context("no function frees a pick's answer")?;
    let begin = text[..begin].rfind("#[doc(hidden)]").context("it has no attributes")?;
    let end = begin + text[begin..].find("pub trait Guest").context("nothing follows it")?;
    text.replace_range(begin..end, "");
    // The messages of `fail` and `drop`, which were to be freed by it.
    let pick = text.find("pub unsafe fn _export_pick_cabi").context("no function picks")?;
    let (before, picks) = text.split_at(pick);
    anyhow::ensure!(picks.matches(FORGET).count() == 2, "a pick's answer has other than two messages");
    Ok(format!("{before}{}", picks.replace(FORGET, "crate::kept::keep(")))
}
