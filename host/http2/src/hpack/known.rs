//! The names a relay knows, as numbers, and the static table of RFC 7541.
//!
//! A name that is known is never compared as bytes again: the decoder turns it into a [`Known`]
//! once, where it comes in, and both tables and every block keep it as that.

use super::Indexing::{self, Never, Once, Seen, Volatile};

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $in_static:literal, $indexing:ident;)*) => {
        /// A header name that this crate knows. Every name of the static table is one, and those
        /// that gRPC and its relays use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Known {
            /// Any other name. It is found by its bytes.
            Other,
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        /// All of them, by number.
        const ALL: &[Known] = &[Known::Other, $(Known::$name,)*];
        /// Their bytes, by number.
        const NAMES: &[&str] = &["", $($text,)*];
        /// Where each is in the static table first, by number; 0 where it is not.
        const STATIC: &[u8] = &[0, $($in_static,)*];
        /// What is put into the dynamic table, by number.
        const INDEXING: &[Indexing] = &[Seen, $($indexing,)*];
    };
}

known! {
    Authority = ":authority", 1, Once;
    Method = ":method", 2, Once;
    Path = ":path", 4, Seen;
    Scheme = ":scheme", 6, Once;
    Status = ":status", 8, Once;
    AcceptCharset = "accept-charset", 15, Seen;
    AcceptEncoding = "accept-encoding", 16, Once;
    AcceptLanguage = "accept-language", 17, Seen;
    AcceptRanges = "accept-ranges", 18, Seen;
    Accept = "accept", 19, Once;
    AccessControlAllowOrigin = "access-control-allow-origin", 20, Seen;
    Age = "age", 21, Volatile;
    Allow = "allow", 22, Seen;
    Authorization = "authorization", 23, Never;
    CacheControl = "cache-control", 24, Seen;
    ContentDisposition = "content-disposition", 25, Seen;
    ContentEncoding = "content-encoding", 26, Once;
    ContentLanguage = "content-language", 27, Seen;
    ContentLength = "content-length", 28, Volatile;
    ContentLocation = "content-location", 29, Seen;
    ContentRange = "content-range", 30, Volatile;
    ContentType = "content-type", 31, Once;
    Cookie = "cookie", 32, Never;
    Date = "date", 33, Volatile;
    Etag = "etag", 34, Volatile;
    Expect = "expect", 35, Seen;
    Expires = "expires", 36, Volatile;
    From = "from", 37, Seen;
    Host = "host", 38, Seen;
    IfMatch = "if-match", 39, Volatile;
    IfModifiedSince = "if-modified-since", 40, Volatile;
    IfNoneMatch = "if-none-match", 41, Volatile;
    IfRange = "if-range", 42, Seen;
    IfUnmodifiedSince = "if-unmodified-since", 43, Volatile;
    LastModified = "last-modified", 44, Volatile;
    Link = "link", 45, Seen;
    Location = "location", 46, Volatile;
    MaxForwards = "max-forwards", 47, Seen;
    ProxyAuthenticate = "proxy-authenticate", 48, Seen;
    ProxyAuthorization = "proxy-authorization", 49, Never;
    Range = "range", 50, Volatile;
    Referer = "referer", 51, Seen;
    Refresh = "refresh", 52, Seen;
    RetryAfter = "retry-after", 53, Seen;
    Server = "server", 54, Once;
    SetCookie = "set-cookie", 55, Never;
    StrictTransportSecurity = "strict-transport-security", 56, Seen;
    TransferEncoding = "transfer-encoding", 57, Seen;
    UserAgent = "user-agent", 58, Once;
    Vary = "vary", 59, Seen;
    Via = "via", 60, Once;
    WwwAuthenticate = "www-authenticate", 61, Seen;
    Te = "te", 0, Once;
    Connection = "connection", 0, Seen;
    KeepAlive = "keep-alive", 0, Seen;
    ProxyConnection = "proxy-connection", 0, Seen;
    Upgrade = "upgrade", 0, Seen;
    Protocol = ":protocol", 0, Seen;
    GrpcStatus = "grpc-status", 0, Once;
    GrpcMessage = "grpc-message", 0, Volatile;
    GrpcStatusDetailsBin = "grpc-status-details-bin", 0, Volatile;
    GrpcTimeout = "grpc-timeout", 0, Volatile;
    GrpcEncoding = "grpc-encoding", 0, Once;
    GrpcAcceptEncoding = "grpc-accept-encoding", 0, Once;
    GrpcPreviousRpcAttempts = "grpc-previous-rpc-attempts", 0, Seen;
    GrpcRetryPushbackMs = "grpc-retry-pushback-ms", 0, Seen;
    GrpcTraceBin = "grpc-trace-bin", 0, Volatile;
    GrpcTagsBin = "grpc-tags-bin", 0, Volatile;
    EndpointLoadMetricsBin = "endpoint-load-metrics-bin", 0, Volatile;
    Traceparent = "traceparent", 0, Volatile;
    Tracestate = "tracestate", 0, Volatile;
    Baggage = "baggage", 0, Seen;
    Forwarded = "forwarded", 0, Seen;
    XForwardedFor = "x-forwarded-for", 0, Seen;
    XForwardedProto = "x-forwarded-proto", 0, Once;
    XForwardedHost = "x-forwarded-host", 0, Seen;
    XRequestId = "x-request-id", 0, Volatile;
    Trailer = "trailer", 0, Seen;
}

