//! Serves the Greeter services until it is told to stop (SIGTERM or Ctrl-C).

use std::{fmt, io::Write as _, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use greeter::{GreeterConfig, Serving};
use tokio::net::TcpListener;

/// A server of hello.Greeter1 and hello.Greeter2. It registers itself nowhere: see the README for
/// how it is found.
#[derive(Debug, Parser)]
#[command(name = "greeter-server", version, after_help = "Example: greeter-server --listen 127.0.0.1:8080 --service 1")]
struct Args {
    /// Where to listen; port 0 takes a free one. The address is the first line of the output.
    #[arg(long, env = "GREETER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Which service to offer: 1, 2 or both.
    #[arg(long, env = "GREETER_SERVICE", value_name = "1|2|both", default_value_t = Serving::Both)]
    service: Serving,
    /// What this instance calls itself in the response metadata `greeter-instance` [default: its
    /// address].
    #[arg(long, env = "GREETER_NAME")]
    name: Option<String>,
    /// Make every call take this long: a slow instance.
    #[arg(long, env = "GREETER_DELAY_MS", value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Before the address is printed: whoever waits for that line may send a signal right after it.
    let stop = stop_signal()?;
    let listener =
        TcpListener::bind(&args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    say(format_args!("service {} on {address}", args.service));
    let config = GreeterConfig {
        serving: args.service,
        name: args.name,
        delay: Duration::from_millis(args.delay_ms),
        ..GreeterConfig::default()
    };
    greeter::serve(listener, config, stop).await?;
    say(format_args!("stopped"));
    Ok(())
}

/// Writes a line of output. It serves whether or not somebody reads it.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "greeter-server: {line}");
}

/// Completes at the first SIGTERM or Ctrl-C.
#[cfg(unix)]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Completes at the first Ctrl-C.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the same signature as where signals can be refused")]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without the signal there is only being killed.
            std::future::pending::<()>().await;
        }
    })
}
