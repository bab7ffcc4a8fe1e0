//! The tools that a language's `build.sh` calls: whether they are there, and how to get them.

use std::{path::Path, process::Command};

use super::Lang;

/// A tool, and what to do when it is missing.
pub(super) struct Tool {
    name: &'static str,
    get: &'static str,
    is_there: fn(&Path) -> bool,
}

/// What `build.sh` of this language needs.
pub(super) fn tools(lang: Lang) -> &'static [Tool] {
    match lang {
        Lang::Rust => &RUST,
        Lang::C | Lang::Cpp => &[ZIG],
        Lang::Zig => &[ZIG_0_17],
        Lang::Go => &[GO],
        Lang::AssemblyScript => &[NODE, ASC],
        Lang::Python => &[COMPONENTIZE_PY],
        Lang::Js => &[NODE, COMPONENTIZE_QJS],
    }
}

const RUST: [Tool; 2] = [
    Tool { name: "cargo", get: "install Rust from https://rustup.rs", is_there: |_| runs("cargo", &["--version"]) },
    Tool {
        name: "Rust's standard library for wasm32-unknown-unknown",
        get: "rustup target add wasm32-unknown-unknown",
        is_there: |_| has_wasm_target(),
    },
];

const ZIG: Tool = Tool {
    name: "zig",
    get: "pip install ziglang==0.17.1 (Zig's compiler as a Python package), or put `zig` on the PATH",
    is_there: |_| zig_version().is_some(),
};

/// The language itself is not the same from one version to the next.
const ZIG_0_17: Tool = Tool {
    name: "zig 0.17",
    get: "pip install ziglang==0.17.1 (Zig's compiler as a Python package), or put a `zig` of that version on the PATH",
    is_there: |_| zig_version().is_some_and(|version| version.starts_with("0.17.")),
};

const GO: Tool = Tool {
    name: "go 1.24 or later",
    get: "install it from https://go.dev/dl",
    is_there: |_| output("go", &["env", "GOVERSION"]).is_some_and(|version| is_new_go(version.trim())),
};

const COMPONENTIZE_PY: Tool = Tool {
    name: "componentize-py",
    get: "pip install componentize-py==0.25.1",
    is_there: |_| runs("componentize-py", &["--version"]),
};

const NODE: Tool = Tool {
    name: "node",
    get: "install Node 20 or later from https://nodejs.org",
    is_there: |_| runs("node", &["--version"]),
};

const COMPONENTIZE_QJS: Tool = Tool {
    name: "componentize-qjs",
    get: "run `npm install` in the project's folder",
    is_there: |folder| folder.join("node_modules/.bin/componentize-qjs").exists(),
};

const ASC: Tool = Tool {
    name: "asc, AssemblyScript's compiler",
    get: "run `npm install` in the project's folder",
    is_there: |folder| folder.join("node_modules/.bin/asc").exists(),
};

/// What is missing to build a project of this language, a line each: the tool, and how to get it.
pub(super) fn missing(lang: Lang, folder: &Path) -> Vec<String> {
    let missing = tools(lang).iter().filter(|tool| !(tool.is_there)(folder));
    missing.map(|tool| format!("{} is missing: {}", tool.name, tool.get)).collect()
}

fn command(program: &str, arguments: &[&str]) -> Option<std::process::Output> {
    Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    command(program, arguments).is_some()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    String::from_utf8(command(program, arguments)?.stdout).ok()
}

/// Of the compiler that `build.sh` takes: the one on the PATH, else the Python package.
fn zig_version() -> Option<String> {
    output("zig", &["version"]).or_else(|| output("python3", &["-m", "ziglang", "version"]))
}

fn has_wasm_target() -> bool {
    let Some(folder) = output("rustc", &["--print", "target-libdir", "--target", "wasm32-unknown-unknown"]) else {
        return false;
    };
    let entries = std::fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "rlib"))
}

/// `go1.24` and later; a development build counts as new.
fn is_new_go(version: &str) -> bool {
    let Some(rest) = version.strip_prefix("go1.") else { return version.starts_with("devel") };
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    minor.parse::<u32>().is_ok_and(|minor| minor >= 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_is_new_from_1_24_on() {
        for (version, new) in [
            ("go1.24", true),
            ("go1.26.8", true),
            ("go1.30rc1", true),
            ("go1.23.9", false),
            ("go1.3", false),
            ("", false),
        ] {
            assert_eq!(is_new_go(version), new, "{version}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        for (lang, tool) in [(Lang::Js, "componentize-qjs"), (Lang::AssemblyScript, "asc")] {
            let missing = missing(lang, Path::new("/no/such/project"));
            assert!(
                missing.iter().any(|line| line.contains(tool) && line.contains("npm install")),
                "{lang:?} {missing:?}"
            );
        }
    }
}
