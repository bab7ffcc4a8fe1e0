//! The Greeter of the study note that Waymark came from: two gRPC services, `hello.Greeter1` and
//! `hello.Greeter2`, and a server for either or both.
//!
//! An ordinary tonic server. It knows nothing of Waymark, of etcd or of balancing; who registers
//! its address is somebody else's decision (see the README beside this crate).
//!
//! The replies are the note's, `server1:hello` and `server2:hello`, and are the same from every
//! instance. Who answered stands beside the reply, in the response metadata [`INSTANCE_HEADER`].

mod server;

pub use server::{GreeterConfig, INSTANCE_HEADER, ServeError, Serving, UnknownServing, serve};

/// Code generated from `proto/hello.proto`.
pub mod hello {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic, reason = "generated")]
    include!("generated/hello.rs");

    /// The descriptors of this package, encoded: what gRPC reflection serves.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/hello.bin");
}
