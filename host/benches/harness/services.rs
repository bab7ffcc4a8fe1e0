//! Services without a registry, and the policies they are balanced by.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use waymark_node::{
    balancer::{Candidate, HashKey, PolicyInfo, ServiceDefaults, ServiceHandle, Services, ServicesConfig},
    model::{Address, Endpoint, InstanceId, Locality, Revision, ServiceName, Update},
    plugin::{Engine, Grants, Kind, Limits, WasmPolicy},
    policy::{BuildError, Decision, PickContext, PickError, Picker, Plan, Policy, RequestFacts, Scope},
    snapshot,
};

/// The zone that the node of these benchmarks stands in.
pub(crate) const ZONE: &str = "a";

/// The header that requests carry their key in.
pub(crate) const KEY_HEADER: &str = "x-user";

/// A bundled policy with the configuration it has by default.
pub(crate) fn bundled(engine: &Engine, name: &str) -> anyhow::Result<WasmPolicy> {
    let plugin = engine.load_bundled(Kind::Policy, name)?;
    Ok(plugin.into_policy("{}")?)
}

/// A test guest as a policy, with this configuration and under these limits.
pub(crate) fn test_guest(engine: &Engine, name: &str, config: &str, limits: Limits) -> anyhow::Result<WasmPolicy> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/dist/test/{name}.wasm"));
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(engine.load_with(&bytes, name, limits, Grants::NONE)?.into_policy(config)?)
}

/// A policy without WebAssembly, to tell the host's share of a pick from the component's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Native {
    /// All endpoints in turn.
    Rotation,
    /// A table as long as Maglev's, in which neighbours differ.
    HashTable,
    /// Two endpoints at random for each request, as `least_request` does.
    TwoChoices,
}

/// The table's length: the smaller of the two primes that the Maglev paper uses (section 5.3).
const TABLE_LEN: u32 = 65_537;

impl Policy for Native {
    fn name(&self) -> &'static str {
        match self {
            Self::Rotation => "native_rotation",
            Self::HashTable => "native_hash_table",
            Self::TwoChoices => "native_two_choices",
        }
    }

    fn build(&self, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        let len = endpoints.len() as u32;
        Ok(match self {
            _ if len == 0 => Plan::Rotation(Box::default()),
            Self::Rotation => Plan::Rotation((0..len).collect()),
            Self::HashTable => Plan::HashTable((0..TABLE_LEN).map(|at| scatter(at) % len).collect()),
            Self::TwoChoices => Plan::EachRequest(Box::new(TwoChoices { len })),
        })
    }
}

impl Native {
    pub(crate) fn candidate(self) -> Candidate {
        let info = PolicyInfo {
            name: self.name().into(),
            plugin_version: String::new(),
            sha256: String::new(),
            origin: "benchmark".into(),
            config: "{}".into(),
            allow: String::new(),
            by: "benchmark".into(),
        };
        Candidate { policy: Arc::new(self), info, load_time: Duration::ZERO }
    }
}

struct TwoChoices {
    len: u32,
}

impl Picker for TwoChoices {
    fn pick(&self, context: PickContext, _: &dyn RequestFacts) -> Result<Decision, PickError> {
        let scale = |random: u32| ((u64::from(random) * u64::from(self.len)) >> 32) as u32;
        let (a, b) = (scale(context.random.0), scale(context.random.1));
        Ok(Decision::Either(a, b))
    }
}

/// Numbers that look random, the same in every run (Knuth's multiplicative hashing).
pub(crate) fn scatter(n: u32) -> u32 {
    let n = n.wrapping_mul(0x9E37_79B1);
    n ^ (n >> 16)
}

/// `count` endpoints in two zones, with weights and metadata as frameworks register them.
pub(crate) fn endpoints(count: usize) -> Vec<Endpoint> {
    let endpoint = |n: usize| {
        let address: Address = format!("192.0.2.{}:{}", 1 + n % 250, 8000 + n / 250).parse().expect("a plain address");
        Endpoint {
            id: InstanceId::new(format!("instance-{n:05}")),
            locality: Locality::zone(if n.is_multiple_of(2) { ZONE } else { "b" }),
            weight: 1 + (n % 3) as u32,
            metadata: [("version", "1.4.2"), ("protocol", "grpc")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Endpoint::at(address)
        }
    };
    (0..count).map(endpoint).collect()
}

/// Endpoints at these addresses, all alike.
pub(crate) fn endpoints_at(addresses: &[SocketAddr]) -> Vec<Endpoint> {
    let address = |address: &SocketAddr| address.to_string().parse().expect("a socket address is host:port");
    addresses.iter().map(address).map(Endpoint::at).collect()
}

/// Services that all have these endpoints, and begin with the policy that `policy` names for them.
pub(crate) fn services(
    endpoints: Vec<Endpoint>,
    hash_key: Option<HashKey>,
    policy: impl Fn(&ServiceName) -> Candidate + Send + Sync + 'static,
) -> Services {
    Services::new(services_config(endpoints, hash_key, policy))
}

/// The same, for whoever makes the services.
pub(crate) fn services_config(
    endpoints: Vec<Endpoint>,
    hash_key: Option<HashKey>,
    policy: impl Fn(&ServiceName) -> Candidate + Send + Sync + 'static,
) -> ServicesConfig {
    let follow = move |service| {
        let (mut writer, reader) = snapshot::channel(service);
        writer.apply(Update::Reset { revision: Revision(1), endpoints: endpoints.clone(), skipped: 0 });
        // Without its writer the snapshot stays as it is.
        async move { Ok(reader) }
    };
    let defaults = move |service: &ServiceName| ServiceDefaults {
        hash_key: hash_key.clone(),
        // Whoever does nothing but pick fills its thread with picks.
        limits: Limits { pick_share: 100, ..Limits::default() },
        ..ServiceDefaults::new(policy(service))
    };
    ServicesConfig { zone: ZONE.into(), ..ServicesConfig::new(follow, defaults) }
}

/// A service of these, once its endpoints are balanced.
pub(crate) async fn started(services: &Services, name: &str) -> anyhow::Result<ServiceHandle> {
    let service = ServiceName::new(name)?;
    let handle = services.discover(&service).await?;
    let state = handle.state();
    anyhow::ensure!(state.listed && !state.endpoints.is_empty(), "{service} has no endpoints");
    let running = handle.history().into_iter().next().context("a service has a policy")?;
    anyhow::ensure!(running.reason.is_empty(), "{service}: {}", running.reason);
    drop(state);
    Ok(handle)
}
