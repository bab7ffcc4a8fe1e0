//! HTTP/2 by hand, for peers that keep no rules: whatever a test wants is written, frame by frame
//! (RFC 9113, section 4).

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use super::support::{LONG, soon};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

/// Error codes (RFC 9113, section 7).
pub(super) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings (RFC 9113, section 6.5.2).
pub(super) mod setting {
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        list.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

pub(super) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(super) fn goaway(last_stream: u32, code: u32, debug: &str) -> Vec<u8> {
    let payload = [&last_stream.to_be_bytes()[..], &code.to_be_bytes(), debug.as_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

/// An integer of HPACK with a prefix of so many bits (RFC 7541, section 5.1).
pub(super) fn integer(first: u8, prefix: u32, mut value: usize) -> Vec<u8> {
    let limit = (1 << prefix) - 1;
    if value < limit {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | limit as u8];
    value -= limit;
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A header as HPACK writes it plainly: a literal that is not to be indexed (RFC 7541, section
/// 6.2.2).
pub(super) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0], integer(0, 7, name.len()), name.into(), integer(0, 7, value.len()), value.into()].concat()
}

/// The same, to be remembered: the newest entry of the dynamic table has the index 62 (RFC 7541,
/// section 6.2.1).
pub(super) fn indexed_literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = literal(name, value);
    bytes[0] = 0x40;
    bytes
}

/// The newest entry of the dynamic table, in one byte.
pub(super) const NEWEST: u8 = 0x80 | 0x3e;

pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    headers.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

/// The head of a call of the service `svc`, ready for more headers.
pub(super) fn call(path: &str) -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("waymark-service", "svc"),
    ])
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) async fn read(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload).await?;
        Ok(Self { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// What the other side did until it closed the connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Code and debug data of the last GOAWAY.
    pub(super) goaway: Option<(u32, String)>,
    /// How many streams were reset, by code.
    pub(super) resets: BTreeMap<u32, usize>,
    /// Streams that were answered.
    pub(super) answered: usize,
}

impl Seen {
    fn note(&mut self, frame: &Frame) {
        match frame.kind {
            kind::GOAWAY => {
                let debug = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
                self.goaway = Some((frame.number(4), debug));
            }
            kind::RST_STREAM => *self.resets.entry(frame.number(0)).or_default() += 1,
            kind::HEADERS => self.answered += 1,
            _ => {}
        }
    }
}

/// How a flood went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// All of it was taken.
    Taken,
    /// The other side reads no more, and keeps the connection.
    HeldBack,
    /// The connection is closed.
    Closed,
}

/// A client that writes what it is told, and reads (or does not).
pub(super) struct Raw {
    write: OwnedWriteHalf,
    reader: Reader,
}

enum Reader {
    /// Held, so that nothing is read and the connection stays.
    Never(#[expect(dead_code, reason = "held")] OwnedReadHalf),
    Always(JoinHandle<Seen>),
}

impl Raw {
    /// Connects, says hello with these settings, and reads all that comes.
    pub(super) async fn connect(to: SocketAddr, with: &[(u16, u32)]) -> Self {
        let mut raw = Self::silent(to).await;
        raw.write(&[PREFACE, &settings(with), &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat()).await.unwrap();
        raw
    }

    /// Connects, and says nothing yet.
    pub(super) async fn silent(to: SocketAddr) -> Self {
        let (read, write) = TcpStream::connect(to).await.unwrap().into_split();
        let mut read = BufReader::new(read);
        let reader = tokio::spawn(async move {
            let mut seen = Seen::default();
            while let Ok(frame) = Frame::read(&mut read).await {
                seen.note(&frame);
            }
            seen
        });
        Self { write, reader: Reader::Always(reader) }
    }

    /// Connects like [`Self::connect`], and never reads.
    pub(super) async fn deaf(to: SocketAddr, with: &[(u16, u32)]) -> Self {
        let (read, write) = TcpStream::connect(to).await.unwrap().into_split();
        let mut raw = Self { write, reader: Reader::Never(read) };
        raw.write(&[PREFACE, &settings(with), &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat()).await.unwrap();
        raw
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all(bytes).await
    }

    /// Writes these bytes so many times.
    pub(super) async fn flood(&mut self, times: usize, bytes: &[u8]) -> Flood {
        self.flood_with(times, |_| bytes.to_vec()).await
    }

    /// Writes piece after piece until all is written, or no more is taken.
    pub(super) async fn flood_with(&mut self, pieces: usize, piece: impl Fn(usize) -> Vec<u8>) -> Flood {
        const BUFFER: usize = 64 << 10;
        // Nothing tells that no more is taken but that nothing is. Only who never reads is meant to
        // be held back.
        let patience = if matches!(self.reader, Reader::Never(_)) { Duration::from_secs(4) } else { LONG };
        let mut buffer = Vec::with_capacity(2 * BUFFER);
        for number in 0..pieces {
            buffer.extend(piece(number));
            if buffer.len() < BUFFER && number + 1 < pieces {
                continue;
            }
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                match tokio::time::timeout(patience, self.write.write(rest)).await {
                    Ok(Ok(len)) => rest = &rest[len..],
                    Ok(Err(_)) => return Flood::Closed,
                    Err(_) => return Flood::HeldBack,
                }
            }
            buffer.clear();
        }
        Flood::Taken
    }

    /// Waits until the other side closes the connection.
    pub(super) async fn closed(self) -> Seen {
        let Reader::Always(reader) = self.reader else { panic!("it does not read") };
        let seen = soon(reader).await.unwrap();
        drop(self.write);
        seen
    }
}