/// The static table, by index; there is no entry 0.
pub(crate) const ENTRIES: [(Known, &str); 62] = [
    (Known::Other, ""),
    (Known::Authority, ""),
    (Known::Method, "GET"),
    (Known::Method, "POST"),
    (Known::Path, "/"),
    (Known::Path, "/index.html"),
    (Known::Scheme, "http"),
    (Known::Scheme, "https"),
    (Known::Status, "200"),
    (Known::Status, "204"),
    (Known::Status, "206"),
    (Known::Status, "304"),
    (Known::Status, "400"),
    (Known::Status, "404"),
    (Known::Status, "500"),
    (Known::AcceptCharset, ""),
    (Known::AcceptEncoding, "gzip, deflate"),
    (Known::AcceptLanguage, ""),
    (Known::AcceptRanges, ""),
    (Known::Accept, ""),
    (Known::AccessControlAllowOrigin, ""),
    (Known::Age, ""),
    (Known::Allow, ""),
    (Known::Authorization, ""),
    (Known::CacheControl, ""),
    (Known::ContentDisposition, ""),
    (Known::ContentEncoding, ""),
    (Known::ContentLanguage, ""),
    (Known::ContentLength, ""),
    (Known::ContentLocation, ""),
    (Known::ContentRange, ""),
    (Known::ContentType, ""),
    (Known::Cookie, ""),
    (Known::Date, ""),
    (Known::Etag, ""),
    (Known::Expect, ""),
    (Known::Expires, ""),
    (Known::From, ""),
    (Known::Host, ""),
    (Known::IfMatch, ""),
    (Known::IfModifiedSince, ""),
    (Known::IfNoneMatch, ""),
    (Known::IfRange, ""),
    (Known::IfUnmodifiedSince, ""),
    (Known::LastModified, ""),
    (Known::Link, ""),
    (Known::Location, ""),
    (Known::MaxForwards, ""),
    (Known::ProxyAuthenticate, ""),
    (Known::ProxyAuthorization, ""),
    (Known::Range, ""),
    (Known::Referer, ""),
    (Known::Refresh, ""),
    (Known::RetryAfter, ""),
    (Known::Server, ""),
    (Known::SetCookie, ""),
    (Known::StrictTransportSecurity, ""),
    (Known::TransferEncoding, ""),
    (Known::UserAgent, ""),
    (Known::Vary, ""),
    (Known::Via, ""),
    (Known::WwwAuthenticate, ""),
];

/// An open hash table of the names, by [`slot`]; 0 is a free place.
const SLOTS: [u8; 256] = slots();

const fn slots() -> [u8; 256] {
    let mut table = [0; 256];
    let mut number = 1;
    while number < NAMES.len() {
        let mut at = slot(NAMES[number].as_bytes());
        while table[at] != 0 {
            at = (at + 1) % 256;
        }
        table[at] = number as u8;
        number += 1;
    }
    table
}

const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    let (first, middle, last) = (name[0] as usize, name[length / 2] as usize, name[length - 1] as usize);
    (length * 29 + first * 5 + middle * 11 + last * 37) % 256
}

impl Known {
    /// The known name with these bytes, or [`Known::Other`].
    pub fn of(name: &[u8]) -> Self {
        if name.is_empty() {
            return Self::Other;
        }
        let mut at = slot(name);
        loop {
            match SLOTS[at] {
                0 => return Self::Other,
                number if NAMES[number as usize].as_bytes() == name => return ALL[number as usize],
                _ => at = (at + 1) % SLOTS.len(),
            }
        }
    }

    /// Its bytes; empty for [`Known::Other`].
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Whether it begins with a colon.
    pub fn is_pseudo(self) -> bool {
        matches!(self, Self::Authority | Self::Method | Self::Path | Self::Scheme | Self::Status | Self::Protocol)
    }

    pub(crate) fn static_index(self) -> u8 {
        STATIC[self as usize]
    }

    pub(crate) fn indexing(self) -> Indexing {
        INDEXING[self as usize]
    }

    /// The index of the entry of the static table that is exactly this, or 0.
    pub(crate) fn exact(self, value: &[u8]) -> u8 {
        match (self, value) {
            (Self::Method, b"GET") => 2,
            (Self::Method, b"POST") => 3,
            (Self::Path, b"/") => 4,
            (Self::Path, b"/index.html") => 5,
            (Self::Scheme, b"http") => 6,
            (Self::Scheme, b"https") => 7,
            (Self::Status, b"200") => 8,
            (Self::Status, b"204") => 9,
            (Self::Status, b"206") => 10,
            (Self::Status, b"304") => 11,
            (Self::Status, b"400") => 12,
            (Self::Status, b"404") => 13,
            (Self::Status, b"500") => 14,
            (Self::AcceptEncoding, b"gzip, deflate") => 16,
            _ => 0,
        }
    }

    pub(crate) fn bit(self) -> u128 {
        1 << (self as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_found_by_its_bytes() {
        assert!(ALL.len() <= 128, "a block keeps a set of them in 128 bits");
        for (number, &known) in ALL.iter().enumerate().skip(1) {
            assert_eq!(known as usize, number);
            assert_eq!(Known::of(known.name().as_bytes()), known);
            assert_eq!(known.is_pseudo(), known.name().starts_with(':'));
        }
        assert_eq!(Known::of(b""), Known::Other);
        assert_eq!(Known::of(b"waymark-service"), Known::Other);
    }

    #[test]
    fn the_static_table_and_the_names_agree() {
        for (index, &(known, value)) in ENTRIES.iter().enumerate().skip(1) {
            assert!(known.static_index() as usize <= index && known.static_index() > 0);
            assert_eq!(ENTRIES[known.static_index() as usize].0, known);
            let exact = if value.is_empty() { 0 } else { index };
            assert_eq!(known.exact(value.as_bytes()) as usize, exact);
        }
    }
}
