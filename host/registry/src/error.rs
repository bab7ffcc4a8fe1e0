//! What can go wrong with the registry, told apart by what a caller should do about it.

use std::{error::Error, fmt, time::Duration};

use thiserror::Error;
use waymark_core::{
    model::ServiceName,
    naming::NamingError,
    text::{self, NAME, WORDS, shown},
};

/// Why the registry did not do what it was asked.
///
/// What to do: where [`is_transient`](Self::is_transient) says so, try again with a pause that
/// grows and has some randomness (the background tasks of this module do so for ever by
/// themselves); otherwise change the input or the configuration, as the message says.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The configuration names no endpoint.
    #[error("no registry endpoint is configured; give at least one, for example http://127.0.0.1:2379")]
    NoEndpoint,
    /// An endpoint, or what is configured for it, cannot be used.
    #[error("registry endpoint {endpoint:?} {problem}")]
    Endpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing answers there. Transient.
    #[error("cannot reach the registry at {endpoint}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// What the network said.
        #[source]
        source: Cause,
    },
    /// Something accepts connections there, and the call got no answer in time. Transient.
    #[error("the registry at {endpoint} did not answer within {after:?}")]
    TimedOut {
        /// The endpoint.
        endpoint: String,
        /// How long we waited.
        after: Duration,
    },
    /// etcd answered that it cannot serve now: no leader, no quorum, a leader election. Transient.
    #[error("the registry at {endpoint} cannot serve now: {message}", message = shown(.message, WORDS))]
    Unavailable {
        /// The endpoint.
        endpoint: String,
        /// etcd's words.
        message: String,
    },
    /// The endpoint was given as plain text and speaks TLS.
    #[error(
        "the registry at {endpoint} wants TLS; write its address with https:// (and --registry-ca if its authority is not one of the system's)"
    )]
    WantsTls {
        /// The endpoint.
        endpoint: String,
    },
    /// The endpoint was given as TLS and speaks plain text.
    #[error("the registry at {endpoint} does not speak TLS; write its address with http://")]
    SpeaksPlaintext {
        /// The endpoint.
        endpoint: String,
    },
    /// Both sides speak TLS and did not agree: usually an unknown authority, another name, or a
    /// missing client certificate.
    #[error("cannot agree on TLS with the registry at {endpoint}{advice}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What to do, where that is known; begins with a separator.
        advice: &'static str,
        /// What TLS said.
        #[source]
        source: Cause,
    },
    /// Something else than etcd answers there.
    #[error("what answers at {endpoint} is not an etcd: {found}", found = shown(.found, WORDS))]
    NotEtcd {
        /// The endpoint.
        endpoint: String,
        /// What it did.
        found: String,
    },
    /// etcd wants a user and a password, and none is configured.
    #[error("the registry at {endpoint} wants a user and a password")]
    AuthenticationNeeded {
        /// The endpoint.
        endpoint: String,
    },
    /// etcd does not take the user and password.
    #[error("the registry at {endpoint} refuses user {user:?} or the password")]
    AuthenticationRefused {
        /// The endpoint.
        endpoint: String,
        /// The user.
        user: String,
    },
    /// The user may not read or write these keys.
    #[error("the registry at {endpoint} does not let {} {what}", .user.as_deref().unwrap_or("an anonymous user"), what = shown(.what, WORDS))]
    PermissionDenied {
        /// The endpoint.
        endpoint: String,
        /// The user, if one is configured.
        user: Option<String>,
        /// What was to be done.
        what: String,
    },
    /// etcd will never take this, whoever asks: it is too large, for one.
    #[error("the registry at {endpoint} does not take it: cannot {what}: {message}", what = shown(.what, WORDS), message = shown(.message, WORDS))]
    NeverTaken {
        /// The endpoint.
        endpoint: String,
        /// What was to be done.
        what: String,
        /// etcd's words.
        message: String,
    },
    /// etcd refused for another reason.
    #[error("the registry at {endpoint} refused to {what}: {message}", what = shown(.what, WORDS), message = shown(.message, WORDS))]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// What was to be done.
        what: String,
        /// etcd's words.
        message: String,
    },
    /// The address cannot be registered.
    #[error("{0}")]
    Advertised(String),
    /// The key scheme refused or failed.
    #[error("cannot register with this key scheme")]
    Naming(#[source] NamingError),
    /// The key scheme would write where no reader of the service looks. Nothing was written.
    #[error("key scheme {scheme} writes \"{key}\" for service {service}, outside the prefixes it reads: {}", shown(.prefixes.join(", "), WORDS), key = shown(.key, NAME))]
    KeyOutsidePrefixes {
        /// The scheme's name.
        scheme: String,
        /// The service.
        service: ServiceName,
        /// The key.
        key: String,
        /// The prefixes of the service.
        prefixes: Vec<String>,
    },
    /// The key scheme's entries cannot be written in one transaction. Nothing was written.
    #[error("key scheme {scheme} writes entries for service {service} that cannot be registered: {problem}", problem = shown(.problem, WORDS))]
    Entries {
        /// The scheme's name.
        scheme: String,
        /// The service.
        service: ServiceName,
        /// What is wrong with them.
        problem: String,
    },
    /// What was asked for is lost through a fault of this program's. Transient: what is asked again
    /// is another call.
    #[error("{what} is lost, through a fault inside Waymark; please report what the log says of a panic")]
    Internal {
        /// What was asked for.
        what: String,
    },
    /// The registration has ended: it was deregistered, or its runtime shut down.
    #[error("the registration of {service} has ended")]
    Ended {
        /// The service.
        service: ServiceName,
    },
    /// The lease could not be revoked in time: the instance disappears when it expires. Transient,
    /// and nothing more to do.
    #[error("could not deregister from {service} in time; the entry goes away by itself within {within:?}")]
    NotRevoked {
        /// The service.
        service: ServiceName,
        /// The most time until the lease expires.
        within: Duration,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl RegistryError {
    /// Whether the same call may well succeed later without a change on our side.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::Unavailable { .. }
                | Self::NotRevoked { .. }
                | Self::Internal { .. }
        )
    }

    /// Whether waiting alone may mend it. What may not is in what is configured here, and whoever
    /// is started with it had better not run.
    pub fn may_pass(&self) -> bool {
        self.is_transient()
            || match self {
                // A balancer before an etcd that has yet to start, most often.
                Self::NotEtcd { .. } => true,
                // Whoever runs it renews its certificate.
                Self::Tls { source, .. } => source.is_about_dates(),
                _ => false,
            }
    }

    /// Whether the same is refused for ever, whatever anybody else does.
    pub fn is_for_good(&self) -> bool {
        matches!(
            self,
            Self::NeverTaken { .. }
                | Self::Advertised(_)
                | Self::KeyOutsidePrefixes { .. }
                | Self::Entries { .. }
                | Self::Naming(NamingError::Refused { .. })
        )
    }

    /// Whether another endpoint of the same cluster may do better.
    pub(super) fn try_elsewhere(&self) -> bool {
        self.is_transient() && !matches!(self, Self::Internal { .. })
            || matches!(
                self,
                Self::WantsTls { .. } | Self::SpeaksPlaintext { .. } | Self::Tls { .. } | Self::NotEtcd { .. }
            )
    }
}

/// What lies beneath a failure, as text: the causes of foreign libraries, outermost first, each
/// once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text::printable(&text.into(), WORDS))
    }

    /// Whether a certificate is not good any more, or not yet. The words are rustls's.
    pub(super) fn is_about_dates(&self) -> bool {
        ["certificate expired", "Expired", "NotValidYet", "not valid yet"].iter().any(|text| self.contains(text))
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    /// Collects the chain that begins at `error`.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self(chain(error))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

/// An error with all its causes, printable, for the one place that logs it. A cause that only
/// repeats the end of what came before is left out.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text::printable(&text, 2 * WORDS)
}

/// What can come of one call to etcd: the answers that our state machines act on, and all others.
#[derive(Debug, Clone, Error)]
pub(super) enum CallError {
    /// The revision asked for is no longer there: list again.
    #[error("the revision asked for has been compacted")]
    Compacted,
    /// The lease does not exist (any more).
    #[error("the lease has expired or was revoked")]
    LeaseGone,
    /// Everything else.
    #[error(transparent)]
    Failed(#[from] RegistryError),
}
