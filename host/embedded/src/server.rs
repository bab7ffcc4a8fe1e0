//! Starting and stopping the server.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    api::Api,
    incoming::Incoming,
    shared::Shared,
    state_machine::{Identity, Limits, StateMachine},
    store::AutoCompaction,
};

/// How an embedded server behaves. The defaults suit a node on one machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The member's name in the member list. Default: `embedded`.
    pub name: String,
    /// Serve on an address that other machines can reach. Default: false, since there is neither
    /// TLS nor authentication.
    pub allow_non_loopback: bool,
    /// When history is given up. Default: all but the newest 50,000 revisions.
    pub compaction: AutoCompaction,
    /// Messages that may wait for one watcher before it has to read from history. Default: 256.
    pub watch_queue: usize,
    /// How often a watcher that asked for it is told the progress when there are no events.
    /// Default: 10 s (an etcd with default settings: 10 minutes).
    pub progress_interval: Duration,
    /// Bytes of keys, values and their versions before the alarm NOSPACE is raised and writes are
    /// refused. Default: 512 MiB.
    pub quota_bytes: usize,
    /// The revision to start at. None, the default, is the unix time in microseconds, with
    /// everything before counted as compacted: a client that watched an earlier life of this server
    /// is then told so, where a start at 1 would silently lose events. (Milliseconds would not do:
    /// a life of more than a thousand writes a second would end at a revision that the next one
    /// starts before.) `Some(1)` is a fresh etcd, for tests.
    pub start_revision: Option<i64>,
    /// How long shutdown waits for requests under way before it cuts their connections. Default: 1
    /// s.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "embedded".into(),
            allow_non_loopback: false,
            compaction: AutoCompaction::Revisions(50_000),
            watch_queue: 256,
            progress_interval: Duration::from_secs(10),
            quota_bytes: 512 * 1024 * 1024,
            start_revision: None,
            shutdown_grace: Duration::from_secs(1),
        }
    }
}

/// Why a server does not start or ends. None of these goes away by trying again unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The address can be reached from other machines, and the options do not allow that.
    #[error("the embedded registry has no authentication and serves on loopback only, not on {address}")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Another process, or another server of this one, listens there.
    #[error("cannot start the embedded registry: {address} is already in use")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot start the embedded registry on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A setting has no meaning.
    #[error("cannot start the embedded registry: {setting} must not be {value}")]
    Setting {
        /// The field of [`Options`].
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// The transport failed while serving.
    #[error("the embedded registry stopped serving on {address}")]
    Serve {
        /// Where it served.
        address: SocketAddr,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A server that listens but does not serve yet: connections wait in the socket's queue until
/// [`Server::serve`].
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    grace: Duration,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// Every variant of [`EmbeddedError`] but `Serve`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when it is dropped.
    pub async fn bind(address: SocketAddr, options: Options) -> Result<Self, EmbeddedError> {
        if !options.allow_non_loopback && !address.ip().is_loopback() {
            return Err(EmbeddedError::NotLoopback { address });
        }
        if options.progress_interval.is_zero() {
            return Err(EmbeddedError::Setting { setting: "progress_interval", value: "0".into() });
        }
        if let Some(revision) = options.start_revision.filter(|revision| *revision < 1) {
            return Err(EmbeddedError::Setting { setting: "start_revision", value: revision.to_string() });
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => EmbeddedError::AddressInUse { address },
            _ => EmbeddedError::Bind { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let limits =
            Limits { compaction: options.compaction, watch_queue: options.watch_queue, quota: options.quota_bytes };
        let revision = options.start_revision.unwrap_or_else(unix_micros);
        // etcd's own "nothing was ever compacted" is −1.
        let compact_revision = if options.start_revision.is_some() { -1 } else { revision };
        let mut random = fastrand::Rng::new();
        let identity = Identity { cluster_id: random.u64(1..), member_id: random.u64(1..) };
        let machine = StateMachine::new(identity, revision, compact_revision, limits, random);
        let url = format!("http://{address}");
        let shared = Arc::new(Shared::new(machine, options.progress_interval, options.name, url));
        Ok(Self { listener, address, shared, grace: options.shutdown_grace })
    }

    /// Listens on `address` and serves in a task of its own until the handle is shut down or
    /// dropped.
    ///
    /// # Errors
    ///
    /// Those of [`Server::bind`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when it is dropped.
    pub async fn start(address: SocketAddr, options: Options) -> Result<Handle, EmbeddedError> {
        let server = Self::bind(address, options).await?;
        let stop = CancellationToken::new();
        let (address, url) = (server.local_addr(), server.url());
        let task = tokio::spawn(server.serve(stop.clone().cancelled_owned()));
        Ok(Handle { address, url, stop: stop.drop_guard(), task })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint to give to clients.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// Serves until `shutdown` completes, then stops within the grace of the options: streams are
    /// ended with `Unavailable`, requests under way finish, and what is left after the grace is
    /// cut.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Serve`] when the transport fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops accepting and cuts all connections.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), EmbeddedError> {
        let Self { listener, address, shared, grace } = self;
        // Connections are served by tasks that we do not hold, so they must be cut when this future
        // is dropped.
        let _cut_at_the_end = shared.cut.clone().drop_guard();
        tracing::info!(%address, "embedded registry serving: in memory, one process");
        let incoming = Incoming { listener, cut: shared.cut.clone() };
        let serving = tonic::transport::Server::builder()
            .max_concurrent_streams(u32::MAX)
            // For probes and for people: what speaks no gRPC gets a page, or a sentence.
            .accept_http1(true)
            .serve_with_incoming_shutdown(Api::new(Arc::clone(&shared)), incoming, shared.stopping.cancelled());
        let stopper = async {
            shutdown.await;
            shared.stop();
            tokio::time::sleep(grace).await;
            shared.cut.cancel();
        };
        let timers = shared.run_timers();
        tokio::pin!(serving, stopper, timers);
        let served = loop {
            tokio::select! {
                served = &mut serving => break served,
                () = &mut stopper, if !shared.cut.is_cancelled() => {}
                () = &mut timers, if !shared.stopping.is_cancelled() => {}
            }
        };
        tracing::info!(%address, "embedded registry stopped; its data and leases are gone");
        served.map_err(|source| EmbeddedError::Serve { address, source })
    }
}

/// Stays below 2^53, which JSON readers need, until the year 2255.
fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX / 2)
}

/// A server that runs in the background. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    url: String,
    stop: tokio_util::sync::DropGuard,
    task: JoinHandle<Result<(), EmbeddedError>>,
}

impl Handle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint to give to clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server and waits until it has stopped, at most about the grace of its options.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Serve`] if it had stopped by itself before.
    ///
    /// # Cancel safety
    ///
    /// The server stops even if this is dropped; only the waiting ends.
    pub async fn shutdown(self) -> Result<(), EmbeddedError> {
        drop(self.stop);
        match self.task.await {
            Ok(served) => served,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Cancelled: the runtime is going away, and the server with it.
                Err(_) => Ok(()),
            },
        }
    }
}
