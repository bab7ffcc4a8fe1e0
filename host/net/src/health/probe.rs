//! One check, once. Whoever calls bounds its time.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use waymark_core::model::Address;

use super::Check;
use crate::{address_filter::AddressFilter, resolve::happy_eyeballs};

/// How long the addresses of a name have until the last of them was tried. A check has a time of
/// its own.
const RACE: Duration = Duration::from_secs(2);

/// Whether the instance passes, or how it does not.
pub(super) async fn probe(
    check: &Check,
    address: &Address,
    address_filter: Option<&AddressFilter>,
) -> Result<(), String> {
    match check {
        Check::Tcp => match address.unix_path() {
            Some(path) => {
                let allowed = address_filter.map_or(Ok(()), |address_filter| address_filter.check_unix(path.as_ref()));
                allowed.map_err(|refusal| format!("{address} {refusal}"))?;
                UnixStream::connect(path).await.map(drop).map_err(|error| error.to_string())
            }
            None => connect(address, address_filter).await.map(drop),
        },
        Check::Http(path) => http(address, path, address_filter).await,
        Check::Grpc(service) => grpc(address, service, address_filter).await,
    }
}

async fn connect(address: &Address, address_filter: Option<&AddressFilter>) -> Result<TcpStream, String> {
    let connected = match address_filter {
        Some(address_filter) => {
            let found = address_filter.resolve(address).await.map_err(|error| error.to_string())?;
            happy_eyeballs(found, RACE, TcpStream::connect).await
        }
        None => TcpStream::connect(address.as_str()).await.map_err(Some),
    };
    connected.map_err(|error| error.map_or_else(|| "its name has no address".to_owned(), |error| error.to_string()))
}

async fn http(address: &Address, path: &str, address_filter: Option<&AddressFilter>) -> Result<(), String> {
    let stream = TokioIo::new(connect(address, address_filter).await?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let request = Request::get(path).header(HOST, address.as_str()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    // The head decides; the body, which may be endless, goes with the connection.
    let status = tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|error| error.to_string())?.status(),
        ended = connection => return Err(match ended {
            Ok(()) => "the connection ended before an answer".to_owned(),
            Err(error) => error.to_string(),
        }),
    };
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("status {status}")) }
}

async fn grpc(address: &Address, service: &str, address_filter: Option<&AddressFilter>) -> Result<(), String> {
    let mut endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    if let Some(address_filter) = address_filter {
        let found = address_filter.resolve(address).await.map_err(|error| error.to_string())?;
        let at = found.first().ok_or("its name has no address")?;
        let origin = endpoint.uri().clone();
        endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(|error| error.to_string())?.origin(origin);
    }
    let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(other.as_str_name().to_owned()),
        },
        Err(status) if status.code() == Code::Unimplemented => Ok(()),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// The words that say most: a transport's own ("transport error") say nothing.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
