//! Holds the sources against the module table of `host/ARCHITECTURE.md`: who may use whom, and who alone may name what.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules of the crate in their order: each may use only those before it.
const ORDER: &[&str] = &[
    "model",
    "naming",
    "snapshot",
    "policy",
    "health",
    "traffic",
    "registry",
    "embedded",
    "plugin",
    "balancer",
    "conformance",
    "dataplane",
    "admin",
    "config",
    "app",
    "cli",
];

/// Crates that only some modules may name, and which.
const ALONE: &[(&str, &[&str])] = &[
    ("etcd_client", &["registry", "embedded"]),
    ("wasmtime", &["plugin"]),
    ("h2", &["dataplane"]),
    ("hyper", &["health", "dataplane"]),
    ("hyper_util", &["health", "dataplane"]),
    ("tokio_rustls", &["dataplane"]),
    ("rustls_native_certs", &["dataplane"]),
    ("axum", &["admin"]),
    ("tonic_health", &["health", "embedded", "admin"]),
    ("tonic_reflection", &["admin"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("crossterm", &["cli"]),
    ("greeter", &["cli"]),
    ("prometheus_client", &["registry", "dataplane", "admin"]),
];

/// Modules that know no async runtime.
const NO_TOKIO: &[&str] = &["model", "naming", "policy", "traffic"];

/// A server like any other: it knows nothing of ours.
const STANDS_ALONE: &[&str] = &["embedded"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module a file belongs to: its folder, or its name, directly under `src`.
fn module(file: &Path, root: &Path) -> String {
    let first = file.strip_prefix(root).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

/// The code of a file without comments and without its tests, which may name what they like.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first segments of all paths `crate::x` in this code, those in `use crate::{a, b::c}` included.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(word(rest));
            continue;
        };
        let (mut depth, mut item_begins) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item_begins = true,
                c if item_begins && c.is_alphabetic() => {
                    used.insert(word(&group[at..]));
                    item_begins = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let begins = !code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.'));
        let after = &code[at + name.len()..];
        begins && (after.starts_with("::") || (after.starts_with(';') && code[..at].trim_end().ends_with("use")))
    })
}

fn walk(mut visit: impl FnMut(&str, &str, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources are not where they were");
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        if !name.ends_with("tests.rs") && !name.contains("/tests/") {
            visit(&name, &module(&file, &root), &code(&fs::read_to_string(&file).unwrap()));
        }
    }
}

#[test]
fn a_module_uses_only_those_before_it() {
    let mut wrong = Vec::new();
    walk(|file, module, code| {
        if module == "lib" || module == "main" {
            return;
        }
        let Some(place) = ORDER.iter().position(|name| *name == module) else {
            wrong.push(format!("{file}: module {module} is not in the table"));
            return;
        };
        for used in used_modules(code) {
            let Some(its_place) = ORDER.iter().position(|name| *name == used) else { continue };
            if its_place > place || (its_place != place && STANDS_ALONE.contains(&module)) {
                wrong.push(format!("{file}: {module} must not use {used}"));
            }
        }
    });
    assert!(wrong.is_empty(), "against the module table:\n{}", wrong.join("\n"));
}

#[test]
fn a_crate_is_named_only_where_the_table_allows_it() {
    let mut wrong = Vec::new();
    walk(|file, module, code| {
        for (name, modules) in ALONE {
            if names_crate(code, name) && !modules.contains(&module) {
                wrong.push(format!("{file}: {name} may be named only in {}", modules.join(", ")));
            }
        }
        if NO_TOKIO.contains(&module) && names_crate(code, "tokio") {
            wrong.push(format!("{file}: {module} knows no async runtime"));
        }
    });
    assert!(wrong.is_empty(), "against the module table:\n{}", wrong.join("\n"));
}

#[test]
fn the_checks_see_what_they_look_for() {
    let code = "use crate::{\n    model::{A, b::C},\n    dataplane::Route,\n};\nlet x = crate::cli::main();";
    let used: Vec<_> = used_modules(code).into_iter().collect();
    assert_eq!(used, ["cli", "dataplane", "model"]);
    assert!(names_crate("use clap::Parser;", "clap"));
    assert!(names_crate("use\n    clap;", "clap"));
    assert!(!names_crate("self.clap::x; my_clap::y", "clap"));
    assert!(!names_crate("tonic::transport", "h2"));
}
