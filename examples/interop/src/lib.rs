//! gRPC's public interoperability tests (`doc/interop-test-descriptions.md` of the grpc project):
//! the server that they are run against, and a client with the cases. Neither knows anything of
//! Waymark, so that a case can be run directly, through a proxy, and against other languages'
//! clients and servers.
//!
//! Left out, and why:
//! - `cacheable_unary` is a GET request, which tonic does not send.
//! - `client_compressed_*` and `server_compressed_*` ask which messages came compressed and which
//!   did not, which tonic does not tell.
//! - `orca_oob` needs a second service with a stream of reports.
//! - What is about credentials (`*_creds`, `oauth2_auth_token`) is about services of Google's.

mod cases;
mod server;

pub use cases::{Case, Target, run};
pub use server::serve;

/// The metadata key under which a call's load report comes in the trailers (gRFC A51).
const LOAD_REPORT: &str = "endpoint-load-metrics-bin";

/// Metadata that the server sends back before its answer.
const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";

/// Metadata that the server sends back after its answer.
const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Code generated from `proto/grpc/testing/interop.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic, reason = "generated")]
mod proto {
    include!("generated/grpc.testing.rs");
}

/// The part of `xds.data.orca.v3.OrcaLoadReport` that the cases use.
#[derive(Clone, PartialEq, prost::Message)]
struct LoadReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(map = "string, double", tag = "4")]
    request_cost: std::collections::HashMap<String, f64>,
    #[prost(map = "string, double", tag = "5")]
    utilization: std::collections::HashMap<String, f64>,
}
