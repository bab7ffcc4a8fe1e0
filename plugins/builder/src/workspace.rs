//! Where things stand in the repository.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// The interface version that the SDK and the examples speak. A released version keeps its
/// directory for ever; this names the newest.
pub(crate) const WIT_VERSION: &str = "0.1.1";

/// The version that the test guests in text form speak: so it goes on being run.
const OLDER_WIT_VERSION: &str = "0.1.0";

/// The repository that is being built.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that this crate belongs to.
    ///
    /// Asked of the environment that `cargo run` sets first: a target folder shared by two clones
    /// would otherwise make one's builder work on the other.
    pub(crate) fn find() -> Result<Self> {
        let own = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = own.join("../..").canonicalize().with_context(|| format!("{} is not there", own.display()))?;
        ensure!(root.join("plugins/sdk").is_dir(), "{} is not Waymark's repository", root.display());
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The WIT package that the SDK and the bindings in C are generated from.
    pub(crate) fn wit(&self) -> PathBuf {
        self.root.join("wit").join(WIT_VERSION)
    }

    /// The WIT package of the test guests in text form.
    pub(crate) fn older_wit(&self) -> PathBuf {
        self.root.join("wit").join(OLDER_WIT_VERSION)
    }

    /// The SDK's generated modules.
    pub(crate) fn generated(&self) -> PathBuf {
        self.root.join("plugins/sdk/src/generated")
    }

    /// The bindings of the examples in C, which C++ and Zig share.
    pub(crate) fn c_bindings(&self) -> PathBuf {
        self.root.join("examples/policies/c/bindings")
    }

    /// What is committed.
    pub(crate) fn dist(&self) -> PathBuf {
        self.root.join("plugins/dist")
    }

    /// The test guests' crate, which also holds the worlds and components that are foreign on
    /// purpose.
    pub(crate) fn test_guests(&self) -> PathBuf {
        self.root.join("plugins/test-guests")
    }
}
