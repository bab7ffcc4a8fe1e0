//! What all subjects share: the instances, the registry that they are in, and the clients.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::{
    harness::child::Child,
    parts::{EACH_REQUEST, PLAN, runtime},
    processes,
    proxies::{Proxy, Setting},
    roles::{Order, What},
    streams::{Load, Tally},
    subjects::Subject,
    waymark::Registry,
};

/// How many instances there are.
pub(crate) const INSTANCES: u16 = 3;

/// Its fields are in the order in which they end.
pub(crate) struct Arena {
    /// Proxies that run and that nobody uses, with how many workers.
    spare: Vec<(usize, Proxy)>,
    client: Child,
    registry: Registry,
    _backend: Child,
    instances: Vec<SocketAddr>,
    waymark: PathBuf,
    runtime: Runtime,
    pub(crate) folder: tempfile::TempDir,
}

impl Arena {
    /// With this program as `waymark`.
    pub(crate) fn start(waymark: PathBuf) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (backend, instances) = Child::start(&["backend", &INSTANCES.to_string()])?;
        let instances: Vec<SocketAddr> = instances.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let (client, _) = Child::start(&["load"])?;
        let runtime = runtime(Some(1))?;
        let registry = Registry::start(&waymark, folder.path(), &runtime, &instances)?;
        Ok(Self { spare: Vec::new(), client, registry, _backend: backend, instances, waymark, runtime, folder })
    }

    /// Starts a proxy, and waits until it is ready for calls.
    pub(crate) fn proxy(&self, subject: Subject, workers: usize, wrapper: &[String]) -> anyhow::Result<Proxy> {
        let setting = Setting {
            instances: &self.instances,
            registry: &self.registry.url,
            waymark: &self.waymark,
            workers,
            folder: self.folder.path(),
            wrapper,
        };
        let proxy = Proxy::start(subject, setting)?;
        if let Some(node) = proxy.node() {
            self.runtime.block_on(node.settled(service(subject)))?;
        }
        Ok(proxy)
    }

    /// As [`Arena::proxy`], or one that was spared.
    pub(crate) fn spared_or_new(&mut self, subject: Subject, workers: usize) -> anyhow::Result<Proxy> {
        let found = self.spare.iter().position(|(with, proxy)| (*with, proxy.subject) == (workers, subject));
        match found {
            Some(at) => Ok(self.spare.swap_remove(at).1),
            None => self.proxy(subject, workers, &[]),
        }
    }

    /// Keeps a proxy for later: to start one takes longer than a brief run of it.
    pub(crate) fn spare(&mut self, proxy: Proxy, workers: usize) {
        self.spare.push((workers, proxy));
    }

    /// Whether what was measured is what the subject says.
    pub(crate) fn check(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let Some(node) = proxy.node() else { return Ok(()) };
        self.runtime.block_on(node.picked_by_policy(service(proxy.subject)))
    }

    /// Has the clients call.
    pub(crate) fn call(&mut self, proxy: &Proxy, connections: usize, load: Load) -> anyhow::Result<Tally> {
        let answer = self.order(proxy, What::Call { connections, load })?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", proxy.subject.title()))
    }

    /// As [`Arena::call`], with the processor time that the proxy used meanwhile, where the system
    /// tells.
    pub(crate) fn call_and_watch(
        &mut self,
        proxy: &Proxy,
        connections: usize,
        load: Load,
    ) -> anyhow::Result<(Tally, Option<Duration>)> {
        let used = || processes::cpu(proxy.id()?);
        let before = used();
        let tally = self.call(proxy, connections, load)?;
        let after = used();
        Ok((tally, after.zip(before).map(|(after, before)| after.saturating_sub(before))))
    }

    /// Has the clients open idle connections and keep them.
    pub(crate) fn stay_idle(&mut self, proxy: &Proxy, connections: usize) -> anyhow::Result<()> {
        self.order(proxy, What::Idle { connections }).map(drop)
    }

    /// Has the clients close all connections.
    pub(crate) fn hang_up(&mut self) -> anyhow::Result<()> {
        let order = Order { to: Vec::new(), each_request: false, what: What::HangUp };
        self.client.ask(&serde_json::to_string(&order)?).map(drop)
    }

    fn order(&mut self, proxy: &Proxy, what: What) -> anyhow::Result<String> {
        let order = Order { to: proxy.to.clone(), each_request: service(proxy.subject) == EACH_REQUEST, what };
        self.client.ask(&serde_json::to_string(&order)?)
    }
}

/// The service that is called through it. Only Waymark heeds the name.
fn service(subject: Subject) -> &'static str {
    if subject == Subject::EachRequest { EACH_REQUEST } else { PLAN }
}
