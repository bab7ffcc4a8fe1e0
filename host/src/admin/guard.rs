//! Looks at each request before any service does: whether it comes from a web page, what it is, and
//! whether its caller may.
//!
//! A browser carries requests of any web page to whatever its machine reaches, this node included.
//! What a page cannot do is: speak HTTP/2 in cleartext, set gRPC's content type without asking
//! first, leave out `Origin` of what it posts, or have a browser tell another `Host` than the one
//! of its address. Each of these is checked, so that no one of them has to hold alone.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    request,
};

use super::{
    access::{Access, Caller, Peer, Way},
    rejection::Rejection,
    roles::{self, Role},
};
use crate::text;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What a request may go on as.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    /// What its path needs.
    pub(super) needs: Role,
}

/// Whether a request is a gRPC call by its content type. What follows the name has to say how
/// messages are written (`+proto`), or be a parameter: `application/grpc-web` is another protocol,
/// and browsers speak it.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Lets a request in, or says why not.
pub(super) fn admit(access: &Access, peer: &Peer, head: &request::Parts) -> Result<Admitted, Rejection> {
    hosts(access, peer, head)?;
    no_web_page(head)?;
    let path = head.uri.path();
    let needs = match roles::of_page(path) {
        Some(needs) if is_read(&head.method) => needs,
        Some(_) => return Err(Rejection::Method),
        // A page that is not there: the answer says which are.
        None if is_read(&head.method) => Role::Probe,
        None => {
            if head.method != Method::POST {
                return Err(Rejection::Method);
            }
            if head.version != Version::HTTP_2 {
                return Err(Rejection::NotHttp2(if head.version == Version::HTTP_10 {
                    "HTTP/1.0"
                } else {
                    "HTTP/1.1"
                }));
            }
            if !is_grpc(&head.headers) {
                return Err(Rejection::ContentType);
            }
            roles::of_rpc(path)
        }
    };
    let caller = access.caller(peer, &head.headers)?;
    if caller.role >= needs {
        return Ok(Admitted { caller, needs });
    }
    Err(match (peer.way, caller.name) {
        (Way::Probe, _) => Rejection::ProbesOnly,
        (_, Some(name)) => Rejection::NotAllowed(name.to_string()),
        (_, None) if needs == Role::Write => Rejection::NotProven("to change something here takes a proof of who asks"),
        (_, None) => Rejection::NotProven("this node shows what it knows to those who prove who they are"),
    })
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// By which name the node was called: `:authority` of HTTP/2, or `Host`, or both.
fn authorities(head: &request::Parts) -> impl Iterator<Item = &[u8]> {
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    authority.into_iter().chain(head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes))
}

/// A name that is none of ours may be one that its owner has turned to this node's address, for the
/// sake of a page that he has in a browser here ("DNS rebinding"). An address cannot be turned.
/// With TLS the certificate proves the name, and to a Unix socket no browser gets.
fn hosts(access: &Access, peer: &Peer, head: &request::Parts) -> Result<(), Rejection> {
    if matches!(peer.way, Way::Unix | Way::Control { tls: true }) {
        return Ok(());
    }
    for authority in authorities(head) {
        let known = std::str::from_utf8(authority).is_ok_and(|text| is_known(access, host(text)));
        // Nothing at all is what HTTP/1.0 says, and some that probe.
        if !known && !authority.is_empty() {
            return Err(Rejection::ForeignHost(shown(authority)));
        }
    }
    Ok(())
}

fn is_known(access: &Access, host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // Names without a dot are given in one's own network (by Docker or Kubernetes, say); nobody
    // outside can have one.
    let own = host == "localhost" || host.ends_with(".localhost") || (!host.is_empty() && !host.contains('.'));
    own || access.hosts.iter().any(|known| {
        let known = known.to_ascii_lowercase();
        if known.starts_with('.') { host.ends_with(&known) && host.len() > known.len() } else { host == known }
    })
}

