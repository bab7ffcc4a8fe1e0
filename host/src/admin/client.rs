//! A client of the node's API for the command line and the demo: plain types, and errors that say
//! what a person can do.

mod connect;

use std::{collections::BTreeMap, error::Error};

use serde::{Serialize, Serializer};
use thiserror::Error;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use self::connect::Bearer;
pub use self::connect::Credentials;

use super::proto::{self, node_client, set_policy_request::Source};
use crate::{
    balancer::EndpointStatus,
    model::ServiceName,
    plugin::Grants,
    text::{SCREEN, shown},
};

/// Why a node did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not the address of a node. Do not retry.
    #[error(
        "{address:?} is not a node's address: {problem}; write host:port, for example {}",
        NodeClient::DEFAULT_ADDRESS
    )]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody answers there, or the connection broke. Retry when a node runs there.
    #[error("cannot reach a node at {address}: {reason}", reason = shown(.reason, SCREEN))]
    Unreachable {
        /// The node's address.
        address: String,
        /// The innermost cause.
        reason: String,
    },
    /// Something answers there that is no node. Do not retry.
    #[error("what answers at {address} is not a node's API: {reason}", reason = shown(.reason, SCREEN))]
    NotANode {
        /// The address.
        address: String,
        /// What it answered.
        reason: String,
    },
    /// The node refused, and says why. Nothing was changed. Do not retry the same.
    #[error("{reason}", reason = shown(.reason, SCREEN))]
    Refused {
        /// The node's words.
        reason: String,
    },
    /// The node tried, and failed, or is shutting down.
    #[error("the node at {address} failed: {reason}", reason = shown(.reason, SCREEN))]
    Failed {
        /// The node's address.
        address: String,
        /// The node's words.
        reason: String,
    },
}

/// A policy to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// One that is bundled with the node, by name.
    Bundled(String),
    /// The bytes of a component.
    Component {
        /// The bytes.
        bytes: Vec<u8>,
        /// Where they came from, for the history.
        origin: String,
    },
}

/// What [`NodeClient::set_policy`] is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPolicy {
    /// The service.
    pub service: ServiceName,
    /// The policy.
    pub source: PolicySource,
    /// Its configuration, a JSON object; empty means `{}`.
    pub config: String,
    /// What it is given beyond its world.
    pub allow: Grants,
    /// Who does it, for the history.
    pub by: String,
    /// Whether the node shall begin to watch the service if it does not yet.
    pub discover: bool,
}

/// One service on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// etcd's revision that the endpoints are from; 0 before the first list.
    pub revision: i64,
    /// Counts what was published for it: endpoints or policy.
    pub generation: u64,
    /// Whether the registry has answered at least once.
    pub listed: bool,
    /// How long the registry has been out of reach; none while it answers.
    pub stale_seconds: Option<f64>,
    /// The registry's last failure; empty while it answers.
    pub stale_reason: String,
    /// Entries in etcd, and instances of them, that were left out.
    pub skipped_entries: u64,
    /// Why, in words; empty where none were.
    pub skipped_reasons: String,
    /// Requests picked for.
    pub picks: u64,
    /// Of these, the ones that a fallback answered.
    pub fallback_picks: u64,
    /// `rotation`, `hash-table` or `each-request`.
    pub plan: String,
    /// The policy that runs.
    pub policy: PolicyVersion,
    /// How many endpoints there are, also when they were not asked for.
    pub endpoint_count: u32,
    /// Why another policy than the chosen one serves; empty when all is well.
    pub degraded: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a service on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// The instance.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Its zone; empty when unknown.
    pub zone: String,
    /// Its weight.
    pub weight: u32,
    /// Everything else that is registered.
    pub metadata: BTreeMap<String, String>,
    /// Where it stands; written as a word. None, `unknown`: a state of a newer node.
    #[serde(serialize_with = "word")]
    pub state: Option<EndpointStatus>,
    /// Calls begun and not yet ended.
    pub in_flight: u32,
    /// Peak EWMA of the time to an answer, in microseconds; 0 while no call has ended.
    pub latency_us: u32,
    /// Calls begun.
    pub calls: u64,
    /// Of these, the ones that ended in a failure of the endpoint.
    pub failures: u64,
    /// What its instance said last of its own load; none if it never did.
    pub load: Option<LoadReport>,
}

