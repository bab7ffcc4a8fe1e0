//! What a new project consists of. The files are those of `examples/policies`, of the SDK and of
//! `wit/`, which `host/templates` links to, embedded: an example and a template are one thing, and
//! cannot drift apart.
//!
//! In a language's folder, a file whose name begins with an example's name (`weighted.c`,
//! `weighted_test.go`) is of this example only, and is called `policy...` (`key_scheme...`) in the
//! project. Bindings of one world go to projects of that world, and what reads a policy's
//! configuration or stands in for its host to policies. All else goes to every project. `my_policy`
//! becomes the project's name everywhere.

use super::{Lang, ProjectKind};

/// A file that is embedded.
struct Template {
    /// Below `host/templates`.
    path: &'static str,
    bytes: &'static [u8],
    /// Whether it is to be executable.
    is_program: bool,
}

static TEMPLATES: &[Template] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Below the project.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    pub(super) is_program: bool,
}

/// The examples: a policy of either sort, and a key scheme. The names are those of their sources.
const EXAMPLES: [&str; 3] = ["weighted", "least_request", "key_scheme"];

/// The interface that projects are laid out for.
const WIT: &str = "wit/0.1.1/";

/// The source that a project is made of.
pub(super) fn example(kind: ProjectKind, per_request: bool) -> &'static str {
    match (kind, per_request) {
        (ProjectKind::Policy, false) => "weighted",
        (ProjectKind::Policy, true) => "least_request",
        (ProjectKind::KeyScheme, _) => "key_scheme",
    }
}

/// The files of a project; none when there is no such example in this language.
pub(super) fn files(lang: Lang, kind: ProjectKind, per_request: bool, name: &str) -> Option<Vec<File>> {
    let folder = format!("policies/{}/", lang.folder());
    let wanted = example(kind, per_request);
    let mut found = false;
    let mut files = Vec::new();
    for template in TEMPLATES {
        let path = if let Some(path) = template.path.strip_prefix(&folder) {
            let is_source = path.rsplit('/').next().is_some_and(|file| file.starts_with(&format!("{wanted}.")));
            found |= is_source && !path.contains(".README");
            place(path, kind, wanted)
        } else if let Some(path) = template.path.strip_prefix(WIT) {
            Some(format!("wit/{path}"))
        } else {
            from_elsewhere(lang, template.path, kind, wanted)
        };
        if let Some(path) = path {
            let bytes = adapt(&path, template.bytes, kind, name);
            files.push(File { path, bytes, is_program: template.is_program });
        }
    }
    // A key scheme has a README of its own.
    let own = files.iter().position(|file| file.path == "key_scheme.README.md");
    if let Some(own) = own {
        let file = files.remove(own);
        files.retain(|file| file.path != "README.md");
        files.push(File { path: "README.md".into(), ..file });
    }
    found.then_some(files)
}

/// Where a file goes that a project of this language has from elsewhere: Rust the SDK, and C++ the
/// bindings in C.
fn from_elsewhere(lang: Lang, path: &str, kind: ProjectKind, wanted: &str) -> Option<String> {
    match lang {
        Lang::Rust => path.strip_prefix("sdk/").map(|path| format!("sdk/{path}")),
        Lang::Cpp => {
            place(path.strip_prefix("policies/c/").filter(|path| path.starts_with("bindings/"))?, kind, wanted)
        }
        _ => None,
    }
}

/// Where a file of a language's folder goes; none when it is of another example or another world.
fn place(path: &str, kind: ProjectKind, wanted: &str) -> Option<String> {
    let (folder, file) = path.rsplit_once('/').map_or(("", path), |(folder, file)| (folder, file));
    let of_other_world = match kind {
        ProjectKind::Policy => "key_scheme_plugin.",
        ProjectKind::KeyScheme => "balancer_plugin.",
    };
    let only_policies = ["config.", "fake_host."].iter().any(|name| file.starts_with(name));
    if file.starts_with(of_other_world) || (only_policies && kind == ProjectKind::KeyScheme) {
        return None;
    }
    let own = EXAMPLES.into_iter().find(|example| {
        file.strip_prefix(example).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("_test"))
    });
    let file = match own {
        Some(example) if example != wanted => return None,
        Some("key_scheme") | None => file.to_owned(),
        Some(example) => file.replacen(example, "policy", 1),
    };
    Some(if folder.is_empty() { file } else { format!("{folder}/{file}") })
}

