//! Which service a request is for: the header `waymark-service`, else a configured route, else the
//! authority, else what its listener is for.

use std::{borrow::Cow, collections::HashMap, net::IpAddr};

use http::{HeaderName, HeaderValue, request};
use thiserror::Error;
use waymark_core::{
    model::ServiceName,
    text,
    traffic::{NameError, check_grpc_service},
};

use super::authority;

/// Names the service that a request is for. It is taken off before the request is forwarded.
pub const WAYMARK_SERVICE: HeaderName = HeaderName::from_static("waymark-service");

/// One configured route: requests that match all that it names are for `service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The authority that a client dials, with or without a port: `greeter.example` or
    /// `greeter.example:80`. None: any.
    pub authority: Option<String>,
    /// The full name of a gRPC service, for example `hello.Greeter1`. None: any.
    pub grpc_service: Option<String>,
    /// A method of it, for example `SayHello1`. None: any.
    pub grpc_method: Option<String>,
    /// How the names of gRPC services begin, for example `hello.`; goes without the two above.
    /// None: in any way.
    pub grpc_prefix: Option<String>,
    /// The service to balance such requests over.
    pub service: ServiceName,
}

impl Route {
    /// A route of no requests yet.
    pub fn to(service: ServiceName) -> Self {
        Self { authority: None, grpc_service: None, grpc_method: None, grpc_prefix: None, service }
    }

    /// What it is for, for people.
    fn matches(&self) -> String {
        let named = [
            ("authority", &self.authority),
            ("grpc-service", &self.grpc_service),
            ("grpc-method", &self.grpc_method),
            ("grpc-prefix", &self.grpc_prefix),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("{name} {:?}", value.as_ref()?)));
        named.collect::<Vec<_>>().join(" with ")
    }
}

/// A set of routes that says two things, or nothing, or of which one can never match.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A route that matches everything would make the authority useless; name what it is for.
    #[error(
        "the route to {service} names neither an authority nor a gRPC service (`listen-service` is for what names none)"
    )]
    MatchesAll {
        /// Where it leads.
        service: ServiceName,
    },
    /// No request can match it.
    #[error("the route to {service} can never match: {setting} {}: {reason}", text::shown(format_args!("{value:?}"), text::NAME))]
    Unmatchable {
        /// Where it leads.
        service: ServiceName,
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why no request matches it, and what to write instead.
        reason: String,
    },
    /// Two routes for the same requests.
    #[error("{matches} is routed both to {first} and to {second}")]
    Twice {
        /// What both are for.
        matches: String,
        /// Where the first leads.
        first: ServiceName,
        /// Where the second leads.
        second: ServiceName,
    },
}

/// The configured routes. The most specific one wins: authority and what is called, then the
/// authority alone, then what is called alone; an authority with its port before one without. Of
/// what is called a method goes before its gRPC service, and that before a prefix, of which the
/// longest wins.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    by_authority: HashMap<Box<str>, ByCalled>,
    any_authority: ByCalled,
}

#[derive(Debug, Clone, Default)]
struct ByCalled {
    /// By path: `hello.Greeter1/SayHello1`.
    methods: HashMap<Box<str>, ServiceName>,
    services: HashMap<Box<str>, ServiceName>,
    /// The longest first.
    prefixes: Vec<(Box<str>, ServiceName)>,
    any: Option<ServiceName>,
}

