//! What only a real etcd has: users, passwords and tokens that expire.

use std::sync::Arc;

use etcd_client::{Client, PermissionType};
use waymark_node::{
    model::{Endpoint, LeaseId, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    registry::{Password, RegistrationConfig, RegistrationState, Registry, RegistryConfig, RegistryError, User},
};

use super::fixture::{PATIENCE, PlainText, connect, register, service, subscribe, until, until_addresses};
use crate::embedded::fixture::Registry as Server;

const A: &str = "192.0.2.1:80";
const B: &str = "192.0.2.2:80";

fn connect_as(url: &str, user: &str, password: &str) -> Registry {
    let user = Some(User::new(user, password));
    Registry::connect(RegistryConfig { user, ..RegistryConfig::new([url]) }).unwrap()
}

/// A root, and a user who may do everything under `svc/`.
async fn with_users(client: &mut Client) {
    let mut auth = client.auth_client();
    auth.user_add("root", "secret", None).await.unwrap();
    auth.role_add("root").await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.user_add("node", "secret", None).await.unwrap();
    auth.role_add("svc").await.unwrap();
    let permission = etcd_client::Permission::new(PermissionType::Readwrite, "svc/").with_prefix();
    auth.role_grant_permission("svc", permission).await.unwrap();
    auth.user_grant_role("node", "svc").await.unwrap();
    auth.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_passwords_are_wanted_refused_and_taken() {
    let Some(mut server) = Server::etcd("users_and_passwords_are_wanted_refused_and_taken").await else { return };
    // Credentials do no harm where none are wanted.
    connect_as(&server.url, "node", "secret").check().await.unwrap();
    with_users(&mut server.client).await;

    let error = connect(&server.url).check().await.unwrap_err();
    assert!(matches!(error, RegistryError::AuthenticationNeeded { .. }), "{error:?}");
    let error = connect_as(&server.url, "node", "wrong").check().await.unwrap_err();
    assert!(matches!(error, RegistryError::AuthenticationRefused { .. }), "{error:?}");

    let registry = connect_as(&server.url, "node", "secret");
    registry.check().await.unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    let registration = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;

    // Users and roles change: tokens given before are refused from now on.
    let root = Client::connect([&server.url], Some(etcd_client::ConnectOptions::new().with_user("root", "secret")))
        .await
        .unwrap();
    root.auth_client().user_add("somebody", "else", None).await.unwrap();
    let second = register(&registry, "svc", B, 10).await;
    until_addresses(&mut seen, &[A, B]).await;
    registration.deregister().await.unwrap();
    second.deregister().await.unwrap();
    until_addresses(&mut seen, &[]).await;

    // Where it may not read, the snapshot says so.
    let mut elsewhere = subscribe(&registry, "other").await;
    let settled = tokio::time::timeout(PATIENCE, elsewhere.settled()).await.unwrap().unwrap();
    let reason = settled.stale.as_ref().unwrap().reason.to_string();
    assert!(reason.contains("does not let node read \"other/\""), "{reason}");
}

/// Authentication is turned on under a node that runs with credentials, and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authentication_turned_on_later_is_followed() {
    let Some(mut server) = Server::etcd("authentication_turned_on_later_is_followed").await else { return };
    let registry = connect_as(&server.url, "node", "secret");
    let mut seen = subscribe(&registry, "svc").await;
    let first = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    with_users(&mut server.client).await;
    let second = register(&registry, "svc", B, 10).await;
    let mut anew = subscribe(&registry, "svc").await;
    until_addresses(&mut anew, &[A, B]).await;
    first.deregister().await.unwrap();
    second.deregister().await.unwrap();
    until_addresses(&mut anew, &[]).await;
}

/// A token that ends under a stream that stands: what is asked for later is asked for with the next
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_followed_after_the_token_has_ended_is_watched_too() {
    let Some(mut server) = Server::etcd("a_service_that_is_followed_after_the_token_has_ended").await else { return };
    with_users(&mut server.client).await;
    let registry = connect_as(&server.url, "node", "secret");
    let mut early = subscribe(&registry, "svc/early").await;
    until(&mut early, "listed", |it| it.listed).await;
    let root = Client::connect([&server.url], Some(etcd_client::ConnectOptions::new().with_user("root", "secret")));
    let root = root.await.unwrap();
    // The same one: it ends the tokens that were given for it.
    root.auth_client().user_change_password("node", "secret").await.unwrap();
    let mut late = subscribe(&registry, "svc/late").await;
    until(&mut late, "listed", |it| it.listed).await;
    let mut kv = root.kv_client();
    for service in ["late", "early"] {
        kv.put(format!("svc/{service}/{A}"), A, None).await.unwrap();
    }
    until_addresses(&mut late, &[A]).await;
    until_addresses(&mut early, &[A]).await;
    assert!(late.current().stale.is_none() && early.current().stale.is_none(), "{late:?}");
}

/// A password that is rotated, in its file and in etcd, under a node that runs: whichever comes
/// first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_file_is_followed() {
    let Some(mut server) = Server::etcd("a_rotated_password_file_is_followed").await else { return };
    with_users(&mut server.client).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let user = Some(User { name: "node".to_owned(), password: Password::File(file.clone()) });
    let registry = Registry::connect(RegistryConfig { user, ..RegistryConfig::new([&server.url]) }).unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    let first = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    let root = Client::connect([&server.url], Some(etcd_client::ConnectOptions::new().with_user("root", "secret")));
    let mut auth = root.await.unwrap().auth_client();
    // etcd before the file: our token has ended, and nothing is to be had for the old password.
    auth.user_change_password("node", "second").await.unwrap();
    let error = registry.check().await.unwrap_err();
    assert!(matches!(error, RegistryError::AuthenticationRefused { .. }), "{error:?}");
    std::fs::write(&file, "second\n").unwrap();
    registry.check().await.unwrap();
    let second = register(&registry, "svc", B, 10).await;
    let mut anew = subscribe(&registry, "svc").await;
    until_addresses(&mut anew, &[A, B]).await;
    // The file before etcd.
    std::fs::write(&file, "third\n").unwrap();
    registry.check().await.unwrap();
    auth.user_change_password("node", "third").await.unwrap();
    registry.check().await.unwrap();
    first.deregister().await.unwrap();
    second.deregister().await.unwrap();
    until_addresses(&mut anew, &[]).await;
}

