//! The shapes of load: how many connections and calls there are, how large, and how often.

use clap::ValueEnum;

use super::{
    echo::{Kind, PAYLOAD, REPEATED},
    streams::{Load, Until},
};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// Unary calls of 64 bytes, 64 at once over one connection.
    One,
    /// 8 at once on each of 8 connections.
    Eight,
    /// One at a time on each of 100 connections.
    Hundred,
    /// 2,000 connections with one call a second each.
    Crowd,
    /// One call every 5 ms, alone: there is nothing to write together with it.
    Paced,
    /// 16 KiB each way, 8 at once on each of 8 connections.
    #[value(name = "16k")]
    Kib16,
    /// 1 MiB each way, one at a time on each of 8 connections.
    #[value(name = "1m")]
    Mib1,
    /// Calls that are answered by 100 messages in a frame each, 8 at once on each of 8 connections.
    Stream,
    /// As `eight`, with two workers.
    TwoWorkers,
    /// No calls at all: memory of connections that are idle.
    Idle,
}

impl Shape {
    /// The name by which it is selected.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How many threads, or processes with nginx, move bytes in the proxies that let us say.
    pub(crate) fn workers(self) -> usize {
        if self == Self::TwoWorkers { 2 } else { 1 }
    }

    /// How many connections clients have to the proxy.
    pub(crate) fn connections(self, quick: bool) -> usize {
        match self {
            Self::One | Self::Paced => 1,
            Self::Eight | Self::Kib16 | Self::Mib1 | Self::Stream | Self::TwoWorkers => 8,
            Self::Hundred => 100,
            Self::Crowd if quick => 100,
            Self::Crowd => 2_000,
            Self::Idle if quick => 50,
            Self::Idle => 1_000,
        }
    }

    /// Its calls.
    pub(crate) fn load(self, quick: bool, until: Until) -> Load {
        let connections = self.connections(quick) as u16;
        let unary = Load { streams: 64, ..Load::unary(until) };
        match self {
            Self::One | Self::Eight | Self::TwoWorkers | Self::Idle => unary,
            Self::Hundred => Load { streams: connections, ..unary },
            Self::Crowd => Load { streams: connections, pace: Some(connections.into()), ..unary },
            Self::Paced => Load { streams: 1, pace: Some(200.0), ..unary },
            Self::Kib16 => Load { payload: 16 << 10, ..unary },
            Self::Mib1 => Load { streams: connections, payload: 1 << 20, ..unary },
            Self::Stream => Load { kind: Kind::OneByOne, ..unary },
        }
    }

    /// What it is, in the words of a table's title.
    pub(crate) fn title(self, quick: bool) -> String {
        let Load { streams, kind, payload, pace, .. } = self.load(quick, Until::Calls(0));
        let connections = self.connections(quick);
        if self == Self::Idle {
            return format!("{connections} clients' connections that made one call each and are idle");
        }
        let what = match (kind, payload) {
            (Kind::Streaming | Kind::OneByOne, _) => format!("{REPEATED} messages of {PAYLOAD} B a call"),
            (_, bytes) if bytes >= 1 << 20 => format!("unary, {} MiB each way", bytes >> 20),
            (_, bytes) if bytes >= 1 << 10 => format!("unary, {} KiB each way", bytes >> 10),
            (_, bytes) => format!("unary, {bytes} B each way"),
        };
        let how = match pace {
            Some(pace) => format!("{pace} calls a second"),
            None => format!("{streams} calls at once"),
        };
        let over = if connections == 1 { "one connection".to_owned() } else { format!("{connections} connections") };
        let workers = if self.workers() == 1 { "one worker" } else { "two workers" };
        format!("{}: {what}, {how} over {over}, {workers}", self.name())
    }
}
