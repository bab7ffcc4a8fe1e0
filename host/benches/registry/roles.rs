//! The roles that a process of this benchmark can have.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use etcd_client::{Client, GetOptions};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use waymark_node::{
    balancer::{Candidate, ServiceDefaults, Services, ServicesConfig},
    config::PluginChoice,
    model::{Endpoint, LeaseId, Revision, ServiceName},
    naming::KeyScheme,
    plugin::{Engine, EngineConfig},
    registry::{Registration, RegistrationConfig, RegistrationState, Registry, RegistryConfig},
    snapshot::Reader,
    stages::load::load_key_scheme,
};

use super::{
    harness::{child, process_cpu, resident, services::bundled},
    layout::Layout,
    processes::runtime,
};

/// How many services to ask for at once.
const AT_ONCE: usize = 256;

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one piece of work came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// By how much the memory in use grew.
    pub(crate) memory: f64,
}

impl Cost {
    /// Of the work that lies between this call and [`Meter::stop`].
    fn meter() -> Meter {
        Meter { began: Instant::now(), cpu: process_cpu(), memory: resident() }
    }
}

struct Meter {
    began: Instant,
    cpu: Duration,
    memory: f64,
}

impl Meter {
    fn stop(&self) -> Cost {
        Cost {
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: process_cpu().saturating_sub(self.cpu).as_secs_f64(),
            memory: resident() - self.memory,
        }
    }
}

/// An etcd client that reads everything in pages at one revision, and keeps it.
pub(crate) fn raw(url: &str) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let mut client = runtime.block_on(Client::connect([url], None))?.kv_client();
    let mut kept = Vec::new();
    child::serve("ready", |line| {
        anyhow::ensure!(line == "list", "a raw client is not asked {line:?}");
        kept.clear();
        let meter = Cost::meter();
        runtime.block_on(async {
            let (mut key, mut revision) = (b"bench/".to_vec(), 0);
            loop {
                let options = GetOptions::new().with_range("bench0").with_limit(1000).with_revision(revision);
                let mut page = client.get(key.clone(), Some(options)).await?;
                revision = page.header().context("an answer has a header")?.revision();
                let more = page.more();
                kept.extend(page.take_kvs());
                match kept.last() {
                    Some(last) if more => key = [last.key(), &[0]].concat(),
                    _ => return anyhow::Ok(()),
                }
            }
        })?;
        let cost = meter.stop();
        anyhow::ensure!(!kept.is_empty(), "there is nothing to read");
        Ok(serde_json::to_string(&cost)?)
    })
}

async fn scheme(engine: &Engine) -> anyhow::Result<Arc<dyn KeyScheme>> {
    Ok(Arc::new(load_key_scheme(engine, &PluginChoice::bundled("etcd_naming")).await?))
}

fn service(n: usize) -> anyhow::Result<ServiceName> {
    Ok(ServiceName::new(Layout::service(n))?)
}

/// What [`view`] follows.
struct Followed {
    readers: Vec<Reader>,
    services: Option<Services>,
    _registry: Registry,
}

/// Follows services, with or without balancing them.
pub(crate) fn view(url: &str) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let engine = Engine::new(EngineConfig::default())?;
    let scheme = runtime.block_on(scheme(&engine))?;
    let policy = Candidate::new(bundled(&engine, "round_robin")?, "benchmark");
    let mut followed = None;
    child::serve("ready", |line| {
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["sync", how, services, endpoints] => {
                let (services, endpoints): (usize, usize) = (services.parse()?, endpoints.parse()?);
                let meter = Cost::meter();
                let now = match how {
                    "follow" => runtime.block_on(follow(url, &scheme, services))?,
                    _ => runtime.block_on(balance(url, &scheme, &policy, services))?,
                };
                let cost = meter.stop();
                let seen: usize = match &now.services {
                    None => now.readers.iter().map(|reader| reader.current().endpoints.len()).sum(),
                    Some(services) => services.list().iter().map(|handle| handle.state().endpoints.len()).sum(),
                };
                anyhow::ensure!(seen == endpoints, "it sees {seen} endpoints of {endpoints}");
                followed = Some(now);
                Ok(serde_json::to_string(&cost)?)
            }
            ["until", revision] => {
                let followed = followed.as_mut().context("it follows nothing yet")?;
                let revision = Revision(revision.parse()?);
                let waiting = async {
                    while followed.readers[0].current().revision < revision {
                        followed.readers[0].changed().await?;
                    }
                    anyhow::Ok(String::new())
                };
                runtime.block_on(async { tokio::time::timeout(PATIENCE, waiting).await })?
            }
            _ => anyhow::bail!("a view is not asked {line:?}"),
        }
    })?;
    runtime.shutdown_background();
    Ok(())
}

