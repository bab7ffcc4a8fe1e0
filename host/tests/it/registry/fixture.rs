//! A registry behind a gate, a key scheme, and helpers that wait.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use waymark_node::{
    model::{Endpoint, LeaseId, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    registry::{Registration, RegistrationConfig, Registry, RegistryConfig},
    snapshot::{Reader, Snapshot},
};

use crate::embedded::fixture::Registry as Server;
pub(super) use crate::relay::Relay as Gate;

/// Long enough for a busy machine; nothing waits for it in vain.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// `SERVICE/ADDRESS -> address`.
pub(super) struct PlainText;

impl KeyScheme for PlainText {
    fn name(&self) -> &'static str {
        "plain-text"
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        Ok(vec![format!("{service}/")])
    }

    fn encode(&self, service: &ServiceName, it: &Endpoint, _: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        let key = format!("{service}/{}", it.address);
        Ok(vec![Entry { key, value: it.address.to_string().into_bytes() }])
    }

    fn decode(&self, _: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        let address = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        match address {
            Some(address) => Ok(Decoded { endpoints: vec![Endpoint::at(address)], ..Decoded::default() }),
            None => Err(NamingError::Unreadable {
                scheme: self.name().to_owned(),
                key: entry.key.clone(),
                reason: "its value is not an address".to_owned(),
            }),
        }
    }
}

/// Our side of a server, behind a gate.
pub(super) async fn behind_gate(server: &Server) -> (Gate, Registry) {
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    let gate = Gate::before(address).await;
    let registry = connect(&gate.url);
    (gate, registry)
}

pub(super) fn connect(url: &str) -> Registry {
    Registry::connect(RegistryConfig::new([url])).unwrap()
}

pub(super) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(super) async fn subscribe(registry: &Registry, name: &str) -> Reader {
    registry.subscribe(service(name), Arc::new(PlainText)).await.unwrap()
}

pub(super) async fn register(registry: &Registry, name: &str, address: &str, ttl: i64) -> Registration {
    let ttl = Ttl::from_secs(ttl).unwrap();
    let config =
        RegistrationConfig { ttl, ..RegistrationConfig::new(service(name), Endpoint::at(address.parse().unwrap())) };
    let registration = registry.register(config, Arc::new(PlainText)).await.unwrap();
    timeout(PATIENCE, registration.registered()).await.expect("registered in time").unwrap();
    registration
}

/// Waits until the snapshot is as wanted, and says how long that took.
pub(super) async fn until(reader: &mut Reader, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Duration {
    let since = Instant::now();
    let waiting = async {
        while !wanted(&reader.current()) {
            reader.changed().await.unwrap();
        }
    };
    let in_time = timeout(PATIENCE, waiting).await.is_ok();
    assert!(in_time, "not in time: {what}; it is {:?}", reader.current());
    since.elapsed()
}

pub(super) async fn until_addresses(reader: &mut Reader, wanted: &[&str]) -> Duration {
    let equal = |it: &Snapshot| it.endpoints.iter().map(|it| it.address.as_str()).eq(wanted.iter().copied());
    until(reader, &format!("{wanted:?}"), equal).await
}
