//! What must come right by itself, on the embedded registry and on a real etcd.

use std::{sync::Arc, time::Duration};

use waymark_node::{
    embedded::{Options, Server as Embedded},
    model::{Endpoint, Ttl},
    registry::{RegistrationConfig, RegistryConfig},
};

use super::fixture::{
    Gate, PATIENCE, PlainText, behind_gate, connect, register, service, subscribe, until, until_addresses,
};
use crate::embedded::fixture::{LOOPBACK, Registry as Server, on_both};

const A: &str = "192.0.2.1:80";
const B: &str = "192.0.2.2:80";

async fn what_one_registers_another_sees_until_it_is_deregistered(server: Server) {
    let (ours, theirs) = (connect(&server.url), connect(&server.url));
    let mut seen = subscribe(&theirs, "svc").await;
    until(&mut seen, "listed", |it| it.listed).await;
    let first = register(&ours, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    let second = register(&ours, "svc", B, 10).await;
    until_addresses(&mut seen, &[A, B]).await;
    first.deregister().await.unwrap();
    until_addresses(&mut seen, &[B]).await;
    drop(second);
    until_addresses(&mut seen, &[]).await;
}

async fn a_killed_process_is_gone_when_its_lease_expires(server: Server) {
    let mut seen = subscribe(&connect(&server.url), "svc").await;
    let url = server.url.clone();
    // A runtime that ends without a word is what a killed process looks like from outside.
    let victim = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let registration = runtime.block_on(async { register(&connect(&url), "svc", A, 2).await });
        runtime.shutdown_background();
        drop(registration);
    });
    tokio::task::spawn_blocking(|| victim.join().unwrap()).await.unwrap();
    until_addresses(&mut seen, &[A]).await;
    let lived = until_addresses(&mut seen, &[]).await;
    assert!(lived < Duration::from_secs(6), "{lived:?}");
}

async fn an_instance_lives_longer_than_its_ttl(server: Server) {
    let registry = connect(&server.url);
    let mut seen = subscribe(&registry, "svc").await;
    let _registration = register(&registry, "svc", A, 2).await;
    until_addresses(&mut seen, &[A]).await;
    let gone = tokio::time::timeout(Duration::from_secs(6), until_addresses(&mut seen, &[])).await;
    assert!(gone.is_err(), "its lease is refreshed");
}

async fn an_own_key_that_somebody_deletes_or_changes_is_put_back(mut server: Server) {
    let registry = connect(&server.url);
    let mut seen = subscribe(&registry, "svc").await;
    let _registration = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    server.client.delete(format!("svc/{A}"), None).await.unwrap();
    until_addresses(&mut seen, &[]).await;
    until_addresses(&mut seen, &[A]).await;
    server.client.put(format!("svc/{A}"), B, None).await.unwrap();
    until_addresses(&mut seen, &[B]).await;
    until_addresses(&mut seen, &[A]).await;
    let entry = server.client.get(format!("svc/{A}"), None).await.unwrap();
    assert_ne!(entry.kvs()[0].lease(), 0, "under its lease again");
}

async fn a_lease_revoked_by_somebody_is_replaced(mut server: Server) {
    let registry = connect(&server.url);
    let registration = register(&registry, "svc", A, 10).await;
    let lease = registration.registered().await.unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    until_addresses(&mut seen, &[A]).await;
    server.client.lease_revoke(lease.0).await.unwrap();
    until_addresses(&mut seen, &[]).await;
    until_addresses(&mut seen, &[A]).await;
    assert_ne!(registration.registered().await.unwrap(), lease);
}

async fn a_cut_connection_resumes_without_a_loss(mut server: Server) {
    let (gate, registry) = behind_gate(&server).await;
    server.client.put("svc/1", A, None).await.unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    until_addresses(&mut seen, &[A]).await;
    gate.shut();
    until(&mut seen, "stale", |it| it.stale.is_some()).await;
    server.client.delete("svc/1", None).await.unwrap();
    server.client.put("svc/2", B, None).await.unwrap();
    assert_eq!(seen.current().endpoints.len(), 1, "kept while away");
    gate.open();
    let healed = until_addresses(&mut seen, &[B]).await;
    until(&mut seen, "fresh", |it| it.stale.is_none()).await;
    assert!(healed < Duration::from_secs(5), "{healed:?}");
}

