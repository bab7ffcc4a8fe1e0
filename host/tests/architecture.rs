//! Holds the sources against the tables of `host/ARCHITECTURE.md`: which crate may depend on which,
//! which module may use which, and who alone may depend on what.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "architecture/circles.rs"]
mod circles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The crates in their order, by folder under `host`, each with its modules in theirs: a crate
/// depends only on those before it, and a module uses only those before it. No modules: their order
/// is free.
const ORDER: &[(&str, &[&str])] = &[
    ("testing", &[]),
    ("core", &["backoff", "secret", "text", "exposition", "model", "naming", "policy", "snapshot", "check", "traffic"]),
    ("http2", &[]),
    ("net", &["resolve", "address_filter", "health"]),
    ("registry", &[]),
    ("embedded", &[]),
    ("runtime", &["description", "deadline", "memory", "call", "compile", "engine", "load", "instance"]),
    (
        "balancer",
        &[
            "builders",
            "discovery",
            "duplicates",
            "hash",
            "pick_times",
            "report",
            "cpu_budget",
            "capacity",
            "call_limiter",
            "status",
            "endpoint",
            "ejection",
            "slow_start",
            "unresponsive",
            "call_guard",
            "upstream",
            "state",
            "history",
            "service",
            "changes",
            "services",
        ],
    ),
    (
        "dataplane",
        &["limits", "transport", "wire", "errors", "observe", "options", "upstream", "call", "channel", "inbound"],
    ),
    ("stages", &[]),
    ("library", &[]),
    (".", &["conformance", "admin", "config", "app", "cli"]),
];

/// Crates that only some of ours may depend on, and which. Tests may use what they like.
const ALONE: &[(&str, &[&str])] = &[
    ("etcd-client", &["registry", "embedded"]),
    ("wasmtime", &["runtime"]),
    ("h2", &["dataplane"]),
    ("hyper", &["net", "dataplane", "."]),
    ("hyper-util", &["net", "dataplane", "."]),
    ("tokio-rustls", &["dataplane"]),
    ("webpki", &["dataplane"]),
    ("simple-dns", &["net"]),
    ("resolv-conf", &["net"]),
    ("listenfd", &["."]),
    ("rustls-native-certs", &["dataplane"]),
    ("axum", &["."]),
    ("tonic-health", &["net", "embedded", "."]),
    ("tonic-reflection", &["."]),
    ("clap", &["."]),
    ("comfy-table", &["."]),
    ("crossterm", &["."]),
    ("greeter", &["."]),
    ("anyhow", &["."]),
    ("prometheus-client", &["core", "registry", "dataplane", "stages", "."]),
];