/// What an instance says of its own load. A figure that it does not give is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// The part of its processor time that is used; may be over 1.
    pub cpu_utilization: f64,
    /// The part of its memory that is used.
    pub memory_utilization: f64,
    /// How much it is used by its own measure; may be over 1.
    pub application_utilization: f64,
    /// Calls a second.
    pub rps: f64,
    /// Calls a second that fail.
    pub eps: f64,
    /// What else it tells, by name.
    pub named: BTreeMap<String, f64>,
    /// How long ago it said so.
    pub age_seconds: f64,
}

/// One line of a service's policy history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyVersion {
    /// Counts the policies of the service, from 1; 0 for the native rotation.
    pub version: u64,
    /// The policy's name.
    pub name: String,
    /// The plugin's version.
    pub plugin_version: String,
    /// SHA-256 of the component, hex.
    pub sha256: String,
    /// `bundled`, or where the bytes came from.
    pub origin: String,
    /// Its configuration, JSON.
    pub config: String,
    /// Who set it.
    pub by: String,
    /// When, Unix time in milliseconds.
    pub at_unix_ms: i64,
    /// `rotation`, `hash-table` or `each-request`; empty while it has no plan.
    pub plan: String,
    /// `running`, `superseded`, `refused`, `quarantined`, or `unknown` for an outcome of a newer
    /// node.
    pub outcome: &'static str,
    /// Why it was refused or taken out; empty otherwise.
    pub reason: String,
    /// Picks that failed while it ran.
    pub pick_failures: u64,
    /// What it was given beyond its world.
    pub allow: Vec<String>,
}

/// The policies of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// The service.
    pub service: String,
    /// The one that runs.
    pub running: PolicyVersion,
    /// Why another policy than the chosen one serves, or that its picks take too much time; empty
    /// when all is well.
    pub degraded: String,
    /// All, newest first.
    pub history: Vec<PolicyVersion>,
    /// After a swap: how long its parts took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapTimes>,
    /// After a swap: what whoever made it ought to know, that its picks are slow; empty when there
    /// is nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub warning: String,
    /// After a swap: the generation that was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// How long the parts of a swap took inside the node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SwapTimes {
    /// Compiling the component, or finding it compiled.
    pub load_seconds: f64,
    /// Building and checking the plan.
    pub build_seconds: f64,
    /// Publishing it.
    pub publish_seconds: f64,
    /// Of a policy that is asked for every request: processor time of the quickest pick that it was
    /// tried with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pick_seconds: Option<f64>,
}

/// A client of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeClient {
    inner: node_client::NodeClient<InterceptedService<Channel, Bearer>>,
    address: String,
}

impl NodeClient {
    /// Where a node's API listens unless it was told otherwise.
    pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7001";

