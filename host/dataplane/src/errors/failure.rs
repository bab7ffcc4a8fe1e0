//! Why a call was not answered by an instance, and how its caller is told.
//!
//! "Unavailable" is never one error: [`Failure`] tells the cases apart, for people in
//! `grpc-message` and for programs in the header or trailer `waymark-error`.

use std::{error::Error, fmt::Write as _, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use thiserror::Error;
use waymark_balancer::{DiscoverError, Outcome};
use waymark_core::{
    model::{Address, ModelError, ServiceName, Skips},
    text,
    traffic::Code,
};
use waymark_http2::Fault;

use super::{
    connecting::ConnectError,
    http2::{ConnectionError, StreamError},
};
use crate::{
    limits::{GIVEN_UP, lookups::TooManyUnknown},
    wire::{
        fields::Forbidden,
        header_size::{LimitedBy, Section, TooLarge},
        hops::WAYMARK_HOPS,
        route::NoRoute,
        status::{GRPC_STATUS, WireCode as _},
    },
};

/// Names the case of a failure, in answers that this node made up itself.
pub const WAYMARK_ERROR: HeaderName = HeaderName::from_static("waymark-error");

/// The same of a node behind this one, or of an instance that passes itself off as one.
pub const UPSTREAM_ERROR: HeaderName = HeaderName::from_static("upstream-waymark-error");

/// How the headers begin that are this node's own.
const OWN: &str = "waymark-";

pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

type BoxError = Box<dyn Error + Send + Sync>;

/// A call that no instance answered. The service is named by whoever reports it.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Nothing says which service the request is for.
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    /// Its client's connection has begun and given up too many.
    #[error("more than {} calls of this connection were given up right after they began, and this node takes no more of them for now", GIVEN_UP.0)]
    GivesUpTooMuch,
    /// Its client is not among those that may call the service.
    #[error("{} is not among the clients that may call it (allow-clients in the configuration of this node)", client.as_deref().unwrap_or("a client without a certificate"))]
    Forbidden { client: Option<Box<str>> },
    /// Its client has asked for too many services that nobody has.
    #[error(transparent)]
    TooManyUnknown(#[from] TooManyUnknown),
    /// It has passed through as many nodes as a call may.
    #[error(
        "the call has passed through {passed} nodes and is taken to go in a circle: see whether an endpoint of the service is itself a node, or a \
         route of one leads back to another ({WAYMARK_HOPS})"
    )]
    Loop { passed: usize },
    /// Its headers or trailers are larger than somebody takes.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Nothing moved on it.
    #[error("nothing moved on the call in either direction for {} (`[clients] stream-idle-timeout-s`)", seconds(*limit))]
    StreamIdle { limit: Duration },
    /// What the request names is no service name.
    #[error("the request names no service that could exist")]
    BadName(#[source] ModelError),
    /// The key scheme refuses the name, or there are too many services.
    #[error("the service cannot be balanced here")]
    Discover(#[source] DiscoverError),
    /// The service was taken away while the call waited.
    #[error("this node stopped balancing the service")]
    Closed,
    /// Nothing is known of the service, because the registry has never been reached.
    #[error("nothing is known of it yet, because the registry cannot be reached: {reason}")]
    RegistryUnreachable { reason: Arc<str> },
    /// Nothing is known of the service, because its first list has not come yet.
    #[error("nothing is known of it yet: the registry has not answered within {}", seconds(*waited))]
    NotListed { waited: Duration },
    /// The registry says that there are no instances.
    #[error("the registry has no instance of it (looked at revision {revision}){}", left_out(skips))]
    NoEndpoints { revision: i64, skips: Skips },
    /// There are endpoints, and none can be reached.
    #[error("it has {known} known endpoint(s), and none can be reached: {backing_off} wait(s) to be tried again")]
    NoneReachable {
        known: usize,
        backing_off: usize,
        #[source]
        last: Option<AttemptError>,
    },
    /// There are endpoints, and those that can be reached do not pass their check.
    #[error(
        "it has {known} known endpoint(s), and none may be used: {unhealthy} fail(s) the health check, {backing_off} wait(s) to be connected to again"
    )]
    NoneHealthy {
        known: usize,
        unhealthy: usize,
        backing_off: usize,
        #[source]
        last: Option<UnfitError>,
    },
    /// There are endpoints, and none may be used although they can be reached.
    #[error("it has {known} known endpoint(s), and none may be used: their weight is 0")]
    NoneUsable { known: usize },
    /// Attempts were made, and there is nothing left to try.
    #[error(
        "no endpoint took the call in {attempts} attempt(s); {known} known, {backing_off} waiting to be tried again"
    )]
    AllTried {
        attempts: usize,
        known: usize,
        backing_off: usize,
        #[source]
        last: Option<AttemptError>,
    },
    /// The policy said fail.
    #[error("its policy {policy} fails the call: {message}")]
    PolicyFail { policy: Arc<str>, message: String },
    /// The policy said drop.
    #[error("its policy {policy} drops the call: {message}")]
    PolicyDrop { policy: Arc<str>, message: String },
    /// It waited for as long as a call may that did not ask to.
    #[error("{why}; the call waited {}, the longest it may", seconds(*waited))]
    QueueTimeout { why: Waiting, waited: Duration },
    /// It would have to wait, and too many do so already.
    #[error("{why}, and {max_pending} call(s) wait already, as many as may")]
    Overloaded { why: Waiting, max_pending: u32 },
    /// It waited for readiness, and its own time is over.
    #[error("deadline exceeded while waiting for an endpoint")]
    NeverReady {
        #[source]
        cause: Box<Failure>,
    },
    /// The call's own time is over.
    #[error("deadline exceeded {stage}")]
    Deadline { stage: CallStage },
    /// `grpc-timeout` is not what gRPC says it is.
    #[error("malformed grpc-timeout {value:?}: up to 8 digits and one of H, M, S, m, u, n were expected")]
    BadTimeout { value: String },
    /// The server reset the call.
    #[error("the instance at {address} reset the call: {}", reason.name())]
    Reset { address: Address, reason: waymark_http2::Code },
    /// The connection broke while the server had the call.
    #[error("the connection to the instance at {address} was lost after the request was sent")]
    Lost {
        address: Address,
        #[source]
        cause: Arc<ConnectionError>,
    },
    /// The server's answer is not HTTP/2.
    #[error("the instance at {address} broke the rules of HTTP/2 in its answer")]
    BadAnswer {
        address: Address,
        #[source]
        cause: Fault,
    },
    /// The server's answer ended, and did not say how the call went.
    #[error("the instance at {address} ended its answer without a status")]
    NoStatus { address: Address },
    /// Something else than gRPC answered.
    #[error("the instance at {address} does not speak gRPC: it answered with HTTP status {status}")]
    NotGrpc { address: Address, status: StatusCode },
    /// The request could not be sent as HTTP/2.
    #[error("the request cannot be sent to the instance at {address}")]
    Unsendable {
        address: Address,
        #[source]
        cause: Forbidden,
    },
    /// The caller broke its request off.
    #[error("the caller broke off its request")]
    RequestBody(#[source] BoxError),
}