async fn a_compaction_while_away_is_answered_by_a_list(mut server: Server) {
    let (gate, registry) = behind_gate(&server).await;
    server.client.put("svc/1", A, None).await.unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    until_addresses(&mut seen, &[A]).await;
    gate.shut();
    until(&mut seen, "stale", |it| it.stale.is_some()).await;
    server.client.delete("svc/1", None).await.unwrap();
    let last = server.client.put("svc/2", B, None).await.unwrap().header().unwrap().revision();
    server.client.compact(last, None).await.unwrap();
    gate.open();
    until_addresses(&mut seen, &[B]).await;
    until(&mut seen, "fresh", |it| it.stale.is_none()).await;
    server.client.put("svc/3", A, None).await.unwrap();
    until_addresses(&mut seen, &[A, B]).await;
}

async fn an_outage_past_the_ttl_ends_with_the_instance_registered_again(server: Server) {
    let (gate, registry) = behind_gate(&server).await;
    let mut seen = subscribe(&connect(&server.url), "svc").await;
    let _registration = register(&registry, "svc", A, 2).await;
    until_addresses(&mut seen, &[A]).await;
    gate.shut();
    until_addresses(&mut seen, &[]).await;
    gate.open();
    let healed = until_addresses(&mut seen, &[A]).await;
    assert!(healed < Duration::from_secs(5), "{healed:?}");
}

async fn a_namespace_is_put_before_every_key_and_taken_off(mut server: Server) {
    let config = RegistryConfig { namespace: Some("prod/".to_owned()), ..RegistryConfig::new([&server.url]) };
    let registry = waymark_node::registry::Registry::connect(config).unwrap();
    let mut seen = subscribe(&registry, "svc").await;
    server.client.put("svc/1", B, None).await.unwrap();
    let registration = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    let entry = server.client.get(format!("prod/svc/{A}"), None).await.unwrap();
    assert_eq!(entry.kvs().len(), 1);
    server.client.delete(format!("prod/svc/{A}"), None).await.unwrap();
    until_addresses(&mut seen, &[]).await;
    until_addresses(&mut seen, &[A]).await;
    registration.deregister().await.unwrap();
    until_addresses(&mut seen, &[]).await;
}

async fn a_dead_endpoint_costs_nothing_while_another_serves(server: Server) {
    // Enough of them that chance would meet the dead ones.
    let dead = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    for _ in 0..5 {
        let endpoints = [format!("http://{dead}"), server.url.clone(), format!("http://{dead}")];
        let registry = waymark_node::registry::Registry::connect(RegistryConfig::new(endpoints)).unwrap();
        assert_eq!(registry.check().await.unwrap().endpoint, server.url);
        let mut seen = subscribe(&registry, "svc").await;
        let registration = register(&registry, "svc", A, 10).await;
        until_addresses(&mut seen, &[A]).await;
        registration.deregister().await.unwrap();
    }
}

async fn a_member_that_hangs_is_left_for_another(mut server: Server) {
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    let gates = [Gate::before(address).await, Gate::before(address).await];
    let config = RegistryConfig {
        request_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(2),
        ..RegistryConfig::new(gates.iter().map(|gate| gate.url.clone()))
    };
    let registry = waymark_node::registry::Registry::connect(config).unwrap();
    let mut outside = subscribe(&connect(&server.url), "svc").await;
    let mut inside = subscribe(&registry, "other").await;
    // Two seconds: less than one endpoint's timeout twice.
    let _registration = register(&registry, "svc", A, 2).await;
    until_addresses(&mut outside, &[A]).await;
    for (n, gate) in gates.iter().enumerate() {
        gate.hang();
        let gone = tokio::time::timeout(Duration::from_secs(5), until_addresses(&mut outside, &[])).await;
        assert!(gone.is_err(), "the lease is refreshed through the other endpoint");
        server.client.put(format!("other/{n}"), format!("192.0.2.{n}:1"), None).await.unwrap();
        until(&mut inside, "seen through the other endpoint", |it| it.endpoints.len() == n + 1).await;
        gate.open();
    }
}