/// Crates that only some modules of the program may name.
const ALONE_IN_PROGRAM: &[(&str, &[&str])] = &[
    ("hyper", &["admin"]),
    ("hyper_util", &["admin"]),
    ("listenfd", &["app"]),
    ("axum", &["admin"]),
    ("tonic_health", &["admin"]),
    ("tonic_reflection", &["admin"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("crossterm", &["cli"]),
    ("greeter", &["cli"]),
    ("prometheus_client", &["admin"]),
];

/// Modules that know no async runtime, of the crate `core`.
const NO_TOKIO: &[&str] = &["backoff", "secret", "text", "exposition", "model", "naming", "policy", "check", "traffic"];

/// Circles of files that are still there, by the crate's folder. To be taken off as they go;
/// nothing comes in.
const CIRCLES: &[(&str, &[&str])] = &[];

/// A server like any other: it knows nothing of ours.
const STANDS_ALONE: &str = "embedded";

fn host() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// What the crate in this folder depends on, tests and build scripts left out.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest: toml::Table = fs::read_to_string(host().join(folder).join("Cargo.toml")).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

/// The folder of one of our crates.
fn folder(package: &str) -> Option<&str> {
    match package {
        "waymark" => Some("library"),
        "waymark-node" => Some("."),
        _ => package.strip_prefix("waymark-"),
    }
}

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

/// The first segments of all paths `crate::x` in this code, those in `use crate::{a, b::c}`
/// included.
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

/// Visits each source file of the crate in this folder, tests left out: its name, its module and
/// its code.
fn walk(folder: &str, mut visit: impl FnMut(&str, &str, &str)) {
    let root = host().join(folder).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(!files.is_empty(), "the sources of {folder} are not where they were");
    for file in files {
        let name = file.strip_prefix(host()).unwrap().display().to_string();
        if !name.ends_with("tests.rs") && !name.contains("/tests/") {
            visit(&name, &module(&file, &root), &code(&fs::read_to_string(&file).unwrap()));
        }
    }
}

#[test]
fn a_crate_depends_only_on_those_before_it() {
    let mut wrong = Vec::new();
    for (place, (name, _)) in ORDER.iter().enumerate() {
        for used in dependencies(name) {
            let Some(used) = folder(&used) else { continue };
            let before = ORDER[..place].iter().any(|(name, _)| *name == used);
            if !before || *name == STANDS_ALONE {
                wrong.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the table of crates:\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_is_in_the_table() {
    let listed: BTreeSet<_> = ORDER.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there = fs::read_dir(host()).unwrap().map(|entry| entry.unwrap().path());
    let there = there.filter(|path| path.join("src").is_dir() && path.join("Cargo.toml").is_file());
    let there: BTreeSet<_> = there.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let missing: Vec<_> = there.iter().filter(|name| !listed.contains(*name) && *name != "fuzz").collect();
    assert!(missing.is_empty(), "these crates have no place in the table: {missing:?}");
}

#[test]
fn a_crate_is_used_only_where_the_table_allows_it() {
    let mut wrong = Vec::new();
    for (name, _) in ORDER {
        let used = dependencies(name);
        for (alone, folders) in ALONE {
            if used.contains(*alone) && !folders.contains(name) {
                wrong.push(format!("{name}: only {} may depend on {alone}", folders.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "against the table of crates:\n{}", wrong.join("\n"));
}

#[test]
fn a_module_uses_only_those_before_it() {
    let mut wrong = Vec::new();
    for (folder, modules) in ORDER.iter().filter(|(_, modules)| !modules.is_empty()) {
        walk(folder, |file, module, code| {
            if module == "lib" || module == "main" {
                return;
            }
            let Some(place) = modules.iter().position(|name| *name == module) else {
                wrong.push(format!("{file}: module {module} is not in the table"));
                return;
            };
            for used in used_modules(code) {
                let Some(its_place) = modules.iter().position(|name| *name == used) else { continue };
                if its_place > place {
                    wrong.push(format!("{file}: {module} must not use {used}"));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "against the table of modules:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_of_a_crate_form_a_circle() {
    let mut wrong = Vec::new();
    for (folder, _) in ORDER {
        let root = host().join(folder).join("src");
        let mut files = Vec::new();
        sources(&root, &mut files);
        let name = |file: &Path| file.strip_prefix(&root).unwrap().display().to_string();
        let files = files.iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect();
        let (found, mut listed) = (circles::circles(&files), Vec::new());
        listed.extend(CIRCLES.iter().filter(|(crates, _)| crates == folder).map(|(_, files)| files.to_vec()));
        let circles = |circles: &[Vec<&str>], but: &[Vec<&str>], what| {
            let others = circles.iter().filter(|circle| !but.contains(circle));
            others.map(|circle| format!("{folder}: {what}: {}", circle.join(", "))).collect::<Vec<_>>()
        };
        wrong.extend(circles(&found, &listed, "these use each other in a circle; move down what both need"));
        wrong.extend(circles(&listed, &found, "no such circle any more; take it off the list"));
    }
    assert!(wrong.is_empty(), "circles of files:\n{}", wrong.join("\n"));
}

#[test]
fn a_module_names_only_the_crates_that_the_table_allows_it() {
    let mut wrong = Vec::new();
    walk(".", |file, module, code| {
        for (name, modules) in ALONE_IN_PROGRAM {
            if names_crate(code, name) && !modules.contains(&module) {
                wrong.push(format!("{file}: {name} may be named only in {}", modules.join(", ")));
            }
        }
    });
    walk("core", |file, module, code| {
        if NO_TOKIO.contains(&module) && names_crate(code, "tokio") {
            wrong.push(format!("{file}: {module} knows no async runtime"));
        }
    });
    assert!(wrong.is_empty(), "against the table of modules:\n{}", wrong.join("\n"));
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

/// The circles of a crate with these files.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let files: BTreeMap<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    circles::circles(&files).iter().map(|circle| circle.join(" ")).collect()
}

#[test]
fn a_circle_is_found_wherever_it_is_closed() {
    let root = ("lib.rs", "mod a; mod b; mod c; pub use a::A; pub use other::B;");
    let files = |a, b| [root, ("a/mod.rs", a), ("b.rs", b), ("c.rs", "pub fn c() {}")];
    let uses_b = "use crate::{b::{self, X as Y}, c};";
    assert!(circles_of(&files(uses_b, "pub struct X;")).is_empty());
    for closes in [
        "use super::a::A;",
        "use crate::{c, a::{A, B}};",
        "fn f() { crate::a::f() }",
        "mod inner { use super::super::a::A; }",
        "use crate::A; // by way of the root",
        "const OPENS: char = '\"'; use super::a::A; const ENDS: &str = r#\"\"\"#;",
    ] {
        assert_eq!(circles_of(&files(uses_b, closes)), ["a/mod.rs b.rs"], "{closes}");
    }
    for is_none in [
        "// use super::a::A;",
        "const TEXT: &str = \"\\\"use super::a::A;\";",
        "#[cfg(test)]\nmod tests { use super::super::a::A; }",
        "#[cfg(test)] use crate::a; fn f<'a>(x: &'a str) {}",
        "use crate::B; use other::a::A;",
    ] {
        assert!(circles_of(&files(uses_b, is_none)).is_empty(), "{is_none}");
    }
    let below = |child| {
        [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "mod d; use d::D; pub struct A;"),
            ("b.rs", "use crate::a::D;"),
            ("a/d.rs", child),
        ]
    };
    assert!(circles_of(&below("use super::A;")).is_empty(), "a module puts together what is below it");
    assert_eq!(circles_of(&below("use crate::b;")), ["a/d.rs b.rs"]);
}
