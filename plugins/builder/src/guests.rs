//! Builds every guest and makes a component of each.
//!
//! What a guest is need not be listed: it is every package below `plugins/` that has a `cdylib`,
//! and every example of the test guests. What is named like a guest and stands in
//! `plugins/test-guests/foreign` is added to it (`.wit`: one more world that it targets) or taken
//! as it is (`.wat`: a component in text form, or a core module that is made a policy; `.wasm`: a
//! component that is never built again).

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use wasmparser::BinaryReader;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};
use wit_parser::Resolve;

use crate::{toolchain::TARGET, workspace::Workspace};

/// A built component.
pub(crate) struct Component {
    /// Its path below `plugins/dist`.
    pub(crate) file: String,
    /// The component.
    pub(crate) bytes: Vec<u8>,
    /// The interfaces it needs, without those that hold nothing but types.
    pub(crate) imports: Vec<String>,
}

/// Build all of them, in the order of their file names.
pub(crate) fn build(workspace: &Workspace) -> Result<Vec<Component>> {
    let guests = Guests::find(workspace)?;
    let modules = compile(workspace, &guests)?;
    let foreign = workspace.test_guests().join("foreign");
    let mut components = BTreeMap::new();
    for (name, module) in modules {
        let file = if guests.tests.contains(&name) { format!("test/{name}.wasm") } else { format!("{name}.wasm") };
        let wit = foreign.join(&name).with_extension("wit");
        let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        let bytes = encode(bytes, wit.is_file().then_some(wit.as_path()))
            .with_context(|| format!("cannot make a component of {name}"))?;
        components.insert(file, bytes);
    }
    let is_whole =
        |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "wat" || extension == "wasm");
    for path in sorted(&foreign)?.iter().filter(is_whole) {
        let name = path.file_stem().context("a file has a name")?.to_string_lossy();
        // What is binary already is handed through.
        let bytes = wat::parse_file(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = if wasmparser::Parser::is_core_wasm(&bytes) {
            encode_policy(bytes, &workspace.older_wit())
                .with_context(|| format!("cannot make a policy of {}", path.display()))?
        } else {
            bytes
        };
        components.insert(format!("test/{name}.wasm"), bytes);
    }
    components
        .into_iter()
        .map(|(file, bytes)| {
            let imports = imports(&bytes).with_context(|| format!("{file} is not a component"))?;
            Ok(Component { file, bytes, imports })
        })
        .collect()
}

/// What there is to build.
struct Guests {
    /// Packages with a `cdylib` library.
    packages: Vec<String>,
    /// Examples of the test guests.
    tests: Vec<String>,
}

impl Guests {
    fn find(workspace: &Workspace) -> Result<Self> {
        let mut command = cargo(workspace);
        command.args(["metadata", "--no-deps", "--format-version", "1", "--locked"]);
        let metadata: Value = serde_json::from_slice(&stdout(&mut command)?)?;
        let plugins = workspace.root().join("plugins");
        let mut guests = Self { packages: Vec::new(), tests: Vec::new() };
        for package in list(&metadata["packages"]) {
            if !package["manifest_path"].as_str().is_some_and(|path| Path::new(path).starts_with(&plugins)) {
                continue;
            }
            for target in list(&package["targets"]).filter(|target| has(&target["crate_types"], "cdylib")) {
                if has(&target["kind"], "example") {
                    guests.tests.push(text(&target["name"])?);
                } else {
                    guests.packages.push(text(&package["name"])?);
                }
            }
        }
        ensure!(!guests.packages.is_empty(), "there are no guests below {}", plugins.display());
        Ok(guests)
    }
}

/// Compile everything; answers each module's file by the guest's name.
fn compile(workspace: &Workspace, guests: &Guests) -> Result<BTreeMap<String, PathBuf>> {
    let mut modules =
        artifacts(cargo(workspace).args(guests.packages.iter().flat_map(|name| ["-p", name])), workspace)?;
    if !guests.tests.is_empty() {
        let mut command = cargo(workspace);
        modules
            .extend(artifacts(command.args(["-p", "test-guests", "--features", "guests", "--examples"]), workspace)?);
    }
    ensure!(
        modules.len() == guests.packages.len() + guests.tests.len(),
        "cargo built {:?} instead of {:?} and {:?}",
        modules.keys(),
        guests.packages,
        guests.tests
    );
    Ok(modules)
}

