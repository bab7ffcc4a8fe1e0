//! Serving the two services, and the health of each.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Server,
};

use crate::hello::{
    HelloRequest, HelloResponse,
    greeter1_server::{Greeter1, Greeter1Server},
    greeter2_server::{Greeter2, Greeter2Server},
};

/// Response metadata that names the instance that answered.
pub const INSTANCE_HEADER: &str = "greeter-instance";

/// Which of the two services a server offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serving {
    /// `hello.Greeter1` alone. A call of `SayHello2` is answered with UNIMPLEMENTED.
    One,
    /// `hello.Greeter2` alone. A call of `SayHello1` is answered with UNIMPLEMENTED.
    Two,
    /// Both.
    #[default]
    Both,
}

/// Not `1`, `2` or `both`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no Greeter service {0:?}; it is 1, 2 or both")]
pub struct UnknownServing(String);

impl FromStr for Serving {
    type Err = UnknownServing;

    fn from_str(text: &str) -> Result<Self, UnknownServing> {
        match text {
            "1" => Ok(Self::One),
            "2" => Ok(Self::Two),
            "both" => Ok(Self::Both),
            other => Err(UnknownServing(other.into())),
        }
    }
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Both => "both",
        })
    }
}

/// How one server behaves.
#[derive(Debug, Clone)]
pub struct GreeterConfig {
    /// Which services it offers. Default: both.
    pub serving: Serving,
    /// What it calls itself in [`INSTANCE_HEADER`]; unset means the address it listens on.
    pub name: Option<String>,
    /// How long each call takes: a slow instance. Default: no time at all.
    pub delay: Duration,
    /// How long calls and streams that run at shutdown may go on before they are cut off. Bounded
    /// because a health watch never ends by itself. Default: 5 s.
    pub drain: Duration,
}

impl Default for GreeterConfig {
    fn default() -> Self {
        Self { serving: Serving::Both, name: None, delay: Duration::ZERO, drain: Duration::from_secs(5) }
    }
}

/// Why a server could not start, or did not go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The listener is not bound.
    #[error("the listener has no address")]
    Address(#[source] std::io::Error),
    /// The instance's name does not fit into gRPC metadata.
    #[error("the name {0:?} cannot be sent in {INSTANCE_HEADER}: only visible ASCII can")]
    Name(String),
    /// The transport ended.
    #[error("the gRPC server ended")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves until `shutdown` completes, then drains: no new connection, a GOAWAY on each open one,
/// the running calls finished, and after [`GreeterConfig::drain`] whatever still runs is cut off.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and every connection at once, without draining.
pub async fn serve(
    listener: TcpListener,
    config: GreeterConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let address: SocketAddr = listener.local_addr().map_err(ServeError::Address)?;
    let name = config.name.unwrap_or_else(|| address.to_string());
    let instance = MetadataValue::try_from(&name).map_err(|_| ServeError::Name(name))?;
    let greeter = Greeter { instance, delay: config.delay };
    let one = config.serving != Serving::Two;
    let two = config.serving != Serving::One;

    let (health, health_service) = tonic_health::server::health_reporter();
    if one {
        health.set_serving::<Greeter1Server<Greeter>>().await;
    }
    if two {
        health.set_serving::<Greeter2Server<Greeter>>().await;
    }

    let (draining, drain_begun) = oneshot::channel();
    let stop = async move {
        shutdown.await;
        health.set_not_serving::<Greeter1Server<Greeter>>().await;
        health.set_not_serving::<Greeter2Server<Greeter>>().await;
        // Nobody listens when the server has ended on its own.
        let _ = draining.send(());
    };
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_optional_service(one.then(|| Greeter1Server::new(greeter.clone())))
        .add_optional_service(two.then(|| Greeter2Server::new(greeter.clone())))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop);
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(ServeError::Transport),
        Ok(()) = drain_begun => {}
    }
    match timeout(config.drain, server).await {
        Ok(ended) => ended.map_err(ServeError::Transport),
        Err(_) => Ok(()),
    }
}

#[derive(Debug, Clone)]
struct Greeter {
    instance: MetadataValue<Ascii>,
    delay: Duration,
}

impl Greeter {
    async fn answer(&self, reply: &str) -> Response<HelloResponse> {
        if !self.delay.is_zero() {
            sleep_until(Instant::now() + self.delay).await;
        }
        let mut response = Response::new(HelloResponse { reply: reply.into() });
        response.metadata_mut().insert(INSTANCE_HEADER, self.instance.clone());
        response
    }
}

#[tonic::async_trait]
impl Greeter1 for Greeter {
    async fn say_hello1(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(self.answer("server1:hello").await)
    }
}

#[tonic::async_trait]
impl Greeter2 for Greeter {
    async fn say_hello2(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(self.answer("server2:hello").await)
    }
}
