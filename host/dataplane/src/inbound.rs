//! The server's side: `serve` takes clients' connections and their requests, and hands each to a
//! call. What is no gRPC call (`not_grpc`) and what asks for the node's own health (`node_health`)
//! is answered here.

pub(crate) mod node_health;
pub(crate) mod not_grpc;
pub(crate) mod serve;
