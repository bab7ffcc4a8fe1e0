//! Where others come in: each frontend serves a listening socket of its own. All begin at once,
//! drain at once, and end together.
//!
//! ```text
//!   socket (`sockets`) ──▶ serving ── stop ──▶ draining ──▶ ended
//! ```

use std::{future::Future, net::SocketAddr};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

use crate::dataplane::Drained;

/// What a frontend is called: among sockets that are passed on, and for whoever has to choose
/// another address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frontend {
    /// The name of its socket, where sockets are passed on.
    pub(super) name: &'static str,
    /// What comes in there.
    pub(super) what: &'static str,
    /// The flag that names its address.
    pub(super) flag: &'static str,
}

impl Frontend {
    /// Calls, over TCP.
    pub(super) const PROXY: Self = Self { name: "proxy", what: "gRPC calls", flag: "--listen" };
    /// Calls, over a Unix socket.
    pub(super) const UNIX: Self = Self { name: "unix", what: "gRPC calls", flag: "--listen-unix" };
    /// The node's API.
    pub(super) const ADMIN: Self = Self { name: "admin", what: "the node's API", flag: "--admin" };
    /// The node's API, over a Unix socket.
    pub(super) const ADMIN_UNIX: Self = Self { name: "admin-unix", what: "the node's API", flag: "--admin-unix" };
    /// Questions whether the node is well.
    pub(super) const PROBE: Self = Self { name: "probe", what: "probes", flag: "--probe" };
    /// The node after this one.
    pub(super) const TAKE_OVER: Self = Self { name: "take-over", what: "a node that takes over", flag: "--take-over" };

    const ALL: [Self; 6] = [Self::PROXY, Self::UNIX, Self::ADMIN, Self::ADMIN_UNIX, Self::PROBE, Self::TAKE_OVER];

    /// Whether it is reached by a port, not by a Unix socket.
    pub(super) fn is_tcp(self) -> bool {
        ![Self::UNIX, Self::ADMIN_UNIX, Self::TAKE_OVER].contains(&self)
    }

    /// Whether a frontend is called so.
    pub(super) fn is_name(name: &str) -> bool {
        Self::ALL.iter().any(|front| front.name == name)
    }
}

/// The frontends that run.
#[derive(Default)]
pub(super) struct Frontends {
    stop: CancellationToken,
    running: Vec<(Frontend, JoinHandle<Drained>)>,
}

impl Frontends {
    /// Begins to serve one. `serve` is given what completes when it is to drain; it ends when it
    /// has.
    pub(super) fn begin<F>(&mut self, front: Frontend, serve: impl FnOnce(WaitForCancellationFutureOwned) -> F)
    where
        F: Future<Output = Drained> + Send + 'static,
    {
        self.running.push((front, tokio::spawn(serve(self.stop.clone().cancelled_owned()))));
    }

    /// Drains all of them, and returns when they have ended.
    pub(super) async fn end(self) -> Drained {
        self.stop.cancel();
        let mut drained = Drained { cut_off: 0 };
        for (front, task) in self.running {
            match task.await {
                Ok(one) => drained.cut_off += one.cut_off,
                Err(panic) => warn!(%panic, front = front.name, "a frontend ended badly"),
            }
        }
        drained
    }
}

/// The port that was taken, where any was asked for.
pub(super) fn address(bound: std::io::Result<SocketAddr>, asked: SocketAddr) -> SocketAddr {
    bound.unwrap_or(asked)
}
