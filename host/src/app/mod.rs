//! The composition root: joins the stages to a running node.

mod client;
mod defaults;
mod follow_file;
mod follow_policy;
mod follow_tls;
mod load;
mod stages;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::stages::Stages;
pub use self::{
    client::Client,
    follow_tls::CertificateError,
    load::{PluginError, default_plugin_cache, default_state_dir, load_key_scheme, load_plugin, load_policy},
};
use crate::{
    admin::{self, Admin, AdminError, Readiness},
    balancer::Services,
    config::NodeConfig,
    dataplane::{self, AccessLog, AccessTarget, Channel, Drained, TargetError},
    embedded::EmbeddedError,
    model::ServiceName,
    naming::KeyScheme,
    policy::BuildError,
    registry::{Registry, RegistryError},
};

/// Why a node does not start. Nothing of it runs.
#[derive(Debug, Error)]
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
    #[error("cannot listen for gRPC calls on unix:{path}: {source}", path = path.display())]
    ListenUnix {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot write the access log to {to}: {source}; name another place with --access-log")]
    AccessLog {
        /// Where it should go.
        to: AccessTarget,
        /// Why.
        source: io::Error,
    },
    /// The configured certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The plugin engine does not run on this machine.
    #[error("cannot start the plugin engine: {0}")]
    Engine(String),
    /// A configured plugin cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A configured policy refuses its configuration.
    #[error("{whose}: {source}")]
    Policy {
        /// The service, or the default.
        whose: String,
        /// What the policy said.
        source: BuildError,
    },
    /// The registry cannot be used, and trying again would not help.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The embedded registry does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// A configured service cannot be balanced.
    #[error(transparent)]
    Service(#[from] crate::balancer::DiscoverError),
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
    unix: Option<PathBuf>,
    stages: Stages,
    stop: CancellationToken,
    /// One a listener.
    proxy_tasks: Vec<JoinHandle<Drained>>,
    admin_task: JoinHandle<Result<(), AdminError>>,
}

impl Node {
    /// Starts everything and returns when calls are taken. An etcd that cannot be reached is no obstacle: the node says so and goes on
    /// trying.
    pub async fn start(config: NodeConfig) -> Result<Self, AppError> {
        // The ports first: the most common fault, and the cheapest to find.
        let proxy_listener = listen("gRPC calls", config.listen, "--listen").await?;
        let admin_listener = listen("the node's API", config.admin, "--admin").await?;
        let (proxy, admin_address) = (address(&proxy_listener, config.listen), address(&admin_listener, config.admin));
        let unix_listener = config.listen_unix.as_deref().map(|path| {
            dataplane::Listener::unix(path, config.listen_unix_mode)
                .map_err(|source| AppError::ListenUnix { path: path.to_owned(), source })
        });
        let unix_listener = unix_listener.transpose()?;
        let (stages, metrics) = Stages::start(&config).await?;
        let Stages { engine, services, dataplane, registry_urls, .. } = &stages;
        let stop = CancellationToken::new();
        let listeners = [Some(proxy_listener.into()), unix_listener].into_iter().flatten();
        let serve = |listener: dataplane::Listener| {
            tokio::spawn(dataplane::serve(listener, dataplane.clone(), stop.clone().cancelled_owned()))
        };
        let proxy_tasks = listeners.map(serve).collect();
        let front = Admin {
            metrics,
            readiness: Readiness::default().with_services(config.services.iter().map(|service| service.name.clone())),
            component_size: config.largest_component(),
            ..Admin::new(services.clone(), engine.clone())
        };
        let admin_task = tokio::spawn(admin::serve(admin_listener, front, stop.clone().cancelled_owned()));
        info!(%proxy, admin = %admin_address, registry = registry_urls.join(","), "node is up");
        Ok(Self { proxy, admin: admin_address, unix: config.listen_unix, stages, stop, proxy_tasks, admin_task })
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

    /// A channel to the service that a gRPC target names: `waymark:///ayang/server1`, `etcd:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        self.stages.dataplane.dial(target)
    }

    /// Stops: takes no more calls, finishes what runs within the drain timeout, then closes everything. Returns how that went.
    ///
    /// # Cancel safety
    ///
    /// Once begun the shutdown goes on; only its end is not waited for.
    pub async fn shutdown(self) -> Drained {
        self.stop.cancel();
        let mut drained = Drained { cut_off: 0 };
        for task in self.proxy_tasks {
            match task.await {
                Ok(one) => drained.cut_off += one.cut_off,
                Err(panic) => warn!(%panic, "the data plane ended badly"),
            }
        }
        match self.admin_task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the admin server ended badly"),
            Err(panic) => warn!(%panic, "the admin server ended badly"),
        }
        self.stages.end().await;
        drained
    }
}

async fn listen(what: &'static str, address: SocketAddr, flag: &'static str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { what, address, flag, source })
}

/// The port that was taken, where any was asked for.
fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
