//! Connections to instances: `connect` makes one and runs it, `connection` keeps those of an
//! endpoint and checks its health, `streams` counts the calls on each, and `liveness` notices a
//! server that does not answer any more.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod liveness;
pub(crate) mod streams;
