//! gRPC's status codes in headers, and what HTTP and HTTP/2 errors mean in them.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use waymark_core::traffic::Code;

/// The header or trailer that carries a call's status.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A status on the wire.
pub(crate) trait WireCode: Sized {
    /// The value of `grpc-status`.
    fn header_value(self) -> HeaderValue;

    /// The status that headers or trailers carry, if any. What is not a known number is UNKNOWN, as
    /// gRPC has it.
    fn of(headers: &HeaderMap) -> Option<Self>;

    /// What a server's HTTP/2 reset means, by the table "Errors" of gRPC's PROTOCOL-HTTP2.md.
    fn of_reset(reason: waymark_http2::Code) -> Self;

    /// What an answer with an HTTP status and no `grpc-status` means, by gRPC's
    /// http-grpc-status-mapping.md.
    fn of_http(status: http::StatusCode) -> Self;
}

impl WireCode for Code {
    fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_digits())
    }

    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(&GRPC_STATUS)?.as_bytes();
        let number = match value {
            [a @ b'0'..=b'9'] => usize::from(a - b'0'),
            [b'1', b @ b'0'..=b'9'] => usize::from(10 + b - b'0'),
            _ => return Some(Self::Unknown),
        };
        Some(Self::ALL.get(number).copied().unwrap_or(Self::Unknown))
    }

    fn of_reset(reason: waymark_http2::Code) -> Self {
        match reason {
            waymark_http2::Code::REFUSED_STREAM => Self::Unavailable,
            waymark_http2::Code::CANCEL => Self::Cancelled,
            waymark_http2::Code::ENHANCE_YOUR_CALM => Self::ResourceExhausted,
            waymark_http2::Code::INADEQUATE_SECURITY => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }

    fn of_http(status: http::StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// Whether the content type says gRPC: `application/grpc`, alone or with `+proto`, `;charset` and
/// the like; not gRPC-Web, which is another protocol.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_is_taken_for_grpc() {
        let takes = |text| is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]));
        assert!(takes("application/grpc") && takes("application/grpc+proto") && takes("application/grpc;x=y"));
        assert!(!takes("application/grpc-web") && !takes("application/json") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_status_is_read_from_its_number() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, HeaderValue::from_static(value));
            Code::of(&headers)
        };
        for code in Code::ALL {
            assert_eq!(
                read(match code.header_value().to_str() {
                    Ok(text) => String::leak(text.to_owned()),
                    Err(_) => "",
                }),
                Some(code)
            );
        }
        assert_eq!(read("17"), Some(Code::Unknown));
        assert_eq!(read("014"), Some(Code::Unknown));
        assert_eq!(read(""), Some(Code::Unknown));
        assert_eq!(Code::of(&HeaderMap::new()), None);
    }
}
