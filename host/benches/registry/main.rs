//! What following a registry costs, beside the same done by hand with an etcd client in the same
//! run.
//!
//! ```text
//!   cargo bench --bench registry                    the figures, in about five minutes
//!   cargo bench --bench registry -- --quick         whether it still works
//!   cargo bench --bench registry -- --etcd etcd     on a real etcd instead of the embedded registry
//!
//!   this process: the driver ──put──▶ server ◀──list, watch── raw      an etcd client, and nothing else
//!                    └──call────▶ node ──▶ server             view     a `Registry` that follows every service
//!                                                              registrar    a `Registry` that registers instances
//! ```
//!
//! Each box is a process of its own, so that its processor time and memory can be told from the
//! others'. The services are laid out as etcd's naming package has them, and the key scheme is the
//! bundled component.

#[path = "../calls/echo.rs"]
#[allow(dead_code, reason = "the calls' benchmark uses the rest")]
mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod join;
mod layout;
mod processes;
mod roles;
mod scale;
mod server;

use clap::Parser as _;

use self::{
    harness::{Options, report::Report},
    server::Server,
};

/// Registrations, watches and lists: how fast, how much memory, how it grows.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Run against this etcd program instead of the embedded registry.
    #[arg(long, value_name = "PROGRAM")]
    etcd: Option<std::path::PathBuf>,
    /// Only these parts: sync, change, join, register.
    #[arg(long, value_delimiter = ',', value_name = "PART,..")]
    only: Vec<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this process is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// An embedded registry.
    #[command(hide = true)]
    Server { listen: std::net::SocketAddr },
    /// An etcd client.
    #[command(hide = true)]
    Raw { url: String },
    /// What follows services.
    #[command(hide = true)]
    View { url: String },
    /// What registers instances.
    #[command(hide = true)]
    Registrar { url: String },
    /// A whole node.
    #[command(hide = true)]
    Node { url: String },
}

impl Args {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.role {
        None => compare(&args),
        Some(Role::Server { listen }) => processes::server(*listen),
        Some(Role::Raw { url }) => roles::raw(url),
        Some(Role::View { url }) => roles::view(url),
        Some(Role::Registrar { url }) => roles::registrar(url),
        Some(Role::Node { url }) => processes::node(url),
    }
}

fn compare(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::new("registry");
    report.note(match &args.etcd {
        None => "against the embedded registry, in a process of its own".to_owned(),
        Some(program) => format!("against {}, one member, data on disk", Server::version(program)?),
    });
    report.note("median (quartiles) over the rounds; processor time includes the kernel's on the process's behalf");
    if args.wants("sync") {
        report.table(scale::sync(args)?);
    }
    if args.wants("change") {
        report.table(scale::change(args)?);
    }
    if args.wants("join") {
        report.table(join::run(args)?);
    }
    if args.wants("register") {
        report.table(scale::register(args)?);
    }
    report.print(args.options.json);
    Ok(())
}