impl Routes {
    /// Takes a set of routes, in any order.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Result<Self, RouteError> {
        let mut all = Self::default();
        for route in routes {
            check(&route)?;
            let level = match &route.authority {
                Some(authority) => all.by_authority.entry(authority::plain(authority).into()).or_default(),
                None => &mut all.any_authority,
            };
            if let Some(first) = level.add(&route) {
                return Err(RouteError::Twice { matches: route.matches(), first, second: route.service });
            }
        }
        Ok(all)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_authority.is_empty() && self.any_authority.is_empty()
    }

    /// The service that a request is for; `default`: where it names none.
    pub(crate) fn resolve<'a>(
        &'a self,
        head: &'a mut request::Parts,
        default: Option<&'a ServiceName>,
    ) -> Result<RequestedName<'a>, NoRoute> {
        // Whoever forges a header counts on who reads the other one.
        if head.headers.get_all(WAYMARK_SERVICE).iter().nth(1).is_some() {
            return Err(NoRoute::Twice);
        }
        if let Some(named) = head.headers.remove(WAYMARK_SERVICE) {
            // Names are text of any language, and HTTP/2 carries its bytes.
            return match std::str::from_utf8(named.as_bytes()) {
                Ok(name) if !name.is_empty() => Ok(RequestedName::Header(named)),
                _ => Err(NoRoute::BadHeader),
            };
        }
        let authority = head.uri.authority().map(|authority| authority::plain(authority.as_str()));
        let called = head.uri.path().strip_prefix('/').unwrap_or_default();
        if !self.is_empty()
            && let Some(service) = self.configured(authority.as_deref(), called)
        {
            return Ok(RequestedName::Name(service.as_str().into()));
        }
        // Services have names with capital letters: whether this one has is for its reader to see.
        let host = head.uri.authority().map(|authority| authority::host(authority.as_str()));
        match (host, default) {
            (Some(host), _) if is_name(host) => Ok(RequestedName::Authority(host)),
            (_, Some(default)) => Ok(RequestedName::Name(default.as_str().into())),
            (None, None) => Err(NoRoute::NoAuthority),
            (Some(host), None) => Err(NoRoute::Unnamed {
                authority: text::printable(host, text::NAME),
                grpc_service: text::printable(grpc_service(called).unwrap_or_default(), text::NAME),
            }),
        }
    }

    /// Where calls of a gRPC service of this name go, whoever calls it.
    pub(crate) fn of_grpc_service(&self, name: &str) -> Option<&ServiceName> {
        self.any_authority.named(&format!("{name}/"))
    }

    fn configured(&self, authority: Option<&str>, called: &str) -> Option<&ServiceName> {
        if let Some(authority) = authority
            && !self.by_authority.is_empty()
        {
            let levels = [self.by_authority.get(authority), self.by_authority.get(authority::host(authority))];
            let mut levels = levels.iter().flatten();
            if let Some(service) = levels.clone().find_map(|level| level.named(called)) {
                return Some(service);
            }
            if let Some(service) = levels.find_map(|level| level.any.as_ref()) {
                return Some(service);
            }
        }
        self.any_authority.named(called)
    }
}

impl ByCalled {
    /// Adds a route. Where the same requests went before, if they did.
    fn add(&mut self, Route { grpc_service, grpc_method, grpc_prefix, service, .. }: &Route) -> Option<ServiceName> {
        match (grpc_service, grpc_method, grpc_prefix) {
            (Some(name), Some(method), _) => self.methods.insert(format!("{name}/{method}").into(), service.clone()),
            (Some(name), None, _) => self.services.insert(name.as_str().into(), service.clone()),
            (None, _, Some(prefix)) => {
                if let Some((_, first)) = self.prefixes.iter().find(|(known, _)| **known == **prefix) {
                    return Some(first.clone());
                }
                self.prefixes.push((prefix.as_str().into(), service.clone()));
                self.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                None
            }
            (None, _, None) => self.any.replace(service.clone()),
        }
    }

    fn named(&self, called: &str) -> Option<&ServiceName> {
        let by_method = || self.methods.get(called);
        let by_service = || self.services.get(grpc_service(called)?);
        let by_prefix = || {
            let service = grpc_service(called)?;
            self.prefixes.iter().find(|(prefix, _)| service.starts_with(&**prefix)).map(|(_, service)| service)
        };
        by_method().or_else(by_service).or_else(by_prefix)
    }

    fn is_empty(&self) -> bool {
        self.methods.is_empty() && self.services.is_empty() && self.prefixes.is_empty() && self.any.is_none()
    }
}

