//! The composition root: joins the stages to a running node.

mod frontends;
mod sockets;
mod take_over;
mod token_file;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};
use waymark_stages::{Stages, StartError};

use self::{
    frontends::{Frontend, Frontends, address},
    sockets::Sockets,
};
pub use self::{sockets::Inherited, token_file::TokenFileError};
use crate::{
    address_filter::{AddressFilter, Allow},
    admin::{self, Access, Admin, Doors, Readiness},
    balancer::Services,
    config::NodeConfig,
    dataplane::{self, AccessLog, Channel, Drained, Listener, TargetError},
    model::ServiceName,
    naming::KeyScheme,
    registry::Registry,
};

/// Why a node does not start. Nothing of it runs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen for {what} on {address}{}", hint(source, flag))]
    Listen {
        /// For what.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The flag that names it.
        flag: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Unix socket cannot be listened on.
    #[error("cannot listen for {what} on unix:{path}: {source}", path = path.display())]
    ListenUnix {
        /// For what.
        what: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever reaches the node's API from beyond this machine could change policies.
    #[error(
        "not starting: whoever reaches the node's API on {address} could change its policies, from beyond this machine. Say who may: --admin-token-file \
         FILE, or allow-clients with tls.client-ca-file of [admin]; or let nobody but this machine's users: --admin 127.0.0.1:{port}, and \
         for health and metrics --probe {address}; or, if something else keeps strangers from it, --admin-insecure",
        port = address.port()
    )]
    AdminIsOpen {
        /// The address.
        address: SocketAddr,
    },
    /// The configured tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The service manager passed on what nobody can listen on.
    #[error("socket {which} of LISTEN_FDS cannot be used: {source}")]
    Inherited {
        /// Which of them, from 1, and its name.
        which: String,
        /// Why.
        source: io::Error,
    },
    /// The service manager passed on a socket that the configuration has no use for.
    #[error(
        "the service manager passed on the socket {socket}, and nothing of this node listens there; name it with FileDescriptorName=proxy, admin \
         or unix, or give its address with --listen, --admin or --listen-unix"
    )]
    NotOurs {
        /// Its name and address.
        socket: String,
    },
    /// The node that is to be taken over from does not give its sockets.
    #[error("cannot take over from the node at {path}: {source}", path = path.display())]
    TakeOver {
        /// Where it listens.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry, a plugin, a certificate or the access log cannot be used.
    #[error(transparent)]
    Stages(#[from] StartError),
}

fn hint(source: &io::Error, flag: &str) -> String {
    if source.kind() == io::ErrorKind::AddrInUse {
        format!(": the address is in use; choose another one with {flag} (port 0 takes a free one)")
    } else {
        String::new()
    }
}

/// A running node.
pub struct Node {
    proxy: SocketAddr,
    admin: SocketAddr,
    probe: Option<SocketAddr>,
    unix: Option<PathBuf>,
    admin_unix: Option<PathBuf>,
    stages: Stages,
    frontends: Frontends,
    /// Offers the sockets to a node that comes after this one, if one may.
    offer: Option<AbortOnDropHandle<()>>,
    /// Cancelled when one has taken over.
    succeeded: CancellationToken,
}

impl Node {
    /// Starts everything and returns when calls are taken. An etcd that cannot be reached is no
    /// obstacle: the node says so and goes on trying.
    pub async fn start(config: NodeConfig) -> Result<Self, AppError> {
        Self::start_on(config, Inherited::default()).await
    }

    /// As [`Self::start`], on the sockets that the service manager has.
    pub async fn start_on(config: NodeConfig, inherited: Inherited) -> Result<Self, AppError> {
        let control = &config.control;
        if control.is_open_to_others(config.admin) {
            return Err(AppError::AdminIsOpen { address: config.admin });
        }
        let tokens = control.token_file.as_deref().map(token_file::load).transpose()?;
        // The ports first: the most common fault, and the cheapest to find.
        let (predecessor, passed) = match &config.take_over {
            Some(path) => take_over::ask(path).await?.unzip(),
            None => (None, None),
        };
        let mut sockets = Sockets::new(inherited, passed.unwrap_or_default(), config.take_over.is_some());
        let proxy_listener = sockets.proxy(Frontend::PROXY, config.listen).await?;
        let admin_listener = sockets.tcp(Frontend::ADMIN, config.admin).await?;
        let unix = sockets.unix(Frontend::UNIX, config.listen_unix.as_deref(), config.listen_unix_mode)?;
        let probe_listener = match control.probe {
            Some(probe) => Some(sockets.tcp(Frontend::PROBE, probe).await?),
            None => None,
        };
        // Who else is listed has to get to it; who he is the system says.
        let mode = if control.uids.is_empty() { 0o600 } else { 0o666 };
        let admin_unix = sockets.unix(Frontend::ADMIN_UNIX, control.unix.as_deref(), Some(mode))?;
        let successor = match &config.take_over {
            Some(path) => sockets.unix(Frontend::TAKE_OVER, Some(path), Some(0o600))?,
            None => None,
        };
        let shared = sockets.finish()?;
        let (proxy, admin_address) =
            (address(proxy_listener.address(), config.listen), address(admin_listener.local_addr(), config.admin));
        // Whoever passed it on may have bound it elsewhere.
        if control.is_open_to_others(admin_address) {
            return Err(AppError::AdminIsOpen { address: admin_address });
        }
        let probe = probe_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let ((unix_listener, unix), (admin_unix_listener, admin_unix)) = (unix.unzip(), admin_unix.unzip());
        // Callers from elsewhere shall not reach through us what listens for this machine alone.
        let allowed = if proxy.ip().to_canonical().is_loopback() { Allow::here() } else { Allow::elsewhere() };
        let address_filter = AddressFilter::new(config.client.allow.clone().unwrap_or(allowed));
        address_filter.listens(proxy, "the node's own port for calls");
        address_filter.listens(admin_address, "the node's own API");
        if let Some(probe) = probe {
            address_filter.listens(probe, "the node's own port for probes");
        }
        if let Some(path) = &admin_unix {
            address_filter.listens_unix(path, "the socket of the node's own API");
        }
        if let Some(path) = &unix {
            address_filter.listens_unix(path, "the node's own socket for calls");
        }
        if let Some(path) = &config.take_over {
            address_filter.listens_unix(path, "the node's own socket for who takes over");
        }
        let (mut stages, metrics) =
            Stages::start(&config.client, &config.ports, control.tls.as_ref(), address_filter).await?;
        let (tokens, handled) = tokens.unwrap_or_default();
        if let Some(path) = control.token_file.clone() {
            if stages.admin_tls.is_none() && !config.admin.ip().to_canonical().is_loopback() {
                warn!(address = %config.admin, "tokens are sent in cleartext to the node's API; give it certificates (admin.tls)");
            }
            stages.followers.spawn(token_file::follow_tokens(path, tokens.clone(), handled));
        }
        let doors = Doors {
            control: admin_listener.into(),
            tls: stages.admin_tls.clone(),
            unix: admin_unix_listener.map(Into::into),
            probe: probe_listener.map(Into::into),
        };
        let access = Access {
            tokens,
            clients: control.clients.clone(),
            uids: control.uids.clone(),
            require_auth: control.require_auth,
            protect_reads: control.protect_reads,
            hosts: control.hosts.clone(),
        };
        let Stages { engine, services, dataplane, registry_urls, .. } = &stages;
        let mut frontends = Frontends::default();
        let listeners = [
            Some((Frontend::PROXY, proxy_listener.for_service(config.listen_service.clone()))),
            unix_listener
                .map(|socket| (Frontend::UNIX, Listener::from(socket).for_service(config.listen_unix_service.clone()))),
        ];
        for (front, listener) in listeners.into_iter().flatten() {
            frontends.begin(front, |stop| dataplane::serve(listener, dataplane.clone(), stop));
        }
        let front = Admin {
            metrics,
            readiness: Readiness::default()
                .with_services(config.client.services.iter().map(|service| service.name.clone()))
                .with_check("memory of plugins", admin::memory_of_plugins(engine)),
            component_size: config.client.largest_component(),
            access,
            ..Admin::new(services.clone(), engine.clone())
        };
        frontends.begin(Frontend::ADMIN, |stop| async move {
            if let Err(error) = admin::serve(doors, front, stop).await {
                warn!(%error, "the admin server ended badly");
            }
            Drained { cut_off: 0 }
        });
        info!(%proxy, admin = %admin_address, registry = registry_urls.join(","), "node is up");
        if let Some(predecessor) = predecessor {
            predecessor.release(shared.iter().map(|shared| shared.name)).await;
            sockets::settle(&shared);
        }
        let succeeded = CancellationToken::new();
        let offer = successor.map(|(socket, _)| take_over::offer(socket, shared, succeeded.clone()));
        let offer = offer.map(|offer| AbortOnDropHandle::new(tokio::spawn(offer)));
        Ok(Self { proxy, admin: admin_address, probe, unix, admin_unix, stages, frontends, offer, succeeded })
    }

    /// Ready when another node has taken over: it serves on the same sockets, and this one is to be
    /// shut down. Never, where none may.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn taken_over(&self) {
        self.succeeded.cancelled().await;
    }

    /// Where gRPC calls come in.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The Unix socket where gRPC calls come in too, if there is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix.as_deref()
    }

    /// Where its calls are logged, if they are.
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.stages.access_log.as_ref()
    }

    /// Where the node's API, health, metrics and dashboard are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Whether they are behind TLS.
    pub fn admin_speaks_tls(&self) -> bool {
        self.stages.admin_tls.is_some()
    }

    /// The Unix socket where they are too, if there is one.
    pub fn admin_unix_path(&self) -> Option<&Path> {
        self.admin_unix.as_deref()
    }

    /// Where health, readiness and metrics are answered and nothing else, if anywhere.
    pub fn probe_addr(&self) -> Option<SocketAddr> {
        self.probe
    }

    /// etcd's endpoints, or the embedded registry's.
    pub fn registry_urls(&self) -> &[String] {
        &self.stages.registry_urls
    }

    /// The registry, for registering instances from this process.
    pub fn registry(&self) -> &Registry {
        &self.stages.registry
    }

    /// The key scheme in use.
    pub fn key_scheme(&self) -> Arc<dyn KeyScheme> {
        Arc::clone(&self.stages.scheme)
    }

    /// The services balanced here.
    pub fn services(&self) -> &Services {
        &self.stages.services
    }

    /// A channel to one service: the node's balancer in process, for any tonic client.
    pub fn channel(&self, service: ServiceName) -> Channel {
        self.stages.dataplane.channel(service)
    }

    /// A channel to the service that a gRPC target names: `waymark:///ayang/server1`,
    /// `etcd:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        self.stages.dataplane.dial(target)
    }

    /// Stops: takes no more calls, finishes what runs within the drain timeout, then closes
    /// everything. Returns how that went.
    ///
    /// # Cancel safety
    ///
    /// Once begun the shutdown goes on; only its end is not waited for.
    pub async fn shutdown(self) -> Drained {
        if let Some(offer) = self.offer {
            // First what is offered: it would keep the ports open.
            offer.abort();
            let _ = offer.await;
        }
        let drained = self.frontends.end().await;
        self.stages.end().await;
        drained
    }
}
