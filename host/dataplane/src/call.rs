//! One call, from a request to the end of its answer: `run` finds its service, picks endpoints and
//! makes the attempts; `upload` sends the request's body and `body` hands the answer's through.
//!
//! `shared` is what all calls of a process share, `client` what the calls of one connection do.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod connect_race;
pub(crate) mod delayed_reset;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod shared_body;
pub(crate) mod upload;
pub(crate) mod wait;
