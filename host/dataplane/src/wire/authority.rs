//! The authority of a request: whom its client dialled.
//!
//! HTTP/2 has it in `:authority`; a gateway that comes from HTTP/1 may leave it in `Host`. One goes
//! on, as `:authority`: without it the `Host` is (RFC 9113, section 8.3.1), and beside it no `Host`
//! does, which could name another one to whoever reads that.

use std::borrow::Cow;

use http::{
    Uri,
    header::HOST,
    request,
    uri::{Authority, PathAndQuery, Scheme},
};
use waymark_core::text;

/// Makes a request have its authority in one place.
pub(crate) fn settle(head: &mut request::Parts) {
    // Few have one.
    if !head.headers.contains_key(HOST) {
        return;
    }
    // Of several that differ none can be believed.
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next().filter(|first| hosts.all(|other| other == *first)).cloned();
    head.headers.remove(HOST);
    if head.uri.authority().is_some() {
        return;
    }
    if let Some(host) = host
        && let Ok(authority) = Authority::try_from(host.as_bytes())
    {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.authority = Some(authority);
        parts.scheme.get_or_insert(Scheme::HTTP);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
    }
}

/// An authority as it is compared: without its user, in lower case (RFC 9110, section 4.2.3), and
/// without the dot at the end of a name that says only that it is whole (RFC 1034, section 3.1).
pub(crate) fn plain(authority: &str) -> Cow<'_, str> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, port) = split(authority);
    let dotted = name.len() > 1 && name.ends_with('.');
    if !dotted && !authority.bytes().any(|b| b.is_ascii_uppercase()) {
        return authority.into();
    }
    let mut plain = name.strip_suffix('.').filter(|_| dotted).unwrap_or(name).to_ascii_lowercase();
    plain.push_str(port);
    plain.into()
}

/// An authority without its user, its port and the dot at the end of a whole name. IPv6 addresses
/// keep their brackets.
pub(crate) fn host(authority: &str) -> &str {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, _) = split(authority);
    name.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// The name, and the port with its colon.
fn split(authority: &str) -> (&str, &str) {
    match authority.rfind(':') {
        Some(at) if authority[at + 1..].bytes().all(|b| b.is_ascii_digit()) => authority.split_at(at),
        _ => (authority, ""),
    }
}

/// Whether a client can dial this. Why not, and what to write instead.
pub(crate) fn check(authority: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = authority.split_once("://") {
        let short = |part| text::printable(part, text::NAME);
        return Err(format!("an authority has no scheme: write {:?} without {}://", short(rest), short(scheme)));
    }
    if authority.is_empty() {
        return Err("is empty".into());
    }
    if let Some((authority, _)) = authority.split_once('/') {
        let authority = text::printable(authority, text::NAME);
        return Err(format!("an authority has no path: write {authority:?}, and what is called as grpc-service"));
    }
    if authority.contains('*') {
        return Err("there are no patterns: each authority needs a route of its own".into());
    }
    if authority.contains('@') {
        return Err("the user before the @ is no part of what is compared".into());
    }
    if !authority.is_ascii() {
        return Err("clients send such a name in its ASCII form (xn--…): write that".into());
    }
    let (name, port) = split(authority);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_address =
        name.starts_with('[') && name.ends_with(']') && name[1..name.len() - 1].parse::<std::net::Ipv6Addr>().is_ok();
    if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address stands in brackets: [{authority}]"));
    }
    if !is_address && (name.is_empty() || name == "." || !name.bytes().all(is_name)) {
        return Err("is neither a name nor an address, with or without a port".into());
    }
    if !port.is_empty() && !port[1..].parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("its port is not within 1 to 65535".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http::Request;

    use super::*;

    #[test]
    fn an_authority_is_compared_without_what_says_nothing() {
        for (text, compared, name) in [
            ("greeter.example", "greeter.example", "greeter.example"),
            ("Greeter.Example:80", "greeter.example:80", "Greeter.Example"),
            ("greeter.example.", "greeter.example", "greeter.example"),
            ("greeter.example.:80", "greeter.example:80", "greeter.example"),
            ("me@greeter.example:80", "greeter.example:80", "greeter.example"),
            ("[::1]:80", "[::1]:80", "[::1]"),
            ("a:", "a:", "a"),
            (".", ".", "."),
        ] {
            assert_eq!((&*plain(text), host(text)), (compared, name), "{text}");
        }
    }

    #[test]
    fn what_no_client_dials_is_told_from_what_one_does() {
        for text in [
            "greeter.example",
            "GREETER",
            "a.b:1",
            "a.:65535",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "a_b",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, says) in [
            ("http://greeter.example", "write \"greeter.example\" without http://"),
            ("dns:///greeter.example", "no scheme"),
            ("greeter.example/x", "no path: write \"greeter.example\""),
            ("*.example", "no patterns"),
            ("", "is empty"),
            (":80", "neither a name"),
            ("a b", "neither a name"),
            ("a%2Fb", "neither a name"),
            ("a:b", "neither a name"),
            ("a:0", "1 to 65535"),
            ("a:65536", "1 to 65535"),
            ("a:", "1 to 65535"),
            ("me@a", "before the @"),
            ("::1", "brackets: [::1]"),
            ("bücher.example", "xn--"),
        ] {
            let reason = check(text).unwrap_err();
            assert!(reason.contains(says), "{text}: {reason}");
        }
    }

    #[test]
    fn a_request_has_one_authority() {
        let settled = |uri: &str, host: Option<&str>| {
            let mut request = Request::post(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let mut head = request.body(()).unwrap().into_parts().0;
            settle(&mut head);
            assert!(!head.headers.contains_key(HOST));
            (head.uri.authority().map(|a| a.as_str().to_owned()), head.uri.path().to_owned())
        };
        let path = "/a.B/C".to_owned();
        assert_eq!(settled("/a.B/C", Some("svc:80")), (Some("svc:80".into()), path.clone()));
        assert_eq!(settled("http://svc/a.B/C", Some("other")), (Some("svc".into()), path.clone()));
        assert_eq!(settled("/a.B/C", Some("a b")), (None, path.clone()));
        assert_eq!(settled("/a.B/C", None), (None, path));
        let several = |hosts: [&str; 2]| {
            let request = hosts.into_iter().fold(Request::post("/a.B/C"), |request, host| request.header(HOST, host));
            let mut head = request.body(()).unwrap().into_parts().0;
            settle(&mut head);
            assert!(!head.headers.contains_key(HOST));
            head.uri.authority().map(|authority| authority.as_str().to_owned())
        };
        assert_eq!(several(["svc", "svc"]), Some("svc".into()));
        assert_eq!(several(["svc", "other"]), None);
    }
}
