//! `waymark plugin build`: the tools are looked for, the project's own script does the work, and
//! what comes out is loaded once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use super::{
    super::output::{self, CommandError},
    Manifest, toolchain,
};
use crate::{
    plugin::{Engine, EngineConfig, Grants, Plugin},
    stages::load,
};

/// Flags of `waymark plugin build`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct BuildArgs {
    /// The project's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// Builds a project, and loads what came out.
pub(in super::super) fn build(args: &BuildArgs) -> Result<ExitCode, CommandError> {
    let folder = args.folder.as_path();
    let manifest = Manifest::read(folder)?;
    let missing = toolchain::missing(manifest.lang, folder);
    if !missing.is_empty() {
        return Err(CommandError::usage(format!("{} cannot be built here; {}", manifest.name, missing.join("; "))));
    }
    let began = Instant::now();
    run_script(folder, &manifest)?;
    let built = began.elapsed();
    let path = folder.join(format!("{}.wasm", manifest.name));
    let plugin = load(&path, &manifest)?;
    output::print_line(format_args!(
        "{}: {} {} {}, {} KiB, built in {built:.1?}, loaded in {:.1?}",
        path.display(),
        plugin.kind.as_str(),
        plugin.description.name,
        plugin.description.version,
        plugin.size.div_ceil(1024),
        plugin.load_time,
    ));
    Ok(ExitCode::SUCCESS)
}

/// `build.sh` in the project's folder. It is told which `waymark` it is called by, for the step
/// from a module to a component.
fn run_script(folder: &Path, manifest: &Manifest) -> Result<(), CommandError> {
    let waymark = env::current_exe()
        .map_err(|error| CommandError::failed(format!("cannot tell which program this is: {error}")))?;
    let script = folder.join("build.sh");
    if !script.is_file() {
        return Err(CommandError::usage(format!(
            "{} is missing: it is what builds {}",
            script.display(),
            manifest.name
        )));
    }
    let status = Command::new("sh").arg("build.sh").current_dir(folder).env("WAYMARK", waymark).status();
    let status = status.map_err(|error| CommandError::failed(format!("cannot run {}: {error}", script.display())))?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::failed(format!("{} failed, {status}; what it said stands above", script.display())))
}

/// What was built, through the same door as at a node.
fn load(path: &Path, manifest: &Manifest) -> Result<Plugin, CommandError> {
    let shown = path.display();
    let bytes = fs::read(path)
        .map_err(|error| CommandError::failed(format!("build.sh ended well and {shown} cannot be read: {error}")))?;
    let (cache_dir, compile) = (load::default_plugin_cache(), crate::cli::compiling());
    let engine = Engine::new(EngineConfig { cache_dir, compile, ..EngineConfig::default() })
        .map_err(|error| CommandError::failed(format!("cannot start the plugin engine: {error:#}")))?;
    let plugin = engine.load_allowing(&bytes, &shown.to_string(), Grants::NONE)?;
    if plugin.kind != manifest.kind.kind() {
        return Err(CommandError::failed(format!(
            "{shown} is a {}, and plugin.toml says {}",
            plugin.kind.as_str(),
            manifest.kind.as_str()
        )));
    }
    Ok(plugin)
}
