//! What an error of `etcd_client` means to us.

use std::time::Duration;

use etcd_client::Error;

use crate::error::{CallError, Cause, RegistryError};

/// gRPC's status codes, by number, so that no gRPC library needs naming here.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// etcd puts this before every message of its own.
const ETCD: &str = "etcdserver: ";

/// Whom to name when a call fails.
#[derive(Debug, Clone)]
pub(super) struct Blame {
    /// The endpoint, with its scheme.
    pub(super) endpoint: String,
    /// Who we are there, if anybody.
    pub(super) user: Option<String>,
    /// How long a call waits.
    pub(super) after: Duration,
}

impl Blame {
    /// Tells apart what callers treat differently. `what` is what was to be done, as a verb with
    /// its object.
    pub(super) fn classify(&self, what: &str, error: &Error) -> CallError {
        let endpoint = self.endpoint.clone();
        let status = match error {
            Error::GRpcStatus(status) => status,
            // The one answer that the client judges itself: a time to live of 0.
            Error::LeaseKeepAliveError(message) if message == "lease not found" => return CallError::LeaseGone,
            // Shown before anything is sent: a certificate or key that does not parse, most often.
            Error::TransportError(error) => {
                return RegistryError::Endpoint { endpoint, problem: format!("cannot be used: {}", Cause::of(error)) }
                    .into();
            }
            Error::InvalidArgs(problem) | Error::EndpointError(problem) => {
                return RegistryError::Endpoint { endpoint, problem: problem.clone() }.into();
            }
            other => return RegistryError::Unreachable { endpoint, source: Cause::of(other) }.into(),
        };
        let from_etcd = status.message().starts_with(ETCD);
        let message = status.message().strip_prefix(ETCD).unwrap_or(status.message()).to_owned();
        let what = what.to_owned();
        // A balancer's word, of a server that it does not reach: tonic makes a code of the HTTP
        // status where there is no other.
        if !from_etcd && message.contains("mapped from HTTP status code") {
            return RegistryError::Unreachable { endpoint, source: Cause::new(message) }.into();
        }
        let failed = match i32::from(status.code()) {
            code::OUT_OF_RANGE if message.contains("has been compacted") => return CallError::Compacted,
            code::NOT_FOUND if message == "requested lease not found" => return CallError::LeaseGone,
            code::UNAVAILABLE if from_etcd => RegistryError::Unavailable { endpoint, message },
            code::DEADLINE_EXCEEDED | code::CANCELLED => RegistryError::TimedOut { endpoint, after: self.after },
            code::UNAVAILABLE | code::UNKNOWN | code::INTERNAL if !from_etcd => {
                RegistryError::Unreachable { endpoint, source: cause(status, &message) }
            }
            code::UNIMPLEMENTED => {
                RegistryError::NotEtcd { endpoint, found: format!("it does not know the call to {what} ({message})") }
            }
            code::INVALID_ARGUMENT if message == "user name is empty" => {
                RegistryError::AuthenticationNeeded { endpoint }
            }
            code::INVALID_ARGUMENT if message.starts_with("authentication failed") => {
                RegistryError::AuthenticationRefused { endpoint, user: self.user.clone().unwrap_or_default() }
            }
            code::UNAUTHENTICATED => match self.user.clone() {
                Some(user) => RegistryError::AuthenticationRefused { endpoint, user },
                None => RegistryError::AuthenticationNeeded { endpoint },
            },
            // Users changed since this token was given, or this member has yet to learn of what
            // another one said.
            _ if message == "revision of auth store is old" || message.contains("future revision") => {
                RegistryError::Unavailable { endpoint, message }
            }
            // Its store is full, or it has too much to do: whoever runs it mends that.
            code::RESOURCE_EXHAUSTED if from_etcd => RegistryError::Unavailable { endpoint, message },
            // Too large, for etcd or for gRPC before it; too many; an empty key; too long a time to
            // live.
            code::INVALID_ARGUMENT | code::OUT_OF_RANGE | code::RESOURCE_EXHAUSTED => {
                RegistryError::NeverTaken { endpoint, what, message }
            }
            code::PERMISSION_DENIED => RegistryError::PermissionDenied { endpoint, user: self.user.clone(), what },
            _ => RegistryError::Refused { endpoint, what, message },
        };
        failed.into()
    }

    /// The same for a stream, which acts on no particular answer.
    pub(super) fn classify_stream(&self, error: &Error) -> RegistryError {
        match self.classify("watch", error) {
            CallError::Failed(error) => error,
            error @ (CallError::Compacted | CallError::LeaseGone) => RegistryError::Refused {
                endpoint: self.endpoint.clone(),
                what: "watch".to_owned(),
                message: error.to_string(),
            },
        }
    }
}

/// What lies beneath a transport's failure. The outermost words ("transport error", "error trying
/// to connect") say less than the innermost, which come from the operating system or TLS.
fn cause(status: &(dyn std::error::Error + 'static), message: &str) -> Cause {
    let mut texts = Vec::new();
    let mut source = status.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    match texts.as_slice() {
        [] => Cause::new(message),
        [.., above, last] if !above.contains(last.as_str()) && !above.contains("transport error") => {
            Cause::new(format!("{above}: {last}"))
        }
        [.., last] => Cause::new(last),
    }
}

/// What to do when TLS failed for this reason. The words are rustls's. With TLS 1.3 a server
/// refuses a client's certificate after the handshake, and its alert is often lost with the
/// connection: hence what is likely where nothing is known.
pub(super) fn tls_advice(cause: &Cause, with_certificate: bool) -> &'static str {
    let any = |texts: &[&str]| texts.iter().any(|text| cause.contains(text));
    if any(&["UnknownIssuer", "BadSignature"]) {
        "; its certificate is of no authority trusted here: name the right one (--registry-ca)"
    } else if any(&["not valid for name", "NotValidForName"]) {
        "; its certificate is for another name: use that name in the address, or set server-name in [registry]"
    } else if cause.is_about_dates() {
        "; its certificate is out of date, or the clock of this machine is wrong"
    } else if with_certificate {
        "; perhaps it does not take our client certificate: give one of an authority that it trusts (--registry-cert, --registry-key)"
    } else {
        "; perhaps it wants a client certificate: give one (--registry-cert, --registry-key)"
    }
}

/// The words of the status, if there is one.
pub(super) fn message_of(error: &Error) -> &str {
    match error {
        Error::GRpcStatus(status) => status.message(),
        _ => "",
    }
}

/// Whether a fresh token may help: the old one has expired, users or roles were changed since it
/// was given, or authentication was turned on after we connected.
pub(super) fn is_about_token(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    i32::from(status.code()) == code::UNAUTHENTICATED
        || ["invalid auth token", "revision of auth store is old", "user name is empty"]
            .iter()
            .any(|text| status.message().ends_with(text))
}
