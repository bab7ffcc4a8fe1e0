//! Connections to instances: `connect` makes one and runs it, `connection` keeps those of an
//! endpoint and checks its health, `streams` counts the calls on each, and `liveness` notices a
//! server that does not answer any more.
//!
//! A call and the task of its connection meet in an `exchange`, which `owner` brings onto a stream.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod liveness;
mod owner;
pub(crate) mod streams;
