//! The components that come with the binary. They are bytes like a user's file, and come through
//! the same door.

use super::kind::Kind;

/// Where these come from, in the words of the history.
pub const ORIGIN: &str = "bundled";

/// A bundled component.
#[derive(Debug, Clone, Copy)]
pub struct Bundled {
    /// Its name.
    pub name: &'static str,
    /// What it decides.
    pub kind: Kind,
    /// The component.
    pub bytes: &'static [u8],
}

macro_rules! bundled {
    ($($kind:ident $name:literal),* $(,)?) => {
        /// All bundled components.
        pub const ALL: &[Bundled] = &[$(Bundled {
            name: $name,
            kind: Kind::$kind,
            bytes: include_bytes!(concat!("../../dist/", $name, ".wasm")),
        }),*];
    };
}

bundled! {
    Policy "round_robin",
    Policy "weighted",
    Policy "zone_aware",
    Policy "priority",
    Policy "subset",
    Policy "pick_first",
    Policy "random",
    Policy "weighted_random",
    Policy "least_request",
    Policy "weighted_least_request",
    Policy "peak_ewma",
    Policy "reported_load",
    Policy "ring_hash",
    Policy "maglev",
    Policy "sticky",
    Policy "canary_by_header",
    KeyScheme "etcd_naming",
    KeyScheme "bare_prefix",
}

/// The bundled components of one kind.
pub fn of(kind: Kind) -> impl Iterator<Item = &'static Bundled> {
    ALL.iter().filter(move |bundled| bundled.kind == kind)
}
