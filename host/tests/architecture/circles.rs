//! Which files of a crate use each other in a circle. Paths (`crate::a::b`, `super::…`, `self::…`,
//! and those that begin with a module of the same file) are followed through imports and re-exports
//! to the file that has what they name. What a module uses of those below it does not count: it
//! puts them together. What they use of it does. Tests are left out.
//!
//! This reads tokens, not Rust: what macros make of their words, and names that come in through a
//! `*`, it does not see.

use std::collections::{BTreeMap, BTreeSet};

/// Names from the root of the crate on: of a module, or of what is in one.
type Path = Vec<String>;

/// A module with a file of its own.
struct Module {
    file: String,
    /// What it names, within the crate or not.
    named: Vec<Path>,
    /// What each name that it imports stands for.
    imports: BTreeMap<String, Path>,
}

/// The groups of files in which each uses each other one, directly or not. `sources` are the files
/// below `src`, by their path there.
pub(crate) fn circles(sources: &BTreeMap<String, String>) -> Vec<Vec<&str>> {
    let mut modules = BTreeMap::new();
    read(sources, "lib.rs", Path::new(), &mut modules);
    let used = |module: &Module| module.named.iter().filter_map(|path| resolve(&modules, path, 0)).collect();
    let used: BTreeMap<&Path, BTreeSet<Path>> = modules.iter().map(|(path, module)| (path, used(module))).collect();
    let mut reached: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for path in modules.keys() {
        let (found, mut next) = (reached.entry(path).or_default(), vec![path]);
        while let Some(path) = next.pop() {
            next.extend(used[path].iter().filter(|used| !used.starts_with(path) && found.insert(*used)));
        }
    }
    let circle = |path: &Path| reached[path].iter().copied().filter(|other| reached[other].contains(path)).collect();
    let circles: BTreeSet<Vec<&Path>> =
        modules.keys().map(circle).filter(|circle: &Vec<_>| !circle.is_empty()).collect();
    let name = |path: &Path| sources.get_key_value(&modules[path].file).map_or("", |(name, _)| name);
    circles.into_iter().map(|circle| circle.into_iter().map(name).collect()).collect()
}

/// The path of the module whose file has what this path leads to; none if it leads to another
/// crate.
fn resolve(modules: &BTreeMap<Path, Module>, path: &[String], steps: usize) -> Option<Path> {
    let known = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(known);
    let import = rest.first().and_then(|name| modules[module].imports.get(name));
    // A macro of this module is imported as itself.
    let import = import.filter(|import| !path.starts_with(import) && steps < 10);
    let Some(import) = import else { return Some(module.to_vec()) };
    // What is imported from here is in another crate, whose name was taken for one of this module.
    resolve(modules, &[import, &rest[1..]].concat(), steps + 1).filter(|found| found != module)
}

/// Reads a file, and those of the modules that it declares.
fn read(sources: &BTreeMap<String, String>, file: &str, path: Path, modules: &mut BTreeMap<Path, Module>) {
    let tokens = without_tests(&tokens(&sources[file]));
    let token = |at: usize| tokens.get(at).copied().unwrap_or_default();
    let mut module = Module { file: file.to_owned(), named: Vec::new(), imports: BTreeMap::new() };
    // How deep in braces the text is, and at which depths modules without files of their own began.
    let (mut depth, mut inner, mut at) = (0, Vec::new(), 0);
    while at < tokens.len() {
        match token(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inner.pop_if(|begun| *begun == depth);
            }
            "mod" if token(at + 2) == "{" => inner.push(depth),
            "mod" if token(at + 2) == ";" => {
                let child = [&path[..], &[token(at + 1).to_owned()]].concat();
                let names = [format!("{}.rs", child.join("/")), format!("{}/mod.rs", child.join("/"))];
                let file = names.iter().find(|name| sources.contains_key(*name));
                read(sources, file.expect("a file of each module"), child, modules);
            }
            "use" => {
                let mut found = Vec::new();
                at = tree(&tokens, at + 1, &[], &mut found);
                for (named, name) in found {
                    let named = from_root(&path, inner.len(), &named);
                    module.imports.insert(name.to_owned(), named.clone());
                    module.named.push(named);
                }
            }
            word if is_word(word)
                && token(at + 1) == "::"
                && is_word(token(at + 2))
                && token(at.wrapping_sub(1)) != "$" =>
            {
                let mut named = vec![word];
                while token(at + 1) == "::" && is_word(token(at + 2)) {
                    at += 2;
                    named.push(token(at));
                }
                module.named.push(from_root(&path, inner.len(), &named));
            }
            _ => {}
        }
        at += 1;
    }
    modules.insert(path, module);
}

