//! One instance of the demo as a process of its own: `waymark demo-server`, a hidden command.
//!
//! It serves the Greeter and registers itself through the library, as a service written in Rust
//! would. Its standard input is the rope to the demo: when it ends, the demo has ended, whatever
//! way, and the instance deregisters and ends too.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use greeter::{GreeterConfig, Serving};
use tokio::{net::TcpListener, sync::oneshot};

use super::processes::READY;
use crate::{
    cli::{
        output::{CommandError, announce},
        registry::load_scheme,
    },
    config::PluginChoice,
    model::{Address, Endpoint, Locality, ServiceName, Ttl},
    registry::{RegistrationConfig, Registry, RegistryConfig},
};

/// What an instance is told.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service to register under.
    #[arg(long)]
    service: ServiceName,
    /// Which Greeter to serve: 1, 2 or both.
    #[arg(long, default_value_t = Serving::Both)]
    greeter: Serving,
    /// Where to listen, and what to register.
    #[arg(long, value_name = "IP:PORT")]
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
    /// The lease's time to live, in seconds.
    #[arg(long, default_value_t = 10)]
    ttl: i64,
    /// etcd's endpoints.
    #[arg(long, required = true, value_delimiter = ',')]
    registry: Vec<String>,
}

/// Serves and stays registered until standard input ends.
pub(in crate::cli) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    let cannot_listen = |error| CommandError::failed(format!("cannot listen on {}: {error}", args.listen));
    let listener = TcpListener::bind(args.listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let delay = Duration::from_millis(args.delay_ms);
    let config = GreeterConfig { serving: args.greeter, delay, ..GreeterConfig::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let mut greeter = tokio::spawn(greeter::serve(listener, config, async {
        // An error means that the sender is gone, and that is an end as well.
        let _ = stopped.await;
    }));

    // It serves before it is registered: whoever reads the key may call at once.
    let registry = Registry::connect(RegistryConfig::new(args.registry))?;
    let endpoint = Endpoint {
        locality: Locality::zone(&args.zone),
        weight: args.weight,
        ..Endpoint::at(address.to_string().parse::<Address>()?)
    };
    let claim =
        RegistrationConfig { ttl: Ttl::from_secs(args.ttl)?, ..RegistrationConfig::new(args.service, endpoint) };
    let registration = registry.register(claim, load_scheme(&PluginChoice::bundled("etcd_naming")).await?).await?;
    let mut rope = std::pin::pin!(end_of_input());
    let deregistered = tokio::select! {
        registered = registration.registered() => {
            registered?;
            announce(format_args!("{READY}{address}"));
            tokio::select! {
                () = &mut rope => registration.deregister().await,
                ended = &mut greeter => return Ok(ended?.map(|()| ExitCode::FAILURE)?),
            }
        }
        // The demo ended before this instance was ready.
        () = &mut rope => registration.deregister().await,
    };
    // The key went first, so that nobody is sent here any more; now the calls that still run are
    // finished.
    let _ = stop.send(());
    greeter.await??;
    deregistered?;
    Ok(ExitCode::SUCCESS)
}

/// Completes when standard input ends. A thread of its own waits for that: a blocking read cannot
/// be cancelled, and must not hold up the runtime.
async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}
