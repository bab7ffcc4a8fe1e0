//! The interoperability tests by hand: a server, and a client that runs cases against any server.
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, ValueEnum as _};
use interop::{Case, Target};
use tokio::net::TcpListener;

/// gRPC's public interoperability tests.
#[derive(Debug, Parser)]
enum Args {
    /// Serves grpc.testing.TestService.
    Server {
        #[arg(default_value = "127.0.0.1:10000", value_name = "IP:PORT")]
        listen: SocketAddr,
    },
    /// Runs cases against a server, or against a proxy before it.
    Client {
        #[arg(default_value = "http://127.0.0.1:10000", value_name = "URI")]
        uri: String,
        /// Which ones [default: all].
        #[arg(long = "case", value_name = "CASE")]
        cases: Vec<Case>,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Args::parse() {
        Args::Server { listen } => {
            let listener = TcpListener::bind(listen).await?;
            println!("serving on {}", listener.local_addr()?);
            let stop = async {
                // Without signals it serves until it is killed.
                let _ = tokio::signal::ctrl_c().await;
            };
            interop::serve(listener, stop).await.map_err(anyhow::Error::from_boxed)?;
            Ok(ExitCode::SUCCESS)
        }
        Args::Client { uri, cases } => {
            let cases = if cases.is_empty() { Case::value_variants() } else { &cases };
            let mut failed = 0;
            for case in cases {
                let result = interop::run(*case, &Target { uri: uri.clone() }).await;
                failed += usize::from(result.is_err());
                match result {
                    Ok(()) => println!("{case:?}: passed"),
                    Err(error) => println!("{case:?}: FAILED: {error:#}"),
                }
            }
            Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
