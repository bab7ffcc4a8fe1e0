//! Why a file is not a plugin of this host.

use thiserror::Error;

/// Why a component could not be loaded. Nothing of it runs; whatever ran goes on running. Do not retry: change the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error("{origin} is not WebAssembly: it {found}")]
    NotWasm {
        /// Where the bytes came from.
        origin: String,
        /// What it looks like instead.
        found: String,
    },
    /// A core module, which lacks the component layer.
    #[error(
        "{origin} is a core WebAssembly module, not a component; wrap it, for example with `wasm-tools component new`, or build it as plugins/README.md says"
    )]
    CoreModule {
        /// Where the bytes came from.
        origin: String,
    },
    /// Larger than this host takes.
    #[error("{origin} has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Where the bytes came from.
        origin: String,
        /// Its size.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
    /// Damaged, or it uses a WebAssembly feature that this host does not have.
    #[error("{origin} is not a valid component: {reason}")]
    Invalid {
        /// Where the bytes came from.
        origin: String,
        /// The compiler's words.
        reason: String,
    },
    /// A component of some other world.
    #[error("{origin} is a component of another world: it exports {exports}; a plugin exports {expected}")]
    OtherWorld {
        /// Where the bytes came from.
        origin: String,
        /// What it exports.
        exports: String,
        /// What a plugin of this kind exports.
        expected: String,
    },
    /// A plugin for an interface version that this host does not know.
    #[error("{origin} targets {targets}; this host supports {supports}")]
    UnsupportedVersion {
        /// Where the bytes came from.
        origin: String,
        /// The interface with its version.
        targets: String,
        /// The versions of this host.
        supports: String,
    },
    /// It asks for something that a plugin does not get.
    #[error("{origin} imports {import}, which is not granted; a {kind} gets {granted} and nothing else{hint}")]
    NotGranted {
        /// Where the bytes came from.
        origin: String,
        /// The imports at fault.
        import: String,
        /// The kind of plugin.
        kind: &'static str,
        /// What it may import.
        granted: String,
        /// How it would be given, if it can be; empty otherwise.
        hint: &'static str,
    },
    /// Its types differ from the interface's.
    #[error("{origin} does not fit the interface: {reason}")]
    Mismatch {
        /// Where the bytes came from.
        origin: String,
        /// The linker's words.
        reason: String,
    },
    /// It failed while it was started or described.
    #[error("{origin} failed in {call}: {reason}")]
    Failed {
        /// Where the bytes came from.
        origin: String,
        /// The function called.
        call: &'static str,
        /// What happened.
        reason: String,
    },
    /// What it says of itself cannot be used.
    #[error("{origin} describes itself badly: {reason}")]
    BadDescription {
        /// Where the bytes came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A policy was wanted and this is a key scheme, or the other way round.
    #[error("{origin} is a {found}, not a {wanted}")]
    WrongKind {
        /// Where the bytes came from.
        origin: String,
        /// What it is.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The configuration is not a JSON object.
    #[error("the configuration for {plugin} is not a JSON object: {reason}")]
    BadConfig {
        /// The plugin's name.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// No bundled plugin has this name.
    #[error("there is no bundled {kind} called {name:?}; there are: {available}")]
    NoSuchBundled {
        /// `policy` or `key scheme`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        available: String,
    },
}
