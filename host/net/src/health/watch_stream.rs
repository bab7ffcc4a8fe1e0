//! gRPC's health service as it is watched: one stream, over a connection that somebody else keeps.

use std::error::Error;

use bytes::Bytes;
use http::Uri;
use http_body::Body;
use tonic::{Code, Status, Streaming, client::GrpcService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::HealthStatus;

/// An answer of the health service is two bytes long.
const LARGEST_ANSWER: usize = 1024;

/// What a server says of one of its services, each time it changes.
pub struct HealthWatch {
    answers: Streaming<HealthCheckResponse>,
    whose: String,
}

/// Why a watch has nothing more to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEnded {
    /// The server has no health service.
    Unimplemented,
    /// It failed, or the server ended it, and how.
    Failed(String),
}

impl HealthWatch {
    /// Begins to watch `service` (empty: the whole server) on `wire`, and answers with its first
    /// word.
    ///
    /// # Cancel safety
    ///
    /// Safe: the watch is given up.
    pub async fn begin<T>(wire: T, origin: Uri, service: &str) -> Result<(Self, HealthStatus), WatchEnded>
    where
        T: GrpcService<tonic::body::Body, Error: Into<Box<dyn Error + Send + Sync>>>,
        T::ResponseBody: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send> + Send + 'static,
    {
        let whose = if service.is_empty() { "its server" } else { service }.to_owned();
        let mut client = HealthClient::with_origin(wire, origin).max_decoding_message_size(LARGEST_ANSWER);
        let begun = client.watch(HealthCheckRequest { service: service.to_owned() }).await;
        let mut stream = match begun {
            Ok(answers) => Self { answers: answers.into_inner(), whose },
            Err(status) => return Err(ended(&whose, &status)),
        };
        let first = stream.next().await?;
        Ok((stream, first))
    }

    /// The next word.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn next(&mut self) -> Result<HealthStatus, WatchEnded> {
        let answer = self.answers.message().await.map_err(|status| ended(&self.whose, &status))?;
        let Some(answer) = answer else {
            return Err(WatchEnded::Failed(format!("the server ended the watch of the health of {}", self.whose)));
        };
        Ok(match answer.status() {
            ServingStatus::Serving => HealthStatus::Healthy,
            other => HealthStatus::Unhealthy(format!("the health of {} is {}", self.whose, other.as_str_name()).into()),
        })
    }
}

fn ended(whose: &str, status: &Status) -> WatchEnded {
    match status.code() {
        Code::Unimplemented => WatchEnded::Unimplemented,
        code => WatchEnded::Failed(format!("watching the health of {whose} failed: {code:?}: {}", status.message())),
    }
}
