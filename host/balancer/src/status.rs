//! The status of an endpoint: what its connection, its health check and its record say of it.
//!
//! ```text
//!   connection                      check                        record
//!
//!   Idle ──▶ Connecting ──▶ Ready   Unknown ──▶ Healthy          fails more than the others
//!    ▲  ▲        │ ▲         │ │       │  ▲        │              ──▶ ejected
//!    │  │ failed │ └─ lost ──┘ │       │  └─ lost ─┤             its time is over
//!    │  │        ▼             │       ▼           ▼              ◀──
//!    │  │    BackingOff ─────▶ │    Unhealthy ◀── failed
//!    │  └──────────────────────┘
//!    └ closed in good order
//! ```
//!
//! And a connection or calls that are not answered make it silent until something is heard of it
//! ([`EndpointCell`](super::EndpointCell)): others get its calls meanwhile, while there are any.
//!
//! Each of the three is moved by one owner ([`Connectivity`]: the data plane's connection;
//! [`Health`]: its check; an ejection: the service's task), and none knows of the others. A pick
//! asks one question of all three, so they share one word. People are told the one thing that keeps
//! calls away, or else the connection: an [`EndpointStatus`].

use std::fmt;

/// What an endpoint's connection is doing: gRPC's connectivity states (its
/// connectivity-semantics-and-api.md), with TRANSIENT_FAILURE under the name of what it means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// There is none: no call has needed one yet, or the last one was closed in good order.
    Idle,
    /// The first attempt runs, or the first after a loss. Calls go to endpoints that are connected
    /// to, where there are any.
    Connecting,
    /// There is one that takes calls.
    Ready,
    /// The last attempt failed, and the next one waits or runs: picks skip the endpoint.
    BackingOff,
}

/// What an endpoint's health check says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves, or nobody checks it.
    Healthy,
    /// Nothing yet, or nothing any more: it is being asked. Calls wait for the word rather than go
    /// there.
    Unknown,
    /// It does not serve.
    Unhealthy,
}

/// The status of an endpoint in one word for people: the first of these that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It cannot be connected to.
    BackingOff,
    /// Its check found that it does not serve.
    Unhealthy,
    /// Its check has not spoken yet.
    Checking,
    /// It does not answer at the moment: no ping, or no call. Calls go there only when nothing else
    /// is left.
    Silent,
    /// It fails more than the others. Calls go there only when nothing else is left.
    Ejected,
    /// It is being connected to.
    Connecting,
    /// It is connected to.
    Ready,
    /// It will be connected to when a policy chooses it.
    Idle,
}

impl EndpointStatus {
    /// The state in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackingOff => "backing-off",
            Self::Unhealthy => "unhealthy",
            Self::Checking => "checking",
            Self::Silent => "silent",
            Self::Ejected => "ejected",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Idle => "idle",
        }
    }

    /// Whether picks choose it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Connecting | Self::Ready | Self::Idle)
    }
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The bits of the word. They are grouped by who moves them.
pub(super) mod flag {
    use super::{Connectivity, EndpointStatus, Health};

    /// The last attempt to connect failed, and its back-off still runs.
    pub(in super::super) const BACKING_OFF: u32 = 1;
    pub(in super::super) const IDLE: u32 = 1 << 9;
    pub(in super::super) const CONNECTING: u32 = 1 << 10;
    const CONNECTIVITY: u32 = BACKING_OFF | UNCONNECTED;
    /// There is no connection, and nothing speaks against one.
    pub(in super::super) const UNCONNECTED: u32 = IDLE | CONNECTING;

    /// It is to be checked, and the check has not said yet whether it is healthy.
    const UNKNOWN: u32 = 1 << 3;
    /// Its check found it unhealthy.
    const UNHEALTHY: u32 = 1 << 4;
    const HEALTH: u32 = UNKNOWN | UNHEALTHY;

    /// It was ejected, and that is heeded.
    pub(in super::super) const SKIPPED: u32 = 1 << 1;
    /// It was ejected, whether that is heeded or not. No business of a pick.
    pub(in super::super) const EJECTED: u32 = 1 << 16;

    /// The server at the other end of its connection answers no ping.
    pub(in super::super) const SILENT: u32 = 1 << 5;
    /// It answered no call for a while.
    pub(in super::super) const UNANSWERING: u32 = 1 << 6;
    /// It answered no call, and the next one is to try whether it does again.
    pub(in super::super) const TRIAL: u32 = 1 << 7;

    /// It joined lately, and gets a part of its share.
    pub(in super::super) const SLOW_START: u32 = 1 << 2;
    /// The calls that may run on it at once are limited.
    pub(in super::super) const LIMITED: u32 = 1 << 8;