/// What a call was doing when its deadline came.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum CallStage {
    #[error("before the call began")]
    Arriving,
    #[error("while waiting for the registry's first answer")]
    Listing,
    #[error("while the call waited, because {0}")]
    Waiting(Waiting),
    #[error("while connecting to {0}")]
    Connecting(Address),
    #[error("while waiting for the answer of the instance at {0}")]
    Answering(Address),
    #[error("while the instance at {0} was sending its answer")]
    Reading(Address),
}

/// Why a call waits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Waiting {
    #[error("as many of its calls run on this node as may")]
    Place,
    #[error("as many calls run on each of its usable endpoints as may")]
    Endpoint,
    #[error("there is no free stream at the instance at {0}, on as many connections as there may be")]
    Stream(Address),
    #[error("its endpoints are being checked, and none has passed yet")]
    Check,
    #[error("its policy {0} holds calls back")]
    Policy(Arc<str>),
    #[error("none of its endpoints can be used")]
    Ready,
}

/// One attempt that the endpoint's server cannot have seen.
#[derive(Debug, Error)]
#[error("the last error was at {address}")]
pub(crate) struct AttemptError {
    pub(crate) address: Address,
    #[source]
    pub(crate) cause: AttemptCause,
}

/// What the check of an endpoint found.
#[derive(Debug, Error)]
#[error("{address}: {reason}")]
pub(crate) struct UnfitError {
    pub(crate) address: Address,
    pub(crate) reason: Arc<str>,
}

