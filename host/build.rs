//! Lists the guests that misbehave, for the tests, and embeds what `waymark plugin new` writes.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    guests()?;
    templates()
}

/// The examples of every language, the SDK and the interface, as `(path, bytes)`. `templates` links
/// to them, so that the package holds them; a manifest has another name there, because cargo leaves
/// folders with one out of a package.
fn templates() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("templates");
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    files.sort();
    let mut text = "&[\n".to_owned();
    for file in &files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a path that is not UTF-8")?;
        let name = name.strip_suffix(".template").unwrap_or(name);
        let is_program = file.extension().is_some_and(|extension| extension == "sh");
        let whole = file.to_str().ok_or("a path that is not UTF-8")?;
        writeln!(
            text,
            "    Template {{ path: {name:?}, bytes: include_bytes!({whole:?}), is_program: {is_program} }},"
        )?;
    }
    text += "]\n";
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("templates.rs"), text)?;
    Ok(())
}

/// All files below, without what building a project in place leaves there.
fn walk(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    const BUILT: [&str; 5] = ["target", "node_modules", "__pycache__", ".venv", ".zig-cache"];
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if path.is_symlink() {
        println!("cargo::rerun-if-changed={}", path.canonicalize()?.display());
    }
    if path.is_dir() && !BUILT.contains(&name) {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), files)?;
        }
    } else if path.is_file() && path.extension().is_none_or(|extension| extension != "wasm") {
        files.push(path.to_owned());
    }
    Ok(())
}

/// An enum of the test guests that were built, so that a test that matches on it does not compile
/// when a guest is added and nothing is said of it.
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