    /// Connects to the node at `host:port`, `http://host:port`, `https://host:port` or
    /// `unix:/PATH`.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        Self::connect_as(address, &Credentials::default()).await
    }

    /// The same, with what proves who we are, and what the node has to prove.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn connect_as(address: &str, credentials: &Credentials) -> Result<Self, ClientError> {
        let (channel, bearer, address) = connect::connect(address, credentials).await?;
        // Its answers may be long; whoever dials a node trusts it.
        let inner = node_client::NodeClient::with_interceptor(channel, bearer).max_decoding_message_size(256 << 20);
        Ok(Self { inner, address })
    }

    /// The node's address, `host:port` or `unix:/PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The services that the node watches, by name.
    ///
    /// # Cancel safety
    ///
    /// Safe, like all calls that only read.
    pub async fn services(&self, with_endpoints: bool) -> Result<Vec<Service>, ClientError> {
        let request = proto::ListServicesRequest { omit_endpoints: !with_endpoints };
        let answer = self.inner.clone().list_services(request).await.map_err(|status| self.error(&status))?;
        Ok(answer.into_inner().services.into_iter().map(Service::from).collect())
    }

    /// One service. With `discover`, the node begins to watch it if it does not yet.
    ///
    /// # Cancel safety
    ///
    /// The node may begin to watch all the same.
    pub async fn service(&self, name: &ServiceName, discover: bool) -> Result<Service, ClientError> {
        let request = proto::GetServiceRequest { service: name.to_string(), discover };
        let answer = self.inner.clone().get_service(request).await.map_err(|status| self.error(&status))?;
        Ok(answer.into_inner().into())
    }

    /// One service now, and after every change.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::service`].
    pub async fn watch(&self, name: &ServiceName, discover: bool) -> Result<ServiceWatch, ClientError> {
        let request = proto::GetServiceRequest { service: name.to_string(), discover };
        let answer = self.inner.clone().watch_service(request).await.map_err(|status| self.error(&status))?;
        Ok(ServiceWatch { stream: answer.into_inner(), client: self.clone() })
    }

    /// The policies of a service.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn policy(&self, name: &ServiceName) -> Result<PolicyStatus, ClientError> {
        let request = proto::GetPolicyRequest { service: name.to_string() };
        let answer = self.inner.clone().get_policy(request).await.map_err(|status| self.error(&status))?;
        Ok(answer.into_inner().into())
    }

    /// Swaps the policy of a service. Answers when the new one is live.
    ///
    /// # Cancel safety
    ///
    /// Once the node has loaded the policy, the swap goes on without us.
    pub async fn set_policy(&self, set: SetPolicy) -> Result<PolicyStatus, ClientError> {
        let (source, origin) = match set.source {
            PolicySource::Bundled(name) => (Source::Bundled(name), String::new()),
            PolicySource::Component { bytes, origin } => (Source::Component(bytes), origin),
        };
        let too_large = match &source {
            Source::Component(bytes) => format!("{origin} has {} bytes, more than the node takes", bytes.len()),
            Source::Bundled(_) => "the request is larger than the node takes".to_owned(),
        };
        let request = proto::SetPolicyRequest {
            service: set.service.to_string(),
            source: Some(source),
            config: set.config,
            by: set.by,
            origin,
            discover: set.discover,
            allow: set.allow.names().map(ToOwned::to_owned).collect(),
        };
        let answer = self.inner.clone().set_policy(request).await.map_err(|status| match status.code() {
            // The message was not taken in at all, so that the node could not say what it was
            // about.
            Code::OutOfRange => ClientError::Refused { reason: format!("{too_large} ({})", status.message()) },
            _ => self.error(&status),
        })?;
        Ok(answer.into_inner().into())
    }

    /// Goes back to an earlier version; 0 means the one that ran before the running one.
    ///
    /// # Cancel safety
    ///
    /// The rollback goes on without us.
    pub async fn roll_back(&self, name: &ServiceName, version: u64, by: &str) -> Result<PolicyStatus, ClientError> {
        let request = proto::RollbackPolicyRequest { service: name.to_string(), version, by: by.to_owned() };
        let answer = self.inner.clone().rollback_policy(request).await.map_err(|status| self.error(&status))?;
        Ok(answer.into_inner().into())
    }

    /// What a status means for whoever asked.
    fn error(&self, status: &Status) -> ClientError {
        let address = self.address.clone();
        // A status with a cause was made here, of a fault on the way; the others are the node's
        // words.
        if let Some(cause) = status.source() {
            let reason = innermost(cause);
            let lost = chain(cause).any(<dyn Error>::is::<std::io::Error>) || status.code() == Code::Unavailable;
            return if lost {
                ClientError::Unreachable { address, reason }
            } else {
                ClientError::NotANode { address, reason }
            };
        }
        let reason = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::PermissionDenied
            | Code::Unauthenticated => ClientError::Refused { reason },
            Code::Unimplemented => ClientError::NotANode { address, reason },
            code if reason.is_empty() => ClientError::Failed { address, reason: code.description().to_owned() },
            _ => ClientError::Failed { address, reason },
        }
    }
}

/// Follows one service on a node.
#[derive(Debug)]
pub struct ServiceWatch {
    stream: tonic::Streaming<proto::Service>,
    client: NodeClient,
}

