//! Tests of the pure state machine. Those that go over the wire are in the integration tests.
#![allow(clippy::unwrap_used, reason = "tests")]

mod state_machine;
mod store;
mod watch;