/// An authority without its port and without a user.
fn host(authority: &str) -> &str {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

/// Refuses what a browser sends on behalf of a page that is not ours.
fn no_web_page(head: &request::Parts) -> Result<(), Rejection> {
    for origin in head.headers.get_all(ORIGIN) {
        let same = || {
            let origin: Uri = std::str::from_utf8(origin.as_bytes()).ok()?.parse().ok()?;
            let origin = origin.authority()?.as_str().to_ascii_lowercase();
            let mut ours = authorities(head).peekable();
            ours.peek()?;
            Some(ours.all(|own| own.eq_ignore_ascii_case(origin.as_bytes())))
        };
        if same() != Some(true) {
            return Err(Rejection::ForeignOrigin(shown(origin.as_bytes())));
        }
    }
    let is = |name: &HeaderName, value: &str| head.headers.get(name).is_some_and(|found| found == value);
    let other = head.headers.get_all(&SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
    // Somebody follows a link to a page. That changes nothing, and the page that has the link sees
    // nothing of it.
    let link = is_read(&head.method) && is(&SEC_FETCH_MODE, "navigate") && is(&SEC_FETCH_DEST, "document");
    if other && !link { Err(Rejection::CrossSite) } else { Ok(()) }
}

fn shown(text: &[u8]) -> String {
    text::printable_bytes(text, text::NAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tonic::Code;

    use super::{super::tokens::Tokens, *};
    use crate::dataplane::Identity;

    const LOCAL: Way = Way::Control { tls: false };
    const SET: &str = "/waymark.v1.Node/SetPolicy";
    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    fn peer(way: Way) -> Peer {
        Peer { way, address: None, identity: Identity::default() }
    }

    fn head(method: &str, version: Version, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().method(method).version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn get(path: &str, headers: &[(&str, &str)]) -> request::Parts {
        head("GET", Version::HTTP_11, path, headers)
    }

    fn label(way: Way, head: &request::Parts) -> &'static str {
        admit(&Access::default(), &peer(way), head).map_or_else(|refusal| refusal.label(), |_| "admitted")
    }

    #[test]
    fn only_grpc_over_http2_calls_anything() {
        let call = |version, content_type| {
            label(LOCAL, &head("POST", version, SET, &[("host", "localhost"), ("content-type", content_type)]))
        };
        assert_eq!(call(Version::HTTP_2, "application/grpc"), "admitted");
        assert_eq!(call(Version::HTTP_2, "application/grpc+proto"), "admitted");
        for version in [Version::HTTP_11, Version::HTTP_10] {
            assert_eq!(call(version, "application/grpc"), "protocol", "a browser speaks this in cleartext");
        }
        for other in ["text/plain", "application/json", "application/x-www-form-urlencoded", "application/grpc-web"] {
            assert_eq!(call(Version::HTTP_2, other), "protocol", "{other}");
        }
        for method in ["PUT", "OPTIONS", "DELETE", "TRACE"] {
            assert_eq!(label(LOCAL, &head(method, Version::HTTP_2, SET, &[GRPC])), "protocol", "{method}");
            assert_eq!(label(LOCAL, &head(method, Version::HTTP_11, "/", &[])), "protocol", "{method}");
        }
        assert_eq!(label(LOCAL, &head("POST", Version::HTTP_2, "/metrics", &[GRPC])), "protocol");
        assert_eq!(label(LOCAL, &get(SET, &[])), "admitted", "there is no such page, and the answer says so");
    }

    #[test]
    fn a_node_is_called_by_its_address_or_a_name_of_its_own() {
        let known = |way, host: &str| label(way, &get("/metrics", &[("host", host)])) == "admitted";
        for host in [
            "127.0.0.1:7001",
            "[::1]:7001",
            "[::1]",
            "192.0.2.1",
            "localhost",
            "LOCALHOST.:7001",
            "a.localhost",
            "node:7001",
            "",
        ] {
            assert!(known(LOCAL, host) && known(Way::Probe, host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7001",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "user@evil.example",
            ":7001",
        ] {
            assert!(!known(LOCAL, host) && !known(Way::Probe, host), "{host}");
        }
        assert!(known(Way::Control { tls: true }, "node.example") && known(Way::Unix, "any.example"));
        let access = Access { hosts: vec!["Node.example".into(), ".svc".into()], ..Access::default() };
        let listed = |host| admit(&access, &peer(LOCAL), &get("/", &[("host", host)])).is_ok();
        assert!(
            listed("node.EXAMPLE:7001") && listed("waymark.ns.svc") && !listed("ns.xsvc") && !listed("xnode.example")
        );
        let two = get("/", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(label(LOCAL, &two), "host");
        let authority = head("POST", Version::HTTP_2, &format!("http://evil.example{SET}"), &[GRPC]);
        assert_eq!(label(LOCAL, &authority), "host");
    }

    #[test]
    fn a_web_page_gets_nowhere() {
        let from = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:7001")];
            all.extend(headers);
            label(LOCAL, &get("/", &all))
        };
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "http://localhost:7001", "", "127.0.0.1"]
        {
            assert_eq!(from(&[("origin", origin)]), "origin", "{origin}");
        }
        assert_eq!(from(&[("origin", "http://127.0.0.1:7001")]), "admitted");
        for site in ["cross-site", "same-site", "anything"] {
            assert_eq!(from(&[("sec-fetch-site", site)]), "origin", "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(from(&[("sec-fetch-site", site)]), "admitted", "{site}");
        }
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(from(&link), "admitted", "a link to the dashboard");
        let post = head("POST", Version::HTTP_2, SET, &[GRPC, link[0], link[1], link[2]]);
        assert_eq!(label(LOCAL, &post), "origin", "a form is no link");
        let frame = [link[0], link[1], ("sec-fetch-dest", "iframe")];
        assert_eq!(from(&frame), "origin");
    }

    #[test]
    fn who_may_not_is_told_what_it_takes() {
        let tokens = Tokens::parse(b"anna:0123456789abcdef").unwrap();
        let access = Access { tokens, ..Access::default() };
        let refusal = |access: &Access, way, path, headers: &[(&str, &str)]| {
            let mut all = vec![GRPC];
            all.extend(headers);
            admit(access, &peer(way), &head("POST", Version::HTTP_2, path, &all)).map(|admitted| admitted.needs)
        };
        let error = refusal(&access, LOCAL, SET, &[]).unwrap_err();
        assert!(error.to_string().contains("--token-file") && error.grpc() == Code::Unauthenticated, "{error}");
        let token = [("authorization", "Bearer 0123456789abcdef")];
        assert_eq!(refusal(&access, LOCAL, SET, &token), Ok(Role::Write));
        assert_eq!(refusal(&access, LOCAL, "/waymark.v1.Node/GetPolicy", &[]), Ok(Role::Read));
        assert_eq!(refusal(&access, LOCAL, "/no.Such/Call", &[]).unwrap_err().label(), "no-credential");
        for path in [SET, "/waymark.v1.Node/GetPolicy", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
            assert_eq!(refusal(&access, Way::Probe, path, &token), Err(Rejection::ProbesOnly), "{path}");
        }
        assert_eq!(refusal(&access, Way::Probe, "/grpc.health.v1.Health/Check", &[]), Ok(Role::Probe));
        let page = |path| admit(&access, &peer(Way::Probe), &get(path, &[])).map(|_| ());
        assert_eq!((page("/metrics"), page("/")), (Ok(()), Err(Rejection::ProbesOnly)));
        let shut = Access { protect_reads: true, ..access.clone() };
        assert_eq!(refusal(&shut, LOCAL, "/waymark.v1.Node/GetPolicy", &[]).unwrap_err().label(), "no-credential");
        assert_eq!(refusal(&shut, LOCAL, "/grpc.health.v1.Health/Check", &[]), Ok(Role::Probe));
    }
}
