//! A client connection's first bytes (HTTP/2's preface, a TLS record or HTTP/1): which protocol
//! they are, and a refusal in that protocol where it is the wrong one.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::socket::Socket;

/// The value of `waymark-error` for what is no gRPC.
pub(crate) const NOT_GRPC: &str = "not-grpc";

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1, or text that is none of these.
    Http1,
    /// TLS.
    Tls,
}

/// Why a client is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP/1 where HTTP/2 in cleartext is spoken.
    Http1,
    /// Cleartext where TLS is spoken.
    Cleartext,
    /// TLS without the agreement on HTTP/2.
    NoAlpn,
    /// Clients have as many connections as they may have.
    TooMany,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::Http1 => "this port speaks gRPC over HTTP/2 in cleartext (h2c with prior knowledge), not HTTP/1",
            Self::Cleartext => "this port speaks gRPC over TLS: use https:// or TLS credentials",
            Self::NoAlpn => "this port speaks gRPC over HTTP/2, which a client asks for in the TLS handshake (ALPN h2)",
            Self::TooMany => "this node has as many client connections as it takes (max-connections of [clients])",
        }
    }

    /// The same as a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Cleartext => "cleartext",
            Self::NoAlpn => "no-alpn",
            Self::TooMany => "too-many",
        }
    }

    fn http1_status(self) -> &'static str {
        match self {
            Self::Http1 | Self::NoAlpn => "505 HTTP Version Not Supported",
            Self::Cleartext => "400 Bad Request",
            Self::TooMany => "503 Service Unavailable",
        }
    }

    fn waymark_error(self) -> &'static str {
        match self {
            Self::Http1 | Self::Cleartext | Self::NoAlpn => NOT_GRPC,
            Self::TooMany => "too-many-connections",
        }
    }

    /// A code of HTTP/2 (RFC 9113, section 7).
    fn code(self) -> h2::Reason {
        match self {
            Self::Http1 | Self::Cleartext | Self::NoAlpn => h2::Reason::INADEQUATE_SECURITY,
            Self::TooMany => h2::Reason::ENHANCE_YOUR_CALM,
        }
    }
}

/// How a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Nothing tells of a further byte beside one that was only looked at. Few prefaces come in pieces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks at a connection's first bytes without taking them. HTTP/2's preface is waited for as a
/// whole, because HTTP/2 would wait for the rest without end.
pub async fn protocol(socket: &Socket) -> io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    let mut seen = 0;
    loop {
        let len = socket.peek(&mut first).await?;
        if let Some(protocol) = of(&first[..len])? {
            return Ok(protocol);
        }
        // What is only looked at stays, and the end of the stream does not show.
        if len == seen && socket.is_read_closed().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen = len;
        sleep(LOOK_AGAIN).await;
    }
}

/// The same where there is nothing to look at, for a client that is refused whatever it speaks.
async fn protocol_taken(socket: &mut Socket) -> io::Result<Protocol> {
    let mut first = [0; 3];
    let len = socket.read(&mut first).await?;
    Ok(of(&first[..len])?.unwrap_or(Protocol::Http2))
}

/// None while it may become HTTP/2's preface. Three bytes are enough to tell that from the methods
/// of HTTP/1.
fn of(first: &[u8]) -> io::Result<Option<Protocol>> {
    match first {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        // A TLS record of the kind "handshake".
        [0x16, ..] => Ok(Some(Protocol::Tls)),
        PREFACE => Ok(Some(Protocol::Http2)),
        first if PREFACE.starts_with(first) => Ok(None),
        // HTTP/2 has the last word on a preface that is wrong further on.
        [b'P', b'R', b'I', ..] => Ok(Some(Protocol::Http2)),
        _ => Ok(Some(Protocol::Http1)),
    }
}

/// Tells a client why it is not served, in the protocol that it speaks. Whether it reads that is up
/// to it.
pub async fn refuse(mut socket: Socket, refusal: Refusal) -> io::Result<()> {
    let protocol = match refusal {
        Refusal::Http1 => Protocol::Http1,
        Refusal::Cleartext | Refusal::TooMany => protocol(&socket).await?,
        Refusal::NoAlpn => protocol_taken(&mut socket).await?,
    };
    let answer = match protocol {
        Protocol::Http1 => http1(refusal),
        Protocol::Http2 => http2(refusal),
        // TLS in TLS: there is no telling what that wants. And a handshake is no way to save
        // effort.
        Protocol::Tls => return Ok(()),
    };
    socket.write_all(&answer).await?;
    socket.shutdown().await?;
    // To close with unread bytes would reset the connection, and take the answer with it.
    let mut rest = [0; 4096];
    let mut budget = 1 << 20;
    while budget > 0 {
        match socket.read(&mut rest).await? {
            0 => break,
            len => budget -= len.min(budget),
        }
    }
    Ok(())
}

fn http1(refusal: Refusal) -> Vec<u8> {
    let (status, kind, text) = (refusal.http1_status(), refusal.waymark_error(), refusal.text());
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nwaymark-error: {kind}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{text}\n",
        text.len() + 1
    )
    .into_bytes()
}

/// Empty SETTINGS, then GOAWAY with the reason as its debug data (RFC 9113, sections 6.5 and 6.8),
/// which gRPC's clients show.
fn http2(refusal: Refusal) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let text = refusal.text().as_bytes();
    let len = u8::try_from(text.len() + 8).expect("the texts are under 248 bytes");
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, len, 7, 0, 0, 0, 0, 0]);
    frames.extend([0; 4]);
    frames.extend(u32::from(refusal.code()).to_be_bytes());
    frames.extend(text);
    frames
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (first, protocol) in [
            (PREFACE, Some(Protocol::Http2)),
            (b"PRI * HTTP/1.1", Some(Protocol::Http2)),
            (b"PRI * HTTP/2", None),
            (b"P", None),
            (b"POS", Some(Protocol::Http1)),
            (b"PRO", Some(Protocol::Http1)),
            (&[0x16, 3, 1], Some(Protocol::Tls)),
        ] {
            assert_eq!(of(first).unwrap(), protocol, "{first:?}");
        }
        assert!(of(b"").is_err());
    }

    #[test]
    fn every_refusal_fits_its_frame() {
        for refusal in [Refusal::Http1, Refusal::Cleartext, Refusal::NoAlpn, Refusal::TooMany] {
            let frames = http2(refusal);
            assert_eq!(usize::from(frames[11]), frames.len() - 18);
        }
    }
}
