//! What instances are told of the client that calls, and what a client says of itself that they
//! must not believe.
//!
//! | header | from callers | with `forward-…` |
//! |---|---|---|
//! | `x-forwarded-client-cert` (Envoy's form) | removed | the client's certificate |
//! | `x-forwarded-for` | removed | the client's address |
//! | `forwarded` (RFC 7239), `x-real-ip` | removed | removed |
//!
//! Servers take these headers for the truth, because in front of them stands a proxy that sees to
//! it; here this node is that proxy. Envoy removes only the first by default and appends to the
//! second; whoever reads its leftmost entry then reads what the caller wrote. Where callers are
//! themselves proxies that see to it, `trust-forwarded` keeps what they say, and ours is appended.

use std::{fmt::Write as _, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::transport::certificate::Certificate;

const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What is told to instances, and what is believed of callers. Default: nothing either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// Tell instances of the client's certificate.
    pub certificate: bool,
    /// Tell them of the client's address.
    pub address: bool,
    /// Believe callers what they say of clients before them.
    pub trusted: bool,
}

/// The headers of one client's calls, made when it connects.
#[derive(Debug, Default)]
pub(crate) struct Forwarded {
    certificate: Option<HeaderValue>,
    address: Option<HeaderValue>,
    trusted: bool,
}

impl Forwarded {
    pub(crate) fn new(options: Forwarding, certificate: Option<&Certificate>, address: Option<IpAddr>) -> Self {
        let certificate = certificate.filter(|_| options.certificate).and_then(element);
        let address = address.filter(|_| options.address).and_then(|ip| HeaderValue::try_from(ip.to_string()).ok());
        Self { certificate, address, trusted: options.trusted }
    }

    /// Takes off what the client must not say, and puts on what is told of it.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if !self.trusted && headers.keys().any(is_claim) {
            for name in [CLIENT_CERT, CLIENT_ADDRESS, REAL_IP, FORWARDED] {
                headers.remove(name);
            }
        }
        for (name, value) in [(CLIENT_CERT, &self.certificate), (CLIENT_ADDRESS, &self.address)] {
            if let Some(value) = value {
                let value = appended(headers, &name, value);
                headers.insert(name, value);
            }
        }
    }
}

/// Whether a header of this name says something of a client. Looked at for every call: most names
/// have another length.
fn is_claim(name: &HeaderName) -> bool {
    match name.as_str() {
        name if name.len() == 23 => name == CLIENT_CERT.as_str(),
        name if name.len() == 15 => name == CLIENT_ADDRESS.as_str(),
        name if name.len() == 9 => name == FORWARDED.as_str() || name == REAL_IP.as_str(),
        _ => false,
    }
}

/// What stands under this name, in one line or several, with one element more.
fn appended(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> HeaderValue {
    if !headers.contains_key(name) {
        return value.clone();
    }
    let all: Vec<_> = headers.get_all(name).iter().chain([value]).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b',')).unwrap_or_else(|_| value.clone())
}

/// One element of Envoy's `x-forwarded-client-cert`.
fn element(certificate: &Certificate) -> Option<HeaderValue> {
    let mut text = format!("Hash={}", certificate.sha256);
    let mut add = |key: &str, value: &str, always_quoted: bool| {
        // Names are the authority's words; what a header cannot carry is no name that anybody has.
        if value.is_empty() || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return;
        }
        let quoted = always_quoted || value.contains([',', ';', '=', '"']);
        // Writing to a String does not fail.
        let _ = if quoted {
            write!(text, ";{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            write!(text, ";{key}={value}")
        };
    };
    add("Subject", &certificate.subject, true);
    for uri in &certificate.uris {
        add("URI", uri, false);
    }
    for name in &certificate.dns {
        add("DNS", name, false);
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn certificate() -> Certificate {
        Certificate {
            uris: vec!["spiffe://example.org/a;DNS=admin".into(), "spiffe://example.org/b".into(), "bad\n".into()],
            dns: vec!["a.example".into()],
            common_name: None,
            subject: r#"CN=a\"b,O=Ex"#.into(),
            not_before: 0,
            not_after: 0,
            sha256: "ab12".into(),
        }
    }

    fn written(options: Forwarding, said: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(*name, value.parse().unwrap());
        }
        let (certificate, address) = (certificate(), Some([192, 0, 2, 1].into()));
        Forwarded::new(options, Some(&certificate), address).write(&mut headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort_unstable();
        all
    }

    const CLAIMS: [(&str, &str); 6] = [
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-client-cert", "Hash=forged"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-real-ip", "10.0.0.1"),
        ("x-request-id", "7"),
    ];

    #[test]
    fn what_a_caller_says_of_clients_is_taken_off_and_the_rest_passes() {
        let nothing = written(Forwarding::default(), &CLAIMS);
        assert_eq!(nothing, [("x-request-id".to_owned(), "7".to_owned())]);
        let kept = written(Forwarding { trusted: true, ..Forwarding::default() }, &CLAIMS);
        assert_eq!(kept.len(), CLAIMS.len());
    }

    #[test]
    fn what_is_told_takes_the_place_of_what_was_said_unless_callers_are_trusted() {
        let all = Forwarding { certificate: true, address: true, trusted: false };
        let told = written(all, &CLAIMS);
        let mine = r#"Hash=ab12;Subject="CN=a\\\"b,O=Ex";URI="spiffe://example.org/a;DNS=admin";URI=spiffe://example.org/b;DNS=a.example"#;
        assert_eq!(told[0], ("x-forwarded-client-cert".into(), mine.into()));
        assert_eq!(told[1], ("x-forwarded-for".into(), "192.0.2.1".into()));
        assert_eq!(told.len(), 3);
        let appended = written(Forwarding { trusted: true, ..all }, &CLAIMS[1..4]);
        assert_eq!(appended[0].1, format!("Hash=forged,{mine}"));
        assert_eq!(appended[1].1, "10.0.0.1,10.0.0.2,192.0.2.1");
    }
}
