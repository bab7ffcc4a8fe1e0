//! Service discovery and load balancing over etcd inside a Rust program, with policies and key
//! schemes that are WebAssembly components.
//!
//! A [`Client`] follows services in etcd and gives [`Channel`]s to them, for any tonic client. Its
//! [`Registry`] keeps instances registered.
//!
//! ```no_run
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! use waymark::{Client, ClientConfig, PluginChoice};
//!
//! let mut config = ClientConfig::etcd(["http://127.0.0.1:2379"]);
//! config.policy = PluginChoice::bundled("least_request");
//! let client = Client::start(config).await?;
//! let channel = client.dial("etcd:///ayang/server1")?;
//! // Greeter1Client::new(channel), or any other tonic client.
//! # drop(channel);
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `embedded` a program can bring its own registry along, in memory, for tests and
//! for single machines.
#![forbid(unsafe_code)]

mod client;

pub use client::Client;
pub use waymark_balancer::{
    Candidate, DiscoverError, Discoverable, EndpointState, EndpointStatus, HashKey, HashKeyError, Pattern, PolicyInfo,
    PolicyOutcome, PolicyVersion, Published, ServiceChange, ServiceChanges, ServiceClosed, ServiceHandle, ServiceState,
    Services, StateReader, SwapError, SwapTimes,
};
pub use waymark_core::{
    check::{Check, CheckConfig},
    model::{Address, Endpoint, InstanceId, Locality, ModelError, ServiceName, Ttl},
    naming::NamingError,
    policy::BuildError,
    traffic::{
        CallLimits, Code, CodeSet, FailurePercentage, HedgingPolicy, MethodConfig, Methods, OutlierDetection, Repeat,
        RetryBudget, RetryPolicy, ServiceConfigError, SlowStart, SuccessRate, Traffic,
    },
};
pub use waymark_dataplane::{
    AccessFormat, AccessTarget, Channel, ClientRule, ConnectOptions, TargetError, WaitForReady,
};
pub use waymark_net::address_filter::{AddressFilter, Allow};
pub use waymark_registry::{
    Cause, EntryLimits, Password, Registration, RegistrationConfig, RegistrationState, Registry, RegistryConfig,
    RegistryError, RemovalDamping, TlsConfig, User,
};
pub use waymark_runtime::{CompileLimits, EngineError, Grants, Limits, LoadError};
#[cfg(feature = "embedded")]
pub use waymark_stages::config::Embedded;
pub use waymark_stages::{
    CertificateError, StartError,
    config::{ClientConfig, Discovery, PluginChoice, PluginRef, RegistrySource, ServiceConfig, TlsFiles, Transport},
    load::PluginError,
};
