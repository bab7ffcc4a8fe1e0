//! How large headers and trailers may be, and what becomes of a call whose own are larger: it alone
//! fails, and is told.
//!
//! Sizes are those of RFC 9113, section 6.5.2: name, value and 32 bytes for each field. Four say
//! how much they take:
//!
//! | of | taken by | said by |
//! |---|---|---|
//! | a request | this node | `[clients] max-header-kib` |
//! | a request | the instance | its SETTINGS_MAX_HEADER_LIST_SIZE |
//! | an answer | this node | `[endpoints] max-header-kib` |
//! | an answer | the client | its SETTINGS_MAX_HEADER_LIST_SIZE |
//!
//! What peers say is heeded because many of them end the connection over what is larger, and a
//! connection to an instance is that of all clients: servers and clients on `h2` over four times
//! their limit, those on Netty over one and a quarter.
//!
//! Connections to instances take far more than this node does ([`OF_ANSWERS`]), so that what is
//! larger is refused here, with its size.
//!
//! hyper, towards clients, does not tell what its peer has said (`frame_tap` sees it), and minds
//! its own limit badly: a request over it gets HTTP status 431 and no word for gRPC; over four
//! times of it, or in more CONTINUATION frames than it allows for such a list (a quarter more than
//! needed), the connection ends. So its limit, too, is set far above ours ([`of_requests`]), and
//! what is between the two is refused here.

use std::sync::LazyLock;

use http::{HeaderMap, Method, Request, Uri};
use thiserror::Error;
use tracing::warn;
use waymark_core::model::Address;

use crate::limits::rate_limited_log::RateLimitedLog;

/// What a field counts beside its bytes.
const FIELD: usize = 32;

/// What is read of an instance's answer at all, and what instances are told that we take: as much
/// as grpc-go, whose limit is the highest among gRPC's libraries, takes by default.
pub(crate) const OF_ANSWERS: u32 = 16 << 20;

/// More names than this `HeaderMap` cannot hold (24,576): what comes after them is left out of it.
const MOST_NAMES: usize = 24_000;

/// What hyper takes of a request where this node takes `most`. Less than of an answer, because any
/// client may send the beginning of one on each of its connections, and leave it there. Four times
/// ours at least: then what `h2` cut still shows to be more than ours.
pub(crate) fn of_requests(most: u32) -> u32 {
    most.saturating_mul(4).max(2 << 20)
}

/// The size of these fields.
pub(crate) fn of(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum()
}

/// The size of a request's head.
pub(crate) fn of_request<B>(request: &Request<B>) -> usize {
    of(request.headers()) + of_target(request.method(), request.uri())
}

/// Whether the head of a request from a client is larger than this node takes.
pub(crate) fn check_request<B>(request: &Request<B>, most: u32) -> Result<(), TooLarge> {
    let bytes = of_request(request);
    if bytes > most as usize || has_all_names(request.headers()) {
        return Err(TooLarge { what: Section::Request, bytes, most, by: LimitedBy::Clients });
    }
    Ok(())
}

/// The same of an answer's head.
pub(crate) fn of_answer(fields: &HeaderMap) -> usize {
    of(fields) + ":status".len() + 3 + FIELD
}

/// What a request's method, scheme, authority and path count.
fn of_target(method: &Method, uri: &Uri) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    ":method:scheme:authority:path".len() + method.as_str().len() + "https".len() + authority + path + 4 * FIELD
}

/// Whether there are as many different names as can be told apart.
pub(crate) fn has_all_names(fields: &HeaderMap) -> bool {
    fields.keys_len() > MOST_NAMES
}

/// What of a call is too large.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Section {
    #[error("the headers of the call")]
    Request,
    #[error("the trailers of the request")]
    RequestTrailers,
    #[error("the headers that the instance at {0} answered with")]
    Answer(Address),
    #[error("the trailers that the instance at {0} answered with")]
    Trailers(Address),
}

/// Who takes no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LimitedBy {
    #[error("this node takes (`max-header-kib` of [clients])")]
    Clients,
    #[error("this node takes (`max-header-kib` of [endpoints])")]
    Endpoints,
    #[error("the client says it takes (SETTINGS_MAX_HEADER_LIST_SIZE)")]
    Client,
    #[error("the instance at {0} says it takes (SETTINGS_MAX_HEADER_LIST_SIZE)")]
    Instance(Address),
}

/// Headers or trailers are larger than somebody takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} are {bytes} bytes in all, more than the {most} that {by}")]
pub(crate) struct TooLarge {
    pub(crate) what: Section,
    pub(crate) bytes: usize,
    pub(crate) most: u32,
    pub(crate) by: LimitedBy,
}

impl TooLarge {
    /// Tells whoever runs this node.
    pub(crate) fn tell(&self, service: &str) {
        static WARNED: LazyLock<RateLimitedLog> = LazyLock::new(RateLimitedLog::default);
        if let Some(untold) = WARNED.allow() {
            warn!(service, error = %self, untold, "refused headers or trailers that are too large");
        }
    }
}

/// What is taken of answers: the least of what this node and the client of a call take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerLimit {
    pub(crate) node: u32,
    /// None: it has not said, or there is none.
    pub(crate) client: Option<u32>,
}

impl AnswerLimit {
    /// Who does not take so much, if anybody.
    pub(crate) fn over(self, bytes: usize, fields: &HeaderMap) -> Option<(u32, LimitedBy)> {
        if bytes > self.node as usize || has_all_names(fields) {
            return Some((self.node, LimitedBy::Endpoints));
        }
        // Many refuse what is as large as they say.
        self.client.filter(|client| bytes >= *client as usize).map(|client| (client, LimitedBy::Client))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sizes_are_those_of_http2() {
        let mut fields = HeaderMap::new();
        assert_eq!(of(&fields), 0);
        fields.append("x", "12345".parse().unwrap());
        fields.append("x", "6".parse().unwrap());
        assert_eq!(of(&fields), (1 + 5 + 32) + (1 + 1 + 32));
        let request = Request::post("http://a:1/b/c").body(()).unwrap();
        let pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "a:1"), (":path", "/b/c")];
        let sum: usize = pseudo.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert_eq!(of_request(&request), sum);
    }

    #[test]
    fn what_is_over_a_limit_names_whose_it_is() {
        let none = &HeaderMap::new();
        let limit = AnswerLimit { node: 100, client: Some(50) };
        assert_eq!(limit.over(49, none), None);
        assert_eq!(limit.over(50, none), Some((50, LimitedBy::Client)));
        assert_eq!(limit.over(101, none), Some((100, LimitedBy::Endpoints)));
        assert_eq!(AnswerLimit { client: None, ..limit }.over(100, none), None);
        assert!(of_requests(1 << 20) == 4 << 20 && of_requests(1) == 2 << 20);
    }
}
