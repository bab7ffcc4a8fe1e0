//! A node in a process of its own, three instances of the bystander's service, and an attack.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    Scale,
    bystander::{Bystander, Calls},
    process::Process,
    support::{Caller, Instance, soon},
    table::Row,
};

/// The service that has nothing to do with any attack.
pub(crate) const BYSTANDER: &str = "bystander";

/// What an attack is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// By how much the node's peak of resident memory may grow, in bytes.
    pub(crate) memory: u64,
}

impl Bounds {
    /// So many MiB.
    pub(crate) const fn mib(mib: u64) -> Self {
        Self { memory: mib << 20 }
    }
}

/// What the node made of an attack.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// In a few words: `quarantined`, `names refused`; empty where there is nothing to say.
    pub(crate) word: String,
    /// How long it took from the beginning of the attack.
    pub(crate) after: Option<Duration>,
}

impl Verdict {
    /// There is nothing that the node should say.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// The node said this, `since.elapsed()` after the attack began.
    pub(crate) fn after(word: impl Into<String>, since: Instant) -> Self {
        Self { word: word.into(), after: Some(since.elapsed()) }
    }

    /// What happened, where the time says nothing.
    pub(crate) fn word(word: impl Into<String>) -> Self {
        Self { word: word.into(), after: None }
    }
}

/// A node with a bystander's service on it.
pub(crate) struct Arena {
    pub(crate) node: Process,
    pub(crate) instances: Vec<Instance>,
    _folder: Option<TempDir>,
}

impl Arena {
    /// A node with these flags besides.
    pub(crate) async fn with(flags: &[&str]) -> Self {
        Self::around(Process::with(flags).await, None).await
    }

    /// A node that may have so many descriptors at most.
    pub(crate) async fn with_descriptors(most: u32) -> Self {
        Self::around(Process::with_descriptors(most, &[]).await, None).await
    }

    /// A node with this `waymark.toml`.
    pub(crate) async fn configured(toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("waymark.toml");
        std::fs::write(&file, toml).unwrap();
        let node = Process::with(&["--config", file.to_str().unwrap()]).await;
        Self::around(node, Some(folder)).await
    }

    async fn around(node: Process, folder: Option<TempDir>) -> Self {
        let mut instances = Vec::new();
        for name in ["a", "b", "c"] {
            let instance = Instance::echo(name).await;
            node.register(BYSTANDER, instance.address).await;
            instances.push(instance);
        }
        let arena = Self { node, instances, _folder: folder };
        arena.settle(BYSTANDER, 3).await;
        arena
    }

    /// Waits until a service's calls reach so many different instances.
    pub(crate) async fn settle(&self, service: &'static str, n_instances: usize) {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", self.node.node)).unwrap();
        let mut caller = Caller::new(channel.connect_lazy(), Some(service));
        let mut seen = std::collections::BTreeSet::new();
        soon(async {
            while seen.len() < n_instances {
                match caller.unary("x").await {
                    Ok(answer) => drop(seen.insert(answer)),
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await;
    }

    /// The control, then the attack. Its future is the whole attack: the bystander calls until it
    /// is done.
    ///
    /// # Errors
    ///
    /// What the attack found wrong beside the bystander's calls: that its verdict did not come, for
    /// one.
    pub(crate) async fn attacked<'a, F>(
        &'a self,
        scale: Scale,
        bounds: Bounds,
        attack: impl FnOnce(&'a Self) -> F,
    ) -> Result<Row, String>
    where
        F: Future<Output = Result<Verdict, String>>,
    {
        let control = self.undisturbed(scale).await;
        let before = self.node.forget_peak();
        let bystander = Bystander::start(self.node.node, BYSTANDER);
        let verdict = attack(self).await;
        let calls = bystander.stop().await;
        let grown = self.node.resident("VmHWM").saturating_sub(before);
        let mut row = Row { control, calls, had: 0, grown, bounds, verdict: verdict?, faults: Vec::new() };
        let log = self.node.log();
        if let Some(panic) = log.lines().find(|line| line.contains("panicked")) {
            row.faults.push(format!("the node panicked: {panic}"));
        }
        Ok(row)
    }

    async fn undisturbed(&self, scale: Scale) -> Calls {
        let bystander = Bystander::start(self.node.node, BYSTANDER);
        sleep(scale.length).await;
        bystander.stop().await
    }
}