impl ServiceWatch {
    /// The service as it is now, at first; then as it is after a change. States that came and went
    /// between two calls are left out.
    ///
    /// # Cancel safety
    ///
    /// Safe: a state that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Result<Service, ClientError> {
        match self.stream.message().await {
            Ok(Some(service)) => Ok(service.into()),
            Ok(None) => Err(ClientError::Failed {
                address: self.client.address.clone(),
                reason: "it ended the watch without a reason".into(),
            }),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn word<S: Serializer>(state: &Option<EndpointStatus>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.map_or("unknown", EndpointStatus::as_str))
}

/// An error and its causes, the innermost last.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The cause at the bottom: what stands above it says only that something went wrong.
fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

impl From<proto::Service> for Service {
    fn from(from: proto::Service) -> Self {
        Self {
            name: from.name,
            revision: from.revision,
            generation: from.generation,
            listed: from.listed,
            stale_seconds: from.stale_seconds,
            stale_reason: from.stale_reason,
            skipped_entries: from.skipped_entries,
            skipped_reasons: from.skipped_reasons,
            picks: from.picks,
            fallback_picks: from.fallback_picks,
            plan: from.plan,
            policy: from.policy.map(PolicyVersion::from).unwrap_or_default(),
            endpoint_count: from.endpoint_count,
            degraded: from.degraded,
            endpoints: from.endpoints.into_iter().map(Endpoint::from).collect(),
        }
    }
}

impl From<proto::Endpoint> for Endpoint {
    fn from(from: proto::Endpoint) -> Self {
        use proto::endpoint::State;
        let state = match from.state() {
            State::Ready => Some(EndpointStatus::Ready),
            State::Idle => Some(EndpointStatus::Idle),
            State::Connecting => Some(EndpointStatus::Connecting),
            State::BackingOff => Some(EndpointStatus::BackingOff),
            State::Silent => Some(EndpointStatus::Silent),
            State::Ejected => Some(EndpointStatus::Ejected),
            State::Unhealthy => Some(EndpointStatus::Unhealthy),
            State::Checking => Some(EndpointStatus::Checking),
            State::Unspecified => None,
        };
        Self {
            id: from.id,
            address: from.address,
            zone: from.zone,
            weight: from.weight,
            metadata: from.metadata.into_iter().collect(),
            state,
            in_flight: from.in_flight,
            latency_us: from.latency_us,
            calls: from.calls,
            failures: from.failures,
            load: from.load.map(LoadReport::from),
        }
    }
}

impl From<proto::LoadReport> for LoadReport {
    fn from(from: proto::LoadReport) -> Self {
        Self {
            cpu_utilization: from.cpu_utilization,
            memory_utilization: from.memory_utilization,
            application_utilization: from.application_utilization,
            rps: from.rps,
            eps: from.eps,
            named: from.named.into_iter().collect(),
            age_seconds: from.age_seconds,
        }
    }
}

impl From<proto::PolicyVersion> for PolicyVersion {
    fn from(from: proto::PolicyVersion) -> Self {
        use proto::policy_version::Outcome;
        let outcome = match from.outcome() {
            Outcome::Running => "running",
            Outcome::Superseded => "superseded",
            Outcome::Refused => "refused",
            Outcome::Quarantined => "quarantined",
            Outcome::Unspecified => "unknown",
        };
        Self {
            version: from.version,
            name: from.name,
            plugin_version: from.plugin_version,
            sha256: from.sha256,
            origin: from.origin,
            config: from.config,
            by: from.by,
            at_unix_ms: from.at_unix_ms,
            plan: from.plan,
            outcome,
            reason: from.reason,
            pick_failures: from.pick_failures,
            allow: from.allow,
        }
    }
}

impl From<proto::PolicyStatus> for PolicyStatus {
    fn from(from: proto::PolicyStatus) -> Self {
        Self {
            service: from.service,
            running: from.running.map(PolicyVersion::from).unwrap_or_default(),
            degraded: from.degraded,
            history: from.history.into_iter().map(PolicyVersion::from).collect(),
            generation: from.swap.is_some().then_some(from.generation),
            swap: from.swap.map(|swap| SwapTimes {
                load_seconds: swap.load_seconds,
                build_seconds: swap.build_seconds,
                publish_seconds: swap.publish_seconds,
                pick_seconds: swap.pick_seconds,
            }),
            warning: from.warning,
        }
    }
}
