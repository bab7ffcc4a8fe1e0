//! Why a request goes no further than the guard, and how many do not.

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use thiserror::Error;
use tonic::Code;
use waymark_core::exposition::Families;

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Rejection {
    #[error(
        "this node is not called \"{0}\": call it by its address or as localhost, or list the name in allowed-hosts of [admin]"
    )]
    ForeignHost(String),
    #[error("this is no place for requests that a web page of \"{0}\" makes")]
    ForeignOrigin(String),
    #[error("this is no place for requests that web pages make")]
    CrossSite,
    #[error("pages are read with GET, and calls are gRPC over HTTP/2")]
    Method,
    #[error("calls are gRPC over HTTP/2, and this is {0}")]
    NotHttp2(&'static str),
    #[error("calls are gRPC: content-type application/grpc")]
    ContentType,
    #[error("this port answers probes (health, readiness and metrics); the rest is on the node's other ports")]
    ProbesOnly,
    #[error(
        "{0}: show a token (--token-file or WAYMARK_TOKEN_FILE; as a header, `authorization: Bearer TOKEN`), or a certificate that may \
         (--cert-file, --key-file), or come over the node's Unix socket (--node unix:/PATH)"
    )]
    NotProven(&'static str),
    #[error("{0} may not change anything here: allow-clients or allow-uids of [admin] say who may")]
    NotAllowed(String),
    #[error("the header `authorization` is not `Bearer TOKEN`")]
    NoBearer,
    #[error("this node does not know this token")]
    WrongToken,
    #[error("as many changes are under way as may be at once: try again later")]
    Busy,
}

impl Rejection {
    /// The status for people, and for web pages.
    pub(super) fn http(&self) -> StatusCode {
        match self {
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin(_) | Self::CrossSite | Self::ProbesOnly | Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotHttp2(_) => StatusCode::BAD_REQUEST,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotProven(_) | Self::NoBearer | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The status for gRPC's clients.
    pub(super) fn grpc(&self) -> Code {
        match self {
            Self::NotProven(_) | Self::NoBearer | Self::WrongToken => Code::Unauthenticated,
            Self::Busy => Code::ResourceExhausted,
            _ => Code::PermissionDenied,
        }
    }

    /// The same as a metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::ForeignHost(_) => "host",
            Self::ForeignOrigin(_) | Self::CrossSite => "origin",
            Self::Method | Self::NotHttp2(_) | Self::ContentType => "protocol",
            Self::ProbesOnly => "probes-only",
            Self::NotProven(_) => "no-credential",
            Self::NoBearer | Self::WrongToken => "wrong-credential",
            Self::NotAllowed(_) => "not-allowed",
            Self::Busy => "busy",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Requests to the node's API that went no further than its guard.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Family<Reason, Counter>);

impl Refused {
    pub(super) fn register(families: &mut Families) -> Self {
        let refused = Self::default();
        let help = "Requests to the node's API that were refused before any of it saw them, by why";
        families.top().register("admin_requests_refused", help, refused.0.clone());
        refused
    }

    pub(super) fn count(&self, reason: &'static str) {
        self.0.get_or_create(&Reason { reason }).inc();
    }
}
