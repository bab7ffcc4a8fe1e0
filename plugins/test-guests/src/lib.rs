//! Plugins that misbehave on purpose, and some that make a host's work visible. The host's tests
//! load them from `plugins/dist/test`; nobody else should.
//!
//! Each is one file of `examples/`, and its first line says what it does. Those in `foreign/` are
//! components in text form that no Rust code here could give (another world, another version of the
//! interface, text that is no UTF-8), core modules that the builder makes policies of, the WIT of
//! an import that no host grants, and `old_interface.wasm`: `reads_request` as the SDK of interface
//! 0.1.0 made it, kept as it was. This library holds what the guests share.
//!
//! Misbehaviour within `pick` takes the configuration `{"every": n}`: every n-th pick of an
//! instance misbehaves, and the others answer in turn. It defaults to 1, so that every pick does.

use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Field};

/// The version of all test guests.
pub const VERSION: &str = "1.0.0";

/// A guest without configuration.
pub const fn plain(name: &'static str, summary: &'static str) -> Description {
    Description::new(name, VERSION, summary)
}

/// A guest that misbehaves in every n-th pick.
pub const fn periodic(name: &'static str, summary: &'static str) -> Description {
    plain(name, summary).with_fields(&[Field {
        name: "every",
        default: "1",
        doc: "every n-th pick of an instance misbehaves",
    }])
}

/// Endpoints in turn, with a misfortune at every n-th pick.
#[derive(Debug)]
pub struct Turns {
    endpoints: u32,
    every: u32,
    picks: u32,
}

impl Turns {
    /// For that configuration, which is one of a [`periodic`] guest.
    pub fn new(config: &Config<'_>, endpoints: &[Endpoint]) -> Result<Self, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Self { endpoints, every: config.integer("every", 1..=u32::MAX)?, picks: 0 })
    }

    /// Whether this pick is one that misbehaves. Asked once a pick.
    pub fn misbehave(&mut self) -> bool {
        self.picks = self.picks.wrapping_add(1);
        self.picks.is_multiple_of(self.every)
    }

    /// The endpoint whose turn it is, by the host's own count.
    pub fn next(&self, context: Context) -> Decision {
        turn(context, self.endpoints)
    }

    /// How many endpoints there are.
    pub fn endpoints(&self) -> u32 {
        self.endpoints
    }

    /// How many picks this instance was asked for.
    pub fn picks(&self) -> u32 {
        self.picks
    }
}

/// The endpoint whose turn it is, by the host's own count.
pub fn turn(context: Context, endpoints: u32) -> Decision {
    match context.sequence.checked_rem(endpoints) {
        Some(endpoint) => Decision::Endpoint(endpoint),
        None => Decision::Fail("there are no endpoints".to_owned()),
    }
}

/// Stop as a processor does that meets an instruction it does not know: no message, no panic.
pub fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

/// Go round for ever without calling anybody.
pub fn spin() -> ! {
    let mut n = 0u32;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Go round for so many thousand rounds.
pub fn spin_for(thousands: u32) {
    let mut n = 0u32;
    for _ in 0..thousands {
        for _ in 0..1000 {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    }
}

/// Take memory until there is none, twice as much each time, so that the limit is met before any
/// deadline. The allocation that fails ends the call with a trap.
pub fn hoard() -> ! {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    // Large from the start: a memory that grows may be moved, and many moves take longer than a
    // pick may.
    let mut size = 32 << 20;
    loop {
        let mut more = Vec::with_capacity(size);
        more.push(1);
        hoard.push(std::hint::black_box(more));
        size *= 2;
    }
}
