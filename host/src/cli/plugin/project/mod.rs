//! A plugin's project: laid out by `plugin new`, turned into a component by `plugin build`.
//!
//! ```text
//!   examples/policies/<lang> ─(embedded)─▶ new ─▶ NAME/ plugin.toml, source, build.sh, wit/
//!                                                  │
//!                       build: are the tools there? ─▶ build.sh ─▶ module ─(component)─▶ NAME.wasm ─▶ loaded once
//! ```
//!
//! `build.sh` is all that a build does, and can be run by hand: `build` adds what a script says
//! badly, namely which tool is missing and how to get it.

mod build;
mod component;
mod new;
mod templates;
mod toolchain;

use std::{fs, path::Path};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(super) use build::{BuildArgs, build};
pub(super) use component::{ComponentArgs, component};
pub(super) use new::{NewArgs, new};

use super::output::CommandError;
use crate::plugin::Kind;

/// The file that says what a project is.
const MANIFEST: &str = "plugin.toml";

/// A language that there are templates for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Lang {
    Rust,
    C,
    Cpp,
    Zig,
    Go,
    #[value(name = "assemblyscript")]
    AssemblyScript,
    Python,
    Js,
}

impl Lang {
    /// Its folder below `examples/policies`.
    fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Cpp => "cpp",
            Self::Zig => "zig",
            Self::Go => "go",
            Self::AssemblyScript => "assemblyscript",
            Self::Python => "python",
            Self::Js => "js",
        }
    }
}

/// What a plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ProjectKind {
    /// Which endpoint gets a request.
    Policy,
    /// What keys and values in etcd look like.
    KeyScheme,
}

impl ProjectKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::KeyScheme => "key-scheme",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Policy => Kind::Policy,
            Self::KeyScheme => Kind::KeyScheme,
        }
    }

    /// The world's name inside of its package.
    fn world(self) -> &'static str {
        match self {
            Self::Policy => "balancer-plugin",
            Self::KeyScheme => "key-scheme-plugin",
        }
    }
}

/// What stands in `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    kind: ProjectKind,
    lang: Lang,
}

impl Manifest {
    fn read(folder: &Path) -> Result<Self, CommandError> {
        let path = folder.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| {
            CommandError::usage(format!(
                "cannot read {}: {error}. A folder that `waymark plugin new` made has it",
                path.display()
            ))
        })?;
        let manifest: Self =
            toml::from_str(&text).map_err(|error| CommandError::usage(format!("{}: {error}", path.display())))?;
        check_name(&manifest.name).map_err(|reason| CommandError::usage(format!("{}: {reason}", path.display())))?;
        Ok(manifest)
    }

    fn text(&self) -> String {
        format!(
            "# What `waymark plugin build` goes by.\nname = \"{}\"\nkind = \"{}\"\nlang = \"{}\"\n",
            self.name,
            self.kind.as_str(),
            self.lang.folder()
        )
    }
}

/// A name has to be one in every language: of a crate, of a Go module, of a file, and in a
/// component's description.
fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if begins && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!("the name {shown:?} is not a letter and then up to 63 of a-z, 0-9 and _, for example my_policy"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_a_manifest_says_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let written = Manifest { name: "spread".into(), kind: ProjectKind::KeyScheme, lang: Lang::Python };
        fs::write(folder.path().join(MANIFEST), written.text()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), written);
    }

    #[test]
    fn a_manifest_that_is_not_there_or_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let told = || Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(told().contains("plugin.toml") && told().contains("waymark plugin new"), "{}", told());
        for (text, reason) in [
            ("name = \"a\"\nkind = \"policy\"\nlang = \"cobol\"\n", "cobol"),
            ("name = \"../a\"\nkind = \"policy\"\nlang = \"c\"\n", "../a"),
            ("name = \"a\"\nkind = \"policy\"\nlang = \"c\"\nzone = 1\n", "zone"),
        ] {
            fs::write(folder.path().join(MANIFEST), text).unwrap();
            assert!(told().contains(reason), "{}", told());
        }
    }
}
