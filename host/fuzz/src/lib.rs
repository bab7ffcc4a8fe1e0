//! What is fuzzed: a function of bytes a target, for `cargo fuzz` (`fuzz_targets/`) and for the
//! gate's runner (`host/tests/fuzz`).
//!
//! A target fails by a panic, by not ending, or by taking too much memory. What it answers says in
//! a word what it made of the input: inputs with a new answer are worth keeping.

mod control_api;
mod decoders;
mod frames;
mod node;

/// What a target made of an input.
pub type Target = fn(&[u8]) -> String;

/// All targets: their names are those of the files in `fuzz_targets/` and of the folders in
/// `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("configuration", decoders::configuration),
    ("service_config", decoders::service_config),
    ("etcd_naming", decoders::etcd_naming),
    ("bare_prefix", decoders::bare_prefix),
    ("kept_endpoints", decoders::kept_endpoints),
    ("load_report", decoders::load_report),
    ("frames", frames::frames),
    ("control_api", control_api::control_api),
];

/// Runs a target of this name, for `cargo fuzz`.
///
/// # Panics
///
/// There is none, or it found something.
pub fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1(input);
}
