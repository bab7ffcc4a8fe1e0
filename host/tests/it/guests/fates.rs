//! What becomes of each test guest. The list of guests is made by the build script of what stands
//! in `plugins/dist/test`: a guest for which nothing is said here does not compile.

include!(concat!(env!("OUT_DIR"), "/guests.rs"));

/// What becomes of a guest with one configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It does not come in, for this reason.
    NotLoaded(&'static str),
    /// It comes in, and with this configuration it fails its checks, for this reason.
    Refused(&'static str, &'static str),
    /// With this configuration it is set, and stays: what it does is no failure, or too rare a one.
    /// `SOON` stands for a number of a pick that comes soon.
    Serves(&'static str),
    /// With this configuration it is set, and is taken out of service for this reason.
    TakenOut(&'static str, &'static str),
    /// With this configuration it is set, and is taken out of service because of what its picks
    /// take. None of them fails.
    TooSlow(&'static str),
}

/// Every pick misbehaves, from the trial on.
const ALWAYS: &str = r#"{"every": 1}"#;
/// Past the trial of four picks, then again and again.
const PAST_THE_TRIAL: &str = r#"{"every": 6}"#;
/// Rarely enough to stay.
const RARELY: &str = r#"{"every": 100}"#;

pub(crate) fn fates(guest: Guest) -> &'static [Fate] {
    use Fate::{NotLoaded, Refused, Serves, TakenOut, TooSlow};
    match guest {
        Guest::AsksForSecrets => &[NotLoaded("imports acme:vault/secrets@1.0.0, which is not granted")],
        // Two million rounds are 1 to 2 ms.
        Guest::BuildsSlowly => &[
            Serves(r#"{"thousands": 2000}"#),
            Serves(r#"{"thousands": 2000, "asked": true}"#),
            Refused(r#"{"thousands": 10000000}"#, "not done building after 1000 ms"),
        ],
        Guest::CorruptsItself => &[TakenOut(r#"{"after": 20}"#, "answered endpoint")],
        Guest::CountsPicks => &[Serves(r#"{"every": 4000000000}"#)],
        Guest::DescribesBadly => &[NotLoaded("describe")],
        Guest::Empty | Guest::OtherWorld => &[NotLoaded("another world")],
        Guest::EmptyPlan => &[Refused("{}", "empty plan for 3 endpoints")],
        Guest::FailsToBuild => &[Refused("{}", "refuses 3 endpoints")],
        Guest::FloodsHostCalls | Guest::LoopsInPick => {
            &[Refused(ALWAYS, "over its deadline of 10 ms"), TakenOut(PAST_THE_TRIAL, "over its deadline of 10 ms")]
        }
        Guest::FillsMemory => &[TooSlow(r#"{"mib": 12}"#), TooSlow(r#"{"mib": 2, "times": 6}"#)],
        Guest::GrowsTable => &[TakenOut("{}", "refused a table larger")],
        Guest::HoardsInBuild => &[Refused("{}", "more memory")],
        Guest::HoardsInPick => &[Refused(ALWAYS, "more memory"), TakenOut(PAST_THE_TRIAL, "more memory")],
        Guest::HugePlan => &[Refused("{}", "2000000 entries, over the limit"), Serves(r#"{"entries": 1000000}"#)],
        Guest::KnowsTheTrial | Guest::LiesInDescribe => &[TakenOut("{}", "unreachable")],
        // A message over what a pick may hand over is a failure; it comes too rarely to be taken
        // out.
        Guest::LogsHuge => &[Serves(RARELY)],
        Guest::LoopsInBuild => &[Refused("{}", "not done building after 1000 ms")],
        Guest::LoopsInStart => &[NotLoaded("failed in its start: it was not done after 1000 ms")],
        Guest::NewerInterface => &[NotLoaded("targets waymark:plugin/balancer@9.0.0; this host supports")],
        Guest::NoUtf8InDescribe => &[NotLoaded("utf-8")],
        Guest::NoUtf8InPick => &[TakenOut("{}", "utf-8")],
        Guest::OverflowsStack => {
            &[Refused(ALWAYS, "out of bounds memory access"), TakenOut(PAST_THE_TRIAL, "out of bounds memory access")]
        }
        Guest::Panics => {
            &[Refused(r#"{"in": "build"}"#, "trapped in build"), Refused(r#"{"in": "pick"}"#, "trial pick")]
        }
        Guest::EitherOutOfRange | Guest::PickOutOfRange => {
            &[Refused(ALWAYS, "endpoint 3 of 3"), TakenOut(PAST_THE_TRIAL, "answered endpoint 3 of 3")]
        }
        Guest::PlanOutOfRange => &[Refused("{}", "names endpoint 3 of 3")],
        Guest::RecursesDeeply => &[TakenOut("{}", "call stack exhausted")],
        Guest::Spins => &[
            Serves(r#"{"thousands": 1}"#),
            TooSlow(r#"{"thousands": 800}"#),
            TakenOut(r#"{"thousands": 1000000}"#, "over its deadline of 10 ms"),
        ],
        // Every hundredth message is a failure, and no call's.
        Guest::TalksAtLength => &[
            TakenOut("{}", "handed over more than 64 KiB"),
            TakenOut(r#"{"drops": true}"#, "handed over more than 64 KiB"),
            Serves(r#"{"every": 100}"#),
        ],
        Guest::TrapsInDescribe => &[NotLoaded("failed in describe")],
        Guest::TrapsInPick => &[Refused(ALWAYS, "trial pick"), TakenOut(PAST_THE_TRIAL, "unreachable"), Serves(RARELY)],
        Guest::TrapsOnce => &[Serves(r#"{"at": SOON}"#)],
        // What it answers is odd and in range, or it only looks where it should not.
        Guest::AsksHost
        | Guest::DuplicatePlan
        | Guest::FailsOnSnapshot
        | Guest::FloodsLog
        | Guest::HashTable
        | Guest::HoardsTables
        | Guest::LopsidedPlan
        | Guest::OldInterface
        | Guest::ReadsHeadersInBuild
        | Guest::ReadsRequest
        | Guest::Stubborn
        | Guest::TakesAllMemory
        | Guest::Undecided => &[Serves("{}")],
        Guest::UnknownDecision => &[TakenOut("{}", "discriminant")],
        Guest::WantsFiles => &[NotLoaded("wasi:filesystem")],
        Guest::WantsSockets => &[NotLoaded("wasi:sockets")],
        Guest::WildLength | Guest::WildRealloc => &[Refused("{}", "trapped in build")],
        Guest::WildPointer => &[TakenOut("{}", "trapped")],
        // A key scheme is no policy. What becomes of it as one stands in a test of its own.
        Guest::HostileDecode | Guest::WritesElsewhere => &[NotLoaded("is a key scheme, not a policy")],
    }
}