/// What etcd does not take is said, and is no outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_too_large_for_etcd_and_a_missing_permission_are_said_as_such() {
    let Some(mut server) = Server::etcd("a_value_too_large_for_etcd_and_a_missing_permission").await else { return };
    let state_of = async |registry: &Registry, name: &str, bytes: usize| {
        let mut config = RegistrationConfig::new(service(name), Endpoint::at(A.parse().unwrap()));
        config.endpoint.metadata = [("a".to_owned(), "x".repeat(bytes))].into();
        let mut registration = registry.register(config, Arc::new(WithMetadata)).await.unwrap();
        tokio::time::timeout(PATIENCE, registration.changed()).await.unwrap().unwrap()
    };
    let open = connect(&server.url);
    for bytes in [2 << 20, 64 << 20] {
        let state = state_of(&open, "svc", bytes).await;
        let RegistrationState::Refused { reason, again: false } = &state else { panic!("{state:?}") };
        assert!(reason.contains("does not take it") && reason.contains("large"), "{reason}");
    }
    with_users(&mut server.client).await;
    let state = state_of(&connect_as(&server.url, "node", "secret"), "elsewhere", 1).await;
    let RegistrationState::Refused { reason, again: true } = &state else { panic!("{state:?}") };
    assert!(reason.contains("does not let node write"), "{reason}");
}

/// As [`PlainText`], with all metadata in the value.
struct WithMetadata;

impl KeyScheme for WithMetadata {
    fn name(&self) -> &'static str {
        "with-metadata"
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        PlainText.prefixes(service)
    }

    fn encode(&self, of: &ServiceName, it: &Endpoint, lease: LeaseId, ttl: Ttl) -> Result<Vec<Entry>, NamingError> {
        let mut entries = PlainText.encode(of, it, lease, ttl)?;
        entries[0].value = it.metadata.iter().flat_map(|(_, value)| value.bytes()).collect();
        Ok(entries)
    }

    fn decode(&self, of: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        PlainText.decode(of, entry)
    }
}