/// Why an attempt did not reach the server.
#[derive(Debug, Error)]
pub(crate) enum AttemptCause {
    #[error(transparent)]
    Connect(#[from] Arc<ConnectError>),
    #[error("the server refused the call unseen")]
    Refused,
    #[error("the connection was closing")]
    Closing(#[source] Arc<ConnectionError>),
    #[error("the connection was lost before the answer")]
    Lost(#[source] Arc<ConnectionError>),
    #[error("the server did not answer at all")]
    Silent,
    #[error("still connecting, or waiting for a free stream")]
    Slow,
}

impl Failure {
    /// What the end of a request means that its source brought about.
    pub(crate) fn of_request(error: BoxError) -> Self {
        error.downcast::<TooLarge>().map_or_else(Self::RequestBody, |large| Self::TooLarge(*large))
    }

    /// What an error of a call's stream means, once the server may have seen the call. What is too
    /// large of its answer is `what`, and this node takes `most` of it.
    pub(crate) fn of_stream(address: Address, error: StreamError, what: fn(Address) -> Section, most: u32) -> Self {
        match error {
            StreamError::Reset(reason) => Self::Reset { address, reason },
            StreamError::Fault(cause) => Self::BadAnswer { address, cause },
            StreamError::TooLarge(bytes) => {
                TooLarge { what: what(address), bytes, most, by: LimitedBy::Endpoints }.into()
            }
            StreamError::GivenUp => Self::RequestBody(error.into()),
            StreamError::Lost(cause) | StreamError::Unseen(cause) => Self::Lost { address, cause },
        }
    }

    /// Whether a server that had the call is to blame: then it is as good as an answer to a retry
    /// policy.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Reset { .. }
                | Self::Lost { .. }
                | Self::BadAnswer { .. }
                | Self::NoStatus { .. }
                | Self::NotGrpc { .. }
        )
    }

    /// Whether there was nobody to send the call to, and may be in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoEndpoints { .. } | Self::NoneReachable { .. } | Self::NoneHealthy { .. } | Self::AllTried { .. }
        )
    }

    /// What it says of the endpoint that the call was sent to.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Lost { .. } | Self::BadAnswer { .. } | Self::NoStatus { .. } | Self::NotGrpc { .. } => {
                Outcome::Failed
            }
            Self::TooLarge(large) if large.by == LimitedBy::Endpoints => Outcome::Errored,
            // A reset has its reasons, and a deadline is the caller's; but who only ever answers so
            // does not serve.
            Self::Reset { .. } | Self::Deadline { stage: CallStage::Answering(_) | CallStage::Reading(_) } => {
                Outcome::Errored
            }
            _ => Outcome::Cancelled,
        }
    }

    /// The status that the caller gets. Those that may be tried again at once or later are
    /// UNAVAILABLE.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::GivesUpTooMuch
            | Self::TooManyUnknown(_)
            // As gRPC's libraries say of what is over their limits.
            | Self::TooLarge(_)
            | Self::Discover(DiscoverError::TooMany { .. }) => Code::ResourceExhausted,
            Self::Forbidden { .. } | Self::Discover(DiscoverError::NotAllowed { .. }) => Code::PermissionDenied,
            // Not one that retries are made for: each node of the circle would make its own.
            Self::Loop { .. } => Code::FailedPrecondition,
            // To try again would not help.
            Self::NoRoute(_) | Self::BadName(_) | Self::Discover(_) => Code::Unimplemented,
            Self::Deadline { .. } | Self::NeverReady { .. } | Self::StreamIdle { .. } => Code::DeadlineExceeded,
            Self::BadTimeout { .. } | Self::Unsendable { .. } | Self::BadAnswer { .. } | Self::NoStatus { .. } => {
                Code::Internal
            }
            Self::NotGrpc { status, .. } => Code::of_http(*status),
            Self::Reset { reason, .. } => Code::of_reset(*reason),
            Self::RequestBody(_) => Code::Cancelled,
            Self::Closed
            | Self::RegistryUnreachable { .. }
            | Self::NotListed { .. }
            | Self::NoEndpoints { .. }
            | Self::NoneReachable { .. }
            | Self::NoneHealthy { .. }
            | Self::NoneUsable { .. }
            | Self::AllTried { .. }
            | Self::PolicyFail { .. }
            | Self::PolicyDrop { .. }
            | Self::QueueTimeout { .. }
            // As gRPC's circuit breaking (A32) has it.
            | Self::Overloaded { .. }
            | Self::Lost { .. } => Code::Unavailable,
        }
    }

    /// The value of `waymark-error`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NoRoute(_) => "no-route",
            Self::GivesUpTooMuch => "too-many-given-up",
            Self::Forbidden { .. } => "forbidden",
            Self::TooManyUnknown(_) => "too-many-unknown-services",
            Self::Loop { .. } => "loop",
            Self::TooLarge(_) => "headers-too-large",
            Self::StreamIdle { .. } => "stream-idle",
            Self::BadName(_) => "bad-service-name",
            Self::Discover(DiscoverError::NotAllowed { .. }) => "service-not-allowed",
            Self::Discover(DiscoverError::TooMany { .. }) => "too-many-services",
            Self::Discover(_) => "service-refused",
            Self::Closed => "service-removed",
            Self::RegistryUnreachable { .. } => "registry-unreachable",
            Self::NotListed { .. } => "not-listed",
            Self::NoEndpoints { .. } => "no-endpoints",
            Self::NoneReachable { .. } => "none-reachable",
            Self::NoneHealthy { .. } => "none-healthy",
            Self::NoneUsable { .. } => "none-usable",
            Self::AllTried { .. } => "all-tried",
            Self::PolicyFail { .. } => "policy-fail",
            Self::PolicyDrop { .. } => "policy-drop",
            Self::QueueTimeout { .. } => "queue-timeout",
            Self::Overloaded { .. } => "overloaded",
            Self::NeverReady { .. } => "never-ready",
            Self::Deadline { .. } => "deadline-exceeded",
            Self::BadTimeout { .. } => "bad-timeout",
            Self::Reset { .. } => "endpoint-reset",
            Self::Lost { .. } => "endpoint-lost",
            Self::BadAnswer { .. } => "bad-answer",
            Self::NoStatus { .. } => "no-status",
            Self::NotGrpc { .. } => "answer-not-grpc",
            Self::Unsendable { .. } => "unsendable",
            Self::RequestBody(_) => "request-broken-off",
        }
    }

    /// The failure with the service it is about, and its causes, as one line: printable, and short
    /// whatever callers and instances say.
    fn message(&self, service: &str) -> String {
        let mut line = String::new();
        // Writing to a String does not fail, here and below.
        if !service.is_empty() {
            let _ = write!(line, "service {}: ", text::shown(service, text::NAME));
        }
        let _ = write!(line, "{}", text::shown(self, text::WORDS));
        // A variant that shows its source as its own text has that source's source next, so nothing
        // is said twice.
        let mut source = self.source();
        while let Some(cause) = source {
            let _ = write!(line, ": {}", text::shown(cause, text::NAME));
            source = cause.source();
        }
        line
    }

    /// Writes status, message and kind, as headers or as trailers.
    pub(crate) fn write(&self, service: &str, into: &mut HeaderMap) {
        into.insert(GRPC_STATUS, self.code().header_value());
        into.insert(GRPC_MESSAGE, percent_encode(&self.message(service)));
        into.insert(WAYMARK_ERROR, HeaderValue::from_static(self.kind()));
    }

    /// The trailers of a call that fails after its answer began.
    pub(crate) fn trailers(&self, service: &ServiceName) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(3);
        self.write(service.as_str(), &mut trailers);
        trailers
    }

    /// The head of a trailers-only answer.
    pub(crate) fn response<B>(&self, service: &str, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.version_mut() = http::Version::HTTP_2;
        let headers = response.headers_mut();
        headers.reserve(4);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.write(service, headers);
        response
    }
}

