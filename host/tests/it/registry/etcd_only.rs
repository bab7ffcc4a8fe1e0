//! What only a real etcd has: users, passwords and tokens that expire.

use etcd_client::{Client, PermissionType};
use waymark::registry::{Registry, RegistryConfig, RegistryError};

use super::fixture::{PATIENCE, connect, register, subscribe, until_addresses};
use crate::embedded::fixture::Registry as Server;

const A: &str = "192.0.2.1:80";
const B: &str = "192.0.2.2:80";

fn connect_as(url: &str, user: &str, password: &str) -> Registry {
    let user = Some((user.to_owned(), password.to_owned()));
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