/// The name, and for a key scheme the world and the source, in the project's own words.
fn adapt(path: &str, bytes: &[u8], kind: ProjectKind, name: &str) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    if path.starts_with("wit/") || path.starts_with("bindings/") || path.starts_with("sdk/src/") {
        return bytes.to_vec();
    }
    let mut text = text.replace("my_policy", name);
    if path == "sdk/Cargo.toml" {
        // The project needs neither the SDK's own tests nor the lints of the repository.
        text.truncate(text.find("\n[dev-dependencies]").map_or(text.len(), |end| end + 1));
        for (key, value) in [
            // Before `version`, which it ends with.
            ("rust-version", env!("CARGO_PKG_RUST_VERSION")),
            ("version", env!("CARGO_PKG_VERSION")),
            ("edition", "2024"),
            ("license", "Apache-2.0"),
        ] {
            text = text.replace(&format!("{key}.workspace = true"), &format!("{key} = \"{value}\""));
        }
        text = text.replace("publish.workspace = true", "publish = false");
        for (key, value) in [("libm", LIBM), ("wit-bindgen", WIT_BINDGEN), ("xxhash-rust", XXHASH)] {
            text = text.replace(&format!("{key}.workspace = true"), &format!("{key} = {value}"));
        }
    }
    if kind == ProjectKind::KeyScheme {
        for (policy, key_scheme) in [
            (ProjectKind::Policy.world(), ProjectKind::KeyScheme.world()),
            ("source=policy", "source=key_scheme"),
            ("src/policy.rs", "src/key_scheme.rs"),
            ("kind=policy", "kind=key-scheme"),
        ] {
            text = text.replace(policy, key_scheme);
        }
    }
    text.into_bytes()
}

/// As in the workspace's `Cargo.toml`; a test compares.
const LIBM: &str = r#""0.2""#;
const WIT_BINDGEN: &str = r#"{ version = "=0.60.0", default-features = false, features = ["realloc"] }"#;
const XXHASH: &str = r#"{ version = "0.8", features = ["xxh64"] }"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::ValueEnum as _;

    use super::*;

    fn text<'a>(files: &'a [File], path: &str) -> &'a str {
        let file = files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no {path}"));
        std::str::from_utf8(&file.bytes).unwrap()
    }

    #[test]
    fn every_language_has_both_policies_and_says_how_it_is_built() {
        for lang in Lang::value_variants() {
            for per_request in [false, true] {
                let files =
                    files(*lang, ProjectKind::Policy, per_request, "spread").unwrap_or_else(|| panic!("{lang:?}"));
                for path in ["build.sh", "README.md", "wit/balancer.wit"] {
                    assert!(!text(&files, path).is_empty());
                }
                assert!(files.iter().any(|file| file.path == "build.sh" && file.is_program));
                let has_bindings = files.iter().any(|file| file.path == "bindings/balancer_plugin.h");
                assert_eq!(has_bindings, matches!(lang, Lang::C | Lang::Cpp), "{lang:?}");
                let other = if per_request { "weighted" } else { "least_request" };
                for file in files.iter().filter(|file| !file.path.starts_with("sdk/")) {
                    assert!(
                        !file.path.contains(other) && !file.path.contains("key_scheme_plugin"),
                        "{lang:?} {}",
                        file.path
                    );
                    let text = String::from_utf8_lossy(&file.bytes);
                    assert!(!text.contains("my_policy"), "{lang:?} {} still says my_policy", file.path);
                }
            }
        }
    }

    #[test]
    fn a_key_scheme_is_of_its_own_world() {
        for lang in [Lang::Rust, Lang::Python, Lang::C] {
            let files = files(lang, ProjectKind::KeyScheme, false, "layout").unwrap();
            assert!(
                !files.iter().any(|file| file.path.contains("policy") && !file.path.starts_with("sdk/")),
                "{lang:?}"
            );
            let script = text(&files, "build.sh");
            assert!(!script.contains("balancer-plugin") && !script.contains("source=policy"), "{script}");
            assert!(text(&files, "README.md").contains("key"));
        }
        assert_eq!(files(Lang::Js, ProjectKind::KeyScheme, false, "layout"), None);
    }

    #[test]
    fn the_sdk_that_is_laid_beside_a_project_stands_alone() {
        let files = files(Lang::Rust, ProjectKind::Policy, false, "spread").unwrap();
        let manifest = text(&files, "sdk/Cargo.toml");
        assert!(!manifest.contains("workspace"), "{manifest}");
        let manifest: toml::Table = toml::from_str(manifest).unwrap();
        let workspace: toml::Table = toml::from_str(include_str!("../../../../../Cargo.toml")).unwrap();
        for (name, value) in manifest["dependencies"].as_table().unwrap() {
            assert_eq!(*value, workspace["workspace"]["dependencies"][name], "{name}");
        }
        assert_eq!(manifest["package"]["rust-version"], workspace["workspace"]["package"]["rust-version"]);
        assert!(text(&files, "Cargo.toml").contains("name = \"spread\""));
    }
}
