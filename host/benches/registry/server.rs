//! The registry's process: the embedded one, or a real etcd.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use etcd_client::Client;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Args, harness::child::Child};

/// A registry that can be killed and started again at the same address.
pub(crate) struct Server {
    pub(crate) url: String,
    address: SocketAddr,
    kind: Kind,
}

enum Kind {
    Embedded(Option<Child>),
    Etcd { program: std::path::PathBuf, data: TempDir, process: Option<std::process::Child> },
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Server {
    /// What the program says it is.
    pub(crate) fn version(program: &Path) -> anyhow::Result<String> {
        let said = Command::new(program).arg("--version").output().with_context(|| program.display().to_string())?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(said.lines().next().unwrap_or("etcd").to_owned())
    }

    /// A fresh, empty one that answers.
    pub(crate) fn start(args: &Args, runtime: &Runtime) -> anyhow::Result<Self> {
        let address = free_address()?;
        let kind = match &args.etcd {
            None => Kind::Embedded(None),
            Some(program) => Kind::Etcd { program: program.clone(), data: tempfile::tempdir()?, process: None },
        };
        let mut server = Self { url: format!("http://{address}"), address, kind };
        server.resume(runtime)?;
        Ok(server)
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        match &mut self.kind {
            Kind::Embedded(child) => drop(child.take()),
            Kind::Etcd { process, .. } => {
                if let Some(mut process) = process.take() {
                    // It may have ended by itself.
                    let _ = process.kill();
                    let _ = process.wait();
                }
            }
        }
    }

    /// Has it lose everything. An embedded one does so when it is killed.
    pub(crate) fn wipe(&mut self) -> anyhow::Result<()> {
        if let Kind::Etcd { data, .. } = &mut self.kind {
            *data = tempfile::tempdir()?;
        }
        Ok(())
    }

    /// Starts it again, and returns when it answers.
    pub(crate) fn resume(&mut self, runtime: &Runtime) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Embedded(child) => *child = Some(Child::start(&["server", &self.address.to_string()])?.0),
            Kind::Etcd { program, data, process } => {
                let peer = format!("http://{}", free_address()?);
                let started = Command::new(&*program)
                    .arg("--data-dir")
                    .arg(data.path())
                    .args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url])
                    .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                    .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                *process = Some(started.with_context(|| format!("cannot start {}", program.display()))?);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        let url = self.url.clone();
        runtime.block_on(async {
            loop {
                if let Ok(mut client) = Client::connect([&url], None).await
                    && client.get("any", None).await.is_ok()
                {
                    return Ok(());
                }
                anyhow::ensure!(Instant::now() < deadline, "no registry answers at {url}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