/// Run `cargo build` with what has been added to the command; answers the modules that it says it
/// made.
fn artifacts(packages: &mut Command, workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = cargo(workspace);
    command
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--message-format"])
        .arg("json-render-diagnostics")
        .args(packages.get_args())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace)?);
    let mut modules = BTreeMap::new();
    for line in String::from_utf8(stdout(&mut command)?)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo said something that is not JSON")?;
        let target = &message["target"];
        if message["reason"] == "compiler-artifact" && has(&target["crate_types"], "cdylib") {
            let mut files = list(&message["filenames"]).filter_map(Value::as_str).map(PathBuf::from);
            let module = files.find(|file| file.extension().is_some_and(|extension| extension == "wasm"));
            modules.insert(text(&target["name"])?, module.context("cargo names no module")?);
        }
    }
    Ok(modules)
}

/// The flags of every guest, in the form of `CARGO_ENCODED_RUSTFLAGS`, which wins over any other
/// way of setting flags.
///
/// The stack is what a policy needs and not the megabyte that is the default, so that an instance
/// is small. Paths that end up in panic messages are made the same wherever the sources are.
fn rustflags(workspace: &Workspace) -> Result<String> {
    let mut flags = vec!["-Clink-arg=-zstack-size=65536".to_owned()];
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(workspace.root(), "/waymark");
    for registry in sorted(&cargo_home()?.join("registry/src"))? {
        remap(&registry, "/registry");
    }
    Ok(flags.join("\u{1f}"))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    Ok(env::home_dir().context("neither CARGO_HOME nor a home directory is known")?.join(".cargo"))
}

/// Cargo, without anything in the environment that could change what it builds.
fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let changes_the_build = text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_TARGET_WASM32")
            || ["CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTFLAGS"].contains(&&*text)
            || ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_INCREMENTAL"]
                .contains(&&*text);
        if changes_the_build {
            command.env_remove(name);
        }
    }
    command
}

fn stdout(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(output.stdout)
}

/// Make a component of a module, which carries the world it was written for. `more` names one more
/// world.
pub(crate) fn encode(mut module: Vec<u8>, more: Option<&Path>) -> Result<Vec<u8>> {
    if let Some(wit) = more {
        let mut resolve = Resolve::default();
        let package = resolve.push_file(wit)?;
        let world = resolve.select_world(&[package], None)?;
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    without_names(&ComponentEncoder::default().validate(true).module(&module)?.encode()?)
}

/// Make a policy of a module that was written by hand, and so carries no world.
fn encode_policy(mut module: Vec<u8>, wit: &Path) -> Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some("balancer-plugin"))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    encode(module, None)
}

/// Leave out what names a component's own parts for a debugger: a kilobyte that says nothing of the
/// plugin.
fn without_names(component: &[u8]) -> Result<Vec<u8>> {
    const PREAMBLE: usize = 8;
    let (preamble, sections) = component.split_at_checked(PREAMBLE).context("a component begins with 8 bytes")?;
    let mut kept = preamble.to_vec();
    let mut reader = BinaryReader::new(sections, PREAMBLE);
    while !reader.eof() {
        let start = reader.current_position();
        let is_custom = reader.read_u8()? == 0;
        let length = reader.read_var_u32()? as usize;
        let mut section = BinaryReader::new(reader.read_bytes(length)?, 0);
        if !(is_custom && section.read_string()? == "component-name") {
            kept.extend_from_slice(&sections[start..reader.current_position()]);
        }
    }
    Ok(kept)
}

/// The interfaces that a component imports and that hold at least one function.
fn imports(component: &[u8]) -> Result<Vec<String>> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("it is a WIT package");
    };
    let interfaces = resolve.worlds[world].imports.iter().filter_map(|(key, item)| match item {
        wit_parser::WorldItem::Interface { id, .. } if resolve.interfaces[*id].functions.is_empty() => None,
        _ => Some(resolve.name_world_key(key)),
    });
    Ok(interfaces.collect())
}

/// The entries of a folder by name; none when it is not there.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn has(value: &Value, item: &str) -> bool {
    list(value).any(|other| other == item)
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("cargo left out a name")?.to_owned())
}
