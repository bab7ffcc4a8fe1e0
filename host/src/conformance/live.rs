//! A balanced service with the policy under test: its own task, generations and pick, fed by hand
//! instead of by a registry.

use std::{
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    balancer::{
        Candidate, HashKey, PolicyInfo, ServiceDefaults, ServiceHandle, ServiceState, Services, ServicesConfig,
    },
    model::{ServiceName, Update},
    plugin::Limits,
    policy::{Policy, Scope},
    snapshot::{self, Writer},
};

/// The header that is the key of its requests.
pub(super) const KEY_HEADER: &str = "x-key";

/// How long a generation may take to be there: builds have a deadline that is far below.
const PATIENCE: Duration = Duration::from_secs(20);

/// The service.
pub(super) struct Live {
    handle: ServiceHandle,
    writer: Arc<Mutex<Option<Writer>>>,
    _services: Services,
}

impl Live {
    /// Starts it, with no endpoint yet. Inside of an async runtime, which its task needs.
    pub(super) async fn start(policy: Arc<dyn Policy>, config: &str, scope: &Scope) -> Result<Self, String> {
        let info = PolicyInfo {
            name: policy.name().into(),
            plugin_version: String::new(),
            sha256: String::new(),
            origin: "under test".into(),
            config: config.into(),
            allow: String::new(),
            by: "conformance".into(),
        };
        let initial = Candidate { policy, info, load_time: Duration::ZERO };
        let defaults = move |_: &ServiceName| ServiceDefaults {
            hash_key: format!("header:{KEY_HEADER}").parse::<HashKey>().ok(),
            // Whoever does nothing but pick fills its thread with picks.
            limits: Limits { pick_share: 100, ..Limits::default() },
            ..ServiceDefaults::new(initial.clone())
        };
        let writer = Arc::new(Mutex::new(None));
        let follow = {
            let writer = Arc::clone(&writer);
            move |service| {
                let (tx, rx) = snapshot::channel(service);
                *writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(tx);
                ready(Ok(rx))
            }
        };
        let config = ServicesConfig {
            zone: scope.zone.clone(),
            coalesce: Duration::ZERO,
            ..ServicesConfig::new(follow, defaults)
        };
        let services = Services::new(config);
        let handle = services.add(&scope.service).await.map_err(|error| error.to_string())?;
        Ok(Self { handle, writer, _services: services })
    }

    /// Tells it what the registry would.
    pub(super) fn apply(&self, update: Update) {
        if let Some(writer) = &mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            writer.apply(update);
        }
    }

    /// Waits for the generation with so many endpoints.
    pub(super) async fn published(&self, n: usize) -> Result<(), String> {
        let mut reader = self.handle.subscribe();
        let wait = async {
            while !(reader.current().listed && reader.current().endpoints.len() == n) {
                reader.changed().await.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| Err(format!("no generation for {n} endpoints after {} s", PATIENCE.as_secs())))?;
        // The service goes on with a fallback when the policy cannot build; its history says so.
        match self.handle.history().first() {
            Some(version) if !version.reason.is_empty() => Err(format!("with {n} endpoints: {}", version.reason)),
            _ => Ok(()),
        }
    }

    /// The generation that is published.
    pub(super) fn state(&self) -> Arc<ServiceState> {
        self.handle.subscribe().current()
    }
}
