//! Reads endpoints, and finds out what answers at one that does not answer like an etcd.
//!
//! A client library says "transport error" for a port that is closed, for one that wants TLS, and
//! for a web server. A few bytes of our own tell them apart.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::error::{Cause, RegistryError};

/// What answers at an address.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing: no connection can be made.
    Nothing(Cause),
    /// A TLS server.
    Tls,
    /// An HTTP/2 server in plain text, like etcd without TLS.
    Http2,
    /// It takes connections and says nothing, or ends them.
    Silent,
    /// A balancer that does not reach what is behind it, in words that follow "cannot serve now:".
    Unavailable(String),
    /// Something else, in words that follow "is not an etcd:".
    Other(String),
}

/// The endpoint with its scheme, and without a slash at its end.
pub(super) fn normalize(endpoint: &str, tls: bool) -> Result<String, RegistryError> {
    let fail = |problem: &str| RegistryError::Endpoint { endpoint: endpoint.to_owned(), problem: problem.to_owned() };
    let text = endpoint.trim().trim_end_matches('/');
    if text.is_empty() {
        return Err(fail("is empty"));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(fail("has a scheme other than http and https")),
        None => (if tls { "https" } else { "http" }, text),
    };
    if scheme == "http" && tls {
        return Err(fail("is plain text (http://), but TLS settings are configured; write https://"));
    }
    rest.parse::<waymark_core::model::Address>()
        .map_err(|_| fail("is not http://host:port, https://host:port or host:port"))?;
    Ok(format!("{scheme}://{rest}"))
}

/// Looks at what listens there, in about this time for each of up to two connections.
pub(super) async fn probe(url: &str, within: Duration) -> Found {
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    match ask(address, HTTP2_GREETING, within).await {
        Err(cause) => return Found::Nothing(cause),
        Ok(answer) if is_tls(&answer) || contains(&answer, b"HTTPS server") => return Found::Tls,
        // A frame of type 4: the server's settings.
        Ok(answer) if answer.len() >= 9 && answer[3] == 4 => return Found::Http2,
        Ok(answer) if answer.starts_with(b"HTTP/1") => {
            return match gateway_status(&answer) {
                Some(status) => Found::Unavailable(format!("a server before it answers with HTTP status {status}")),
                None => Found::Other("it is a web server that speaks HTTP/1 only".to_owned()),
            };
        }
        Ok(answer) if !answer.is_empty() => {
            return Found::Other(format!("it says {:?}", String::from_utf8_lossy(&answer[..answer.len().min(32)])));
        }
        Ok(_) => {}
    }
    match ask(address, TLS_GREETING, within).await {
        Ok(answer) if is_tls(&answer) => Found::Tls,
        _ => Found::Silent,
    }
}

/// The status of an HTTP/1 answer by which balancers say that nobody is behind them.
fn gateway_status(answer: &[u8]) -> Option<&str> {
    let (_, status) = std::str::from_utf8(answer.get(..12)?).ok()?.strip_prefix("HTTP/1.")?.split_once(' ')?;
    matches!(status, "502" | "503" | "504").then_some(status)
}

/// HTTP/2's connection preface with an empty SETTINGS frame (RFC 9113, section 3.4).
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// The least ClientHello (RFC 5246, section 7.4.1.2): TLS 1.2, a random of zeros, no session, one
/// cipher suite, no extension. Few servers of today agree to it, and every TLS server answers it
/// with an alert or more.
const TLS_GREETING: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x00\x00\x02\xc0\x2f\x01\x00";

/// An alert or a handshake record of TLS or SSL 3.
fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [21 | 22, 3, ..])
}

fn contains(answer: &[u8], text: &[u8]) -> bool {
    answer.windows(text.len()).any(|window| window == text)
}

/// The first bytes that come back; none if the other side hangs up or stays silent.
async fn ask(address: &str, greeting: &[u8], within: Duration) -> Result<Vec<u8>, Cause> {
    let mut stream = match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Cause::of(&error)),
        Err(_) => return Err(Cause::new(format!("no connection within {within:?}"))),
    };
    let mut answer = Vec::with_capacity(512);
    let conversation = async {
        stream.write_all(greeting).await?;
        // A frame's head is enough, except of a web server, whose words say whether it wants TLS.
        while answer.len() < 9 || (answer.starts_with(b"HTTP/") && answer.len() < 512) {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // Whether it ended well matters less than what came.
    let _ = timeout(within, conversation).await;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn endpoints_get_the_scheme_that_the_settings_imply() {
        for (given, tls, want) in [
            ("http://192.0.2.1:2379", false, "http://192.0.2.1:2379"),
            ("http://192.0.2.1:2379/", false, "http://192.0.2.1:2379"),
            ("etcd.example:2379", false, "http://etcd.example:2379"),
            ("etcd.example:2379", true, "https://etcd.example:2379"),
            ("https://[2001:db8::1]:2379", false, "https://[2001:db8::1]:2379"),
        ] {
            assert_eq!(normalize(given, tls).unwrap(), want);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_its_text() {
        for given in ["", "etcd", "ftp://192.0.2.1:2379", "http://", "http://192.0.2.1:2379/path", "unix:///tmp/x"] {
            let error = normalize(given, false).unwrap_err().to_string();
            assert!(error.contains(&format!("{given:?}")), "{error}");
        }
        assert!(normalize("http://192.0.2.1:2379", true).unwrap_err().to_string().contains("https://"));
    }

    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut greeting = [0; 24];
                let _ = stream.read_exact(&mut greeting).await;
                let _ = stream.write_all(answer).await;
            }
        });
        url
    }

    const WITHIN: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn servers_are_told_apart_by_what_they_answer() {
        let tls_alert = server(&[21, 3, 1, 0, 2, 2, 22]).await;
        assert!(matches!(probe(&tls_alert, WITHIN).await, Found::Tls));
        let go_https =
            server(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n").await;
        assert!(matches!(probe(&go_https, WITHIN).await, Found::Tls));
        let http2 = server(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        assert!(matches!(probe(&http2, WITHIN).await, Found::Http2));
        let web = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert!(matches!(probe(&web, WITHIN).await, Found::Other(text) if text.contains("HTTP/1")));
        let ssh = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        assert!(matches!(probe(&ssh, WITHIN).await, Found::Other(text) if text.contains("SSH")));
        let mute = server(b"").await;
        assert!(matches!(probe(&mute, WITHIN).await, Found::Silent));
        let balancer = server(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(probe(&balancer, WITHIN).await, Found::Unavailable(text) if text.contains("503")));
    }

    #[tokio::test]
    async fn a_closed_port_is_named_with_the_systems_words() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(
            matches!(probe(&format!("http://{free}"), WITHIN).await, Found::Nothing(cause) if cause.to_string().contains("refused"))
        );
    }
}
