//! Why the stages do not start.

use std::io;

use thiserror::Error;
use waymark_balancer::DiscoverError;
use waymark_core::policy::BuildError;
use waymark_dataplane::AccessTarget;
#[cfg(feature = "embedded")]
use waymark_embedded::EmbeddedError;
use waymark_registry::RegistryError;
use waymark_runtime::EngineError;

use crate::{certificates::CertificateError, load::PluginError};

/// Why discovery and balancing do not start. Nothing of it runs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The access log cannot be opened.
    #[error("cannot write the access log to {to}: {source}; name another place with --access-log")]
    AccessLog {
        /// Where it should go.
        to: AccessTarget,
        /// Why.
        source: io::Error,
    },
    /// The configured certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The plugin engine does not run on this machine.
    #[error("cannot start the plugin engine: {0}")]
    Engine(#[from] EngineError),
    /// A configured plugin cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A configured policy refuses its configuration.
    #[error("{whose}: {source}")]
    Policy {
        /// The service, or the default.
        whose: String,
        /// What the policy said.
        source: BuildError,
    },
    /// The registry cannot be used, and trying again would not help.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The embedded registry does not start.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// A configured service cannot be balanced.
    #[error(transparent)]
    Service(#[from] DiscoverError),
}