/// Reads what a `use` declaration names from this token on, each with the name that it gets, and
/// returns the place of the token behind it.
fn tree<'a>(tokens: &[&'a str], mut at: usize, before: &[&'a str], found: &mut Vec<(Vec<&'a str>, &'a str)>) -> usize {
    let mut path = before.to_vec();
    let mut name = None;
    loop {
        match tokens[at] {
            "::" => {}
            "as" => {
                name = Some(tokens[at + 1]);
                at += 1;
            }
            "{" => {
                while tokens[at] != "}" {
                    at = tree(tokens, at + 1, &path, found);
                }
                return at + 1;
            }
            "self" if !path.is_empty() => name = path.last().copied(),
            word if is_word(word) => {
                path.push(word);
                name = Some(word);
            }
            "*" => name = Some("*"),
            _ => break,
        }
        at += 1;
    }
    found.extend(name.map(|name| (path, name)));
    at
}

/// A path in a module, or so many modules without files deeper, from the root on.
fn from_root(module: &[String], inner: usize, path: &[&str]) -> Path {
    let up = path.iter().take_while(|word| **word == "super").count();
    let (start, rest) = match path[0] {
        "crate" => (0, &path[1..]),
        "self" => (module.len(), &path[1..]),
        _ => (module.len().saturating_sub(up.saturating_sub(inner)), &path[up..]),
    };
    module[..start].iter().cloned().chain(rest.iter().map(|word| (*word).to_owned())).collect()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Leaves out what is compiled for tests alone.
fn without_tests<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let here = &tokens[at..];
        if !here.starts_with(&["#", "[", "cfg", "(", "test", ")"])
            && !here.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
        {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        // To the end of the item: a `;`, or braces that close.
        let mut depth = 0;
        while at < tokens.len() {
            match tokens[at] {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth < 0 || depth == 0 && ["}", ";", ","].contains(&tokens[at - 1]) {
                break;
            }
        }
    }
    kept
}

/// The words, `::` and other signs of a text, without comments and without what is in quotes.
fn tokens(mut text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    while let Some(first) = text.chars().next() {
        let up_to = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
        let after = text[first.len_utf8()..].chars().next().unwrap_or_default();
        let length = match (first, after) {
            ('/', '/') => up_to("\n", 0),
            ('/', '*') => up_to("*/", 0),
            ('"', _) => {
                let hashes = tokens.iter().rev().take_while(|token| **token == "#").count();
                let is_raw = tokens.iter().nth_back(hashes).is_some_and(|token| ["r", "br", "cr"].contains(token));
                if is_raw { up_to(&format!("\"{}", "#".repeat(hashes)), 1) } else { quoted(text) }
            }
            // A lifetime has no second quote.
            ('\'', '\\') => quoted(text),
            ('\'', _) if text[1 + after.len_utf8()..].starts_with('\'') => 2 + after.len_utf8(),
            (c, _) if c.is_whitespace() => c.len_utf8(),
            (c, after) => {
                let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
                let length = if (c, after) == (':', ':') { 2 } else { word.max(c.len_utf8()) };
                tokens.push(&text[..length]);
                length
            }
        };
        text = &text[length..];
    }
    tokens
}

/// How long the string or character is that a text begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    let ends = |c: char| {
        let ends = text.starts_with(c) && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text[1..].find(ends).map_or(text.len(), |at| at + 2)
}
