//! Frames (RFC 9113, sections 4 and 6): their heads, and what has fixed length.

use crate::fault::{Code, Fault};

/// What a connection begins with, from the client's side (section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long the head of a frame is.
pub(crate) const HEAD: usize = 9;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// The head that `input` begins with, if it is all there.
    pub(crate) fn read(input: &[u8]) -> Option<Self> {
        let bytes = input.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize,
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & crate::flow::MOST,
        })
    }

    pub(crate) fn bytes(self) -> [u8; HEAD] {
        let length = (self.length as u32).to_be_bytes();
        let mut bytes = [length[1], length[2], length[3], self.kind, self.flags, 0, 0, 0, 0];
        bytes[5..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Where in its payload of `length` bytes the content of a DATA frame begins and ends, without
/// padding (section 6.1). `first` is the payload's first byte.
pub(crate) fn content(head: Head, first: Option<u8>) -> Result<(usize, usize), Fault> {
    if !head.has(flag::PADDED) {
        return Ok((0, head.length));
    }
    let padding = usize::from(first.ok_or(Fault::FrameLength)?);
    if padding < head.length { Ok((1, head.length - padding)) } else { Err(Fault::Padding) }
}

/// The fragment of a header block in a HEADERS frame, without padding and priority (section 6.2).
pub(crate) fn fragment(head: Head, payload: &[u8]) -> Result<&[u8], Fault> {
    let (start, end) = content(head, payload.first().copied())?;
    let content = &payload[start..end];
    if head.has(flag::PRIORITY) {
        content.get(5..).ok_or(if head.has(flag::PADDED) { Fault::Padding } else { Fault::FrameLength })
    } else {
        Ok(content)
    }
}

fn fixed<const LENGTH: usize>(payload: &[u8]) -> Result<[u8; LENGTH], Fault> {
    payload.try_into().map_err(|_| Fault::FrameLength)
}

/// The payload of a PING.
pub(crate) fn opaque(payload: &[u8]) -> Result<[u8; 8], Fault> {
    fixed(payload)
}

/// By how much a window shall grow.
pub(crate) fn increment(payload: &[u8]) -> Result<u32, Fault> {
    Ok(u32::from_be_bytes(fixed(payload)?) & crate::flow::MOST)
}

/// The code of a RST_STREAM.
pub(crate) fn code(payload: &[u8]) -> Result<Code, Fault> {
    Ok(Code(u32::from_be_bytes(fixed(payload)?)))
}

/// The last stream, the code and the debug data of a GOAWAY.
pub(crate) fn goaway(payload: &[u8]) -> Result<(u32, Code, &[u8]), Fault> {
    let (last, rest) = payload.split_first_chunk().ok_or(Fault::FrameLength)?;
    let (code, debug) = rest.split_first_chunk().ok_or(Fault::FrameLength)?;
    Ok((u32::from_be_bytes(*last) & crate::flow::MOST, Code(u32::from_be_bytes(*code)), debug))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(length: usize, flags: u8) -> Head {
        Head { length, kind: kind::HEADERS, flags, stream: 3 }
    }

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head { length: 0x01_02_03, kind: 4, flags: 5, stream: 0x7f00_0001 };
        assert_eq!(Head::read(&head.bytes()), Some(head));
        assert_eq!(Head::read(&head.bytes()[..8]), None);
        let mut reserved = head.bytes();
        reserved[5] |= 0x80;
        assert_eq!(Head::read(&reserved), Some(head));
    }

    #[test]
    fn padding_and_priority_are_cut_off() {
        let both = flag::PADDED | flag::PRIORITY;
        assert_eq!(fragment(head(9, both), &[2, 0, 0, 0, 0, 0, 7, 0, 0]), Ok(&[7][..]));
        assert_eq!(fragment(head(2, flag::PADDED), &[1, 0]), Ok(&[][..]));
        assert_eq!(fragment(head(1, flag::PADDED), &[0]), Ok(&[][..]));
        assert_eq!(fragment(head(2, flag::PADDED), &[2, 0]), Err(Fault::Padding));
        assert_eq!(fragment(head(0, flag::PADDED), &[]), Err(Fault::FrameLength));
        assert_eq!(fragment(head(4, flag::PRIORITY), &[0; 4]), Err(Fault::FrameLength));
    }
}
