//! Which service a request is for: the header `waymark-service`, else a configured route, else the authority.

use std::{collections::HashMap, net::IpAddr};

use http::{HeaderName, HeaderValue, request};
use thiserror::Error;

use crate::model::ServiceName;

/// Names the service that a request is for. It is taken off before the request is forwarded.
pub const WAYMARK_SERVICE: HeaderName = HeaderName::from_static("waymark-service");

/// One configured route: requests of this authority, of this gRPC service, or of both, are for `service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The authority that a client dials, with or without a port: `greeter.example` or `greeter.example:80`. None: any.
    pub authority: Option<String>,
    /// The full name of a gRPC service, for example `hello.Greeter1`. None: any.
    pub grpc_service: Option<String>,
    /// The service to balance such requests over.
    pub service: ServiceName,
}

/// A set of routes that says two things, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// A route that matches everything would make the authority useless; name what it is for.
    #[error("the route to {service} names neither an authority nor a gRPC service")]
    MatchesAll {
        /// Where it leads.
        service: ServiceName,
    },
    /// Two routes for the same requests.
    #[error("authority {authority:?} with gRPC service {grpc_service:?} is routed both to {first} and to {second}")]
    Twice {
        /// The authority of both; empty for any.
        authority: String,
        /// The gRPC service of both; empty for any.
        grpc_service: String,
        /// Where the first leads.
        first: ServiceName,
        /// Where the second leads.
        second: ServiceName,
    },
}

/// The configured routes. The most specific one wins: authority and gRPC service, then the authority alone, then the gRPC
/// service alone; an authority with its port before one without.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    by_authority: HashMap<Box<str>, ByGrpcService>,
    any_authority: ByGrpcService,
}

#[derive(Debug, Clone, Default)]
struct ByGrpcService {
    named: HashMap<Box<str>, ServiceName>,
    any: Option<ServiceName>,
}

impl Routes {
    /// Takes a set of routes, in any order.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Result<Self, RouteError> {
        let mut all = Self::default();
        for Route { authority, grpc_service, service } in routes {
            if authority.is_none() && grpc_service.is_none() {
                return Err(RouteError::MatchesAll { service });
            }
            let level = match &authority {
                Some(authority) => all.by_authority.entry(authority.to_ascii_lowercase().into()).or_default(),
                None => &mut all.any_authority,
            };
            let former = match &grpc_service {
                Some(name) => level.named.insert(name.as_str().into(), service.clone()),
                None => level.any.replace(service.clone()),
            };
            if let Some(first) = former {
                let (authority, grpc_service) = (authority.unwrap_or_default(), grpc_service.unwrap_or_default());
                return Err(RouteError::Twice { authority, grpc_service, first, second: service });
            }
        }
        Ok(all)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_authority.is_empty() && self.any_authority.is_empty()
    }

    /// The service that a request is for.
    pub(super) fn resolve<'a>(&'a self, head: &'a mut request::Parts) -> Result<Target<'a>, NoRoute> {
        if let Some(named) = head.headers.remove(WAYMARK_SERVICE) {
            return if named.to_str().is_ok_and(|name| !name.is_empty()) {
                Ok(Target::Header(named))
            } else {
                Err(NoRoute::BadHeader)
            };
        }
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let authority = authority.or_else(|| head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()));
        let authority = authority.map(|text| text.rsplit_once('@').map_or(text, |(_, host)| host));
        let grpc_service = grpc_service(head.uri.path());
        if !self.is_empty()
            && let Some(service) = self.configured(authority, grpc_service)
        {
            return Ok(Target::Name(service.as_str()));
        }
        let host = host(authority.ok_or(NoRoute::NoAuthority)?);
        let is_ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if is_ip || host.eq_ignore_ascii_case("localhost") || host.is_empty() {
            return Err(NoRoute::Unnamed {
                authority: host.into(),
                grpc_service: grpc_service.unwrap_or_default().into(),
            });
        }
        Ok(Target::Name(host))
    }

    fn configured(&self, authority: Option<&str>, grpc_service: Option<&str>) -> Option<&ServiceName> {
        if let Some(authority) = authority
            && !self.by_authority.is_empty()
        {
            // Names are compared without regard to case (RFC 9110, section 4.2.3); clients send them in lower case.
            let lower = authority.bytes().any(|b| b.is_ascii_uppercase()).then(|| authority.to_ascii_lowercase());
            let authority = lower.as_deref().unwrap_or(authority);
            let levels = [self.by_authority.get(authority), self.by_authority.get(host(authority))];
            let mut levels = levels.iter().flatten();
            if let Some(service) = levels.clone().find_map(|level| level.named(grpc_service)) {
                return Some(service);
            }
            if let Some(service) = levels.find_map(|level| level.any.as_ref()) {
                return Some(service);
            }
        }
        self.any_authority.named(grpc_service)
    }
}

