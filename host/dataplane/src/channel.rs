//! The same balancer in the client's own process: no extra hop.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body::Body;
use thiserror::Error;
use tokio::time::Instant;
use tower_service::Service;
use waymark_core::{
    model::{ModelError, ServiceName},
    text,
};

use crate::call::{
    body::ResponseBody,
    client::Origin,
    run::{RequestedService, call},
    shared::{Dataplane, Shared},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// A balanced channel to one service, for any tonic client: `GreeterClient::new(channel)`. Cheap to
/// clone; clones share connections, as do all channels and the proxy of one [`Dataplane`].
///
/// It is always ready: calls wait for a connection or for endpoints themselves, up to their
/// deadline. Dropping a call cancels it.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
    service: ServiceName,
}

impl Channel {
    /// A channel to `service` as `dataplane` balances it.
    pub fn new(dataplane: &Dataplane, service: ServiceName) -> Self {
        Self { shared: Arc::clone(&dataplane.shared), service }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }
}

impl Dataplane {
    /// A channel to one service.
    pub fn channel(&self, service: ServiceName) -> Channel {
        Channel::new(self, service)
    }

    /// A channel to the service that a gRPC target names: `waymark:///ayang/server1`,
    /// `etcd:///ayang/server1`, or the bare name.
    pub fn dial(&self, target: &str) -> Result<Channel, TargetError> {
        service_of(target).map(|service| self.channel(service))
    }
}

/// A text that names no service to dial.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Another scheme than those that are resolved here.
    #[error(
        "target {target:?} has scheme {scheme:?}; waymark:///SERVICE, etcd:///SERVICE or the bare name were expected"
    )]
    Scheme {
        /// The target.
        target: String,
        /// Its scheme.
        scheme: String,
    },
    /// An authority, which would be another registry than this process's.
    #[error(
        "target {target:?} names the registry {authority:?}; the registry is this process's own: write three slashes"
    )]
    Authority {
        /// The target.
        target: String,
        /// What stands between the second slash and the third.
        authority: String,
    },
    /// No name that a service could have.
    #[error("target {target:?}")]
    Name {
        /// The target.
        target: String,
        /// What is wrong.
        #[source]
        source: ModelError,
    },
}

/// The service that a gRPC target names: `waymark:///ayang/server1`, `etcd:///ayang/server1` (what
/// etcd's Go resolver takes), or the bare name.
fn service_of(target: &str) -> Result<ServiceName, TargetError> {
    let short = |part: &str| text::printable(part, text::NAME);
    let name = match target.split_once("://") {
        None => target,
        Some((scheme, rest)) => {
            if !matches!(scheme, "waymark" | "etcd") {
                return Err(TargetError::Scheme { target: short(target), scheme: short(scheme) });
            }
            match rest.split_once('/') {
                Some(("", name)) => name,
                Some((authority, _)) => {
                    return Err(TargetError::Authority { target: short(target), authority: short(authority) });
                }
                None => return Err(TargetError::Authority { target: short(target), authority: short(rest) }),
            }
        }
    };
    ServiceName::new(name).map_err(|source| TargetError::Name { target: short(target), source })
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("service", &self.service).finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Channel
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let began = Instant::now();
        strip_connection_headers(request.headers_mut());
        // One that it has is in its URI.
        request.headers_mut().remove(header::HOST);
        let shared = Arc::clone(&self.shared);
        let wanted = RequestedService::new(&shared.services, self.service.as_str());
        Box::pin(async move { Ok(call(&shared, wanted, request, Origin::HERE, began).await) })
    }
}

/// What HTTP/2 does not carry (RFC 9113, section 8.2.2). Over the network HTTP/2 itself sees to it.
fn strip_connection_headers(headers: &mut HeaderMap) {
    const OTHERS: [HeaderName; 4] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if let Some(connection) = headers.remove(header::CONNECTION)
        && let Ok(names) = connection.to_str()
    {
        for name in names.split(',') {
            headers.remove(name.trim());
        }
    }
    for name in OTHERS {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_target_names_a_service() {
        for target in ["etcd:///ayang/server1", "waymark:///ayang/server1", "ayang/server1"] {
            assert_eq!(service_of(target).unwrap().as_str(), "ayang/server1");
        }
        for (target, says) in [
            ("dns:///a", "scheme \"dns\""),
            ("etcd://192.0.2.1:2379/a", "registry \"192.0.2.1:2379\""),
            ("etcd://a", "three slashes"),
            ("etcd:///", "target \"etcd:///\""),
            ("", "target \"\""),
        ] {
            let error = service_of(target).unwrap_err().to_string();
            assert!(error.contains(says), "{target}: {error}");
        }
    }

    #[test]
    fn only_what_is_meant_for_the_server_is_sent() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, Keep-Alive"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("x-end", "1"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        strip_connection_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-end"]);
    }
}
