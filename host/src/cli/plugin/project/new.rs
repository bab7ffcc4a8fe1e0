//! `waymark plugin new`: a project that works, in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    super::output::{self, CommandError},
    Lang, MANIFEST, Manifest, ProjectKind, check_name, templates,
};

/// Flags of `waymark plugin new`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct NewArgs {
    /// Its name, which is also the folder's: a letter, then a-z, 0-9 and _.
    name: String,
    /// The language.
    #[arg(long, value_enum)]
    lang: Lang,
    /// What it decides. Key schemes: rust, c and python.
    #[arg(long, value_enum, default_value = "policy")]
    kind: ProjectKind,
    /// Begin with a policy that is asked for every request (least request) instead of one that
    /// plans ahead (weighted rotation).
    #[arg(long)]
    per_request: bool,
    /// Where to put the folder.
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    into: PathBuf,
}

/// Writes the project, or nothing.
pub(in super::super) fn new(args: &NewArgs) -> Result<ExitCode, CommandError> {
    check_name(&args.name).map_err(CommandError::usage)?;
    if args.per_request && args.kind == ProjectKind::KeyScheme {
        return Err(CommandError::usage("--per-request is for policies: a key scheme is never asked for a request"));
    }
    let files = templates::files(args.lang, args.kind, args.per_request, &args.name).ok_or_else(|| {
        CommandError::usage(format!(
            "there is no {} in {} to begin with; there is one in rust, c and python",
            args.kind.as_str(),
            args.lang.folder()
        ))
    })?;
    let folder = args.into.join(&args.name);
    if folder.exists() {
        return Err(CommandError::usage(format!("{} exists already; nothing was written", folder.display())));
    }
    let manifest = Manifest { name: args.name.clone(), kind: args.kind, lang: args.lang };
    write(&folder, MANIFEST, manifest.text().as_bytes(), false)?;
    for file in &files {
        write(&folder, &file.path, &file.bytes, file.is_program)?;
    }
    let wasm = format!("{}.wasm", args.name);
    let shown = folder.display();
    output::print_line(format_args!("{shown}: {} in {}", manifest.kind.as_str(), args.lang.folder()));
    for (step, what) in [
        (format!("waymark plugin build {shown}"), "makes the component"),
        (format!("waymark plugin check {shown}/{wasm}"), "tries it out"),
    ] {
        output::print_line(format_args!("  {step:<56} {what}"));
    }
    output::print_line(format_args!("{shown}/README.md says more."));
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, path: &str, bytes: &[u8], is_program: bool) -> Result<(), CommandError> {
    let path = folder.join(path);
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
    written
        .and_then(|()| if is_program { make_executable(&path) } else { Ok(()) })
        .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", path.display())))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
