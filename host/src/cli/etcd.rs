//! `waymark etcd`: the embedded registry alone.

use std::{net::SocketAddr, process::ExitCode};

use super::{
    output::{self, CommandError},
    registry::listen_address,
    signals::Signals,
};
use crate::embedded;

/// Flags of `waymark etcd`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It keeps everything in memory: for development and tests on one machine. There is no second member and no disk; keys and
leases are gone when it ends.

Examples:
  waymark etcd
  etcdctl --endpoints 127.0.0.1:2379 get --prefix ''
  waymark node --registry http://127.0.0.1:2379")]
pub(super) struct Args {
    /// Where to listen; loopback only.
    #[arg(long, env = "WAYMARK_ETCD_LISTEN", default_value = "127.0.0.1:2379", value_parser = listen_address)]
    listen: SocketAddr,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    let mut signals = Signals::new()?;
    let server = embedded::Server::bind(args.listen, embedded::Options::default()).await?;
    output::announce(format_args!("embedded registry on {}; stop it with Ctrl-C", server.url()));
    server
        .serve(async move {
            signals.end().await;
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}
