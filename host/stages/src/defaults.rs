//! What each service begins with: its policy, its limits and what is said of its calls.

use std::{collections::HashMap, sync::Arc};

use tokio::task::JoinSet;
use waymark_balancer::{HashKey, ServiceDefaults, Services};
use waymark_core::{model::ServiceName, traffic::Traffic};
use waymark_runtime::{Abandon, Engine, Limits};

use crate::{
    candidate::{self, CandidateError, Wanted},
    config::{ClientConfig, PluginChoice},
    error::StartError,
    file_watch::watch_files,
    load::PluginError,
    policy_file::{ConfiguredPolicy, PolicyFile},
};

/// Loaded and tried before anything starts.
pub(super) struct Defaults {
    policy: Arc<ConfiguredPolicy>,
    hash_key: Option<HashKey>,
    limits: Limits,
    traffic: Arc<Traffic>,
    services: HashMap<ServiceName, Overrides>,
}

/// What one service has in place of the defaults.
struct Overrides {
    policy: Option<Arc<ConfiguredPolicy>>,
    hash_key: Option<HashKey>,
    idempotent: bool,
    limits: Option<Limits>,
    traffic: Option<Arc<Traffic>>,
}

impl Defaults {
    pub(super) async fn load(engine: &Engine, config: &ClientConfig) -> Result<Self, StartError> {
        let zone: Arc<str> = config.zone.as_str().into();
        let load = async |choice: &PluginChoice,
                          limits: &Limits,
                          whose: String|
               -> Result<Arc<ConfiguredPolicy>, StartError> {
            let wanted = Wanted {
                source: choice.plugin.clone().into(),
                config: choice.config.clone(),
                limits: limits.clone(),
                grants: choice.allow,
                by: "configuration".into(),
                trial: Some(Arc::clone(&zone)),
                abandon: Abandon::default(),
            };
            match candidate::load(engine, wanted).await {
                Ok(candidate) => Ok(ConfiguredPolicy::new(choice.clone(), limits.clone(), candidate)),
                Err(CandidateError::Plugin(error)) => Err(error.into()),
                Err(CandidateError::Build(source)) => Err(StartError::Policy { whose, source }),
                Err(CandidateError::Host(reason)) => {
                    Err(PluginError::Host { plugin: choice.plugin.to_string(), reason }.into())
                }
            }
        };
        let policy = load(&config.policy, &config.limits, "the default policy".into()).await?;
        let mut services = HashMap::new();
        for service in &config.services {
            let whose = || format!("service {}", service.name);
            let policy = match (&service.policy, &service.limits) {
                (Some(choice), limits) => Some(load(choice, limits.as_ref().unwrap_or(&config.limits), whose()).await?),
                // The default policy, under limits of the service's own.
                (None, Some(limits)) => Some(load(&config.policy, limits, whose()).await?),
                (None, None) => None,
            };
            let (hash_key, limits) = (service.hash_key.clone(), service.limits.clone());
            let traffic = service.traffic.clone().map(Arc::new);
            let own = Overrides { policy, hash_key, idempotent: service.idempotent, limits, traffic };
            services.insert(service.name.clone(), own);
        }
        Ok(Self {
            policy,
            hash_key: config.hash_key.clone(),
            limits: config.limits.clone(),
            traffic: Arc::new(config.traffic.clone()),
            services,
        })
    }

    pub(super) fn of(&self, service: &ServiceName) -> ServiceDefaults {
        let own = self.services.get(service);
        ServiceDefaults {
            policy: self.configured(service).candidate(),
            hash_key: own.and_then(|own| own.hash_key.clone()).or_else(|| self.hash_key.clone()),
            idempotent: own.is_some_and(|own| own.idempotent),
            limits: own.and_then(|own| own.limits.clone()).unwrap_or_else(|| self.limits.clone()),
            traffic: Arc::clone(own.and_then(|own| own.traffic.as_ref()).unwrap_or(&self.traffic)),
        }
    }

    /// Where a service's first policy comes from.
    fn configured(&self, service: &ServiceName) -> &Arc<ConfiguredPolicy> {
        self.services.get(service).and_then(|own| own.policy.as_ref()).unwrap_or(&self.policy)
    }

    /// Follows each policy that is a file.
    pub(super) fn follow_files(self: &Arc<Self>, engine: &Engine, services: &Services, zone: &str) -> JoinSet<()> {
        let own = self.services.values().filter_map(|own| own.policy.as_ref());
        let mut followers = JoinSet::new();
        for configured in own.chain([&self.policy]) {
            let Some(path) = configured.file().map(ToOwned::to_owned) else { continue };
            let (defaults, of) = (Arc::clone(self), Arc::clone(configured));
            let file = PolicyFile {
                engine: engine.clone(),
                services: services.clone(),
                configured: Arc::clone(configured),
                concerns: Box::new(move |service| Arc::ptr_eq(defaults.configured(service), &of)),
                zone: zone.into(),
            };
            let handled = configured.candidate().info.sha256;
            followers.spawn(watch_files(file, vec![path], handled));
        }
        followers
    }
}