/// Whether any request can match a route.
fn check(route: &Route) -> Result<(), RouteError> {
    let never = |setting, value: &str, reason: String| {
        let (service, value) = (route.service.clone(), value.to_owned());
        Err(RouteError::Unmatchable { service, setting, value, reason })
    };
    if let Some(authority) = &route.authority
        && let Err(reason) = authority::check(authority)
    {
        return never("authority", authority, reason);
    }
    match (&route.grpc_service, &route.grpc_method, &route.grpc_prefix) {
        (None, None, None) if route.authority.is_none() => {
            return Err(RouteError::MatchesAll { service: route.service.clone() });
        }
        (Some(_), _, Some(prefix)) | (_, Some(_), Some(prefix)) => {
            return never("grpc-prefix", prefix, "goes without grpc-service and grpc-method".into());
        }
        (None, Some(method), None) => {
            return never("grpc-method", method, "goes with the grpc-service that has it".into());
        }
        (None, None, Some(prefix)) => {
            // What a name can begin with is what one can be, but for the dot at its end.
            let name = prefix.strip_suffix('.').unwrap_or(prefix);
            if let Err(error) = check_grpc_service(name) {
                return never("grpc-prefix", prefix, hint(&error, "the prefix ends where what may differ begins"));
            }
        }
        (Some(name), method, None) => {
            if let Err(error) = check_grpc_service(name) {
                let reason = hint(&error, "a prefix is written grpc-prefix = \"hello.\"");
                return never("grpc-service", name, reason);
            }
            if let Some(method) = method
                && (method.is_empty()
                    || !method.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')))
            {
                return never(
                    "grpc-method",
                    method,
                    "is no name of a method; write it alone, for example SayHello1".into(),
                );
            }
        }
        (None, None, None) => {}
    }
    Ok(())
}

/// What is wrong with a name, and what to write where somebody meant more than one.
fn hint(error: &NameError, several: &str) -> String {
    match error {
        NameError::Pattern => format!("{error}: {several}"),
        NameError::Slash { service, method } if !method.is_empty() => {
            format!("{error}: write grpc-service = {service:?} and grpc-method = {method:?}")
        }
        error => error.to_string(),
    }
}

/// Whether this part of an authority may be the name of a service. An address and `localhost` tell
/// where a client dialled only.
fn is_name(host: &str) -> bool {
    let is_ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    !(is_ip || host.is_empty() || host.eq_ignore_ascii_case("localhost"))
}

/// The name of a request's service, where it was found.
pub(crate) enum RequestedName<'a> {
    Header(HeaderValue),
    Name(Cow<'a, str>),
    /// The host of the authority.
    Authority(&'a str),
}

impl RequestedName<'_> {
    /// The service's name. Authorities are compared without regard to case, and services are not:
    /// one that is written in lower case is found (`is_known`) if none is written as this one is.
    pub(crate) fn name(&self, is_known: impl Fn(&str) -> bool) -> Cow<'_, str> {
        match self {
            Self::Header(value) => std::str::from_utf8(value.as_bytes()).expect("resolve took text only").into(),
            Self::Name(name) => (&**name).into(),
            Self::Authority(host) => {
                if host.bytes().any(|b| b.is_ascii_uppercase()) && !is_known(host) {
                    let lower = host.to_ascii_lowercase();
                    if is_known(&lower) {
                        return lower.into();
                    }
                }
                (*host).into()
            }
        }
    }
}

/// Nothing says which service a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NoRoute {
    #[error("no route: the header waymark-service is empty or not text (UTF-8)")]
    BadHeader,
    #[error("no route: the header waymark-service comes more than once; send it once")]
    Twice,
    #[error("no route: the request has no authority; name its service in the header waymark-service")]
    NoAuthority,
    #[error(
        "no route: {authority:?} is not the name of a service; name the service in the header waymark-service, dial this node \
         under the service's name, or configure a route for the gRPC service {grpc_service:?}, or the service that this listener is for (`listen-service`)"
    )]
    Unnamed { authority: String, grpc_service: String },
}

