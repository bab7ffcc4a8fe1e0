//! What the bytes of a component depend on beside its source: the compiler and the standard library
//! it links.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// What guests are built for. Nothing is there but what a component imports: no WASI.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Whether rustc has a standard library for [`TARGET`].
pub(crate) fn target_is_there() -> Result<bool> {
    Ok(libraries()?.is_dir_with_libraries())
}

/// The compiler and the standard library, in a form that is equal exactly when both are the same.
pub(crate) fn describe() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let mut text = String::new();
    for line in
        version.lines().filter(|line| ["release", "commit-hash", "LLVM"].iter().any(|key| line.starts_with(key)))
    {
        _ = writeln!(text, "{line}");
    }
    let mut hash = Sha256::new();
    for file in libraries()?.files()? {
        hash.update(Sha256::digest(fs::read(file)?));
    }
    _ = writeln!(text, "standard library for {TARGET}: sha256 {}", hex(&hash.finalize()));
    Ok(text)
}

/// Bytes in hexadecimal, as `sha256sum` prints them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

struct Libraries(PathBuf);

fn libraries() -> Result<Libraries> {
    Ok(Libraries(rustc(&["--print", "target-libdir", "--target", TARGET])?.trim().into()))
}

impl Libraries {
    fn is_dir_with_libraries(&self) -> bool {
        self.files().is_ok_and(|files| !files.is_empty())
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "rlib"));
        files.sort();
        Ok(files)
    }
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).output().context("cannot run rustc")?;
    ensure!(output.status.success(), "rustc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
