//! `waymark demo`: everything once, on this machine, told as a story.
//!
//! ```text
//!   script, note ── acts ──▶ scene ──▶ stage      the node in this process, its registry, its API
//!     │                                processes  instances, each a child process (`server`)
//!     │                                load       clients that call through the node, and count who answers
//!     │                                observe    asks the node's API what it sees
//!     └── words ──▶ ui ──▶ view ──▶ screen ──▶ terminal
//!                                      shares     what each policy should give
//!                                      summary    what was found out, and whether it is right
//! ```
//!
//! The demo uses Waymark from outside, as a user does: gRPC calls to the proxy, the node's API for
//! policies, etcd's protocol for the registry. What it shows can therefore be done again by hand;
//! `--keep` says how.

mod error;
mod load;
mod note;
mod observe;
mod processes;
mod scene;
mod screen;
mod script;
pub(super) mod server;
mod shares;
mod stage;
mod summary;
mod terminal;
mod ui;
mod view;

use std::{env, path::PathBuf, process::ExitCode, time::Duration};

use clap::ValueEnum;
use tokio::time::Instant;

use self::{
    error::DemoError,
    scene::{Pace, Scene},
    stage::{SERVICE, Stage},
    terminal::Out,
    ui::Ui,
};
use super::{
    output::{self, CommandError},
    signals::terminated,
};
use crate::admin::NodeClient;

/// The exit code of a process that a signal ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Flags of `waymark demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark demo                                     about 40 seconds
  waymark demo --keep                              leaves everything running, and says what to try
  waymark demo --registry http://127.0.0.1:2379    in a real etcd; `etcdctl get --prefix ''` shows the keys
  waymark demo --fast --json | jq .calls           for programs

Exit codes: 0 when no call failed that should not have and all shares were as expected; 1 otherwise; 130 after Ctrl-C.")]
pub(super) struct Args {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// etcd's endpoints [default: a registry inside the demo]. The keys go under `ayang/` and
    /// `demo/`, and are taken away at the end.
    #[arg(long, value_name = "URL,..", value_delimiter = ',')]
    registry: Option<Vec<String>>,
    /// Print the summary as JSON, and nothing else.
    #[arg(long, conflicts_with = "keep")]
    json: bool,
    /// Print lines instead of a live view.
    #[arg(long)]
    plain: bool,
    /// No time to read; the same as --pace fast.
    #[arg(long, conflicts_with = "pace")]
    fast: bool,
    /// How fast the story is told.
    #[arg(long, value_enum, default_value_t = PaceName::Normal)]
    pace: PaceName,
}

/// How fast the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PaceName {
    /// About 12 seconds: for tests.
    Fast,
    /// About 40 seconds.
    Normal,
    /// Twice that: for an audience.
    Slow,
}

impl PaceName {
    fn pace(self) -> Pace {
        let millis = Duration::from_millis;
        match self {
            Self::Fast => Pace { read: millis(50), watch: millis(700), ttl: 2 },
            Self::Normal => Pace { read: millis(1500), watch: millis(3500), ttl: 5 },
            Self::Slow => Pace { read: millis(4500), watch: millis(7000), ttl: 8 },
        }
    }
}

/// How the playing ended.
enum Ended {
    Played,
    Interrupted,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    let began = Instant::now();
    let pace = if args.fast { PaceName::Fast } else { args.pace }.pace();
    let program = env::current_exe()
        .map_err(|source| DemoError::Io { what: "find the program that instances are started from".into(), source })?;
    let (ui, teller) = Ui::start(Out::choose(args.plain, args.json), began);
    let outcome = Box::pin(play(&args, pace, program, ui.clone(), began)).await;
    // The last handle: the task ends and puts the terminal back, whatever happened.
    drop(ui);
    if let Err(panic) = teller.await {
        return Err(CommandError::failed(format!("the demo's output ended badly: {panic}")));
    }
    outcome
}

async fn play(args: &Args, pace: Pace, program: PathBuf, ui: Ui, began: Instant) -> Result<ExitCode, CommandError> {
    ui.say(
        "Waymark finds the instances of a service in a registry (etcd) and sends each gRPC call to one of them. Which one is \
         decided by a policy, a small WebAssembly component that can be swapped while calls run. This shows it, with real \
         processes on this machine. Ctrl-C stops everything.",
    );
    let started = tokio::select! {
        stage = Stage::start(args.registry.as_deref()) => stage?,
        _ = terminated() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let where_it_is = if started.is_embedded() { "inside this process" } else { "etcd" };
    ui.say(format!(
        "Registry: {} ({where_it_is}). Node: calls on {}, API and dashboard on http://{}.",
        started.registry(),
        started.proxy(),
        started.admin()
    ));
    let mut scene = Scene::new(started, ui.clone(), pace, program, began);
    let ended = tokio::select! {
        played = scene.play() => played.map(|()| Ended::Played),
        signal = terminated() => {
            ui.say(format!("{signal}: stopping the instances and the node"));
            Ok(Ended::Interrupted)
        }
    };
    let code = match ended {
        Ok(Ended::Played) => {
            if !args.keep {
                scene.stop_calls().await;
            }
            scene.conclude();
            ui.head("Summary");
            ui.report(scene.report.text());
            if args.keep {
                keep(&scene, &ui).await;
            }
            if args.json {
                output::print_json(&scene.report);
            }
            Ok(if scene.report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Ok(Ended::Interrupted) => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(CommandError::from(error)),
    };
    // A second signal is for those who cannot wait; children are then killed rather than asked.
    tokio::select! {
        () = scene.close() => {}
        _ = terminated() => {}
    }
    ui.flush().await;
    code
}

/// Leaves everything running until a signal comes, and says what to try.
async fn keep(scene: &Scene, ui: &Ui) {
    ui.head("Everything goes on running. Try, in another terminal:");
    ui.print(commands(scene));
    ui.say("Ctrl-C stops everything.");
    tokio::select! {
        () = async { scene.follow_changes().await; std::future::pending().await } => {}
        signal = terminated() => ui.say(format!("{signal}: stopping the instances and the node")),
    }
}

/// Commands with the ports of this run.
fn commands(scene: &Scene) -> String {
    let (proxy, admin, registry) = (scene.stage.proxy(), scene.stage.admin(), scene.stage.registry());
    let waymark = scene.program.display();
    let node =
        if admin.to_string() == NodeClient::DEFAULT_ADDRESS { String::new() } else { format!(" --node {admin}") };
    let file = scene.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    [
        ("swap the policy, and watch the bars", format!("{waymark} policy set {SERVICE} weighted{node}")),
        ("set one from a file", format!("{waymark} policy set {SERVICE} {file}{node}")),
        ("see what ran before, and go back", format!("{waymark} policy history {SERVICE}{node}")),
        ("", format!("{waymark} policy rollback {SERVICE}{node}")),
        ("see what the registry has, and every change", format!("{waymark} watch {SERVICE} --registry {registry}")),
        (
            "add an instance",
            format!(
                "{waymark} register {SERVICE} --advertise 127.0.0.1:9000 --zone a --weight 2 --registry {registry} -- \
                 greeter-server --listen 127.0.0.1:9000"
            ),
        ),
        ("call it yourself", format!("greeter-client {proxy} --service {SERVICE} --calls 1000")),
        ("read the keys with etcd's own client", format!("etcdctl --endpoints {registry} get --prefix ''")),
        ("look at the dashboard and the metrics", format!("http://{admin}/  http://{admin}/metrics")),
    ]
    .map(|(what, command)| if what.is_empty() { format!("  {command}") } else { format!("  # {what}\n  {command}") })
    .join("\n")
}