    /// With none of these, a pick need not look any further.
    pub(in super::super) const ASKED: u32 = UNUSABLE | SLOW_START | LIMITED;
    /// With any of these, picks skip the endpoint.
    pub(in super::super) const UNUSABLE: u32 = UNREACHABLE | SKIPPED | SILENT | UNANSWERING;
    /// With any of these, it is not chosen even where nothing else is left.
    pub(in super::super) const UNREACHABLE: u32 = BACKING_OFF | HEALTH;

    /// What is cleared and what is set to say so.
    pub(in super::super) fn of_connectivity(connectivity: Connectivity) -> (u32, u32) {
        let set = match connectivity {
            Connectivity::Idle => IDLE,
            Connectivity::Connecting => CONNECTING,
            Connectivity::Ready => 0,
            Connectivity::BackingOff => BACKING_OFF,
        };
        (CONNECTIVITY & !set, set)
    }

    pub(in super::super) fn connectivity(flags: u32) -> Connectivity {
        match flags & CONNECTIVITY {
            0 => Connectivity::Ready,
            IDLE => Connectivity::Idle,
            CONNECTING => Connectivity::Connecting,
            _ => Connectivity::BackingOff,
        }
    }

    /// Whether there is a connection that takes calls.
    pub(in super::super) fn is_connected(flags: u32) -> bool {
        flags & CONNECTIVITY == 0
    }

    /// What is cleared and what is set to say so.
    pub(in super::super) fn of_health(health: Health) -> (u32, u32) {
        let set = match health {
            Health::Healthy => 0,
            Health::Unknown => UNKNOWN,
            Health::Unhealthy => UNHEALTHY,
        };
        (HEALTH & !set, set)
    }

    pub(in super::super) fn health(flags: u32) -> Health {
        match flags & HEALTH {
            0 => Health::Healthy,
            UNKNOWN => Health::Unknown,
            _ => Health::Unhealthy,
        }
    }

    /// Whether its check is about to say whether it may be used.
    pub(in super::super) fn pending(flags: u32) -> bool {
        flags & UNREACHABLE == UNKNOWN
    }

    pub(in super::super) fn status(flags: u32) -> EndpointStatus {
        match (connectivity(flags), health(flags)) {
            (Connectivity::BackingOff, _) => EndpointStatus::BackingOff,
            (_, Health::Unhealthy) => EndpointStatus::Unhealthy,
            (_, Health::Unknown) => EndpointStatus::Checking,
            _ if flags & (SILENT | UNANSWERING | TRIAL) != 0 => EndpointStatus::Silent,
            _ if flags & EJECTED != 0 => EndpointStatus::Ejected,
            (Connectivity::Idle, _) => EndpointStatus::Idle,
            (Connectivity::Connecting, _) => EndpointStatus::Connecting,
            (Connectivity::Ready, _) => EndpointStatus::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_owner_says_leaves_what_the_others_said() {
        const CONNECTIVITIES: [Connectivity; 4] =
            [Connectivity::Idle, Connectivity::Connecting, Connectivity::Ready, Connectivity::BackingOff];
        let mut word = 0;
        let mut say = |(clear, set): (u32, u32)| {
            word = word & !clear | set;
            word
        };
        say((0, flag::EJECTED | flag::SLOW_START | flag::SILENT));
        for health in [Health::Unknown, Health::Unhealthy, Health::Healthy, Health::Unknown] {
            say(flag::of_health(health));
            for connectivity in CONNECTIVITIES {
                let word = say(flag::of_connectivity(connectivity));
                assert_eq!((flag::connectivity(word), flag::health(word)), (connectivity, health));
                let others = flag::EJECTED | flag::SLOW_START | flag::SILENT;
                assert_eq!(word & others, others);
            }
        }
    }

    #[test]
    fn the_gravest_is_told() {
        let word = |connectivity, health, ejected| {
            flag::of_connectivity(connectivity).1 | flag::of_health(health).1 | if ejected { flag::EJECTED } else { 0 }
        };
        for (connectivity, health, ejected, status) in [
            (Connectivity::BackingOff, Health::Unhealthy, true, EndpointStatus::BackingOff),
            (Connectivity::Ready, Health::Unhealthy, true, EndpointStatus::Unhealthy),
            (Connectivity::Idle, Health::Unknown, true, EndpointStatus::Checking),
            (Connectivity::Ready, Health::Healthy, true, EndpointStatus::Ejected),
            (Connectivity::Ready, Health::Healthy, false, EndpointStatus::Ready),
            (Connectivity::Connecting, Health::Healthy, false, EndpointStatus::Connecting),
            (Connectivity::Idle, Health::Healthy, false, EndpointStatus::Idle),
        ] {
            assert_eq!(flag::status(word(connectivity, health, ejected)), status);
        }
    }
}
