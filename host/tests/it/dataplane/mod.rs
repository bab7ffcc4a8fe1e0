//! The data plane with real sockets: instances, the node and clients in one process.

mod calls;
mod connections;
mod failures;
mod limits;
mod streams;
mod support;
