//! What the header blocks of a message must have and must not (RFC 9113, section 8).

use crate::{
    fault::Fault,
    hpack::{Block, Known},
};

/// Fields that are about a connection (section 8.2.2).
const CONNECTION: u128 =
    bits(&[Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding, Known::Upgrade]);
const OF_REQUESTS: u128 = bits(&[Known::Method, Known::Scheme, Known::Authority, Known::Path, Known::Protocol]);
const PSEUDO: u128 = OF_REQUESTS | bits(&[Known::Status]);

const fn bits(names: &[Known]) -> u128 {
    let mut set = 0;
    let mut at = 0;
    while at < names.len() {
        set |= 1 << (names[at] as u32);
        at += 1;
    }
    set
}

/// What is needed of a message later on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// The content's length, if it says.
    pub(crate) length: Option<u64>,
    /// Of a response; 0 of a request.
    pub(crate) status: u16,
}

fn fields(block: &Block) -> Result<Option<u64>, Fault> {
    if let Some(flaw) = block.flaw {
        return Err(flaw);
    }
    if block.names() & CONNECTION != 0 {
        return Err(Fault::ConnectionHeader);
    }
    if block.has(Known::ContentLength) { length(block).map(Some) } else { Ok(None) }
}

fn length(block: &Block) -> Result<u64, Fault> {
    let mut values = block.iter().filter(|field| field.known == Known::ContentLength).map(|field| field.value);
    let first = values.next().unwrap_or_default();
    // Several equal ones are one (RFC 9110, section 8.6).
    if !values.all(|value| value == first) || !first.iter().all(u8::is_ascii_digit) {
        return Err(Fault::ContentLength);
    }
    std::str::from_utf8(first).ok().and_then(|digits| digits.parse().ok()).ok_or(Fault::ContentLength)
}

/// Section 8.3.1. What `:authority` is, is not looked at: it is for who routes by it.
pub(crate) fn request(block: &Block) -> Result<Message, Fault> {
    let length = fields(block)?;
    if block.has(Known::Status) {
        return Err(Fault::PseudoHeader);
    }
    let method = block.get(Known::Method).ok_or(Fault::PseudoHeader)?;
    let whole = if method == b"CONNECT" {
        // Without the extended one of RFC 8441, which is not offered.
        block.names() & OF_REQUESTS == bits(&[Known::Method, Known::Authority])
    } else {
        block.has(Known::Scheme)
            && block.get(Known::Path).is_some_and(|path| !path.is_empty())
            && !block.has(Known::Protocol)
    };
    if !whole || method.is_empty() {
        return Err(Fault::PseudoHeader);
    }
    if block.has(Known::Te) && (block.get(Known::Te) != Some(b"trailers") || block.count(Known::Te) > 1) {
        return Err(Fault::ConnectionHeader);
    }
    Ok(Message { length, status: 0 })
}

/// Section 8.3.2.
pub(crate) fn response(block: &Block) -> Result<Message, Fault> {
    let length = fields(block)?;
    if block.names() & OF_REQUESTS != 0 {
        return Err(Fault::PseudoHeader);
    }
    let status = status(block.get(Known::Status).ok_or(Fault::PseudoHeader)?).ok_or(Fault::Status)?;
    if status == 101 { Err(Fault::Status) } else { Ok(Message { length, status }) }
}

/// A status of three digits, 100 to 599 or what is not registered above.
pub(crate) fn status(value: &[u8]) -> Option<u16> {
    match value {
        &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// Section 8.1: no pseudo-header fields.
pub(crate) fn trailers(block: &Block) -> Result<(), Fault> {
    fields(block)?;
    if block.names() & PSEUDO == 0 { Ok(()) } else { Err(Fault::PseudoHeader) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fields: &[(&str, &str)]) -> Block {
        let mut block = Block::new();
        for (name, value) in fields {
            block.push(name.as_bytes(), value.as_bytes()).expect("a valid field");
        }
        block
    }

    const BASE: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a")];

    fn with(more: &[(&str, &str)]) -> Block {
        block(&[&BASE[..], more].concat())
    }

    #[test]
    fn requests_are_whole() {
        assert_eq!(request(&with(&[])), Ok(Message { length: None, status: 0 }));
        assert!(request(&with(&[("te", "trailers"), (":authority", "a%2Fb \u{1}\u{ff}c")])).is_ok());
        assert_eq!(request(&with(&[("content-length", "10")])).map(|message| message.length), Ok(Some(10)));
        assert!(request(&with(&[("content-length", "10"), ("content-length", "10")])).is_ok());
        assert!(request(&block(&[(":method", "CONNECT"), (":authority", "a:1")])).is_ok());
        for (block, fault) in [
            (block(&BASE[..2]), Fault::PseudoHeader),
            (block(&BASE[1..]), Fault::PseudoHeader),
            (block(&[BASE[0], BASE[1], (":path", "")]), Fault::PseudoHeader),
            (block(&[(":method", ""), BASE[1], BASE[2]]), Fault::PseudoHeader),
            (block(&[(":method", "CONNECT"), BASE[1], (":authority", "a")]), Fault::PseudoHeader),
            (with(&[(":status", "200")]), Fault::PseudoHeader),
            (with(&[(":protocol", "websocket")]), Fault::PseudoHeader),
            (with(&[("connection", "close")]), Fault::ConnectionHeader),
            (with(&[("transfer-encoding", "chunked")]), Fault::ConnectionHeader),
            (with(&[("te", "gzip")]), Fault::ConnectionHeader),
            (with(&[("te", "trailers"), ("te", "gzip")]), Fault::ConnectionHeader),
            (with(&[("content-length", "")]), Fault::ContentLength),
            (with(&[("content-length", "+1")]), Fault::ContentLength),
            (with(&[("content-length", "99999999999999999999")]), Fault::ContentLength),
            (with(&[("content-length", "1"), ("content-length", "2")]), Fault::ContentLength),
        ] {
            assert_eq!(request(&block), Err(fault), "{block:?}");
        }
    }

    #[test]
    fn responses_have_a_status_and_trailers_have_none() {
        assert_eq!(response(&block(&[(":status", "204")])).map(|message| message.status), Ok(204));
        for (value, fault) in
            [("", Fault::Status), ("20", Fault::Status), ("2x0", Fault::Status), ("101", Fault::Status)]
        {
            assert_eq!(response(&block(&[(":status", value)])), Err(fault));
        }
        assert_eq!(response(&block(&[])), Err(Fault::PseudoHeader));
        assert_eq!(response(&block(&[(":status", "200"), (":path", "/")])), Err(Fault::PseudoHeader));
        assert_eq!(trailers(&block(&[("grpc-status", "0")])), Ok(()));
        assert_eq!(trailers(&block(&[(":status", "200")])), Err(Fault::PseudoHeader));
        assert_eq!(trailers(&block(&[("upgrade", "x")])), Err(Fault::ConnectionHeader));
    }
}
