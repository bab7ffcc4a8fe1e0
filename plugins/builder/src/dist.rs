//! The folder of built components: what is in it, and whether two of them are the same.
//!
//! ```text
//! plugins/dist/round_robin.wasm ...   the bundled components, which the host embeds
//! plugins/dist/test/*.wasm            those that the host's tests load
//! plugins/dist/SHA256SUMS             of all of them, in the format of sha256sum
//! plugins/dist/TOOLCHAIN              what the bytes depend on beside the source
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{guests::Component, toolchain::hex};

const SUMS: &str = "SHA256SUMS";
const TOOLCHAIN: &str = "TOOLCHAIN";

/// Write everything, and remove components that are no longer built.
pub(crate) fn write(dist: &Path, components: &[Component], toolchain: &str) -> Result<()> {
    for old in files(dist)?.into_keys().filter(|old| !components.iter().any(|component| component.file == *old)) {
        fs::remove_file(dist.join(old))?;
    }
    for component in components {
        let path = dist.join(&component.file);
        fs::create_dir_all(path.parent().unwrap_or(dist))?;
        fs::write(&path, &component.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let sums = components.iter().fold(String::new(), |mut sums, component| {
        _ = writeln!(sums, "{}  {}", component.sha256(), component.file);
        sums
    });
    fs::write(dist.join(SUMS), sums)?;
    fs::write(dist.join(TOOLCHAIN), toolchain)?;
    Ok(())
}

/// The toolchain that a folder was built with; empty when it does not say.
pub(crate) fn toolchain(dist: &Path) -> Result<String> {
    match fs::read_to_string(dist.join(TOOLCHAIN)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => Ok(text?),
    }
}

/// One line for each file that differs, is missing, or should not be there.
pub(crate) fn compare(committed: &Path, rebuilt: &Path) -> Result<Vec<String>> {
    let (committed, rebuilt) = (files(committed)?, files(rebuilt)?);
    let mut differences = Vec::new();
    for (file, bytes) in &rebuilt {
        match committed.get(file) {
            None => differences.push(format!("{file} is missing")),
            Some(other) if other != bytes => {
                differences.push(format!("{file} differs: {} bytes, rebuilt {}", other.len(), bytes.len()));
            }
            Some(_) => {}
        }
    }
    let unknown = committed.keys().filter(|file| !rebuilt.contains_key(*file));
    differences.extend(unknown.map(|file| format!("{file} is built from no source")));
    Ok(differences)
}

/// A table for people.
pub(crate) fn table(components: &[Component]) -> String {
    let mut table = format!("{:<34} {:>7}  {:<16} imports\n", "component", "bytes", "sha256");
    for component in components {
        let sum = component.sha256();
        let sum = sum.get(..16).unwrap_or_default();
        _ = writeln!(
            table,
            "{:<34} {:>7}  {sum} {}",
            component.file,
            component.bytes.len(),
            component.imports.join(" ")
        );
    }
    table
}

impl Component {
    fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }
}

/// Everything that is compared, by its path below `dist`: the components and the list of sums.
fn files(dist: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(dist.join(&folder)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("cannot list {}", dist.display()))?,
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wasm") || path == Path::new(SUMS) {
                let bytes = fs::read(entry.path())?;
                // With forward slashes everywhere, so that the list of sums does not depend on the
                // system.
                let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
                files.insert(parts.join("/"), bytes);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn component(file: &str, bytes: &[u8]) -> Component {
        Component { file: file.to_owned(), bytes: bytes.to_vec(), imports: Vec::new() }
    }

    #[test]
    fn what_was_written_is_equal_and_anything_else_is_named() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let components = [component("a.wasm", b"a"), component("test/b.wasm", b"b")];
        write(one.path(), &components, "here\n").unwrap();
        write(other.path(), &components, "there\n").unwrap();
        assert_eq!(compare(one.path(), other.path()).unwrap(), [""; 0]);
        assert_eq!(toolchain(one.path()).unwrap(), "here\n");

        fs::write(one.path().join("a.wasm"), b"other").unwrap();
        fs::remove_file(one.path().join("test/b.wasm")).unwrap();
        fs::write(one.path().join("test/c.wasm"), b"c").unwrap();
        let differences = compare(one.path(), other.path()).unwrap();
        assert_eq!(
            differences,
            ["a.wasm differs: 5 bytes, rebuilt 1", "test/b.wasm is missing", "test/c.wasm is built from no source"]
        );
    }

    #[test]
    fn components_that_are_no_longer_built_are_removed() {
        let dist = tempfile::tempdir().unwrap();
        write(dist.path(), &[component("old.wasm", b"a"), component("test/old.wasm", b"b")], "").unwrap();
        write(dist.path(), &[component("new.wasm", b"a")], "").unwrap();
        let files: Vec<String> = files(dist.path()).unwrap().into_keys().collect();
        assert_eq!(files, [SUMS, "new.wasm"]);
        let sum = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  new.wasm\n";
        assert_eq!(fs::read_to_string(dist.path().join(SUMS)).unwrap(), sum);
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        let dist = tempfile::tempdir().unwrap();
        let missing = dist.path().join("missing");
        assert_eq!(compare(&missing, &missing).unwrap(), [""; 0]);
        assert_eq!(toolchain(&missing).unwrap(), "");
    }
}
