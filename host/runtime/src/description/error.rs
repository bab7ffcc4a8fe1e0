//! Why a file is not a plugin of this host, and why no plugin runs on it at all.

use std::{error::Error as StdError, io};

use thiserror::Error;
use waymark_core::text::{NAME, WORDS, shown};

/// Why the engine does not start: no plugin runs in this process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The machine, or the system on it, cannot run what the compiler makes.
    #[error("this machine cannot run compiled WebAssembly: {reason}")]
    Unsupported {
        /// What is missing, with all its causes.
        reason: String,
        /// The same as the compiler has it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The system gives it no thread.
    #[error("a thread of it cannot be started: {source}")]
    Thread {
        /// Why.
        #[from]
        source: io::Error,
    },
}

/// Why a component could not be loaded. Nothing of it runs; whatever ran goes on running. Do not
/// retry: change the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error("{origin} is not WebAssembly: it {found}", origin = shown(.origin, NAME), found = shown(.found, WORDS))]
    NotWasm {
        /// Where the bytes came from.
        origin: String,
        /// What it looks like instead.
        found: String,
    },
    /// A core module, which lacks the component layer.
    #[error("{origin} is a core WebAssembly module, not a component; wrap it, for example with `wasm-tools component new`, or build it as plugins/README.md says", origin = shown(.origin, NAME))]
    CoreModule {
        /// Where the bytes came from.
        origin: String,
    },
    /// Larger than this host takes.
    #[error("{origin} has {size} bytes, over the limit of {limit}", origin = shown(.origin, NAME))]
    TooLarge {
        /// Where the bytes came from.
        origin: String,
        /// Its size.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
    /// Damaged, or it uses a WebAssembly feature that this host does not have.
    #[error("{origin} is not a valid component: {reason}", origin = shown(.origin, NAME), reason = shown(.reason, WORDS))]
    Invalid {
        /// Where the bytes came from.
        origin: String,
        /// The compiler's words.
        reason: String,
    },
    /// Compiling or instantiating it takes more than any plugin needs, or did so when it was tried.
    #[error("{origin} is not compiled: it {reason}")]
    TooCostly {
        /// Where the bytes came from.
        origin: String,
        /// What would take so much.
        reason: String,
    },
    /// It could not be compiled now, through no fault of its own.
    #[error("{origin} could not be compiled: {reason}")]
    NotCompiled {
        /// Where the bytes came from.
        origin: String,
        /// Why.
        reason: String,
    },
    /// A component of some other world.
    #[error("{origin} is a component of another world: it exports {exports}; a plugin exports {expected}", origin = shown(.origin, NAME), exports = shown(.exports, WORDS))]
    OtherWorld {
        /// Where the bytes came from.
        origin: String,
        /// What it exports.
        exports: String,
        /// What a plugin of this kind exports.
        expected: String,
    },
    /// A plugin for an interface version that this host does not know.
    #[error("{origin} targets {targets}; this host supports {supports}", origin = shown(.origin, NAME), targets = shown(.targets, WORDS))]
    UnsupportedVersion {
        /// Where the bytes came from.
        origin: String,
        /// The interface with its version.
        targets: String,
        /// The versions of this host.
        supports: String,
    },
    /// It asks for something that a plugin does not get.
    #[error("{origin} imports {import}, which is not granted; a {kind} gets {granted} and nothing else{hint}", origin = shown(.origin, NAME), import = shown(.import, WORDS))]
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
    #[error("{origin} does not fit the interface: {reason}", origin = shown(.origin, NAME), reason = shown(.reason, WORDS))]
    Mismatch {
        /// Where the bytes came from.
        origin: String,
        /// The linker's words.
        reason: String,
    },
    /// It failed while it was started or described.
    #[error("{origin} failed in {call}: {reason}", origin = shown(.origin, NAME), reason = shown(.reason, WORDS))]
    Failed {
        /// Where the bytes came from.
        origin: String,
        /// The function called.
        call: &'static str,
        /// What happened.
        reason: String,
    },
    /// What it says of itself cannot be used.
    #[error("{origin} describes itself badly: {reason}", origin = shown(.origin, NAME), reason = shown(.reason, WORDS))]
    BadDescription {
        /// Where the bytes came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A policy was wanted and this is a key scheme, or the other way round.
    #[error("{origin} is a {found}, not a {wanted}", origin = shown(.origin, NAME), found = shown(.found, WORDS))]
    WrongKind {
        /// Where the bytes came from.
        origin: String,
        /// What it is.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The configuration is not a JSON object.
    #[error("the configuration for {plugin} is not a JSON object: {reason}", plugin = shown(.plugin, NAME), reason = shown(.reason, WORDS))]
    BadConfig {
        /// The plugin's name.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// No bundled plugin has this name.
    #[error("there is no bundled {kind} called \"{name}\"; there are: {available}", name = shown(.name, NAME))]
    NoSuchBundled {
        /// `policy` or `key scheme`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        available: String,
    },
}