async fn follow(url: &str, scheme: &Arc<dyn KeyScheme>, services: usize) -> anyhow::Result<Followed> {
    let registry = Registry::connect(RegistryConfig::new([url]))?;
    let registry = &registry;
    let subscribing =
        (0..services).map(|n| async move { anyhow::Ok(registry.subscribe(service(n)?, Arc::clone(scheme)).await?) });
    let mut readers: Vec<Reader> = stream::iter(subscribing).buffered(AT_ONCE).try_collect().await?;
    for reader in &mut readers {
        let snapshot = tokio::time::timeout(PATIENCE, reader.settled()).await??;
        anyhow::ensure!(snapshot.listed, "{}: {:?}", snapshot.service, snapshot.stale);
    }
    Ok(Followed { readers, services: None, _registry: registry.clone() })
}

async fn balance(url: &str, scheme: &Arc<dyn KeyScheme>, policy: &Candidate, count: usize) -> anyhow::Result<Followed> {
    let registry = Registry::connect(RegistryConfig::new([url]))?;
    let (follow, scheme, policy) = (registry.clone(), Arc::clone(scheme), policy.clone());
    let services = Services::new(ServicesConfig::new(
        move |name| {
            let (registry, scheme) = (follow.clone(), Arc::clone(&scheme));
            async move { registry.subscribe(name, scheme).await }
        },
        move |_| ServiceDefaults::new(policy.clone()),
    ));
    let services_ref = &services;
    let adding = (0..count).map(|n| async move { anyhow::Ok(services_ref.add(&service(n)?).await.map(drop)?) });
    stream::iter(adding).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    for n in 0..count {
        let mut states = services.discover(&service(n)?).await?.subscribe();
        let built = async {
            while !states.current().listed {
                states.changed().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, built).await??;
    }
    Ok(Followed { readers: Vec::new(), services: Some(services), _registry: registry })
}

/// Registers instances, and says when all of them are registered (again).
pub(crate) fn registrar(url: &str) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let engine = Engine::new(EngineConfig::default())?;
    let scheme = runtime.block_on(scheme(&engine))?;
    let _inside = runtime.enter();
    let registry = Registry::connect(RegistryConfig::new([url]))?;
    let mut registrations: Vec<(Registration, Option<LeaseId>)> = Vec::new();
    child::serve("ready", |line| {
        let meter = Cost::meter();
        match line.split_once(' ') {
            Some(("register", count)) => runtime.block_on(async {
                for n in 0..count.parse()? {
                    let endpoint = Endpoint::at(format!("10.9.{}.{}:8080", n / 250, n % 250).parse()?);
                    let config = RegistrationConfig::new(service(n % 10)?, endpoint);
                    registrations.push((registry.register(config, Arc::clone(&scheme)).await?, None));
                }
                anyhow::Ok(())
            })?,
            None if line == "again" => {}
            _ => anyhow::bail!("a registrar is not asked {line:?}"),
        }
        runtime.block_on(async {
            for (registration, lease) in &mut registrations {
                let anew = async {
                    anyhow::Ok(loop {
                        match registration.state() {
                            RegistrationState::Registered { lease: now, .. } if *lease != Some(now) => break now,
                            _ => drop(registration.changed().await?),
                        }
                    })
                };
                *lease = Some(tokio::time::timeout(PATIENCE, anew).await??);
            }
            anyhow::Ok(())
        })?;
        Ok(serde_json::to_string(&meter.stop())?)
    })?;
    runtime.shutdown_background();
    Ok(())
}
