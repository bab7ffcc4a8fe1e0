//! A client connection's first bytes: which protocol they are, and a polite no in that protocol where it is the wrong one.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::socket::Socket;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http2,
    Http1,
    Tls,
}

/// Why a client is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// HTTP/1 where HTTP/2 in cleartext is spoken.
    Http1,
    /// Cleartext where TLS is spoken.
    Cleartext,
    /// TLS without the agreement on HTTP/2.
    NoAlpn,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::Http1 => "this port speaks gRPC over HTTP/2 in cleartext (h2c with prior knowledge), not HTTP/1",
            Self::Cleartext => "this port speaks gRPC over TLS: use https:// or TLS credentials",
            Self::NoAlpn => "this port speaks gRPC over HTTP/2, which a client asks for in the TLS handshake (ALPN h2)",
        }
    }

    fn http1_status(self) -> &'static str {
        match self {
            Self::Http1 | Self::NoAlpn => "505 HTTP Version Not Supported",
            Self::Cleartext => "400 Bad Request",
        }
    }
}

/// Looks at a connection's first bytes without taking them.
pub(super) async fn protocol(socket: &Socket) -> io::Result<Protocol> {
    let mut first = [0; 3];
    let len = socket.peek(&mut first).await?;
    of(&first[..len])
}

/// The same where there is nothing to look at, for a client that is refused whatever it speaks.
async fn protocol_taken(socket: &mut Socket) -> io::Result<Protocol> {
    let mut first = [0; 3];
    let len = socket.read(&mut first).await?;
    of(&first[..len])
}

/// Three bytes are enough to know HTTP/2's preface, `PRI * HTTP/2.0`: no method of HTTP/1 begins like it.
fn of(first: &[u8]) -> io::Result<Protocol> {
    match first {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        // A TLS record of the kind "handshake".
        [0x16, ..] => Ok(Protocol::Tls),
        // A preface that comes in pieces goes to HTTP/2, which has the last word.
        first if b"PRI".starts_with(first) => Ok(Protocol::Http2),
        _ => Ok(Protocol::Http1),
    }
}

/// Tells a client why it is not served, in the protocol that it speaks. Whether it reads that is up to it.
pub(super) async fn refuse(mut socket: Socket, refusal: Refusal) -> io::Result<()> {
    let protocol = match refusal {
        Refusal::Http1 => Protocol::Http1,
        Refusal::Cleartext => protocol(&socket).await?,
        Refusal::NoAlpn => protocol_taken(&mut socket).await?,
    };
    let answer = match protocol {
        Protocol::Http1 => http1(refusal),
        Protocol::Http2 => http2(refusal),
        // TLS in TLS: there is no telling what that wants.
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
    let (status, text) = (refusal.http1_status(), refusal.text());
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nwaymark-error: not-grpc\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{text}\n",
        text.len() + 1
    )
    .into_bytes()
}

/// Empty SETTINGS, then GOAWAY with INADEQUATE_SECURITY and the reason as its debug data (RFC 9113, sections 6.5, 6.8 and 7),
/// which gRPC's clients show.
fn http2(refusal: Refusal) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u8 = 0xc;
    let text = refusal.text().as_bytes();
    let len = u8::try_from(text.len() + 8).expect("the texts are under 248 bytes");
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, len, 7, 0, 0, 0, 0, 0]);
    frames.extend([0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(text);
    frames
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn three_bytes_tell_the_protocol() {
        for (first, protocol) in [
            (&b"PRI"[..], Protocol::Http2),
            (b"P", Protocol::Http2),
            (b"POS", Protocol::Http1),
            (b"PRO", Protocol::Http1),
            (&[0x16, 3, 1], Protocol::Tls),
        ] {
            assert_eq!(of(first).unwrap(), protocol, "{first:?}");
        }
        assert!(of(b"").is_err());
    }

    #[test]
    fn every_refusal_fits_its_frame() {
        for refusal in [Refusal::Http1, Refusal::Cleartext, Refusal::NoAlpn] {
            let frames = http2(refusal);
            assert_eq!(usize::from(frames[11]), frames.len() - 18);
        }
    }
}
