//! The data plane with real sockets: instances, the node and clients in one process, or the node in
//! one of its own.

mod access;
#[cfg(target_os = "linux")]
mod arena;
mod calls;
mod checks;
mod circles;
mod clients;
mod connections;
mod ejection;
mod failures;
mod frames;
mod headers;
mod hedges;
#[cfg(target_os = "linux")]
mod hostile;
mod interop;
mod limits;
mod loads;
mod membership;
mod misbehaving;
mod named;
mod newcomers;
mod places;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod restarts;
mod retries;
#[cfg(target_os = "linux")]
mod service_config;
mod silent;
mod streams;
mod support;
mod tls;
mod turned_away;
mod unix;