/// `hello.Greeter1` of `hello.Greeter1/SayHello1`.
fn grpc_service(called: &str) -> Option<&str> {
    called.rsplit_once('/').map(|(service, _method)| service)
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
            ..Route::to(ServiceName::new(service).unwrap())
        }
    }

    fn method(grpc_service: &str, method: &str, service: &str) -> Route {
        Route { grpc_method: Some(method.into()), ..route(None, Some(grpc_service), service) }
    }

    fn prefix(prefix: &str, service: &str) -> Route {
        Route { grpc_prefix: Some(prefix.into()), ..route(None, None, service) }
    }

    fn resolved(routes: &Routes, uri: &str, header: Option<&str>) -> Result<String, NoRoute> {
        resolved_or(routes, uri, header, None)
    }

    fn resolved_or(
        routes: &Routes,
        uri: &str,
        header: Option<&str>,
        default: Option<&ServiceName>,
    ) -> Result<String, NoRoute> {
        let mut head = head(uri, header);
        let is_known = |name: &str| name == "lower.example" || name == "Both.example" || name == "both.example";
        let name = routes.resolve(&mut head, default).map(|target| target.name(is_known).into_owned());
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
    fn a_method_goes_before_its_service_and_that_before_a_prefix() {
        let routes = Routes::new([
            prefix("hello.", "by-prefix"),
            prefix("hello.v2.", "by-longer-prefix"),
            prefix("hell", "by-shorter-prefix"),
            route(None, Some("hello.Greeter1"), "by-service"),
            method("hello.Greeter1", "SayHello1", "by-method"),
            Route { authority: Some("a.example".into()), ..method("hello.Greeter1", "SayHello1", "by-both") },
        ])
        .unwrap();
        for (path, service) in [
            ("hello.Greeter1/SayHello1", "by-method"),
            ("hello.Greeter1/SayHello2", "by-service"),
            ("hello.Greeter2/SayHello1", "by-prefix"),
            ("hello.v2.Greeter1/SayHello1", "by-longer-prefix"),
            ("hellas.Greeter1/SayHello1", "by-shorter-prefix"),
        ] {
            assert_eq!(resolved(&routes, &format!("http://127.0.0.1/{path}"), None).unwrap(), service, "{path}");
        }
        assert!(resolved(&routes, "http://127.0.0.1/other.Greeter1/SayHello1", None).is_err());
        assert_eq!(resolved(&routes, "http://a.example./hello.Greeter1/SayHello1", None).unwrap(), "by-both");
    }

    #[test]
    fn a_name_is_found_however_it_is_dialled() {
        let of = |authority: &str| resolved(&Routes::default(), &format!("http://{authority}/a.B/C"), None).unwrap();
        for (authority, name) in [
            ("svc", "svc"),
            ("svc:50051", "svc"),
            ("svc.", "svc"),
            ("svc.:50051", "svc"),
            // Services have names with capital letters, too.
            ("Upper.example", "Upper.example"),
            ("LOWER.example:1", "lower.example"),
            ("Both.example", "Both.example"),
        ] {
            assert_eq!(of(authority), name, "{authority}");
        }
        let mut head = head("http://127.0.0.1/a.B/C", None);
        head.headers.insert(WAYMARK_SERVICE, HeaderValue::from_bytes("größe/東京".as_bytes()).unwrap());
        assert_eq!(Routes::default().resolve(&mut head, None).unwrap().name(|_| false), "größe/東京");
        head.headers.insert(WAYMARK_SERVICE, HeaderValue::from_bytes(b"gr\xf6\xdfe").unwrap());
        assert_eq!(Routes::default().resolve(&mut head, None).err(), Some(NoRoute::BadHeader));
        for same in ["svc", "other"] {
            head.headers.insert(WAYMARK_SERVICE, HeaderValue::from_static("svc"));
            head.headers.append(WAYMARK_SERVICE, HeaderValue::from_static(same));
            assert_eq!(Routes::default().resolve(&mut head, None).err(), Some(NoRoute::Twice));
        }
    }

    #[test]
    fn what_names_no_service_is_for_the_listener_s() {
        let default = ServiceName::new("ayang/server1").unwrap();
        let of = |uri: &str, header| resolved_or(&Routes::default(), uri, header, Some(&default)).unwrap();
        for uri in ["http://127.0.0.1:7000/a.B/C", "http://localhost/a.B/C", "/a.B/C"] {
            assert_eq!(of(uri, None), "ayang/server1", "{uri}");
        }
        assert_eq!(of("http://127.0.0.1/a.B/C", Some("other")), "other");
        assert_eq!(of("http://other.example/a.B/C", None), "other.example");
    }

    #[test]
    fn what_a_caller_sends_is_not_sent_back_to_it_at_length() {
        let long = "x".repeat(60_000);
        let error = resolved(&Routes::default(), &format!("http://127.0.0.1/{long}/C"), None).unwrap_err();
        assert!(error.to_string().len() < 1000);
    }

    #[test]
    fn a_route_that_can_never_match_is_refused_with_the_reason() {
        for (route, says) in [
            (
                route(Some("http://greeter.example"), None, "a"),
                "authority \"http://greeter.example\": an authority has no scheme",
            ),
            (route(Some("greeter.example/x"), None, "a"), "an authority has no path"),
            (route(Some("*.example"), None, "a"), "there are no patterns"),
            (
                route(None, Some("/hello.Greeter1"), "a"),
                "grpc-service \"/hello.Greeter1\": a gRPC service has no slash",
            ),
            (
                route(None, Some("hello.Greeter1/SayHello1"), "a"),
                "grpc-service = \"hello.Greeter1\" and grpc-method = \"SayHello1\"",
            ),
            (
                route(None, Some("/hello.Greeter1/SayHello1"), "a"),
                "grpc-service = \"hello.Greeter1\" and grpc-method = \"SayHello1\"",
            ),
            (route(None, Some("hello.*"), "a"), "grpc-prefix = \"hello.\""),
            (route(None, Some("*"), "a"), "grpc-prefix"),
            (route(None, Some(""), "a"), "is empty"),
            (route(None, Some(".hello.Greeter1"), "a"), "no dot at its beginning"),
            (route(None, Some("hello.Greeter1 "), "a"), "' ' is in no name"),
            (route(None, Some("größe.Greeter1"), "a"), "'ö' is in no name"),
            (prefix("/hello.", "a"), "no slash"),
            (prefix("hello.*", "a"), "the prefix ends where"),
            (prefix("", "a"), "is empty"),
            (method("hello.Greeter1", "*", "a"), "is no name of a method"),
            (method("hello.Greeter1", "/SayHello1", "a"), "is no name of a method"),
            (method("hello.Greeter1", "", "a"), "is no name of a method"),
            (Route { grpc_method: Some("SayHello1".into()), ..route(None, None, "a") }, "goes with the grpc-service"),
            (
                Route { grpc_prefix: Some("hello.".into()), ..route(None, Some("hello.A"), "a") },
                "goes without grpc-service",
            ),
        ] {
            let error = Routes::new([route.clone()]).unwrap_err().to_string();
            assert!(error.contains("the route to a") && error.contains(says), "{route:?}: {error}");
        }
        let long = Routes::new([route(Some(&format!("{}/", "x".repeat(9999))), None, "a")]).unwrap_err();
        assert!(long.to_string().len() < 1000, "{long}");
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
        for (again, other) in [
            (method("a.B", "C", "one"), method("a.B", "C", "two")),
            (prefix("a.", "one"), prefix("a.", "two")),
            (route(Some("a.example"), Some("a.B"), "one"), route(Some("A.example."), Some("a.B"), "two")),
        ] {
            let error = Routes::new([again, other]).unwrap_err().to_string();
            assert!(error.contains("both to one and to two"), "{error}");
        }
        assert!(Routes::new([route(None, None, "all")]).unwrap_err().to_string().contains("route to all"));
    }
}
