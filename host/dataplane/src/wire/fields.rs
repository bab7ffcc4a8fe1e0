//! Header maps into HTTP/2's header blocks, and back. Only connections to instances need it.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri};
use thiserror::Error;
use waymark_http2::{Block, Fault, Known};

/// A header that HTTP/2 does not allow (RFC 9113, section 8.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("HTTP/2 forbids {name:?} in a message")]
pub(crate) struct Forbidden {
    name: HeaderName,
}

/// Writes what comes before the headers of a request.
pub(crate) fn begin_request(
    block: &mut Block,
    method: &Method,
    scheme: &uri::Scheme,
    authority: &str,
    path: &str,
) -> Result<(), Forbidden> {
    put(block, Known::Method, method.as_str().as_bytes())?;
    if method != Method::CONNECT {
        put(block, Known::Scheme, scheme.as_str().as_bytes())?;
    }
    put(block, Known::Authority, authority.as_bytes())?;
    if method != Method::CONNECT {
        put(block, Known::Path, path.as_bytes())?;
    }
    Ok(())
}

/// Sets a header to this value alone.
pub(crate) fn put(block: &mut Block, known: Known, value: &[u8]) -> Result<(), Forbidden> {
    let set = block.set(known, value.trim_ascii());
    set.map_err(|_| Forbidden { name: HeaderName::from_bytes(known.name().as_bytes()).unwrap_or(http::header::HOST) })
}

/// Adds these headers. `te`, which is said from hop to hop, stays out.
pub(crate) fn add(block: &mut Block, headers: &HeaderMap) -> Result<(), Forbidden> {
    for (name, value) in headers {
        let known = Known::of(name.as_str().as_bytes());
        let forbidden = || Forbidden { name: name.clone() };
        match known {
            Known::Te => continue,
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return Err(forbidden()),
            _ => {}
        }
        // Blanks around a value are not part of it (RFC 9110, section 5.5), and HTTP/2 has none.
        let bytes = value.as_bytes().trim_ascii();
        let added = if value.is_sensitive() {
            block.push_sensitive(name.as_str().as_bytes(), bytes)
        } else if known == Known::Other {
            block.push(name.as_str().as_bytes(), bytes)
        } else {
            block.push_known(known, bytes)
        };
        added.map_err(|_| forbidden())?;
    }
    Ok(())
}

/// The status of an answer.
pub(crate) fn status(block: &Block) -> Result<StatusCode, Fault> {
    let status = block.get(Known::Status).ok_or(Fault::PseudoHeader)?;
    StatusCode::from_bytes(status).map_err(|_| Fault::Status)
}

/// The headers of a block, without its pseudo-headers. What comes after as many names as there may
/// be in a map is left out, which its reader can see by their number.
pub(crate) fn headers(block: &Block) -> Result<HeaderMap, Fault> {
    const USUAL: usize = 24;
    let mut headers = HeaderMap::with_capacity(block.len().min(USUAL));
    for field in block.iter() {
        if field.known.is_pseudo() {
            continue;
        }
        let name = if field.known == Known::Other {
            HeaderName::from_bytes(field.name).map_err(|_| Fault::HeaderName)?
        } else {
            name(field.known)
        };
        let mut value = value(field.known, field.value)?;
        value.set_sensitive(field.sensitive);
        if headers.try_append(name, value).is_err() {
            break;
        }
    }
    Ok(headers)
}

/// Names that are known are made once.
fn name(known: Known) -> HeaderName {
    static NAMES: [OnceLock<HeaderName>; 128] = [const { OnceLock::new() }; 128];
    let made = NAMES.get(known as usize).map(|name| name.get_or_init(|| HeaderName::from_static(known.name())));
    made.cloned().unwrap_or_else(|| HeaderName::from_static(known.name()))
}

/// So are the values that nearly every answer has.
fn value(known: Known, value: &[u8]) -> Result<HeaderValue, Fault> {
    static GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
    static OK: HeaderValue = HeaderValue::from_static("0");
    match (known, value) {
        (Known::ContentType, b"application/grpc") => Ok(GRPC.clone()),
        (Known::GrpcStatus, b"0") => Ok(OK.clone()),
        _ => HeaderValue::from_bytes(value).map_err(|_| Fault::HeaderValue),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn map(fields: &[(&'static str, &'static [u8])]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut given = map(&[("x-a", b"1"), ("grpc-status", b"0"), ("x-bin", b"\xff\x80"), ("content-type", b"a")]);
        given.append("x-a", HeaderValue::from_static("2"));
        let mut secret = HeaderValue::from_static("Bearer x");
        secret.set_sensitive(true);
        given.insert("authorization", secret);
        let mut block = Block::new();
        put(&mut block, Known::Status, b"200").unwrap();
        add(&mut block, &given).unwrap();
        let taken = headers(&block).unwrap();
        assert_eq!(taken, given);
        assert!(taken["authorization"].is_sensitive() && !taken["x-a"].is_sensitive());
        assert_eq!(status(&block).unwrap(), 200);
    }

    #[test]
    fn what_is_of_one_hop_stays_here_and_what_is_forbidden_is_named() {
        let mut block = Block::new();
        begin_request(&mut block, &Method::POST, &uri::Scheme::HTTP, "a", "/b").unwrap();
        add(&mut block, &map(&[("te", b"gzip"), ("x-blank", b" a b ")])).unwrap();
        put(&mut block, Known::Te, b"trailers").unwrap();
        assert_eq!(
            format!("{block:?}"),
            "[:method: POST, :scheme: http, :authority: a, :path: /b, x-blank: a b, te: trailers]"
        );
        let refused = add(&mut block, &map(&[("connection", b"close")])).unwrap_err();
        assert!(refused.to_string().contains("connection"), "{refused}");
    }

    #[test]
    fn what_http_cannot_hold_is_a_fault() {
        let mut block = Block::new();
        block.push(b"x", b"a\x01").unwrap();
        assert_eq!(headers(&block), Err(Fault::HeaderValue));
        let mut block = Block::new();
        for n in 0..40_000 {
            block.push(format!("x{n}").as_bytes(), b"").unwrap();
        }
        assert!(crate::wire::header_size::has_all_names(&headers(&block).unwrap()));
    }
}
