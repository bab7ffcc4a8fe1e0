//! One instance of the demo as a process of its own: `waymark demo-server`, a hidden command.
//!
//! It serves the Greeter and registers itself through the library, as a service written in Rust would. Its standard input is the
//! rope to the demo: when it ends, the demo has ended, whatever way, and the instance deregisters and ends too.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use greeter::{GreeterConfig, Serving};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    net::TcpListener,
    sync::watch,
};

use super::{DemoError, processes::READY};
use crate::{
    model::{Address, Endpoint, Locality, ServiceName, Ttl},
    naming::KeyScheme,
    plugin::{Engine, EngineConfig, Kind},
    registry::{RegistrationConfig, Registry, RegistryConfig},
};

/// What an instance is told.
#[derive(Debug, Clone, Args)]
pub struct DemoServerArgs {
    /// The service to register under.
    #[arg(long)]
    service: ServiceName,
    /// Which Greeter to serve: 1, 2 or both.
    #[arg(long, default_value_t = Serving::Both)]
    greeter: Serving,
    /// Where to listen, and what to register.
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// The zone to register.
    #[arg(long, default_value = "")]
    zone: String,
    /// The weight to register.
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// How long each call shall take.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// The lease's time to live.
    #[arg(long, value_name = "SECONDS", default_value_t = i64::from(Ttl::DEFAULT.as_secs()))]
    ttl: i64,
    /// Where etcd listens.
    #[arg(long, required = true, value_delimiter = ',')]
    registry: Vec<String>,
}

/// Serves and stays registered until standard input ends.
pub async fn serve(args: DemoServerArgs) -> Result<(), DemoError> {
    let bad = |what: String| move |_| DemoError::Unexpected { what };
    let ttl = Ttl::from_secs(args.ttl).map_err(bad(format!("a TTL of {} s is out of range", args.ttl)))?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|source| DemoError::Io { what: format!("listen on {}", args.listen), source })?;
    let address = listener
        .local_addr()
        .map_err(|source| DemoError::Io { what: "learn the address listened on".into(), source })?;

    let (stop, stopped) = watch::channel(false);
    let shutdown = {
        let mut stopped = stopped.clone();
        // An error means that the sender is gone, and then it is over as well.
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let config =
        GreeterConfig { serving: args.greeter, delay: Duration::from_millis(args.delay_ms), ..GreeterConfig::default() };
    let mut greeter = tokio::spawn(greeter::serve(listener, config, shutdown));

    // It serves before it is registered: whoever reads the key may call at once.
    let registry = Registry::connect(RegistryConfig::new(args.registry)).map_err(DemoError::Registry)?;
    let endpoint = Endpoint {
        locality: Locality::zone(&args.zone),
        weight: args.weight,
        ..Endpoint::at(address.to_string().parse::<Address>().map_err(bad(format!("{address} is no address")))?)
    };
    let claim = RegistrationConfig { ttl, ..RegistrationConfig::new(args.service, endpoint) };
    let registration = registry.register(claim, key_scheme("etcd_naming").await?).await.map_err(DemoError::Registry)?;
    tokio::select! {
        registered = registration.registered() => { registered.map_err(DemoError::Registry)?; }
        () = rope() => {
            // The demo ended before this instance was ready.
            return registration.deregister().await.map_err(DemoError::Registry);
        }
    }
    announce(address);

    tokio::select! {
        () = rope() => {}
        ended = &mut greeter => return ended.map_err(DemoError::panicked)?.map_err(DemoError::Greeter),
    }
    // The key goes first, so that nobody is sent here any more; then the calls that still run are finished.
    let deregistered = registration.deregister().await.map_err(DemoError::Registry);
    stop.send_replace(true);
    greeter.await.map_err(DemoError::panicked)?.map_err(DemoError::Greeter)?;
    deregistered
}

/// The line that the demo waits for.
#[allow(clippy::print_stdout, reason = "the demo reads it from there")]
fn announce(address: SocketAddr) {
    println!("{READY}{address}");
}

/// Completes when standard input ends.
async fn rope() {
    let mut input = stdin();
    let mut buffer = [0; 64];
    // An error is an end, too.
    while !matches!(input.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// A bundled key scheme.
pub(super) async fn key_scheme(name: &'static str) -> Result<Arc<dyn KeyScheme>, DemoError> {
    let load = move || {
        let plugin = |source: crate::plugin::LoadError| DemoError::Plugin { name, reason: source.to_string() };
        let engine = Engine::new(EngineConfig::default()).map_err(plugin)?;
        let scheme = engine.load_bundled(Kind::KeyScheme, name).map_err(plugin)?;
        scheme.into_key_scheme("{}").map_err(plugin)
    };
    let scheme = tokio::task::spawn_blocking(load).await.map_err(DemoError::panicked)??;
    Ok(Arc::new(scheme))
}