/// Takes off what only this node may say, for whatever an instance meant by it: callers take it for
/// this node's word. What an instance that is itself a node says of a failure is kept under another
/// name.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    // Most answers have none, and few headers.
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with(OWN)).cloned() {
        if let Some(value) = headers.remove(&name)
            && name == WAYMARK_ERROR
            && !headers.contains_key(UPSTREAM_ERROR)
        {
            headers.insert(UPSTREAM_ERROR, value);
        }
    }
}

/// What a caller is told of entries that there are.
fn left_out(skips: &Skips) -> String {
    if skips.total() == 0 {
        String::new()
    } else {
        format!("; entries and instances that are there were left out: {skips}")
    }
}

/// `grpc-message`: what is not printable ASCII, and the percent sign, as %XX of its UTF-8 bytes
/// (PROTOCOL-HTTP2.md, "Responses").
fn percent_encode(message: &str) -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(encoded)).expect("printable ASCII is a header value")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_message_is_percent_encoded_as_grpc_asks() {
        assert_eq!(percent_encode("a 100% café\n"), "a 100%25 caf%C3%A9%0A");
    }

    #[test]
    fn a_failure_names_service_address_and_cause() {
        let connect = ConnectError::Socket(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let failure = Failure::NoneReachable {
            known: 3,
            backing_off: 3,
            last: Some(AttemptError {
                address: "192.0.2.1:80".parse().unwrap(),
                cause: AttemptCause::Connect(Arc::new(connect)),
            }),
        };
        let response = failure.response("ayang/server1", ());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[GRPC_STATUS], "14");
        assert_eq!(response.headers()[WAYMARK_ERROR], "none-reachable");
        assert_eq!(
            response.headers()[GRPC_MESSAGE],
            "service ayang/server1: it has 3 known endpoint(s), and none can be reached: 3 wait(s) to be tried again: \
             the last error was at 192.0.2.1:80: cannot connect: connection refused"
        );
    }
}
