//! The data plane with real sockets: instances, the node and clients in one process.

mod calls;
mod connections;
mod ejection;
mod failures;
mod hedges;
mod limits;
mod retries;
mod streams;
mod support;
