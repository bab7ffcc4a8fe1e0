//! Byte streams with clients and with endpoints, before HTTP/2: listening sockets, TCP and Unix
//! sockets, TLS and its certificates, and who the client at the other end is.
//!
//! A `listener` hands out `socket`s; `preface` tells which protocol a client begins with, `tls`
//! makes the handshake, and `frame_tap` reads along what `h2` does not tell of its peer. `turns`
//! says when a connection's task is polled.

pub(crate) mod certificate;
pub(crate) mod frame_tap;
pub(crate) mod identity;
pub(crate) mod listener;
pub(crate) mod preface;
pub(crate) mod socket;
pub(crate) mod tls;
pub(crate) mod turns;
pub(crate) mod unix;
pub(crate) mod validity;