impl ByGrpcService {
    fn named(&self, grpc_service: Option<&str>) -> Option<&ServiceName> {
        self.named.get(grpc_service?)
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.any.is_none()
    }
}

/// The name of a request's service, where it was found.
pub(super) enum Target<'a> {
    Header(HeaderValue),
    Name(&'a str),
}

impl Target<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Header(value) => value.to_str().expect("resolve took text only"),
            Self::Name(name) => name,
        }
    }
}

/// Nothing says which service a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum NoRoute {
    #[error("no route: the header waymark-service is empty or not text")]
    BadHeader,
    #[error("no route: the request has no authority; name its service in the header waymark-service")]
    NoAuthority,
    #[error(
        "no route: {authority:?} is not the name of a service; name the service in the header waymark-service, dial this node \
         under the service's name, or configure a route for the gRPC service {grpc_service:?}"
    )]
    Unnamed { authority: String, grpc_service: String },
}

/// `hello.Greeter1` of `/hello.Greeter1/SayHello1`.
fn grpc_service(path: &str) -> Option<&str> {
    let (service, _method) = path.strip_prefix('/')?.rsplit_once('/')?;
    Some(service)
}

/// An authority without its port. IPv6 addresses keep their brackets.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn head(uri: &str, header: Option<&str>) -> request::Parts {
        let mut request = http::Request::post(uri);
        if let Some(service) = header {
            request = request.header(WAYMARK_SERVICE, service);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn route(authority: Option<&str>, grpc_service: Option<&str>, service: &str) -> Route {
        Route {
            authority: authority.map(Into::into),
            grpc_service: grpc_service.map(Into::into),
            service: ServiceName::new(service).unwrap(),
        }
    }

    fn resolved(routes: &Routes, uri: &str, header: Option<&str>) -> Result<String, NoRoute> {
        let mut head = head(uri, header);
        let name = routes.resolve(&mut head).map(|target| target.as_str().to_owned());
        assert!(!head.headers.contains_key(WAYMARK_SERVICE), "the header is for this node alone");
        name
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::new([
            route(None, Some("hello.Greeter1"), "by-grpc"),
            route(Some("greeter.example"), None, "by-authority"),
            route(Some("greeter.example"), Some("hello.Greeter1"), "by-both"),
            route(Some("Greeter.example:81"), None, "by-port"),
        ])
        .unwrap();
        for (uri, service) in [
            ("http://greeter.example/hello.Greeter1/SayHello1", "by-both"),
            ("http://GREETER.example:80/hello.Greeter1/SayHello1", "by-both"),
            ("http://greeter.example/hello.Greeter2/SayHello2", "by-authority"),
            ("http://greeter.example:81/hello.Greeter2/SayHello2", "by-port"),
            ("http://127.0.0.1:80/hello.Greeter1/SayHello1", "by-grpc"),
            ("http://other.example/hello.Greeter2/SayHello2", "other.example"),
        ] {
            assert_eq!(resolved(&routes, uri, None).unwrap(), service, "{uri}");
            assert_eq!(resolved(&routes, uri, Some("ayang/server1")).unwrap(), "ayang/server1", "{uri}");
        }
    }

    #[test]
    fn addresses_and_localhost_are_not_service_names() {
        for authority in ["127.0.0.1:50051", "localhost:50051", "LOCALHOST", "[::1]:50051", "192.0.2.1"] {
            let error = resolved(&Routes::default(), &format!("http://{authority}/a.B/C"), None).unwrap_err();
            assert!(error.to_string().contains("waymark-service"), "{error}");
        }
        assert_eq!(resolved(&Routes::default(), "http://127.0.0.1/a.B/C", Some("")), Err(NoRoute::BadHeader));
        assert_eq!(resolved(&Routes::default(), "/a.B/C", None), Err(NoRoute::NoAuthority));
    }

    #[test]
    fn a_set_of_routes_that_contradicts_itself_is_refused() {
        let twice = [route(Some("a.example"), None, "one"), route(Some("A.example"), None, "two")];
        assert!(Routes::new(twice).unwrap_err().to_string().contains("both to one and to two"));
        assert!(Routes::new([route(None, None, "all")]).unwrap_err().to_string().contains("route to all"));
    }
}
