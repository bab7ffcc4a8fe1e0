//! An etcd 3.6, built from the module in `etcd36/` where Go is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

/// The program. None, and a line on stderr, when it is not asked for or Go is missing.
///
/// # Errors
///
/// When the build fails, or Go is missing and required.
pub(crate) fn program() -> Result<Option<PathBuf>, String> {
    if !set("WAYMARK_PROBE_ETCD36") && !set("REQUIRE_GO") {
        eprintln!("SKIPPED the probe on etcd 3.6: it is built with Go when WAYMARK_PROBE_ETCD36=1 or REQUIRE_GO=1");
        return Ok(None);
    }
    if Command::new("go").arg("version").output().is_err() {
        if set("REQUIRE_GO") {
            return Err("REQUIRE_GO=1, but there is no `go` on the PATH to build etcd 3.6 with".into());
        }
        eprintln!("SKIPPED the probe on etcd 3.6: there is no `go` on the PATH to build it with");
        return Ok(None);
    }
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe/etcd36");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd-3.6");
    // Go itself sees whether there is anything to do.
    let built = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(&module)
        .output()
        .map_err(|error| format!("cannot run go in {}: {error}", module.display()))?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        return Err(format!("go could not build etcd 3.6 in {}:\n{said}", module.display()));
    }
    Ok(Some(program))
}
