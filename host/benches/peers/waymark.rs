//! The program itself, started as a user starts it: a registry that its nodes follow, and nodes.
//!
//! The registry is the embedded one in a process of its own (`waymark etcd`), so that a node's
//! processor time is that of its calls.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use etcd_client::Client;
use rustix::process::Signal;
use tokio::{runtime::Runtime, time::sleep};
use waymark_node::{admin::NodeClient, model::ServiceName};

use super::{
    parts::{EACH_REQUEST, PLAN},
    programs::Program,
    proxies::Setting,
};

/// How long a node may take to be ready. Under valgrind everything takes some fifty times as long.
const PATIENCE: Duration = Duration::from_mins(5);

/// `waymark etcd`, with the instances in it under both services.
pub(crate) struct Registry {
    pub(crate) url: String,
    _program: Program,
}

impl Registry {
    pub(crate) fn start(
        waymark: &Path,
        folder: &Path,
        runtime: &Runtime,
        instances: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(waymark);
        command.args(["etcd", "--listen", "127.0.0.1:0"]);
        let (program, mut said) = start(&mut command, folder)?;
        let url = said.word_after("embedded registry on ")?.trim_end_matches(';').to_owned();
        runtime.block_on(async {
            let mut etcd = Client::connect([&url], None).await?;
            for (service, instance) in [PLAN, EACH_REQUEST].iter().flat_map(|s| instances.iter().map(move |i| (s, i))) {
                let value = format!(r#"{{"Op":0,"Addr":"{instance}","Metadata":null}}"#);
                etcd.put(format!("{service}/{instance}"), value, None).await.context("cannot fill the registry")?;
            }
            anyhow::Ok(())
        })?;
        Ok(Self { url, _program: program })
    }
}

/// `waymark node`, with a service for each kind of policy and else its defaults.
pub(crate) struct Node {
    program: Program,
    pub(crate) proxy: SocketAddr,
    admin: String,
}

impl Node {
    pub(crate) fn start(setting: Setting<'_>) -> anyhow::Result<Self> {
        let mut config: String =
            [PLAN, EACH_REQUEST].map(|name| format!("[[service]]\nname = \"{name}\"\npolicy = \"{name}\"\n")).concat();
        if !setting.wrapper.is_empty() {
            // Valgrind makes everything slow, and a policy would be taken out of service for that.
            // Calls that are in time cost the same whatever the deadlines are.
            config += "[plugins]\npick-deadline-ms = 1000\nbuild-deadline-ms = 300000\n\
                       key-scheme-deadline-ms = 300000\npick-share-percent = 100\n";
        }
        let file = setting.folder.join("waymark.toml");
        fs::write(&file, config)?;
        let mut command = Program::command(setting.wrapper, setting.waymark.as_ref());
        command.arg("node").arg("--config").arg(file).args(["--registry", setting.registry]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", "none"]);
        command.arg("--plugin-cache").arg(setting.folder.join("cache"));
        // The second is for builds that had no setting for it.
        command.env("WAYMARK_WORKERS", setting.workers.to_string());
        command.env("TOKIO_WORKER_THREADS", setting.workers.to_string());
        let (program, mut said) = start(&mut command, setting.folder)?;
        let proxy = said.word_after("grpc://")?.parse()?;
        let admin = said.word_after("http://")?;
        said.word_after("registry ")?;
        Ok(Self { program, proxy, admin })
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    /// Waits until a service is balanced as its name says.
    pub(crate) async fn settled(&self, service: &str) -> anyhow::Result<()> {
        let wanted = if service == PLAN { "rotation" } else { "each-request" };
        let (client, name) = (NodeClient::connect(&self.admin).await?, ServiceName::new(service)?);
        let began = Instant::now();
        loop {
            let now = client.service(&name, true).await?;
            if now.listed && now.endpoint_count > 0 && now.plan == wanted {
                return Ok(());
            }
            let (plan, why) = (now.plan, now.degraded);
            anyhow::ensure!(began.elapsed() < PATIENCE, "{service} has plan {plan:?} instead of {wanted}: {why}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether all picks so far were the policy's own: a fallback's would cost less.
    pub(crate) async fn picked_by_policy(&self, service: &str) -> anyhow::Result<()> {
        let client = NodeClient::connect(&self.admin).await?;
        let now = client.service(&ServiceName::new(service)?, false).await?;
        anyhow::ensure!(
            now.fallback_picks == 0 && now.degraded.is_empty() && now.picks > 0,
            "{service}: {} of {} picks were a fallback's: {}",
            now.fallback_picks,
            now.picks,
            now.degraded
        );
        Ok(())
    }

    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.program.end(Signal::TERM)
    }
}

/// What a program says on standard output.
struct Said(BufReader<ChildStdout>);

impl Said {
    /// The word after these words, in a line that is yet to come.
    fn word_after(&mut self, words: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.0.read_line(&mut line)?;
            anyhow::ensure!(read > 0, "the program ended before it said {words:?}: its own words are above");
            if let Some((_, rest)) = line.split_once(words) {
                return Ok(rest.split_whitespace().next().unwrap_or_default().to_owned());
            }
        }
    }
}

fn start(command: &mut Command, folder: &Path) -> anyhow::Result<(Program, Said)> {
    for (variable, _) in env::vars_os() {
        // Settings of the user's own nodes.
        if variable.to_string_lossy().starts_with("WAYMARK_") {
            command.env_remove(variable);
        }
    }
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let mut program = Program::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log))?;
    let said = program.process().stdout.take().context("a piped standard output")?;
    Ok((program, Said(BufReader::new(said))))
}