async fn a_thousand_services_are_followed_on_one_stream(mut server: Server) {
    let registry = connect(&server.url);
    let mut all = Vec::new();
    for n in 0..1000 {
        all.push(subscribe(&registry, &format!("s{n}")).await);
    }
    for reader in &mut all {
        until(reader, "listed", |it| it.listed).await;
    }
    for n in (0..1000).step_by(97) {
        server.client.put(format!("s{n}/1"), A, None).await.unwrap();
        until_addresses(&mut all[n], &[A]).await;
    }
}

on_both!(
    what_one_registers_another_sees_until_it_is_deregistered,
    a_killed_process_is_gone_when_its_lease_expires,
    an_instance_lives_longer_than_its_ttl,
    an_own_key_that_somebody_deletes_or_changes_is_put_back,
    a_lease_revoked_by_somebody_is_replaced,
    a_cut_connection_resumes_without_a_loss,
    a_compaction_while_away_is_answered_by_a_list,
    an_outage_past_the_ttl_ends_with_the_instance_registered_again,
    a_namespace_is_put_before_every_key_and_taken_off,
    a_dead_endpoint_costs_nothing_while_another_serves,
    a_member_that_hangs_is_left_for_another,
    a_thousand_services_are_followed_on_one_stream,
);

/// Everything in memory is gone, the cluster is another one, and revisions are later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_registry_that_restarts_gets_everything_again() {
    let server = Embedded::start(LOOPBACK, Options::default()).await.unwrap();
    let address = server.local_addr();
    let registry = connect(server.url());
    let mut seen = subscribe(&registry, "svc").await;
    let _registration = register(&registry, "svc", A, 10).await;
    until_addresses(&mut seen, &[A]).await;
    server.shutdown().await.unwrap();
    until(&mut seen, "stale", |it| it.stale.is_some()).await;
    assert_eq!(seen.current().endpoints.len(), 1, "kept while away");
    let server = Embedded::start(address, Options::default()).await.unwrap();
    until(&mut seen, "fresh", |it| it.stale.is_none() && it.endpoints.len() == 1).await;
    let mut anew = subscribe(&connect(server.url()), "svc").await;
    until_addresses(&mut anew, &[A]).await;
    until_addresses(&mut seen, &[A]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_comes_later_than_we_is_found() {
    let address = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let registry = connect(&format!("http://{address}"));
    let mut seen = subscribe(&registry, "svc").await;
    let config = RegistrationConfig {
        ttl: Ttl::DEFAULT,
        ..RegistrationConfig::new(service("svc"), Endpoint::at(A.parse().unwrap()))
    };
    let registration = registry.register(config, Arc::new(PlainText)).await.unwrap();
    until(&mut seen, "known to be away", |it| it.stale.is_some() && !it.listed).await;
    let _server = Embedded::start(address, Options::default()).await.unwrap();
    tokio::time::timeout(PATIENCE, registration.registered()).await.unwrap().unwrap();
    until_addresses(&mut seen, &[A]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deregistering_does_not_wait_for_an_etcd_that_is_cut_off() {
    let server = Server::embedded().await;
    let address = server.url.trim_start_matches("http://").parse().unwrap();
    let gate = Gate::before(address).await;
    let registration = register(&connect(&gate.url), "svc", A, 10).await;
    gate.shut();
    let asked_at = tokio::time::Instant::now();
    let error = registration.deregister().await.unwrap_err();
    assert!(error.to_string().contains("goes away by itself within 10s"), "{error}");
    assert!(asked_at.elapsed() < Duration::from_secs(5));
}
