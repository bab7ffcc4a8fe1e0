#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use waymark_core::model::{Endpoint, LeaseId, Ttl};
use waymark_net::health::{Check, CheckConfig};

use crate::{
    Registration, RegistrationConfig, RegistrationState, Registry, RegistryError,
    fake::{Call, Fake, TestScheme, service},
};

const KEY: &str = "svc/192.0.2.1:80";
const VALUE: &str = "192.0.2.1:80;1";

fn config(name: &str) -> RegistrationConfig {
    RegistrationConfig::new(service(name), Endpoint::at("192.0.2.1:80".parse().unwrap()))
}

async fn register(fake: &Fake) -> (Registry, Registration, LeaseId) {
    let registry = fake.registry();
    let registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    let lease = soon(registration.registered()).await.unwrap();
    // So that the watch on its own keys stands.
    sleep(Duration::from_millis(10)).await;
    (registry, registration, lease)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(1), future).await.expect("not within a minute")
}

/// Waits until it is so; on the paused clock this takes no time.
async fn until(what: &str, wanted: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !wanted() {
        assert!(since.elapsed() < Duration::from_mins(2), "not within two minutes: {what}");
        sleep(Duration::from_millis(1)).await;
    }
    since.elapsed()
}

fn is_put(call: &Call) -> bool {
    matches!(call, Call::Put(_))
}

fn is_grant(call: &Call) -> bool {
    *call == Call::Grant
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_registered_under_a_lease_that_is_refreshed_three_times_per_ttl() {
    let fake = Fake::new();
    let (registry, registration, lease) = register(&fake).await;
    assert_eq!(fake.value(KEY).as_deref(), Some(VALUE));
    assert_eq!(fake.lease_of(KEY), Some(lease));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
    let refreshes = fake.count(|call| *call == Call::KeepAlive(lease));
    assert!((29..=32).contains(&refreshes), "{refreshes} refreshes in 10 TTLs");
    assert_eq!((fake.count(is_grant), fake.count(is_put)), (1, 1));
    assert!(registry.metrics().text().contains("registry_registrations_alive 1"));
    soon(registration.deregister()).await.unwrap();
    assert_eq!(fake.value(KEY), None);
    assert!(!fake.has_lease(lease));
    assert!(registry.metrics().text().contains("registry_registrations_alive 0"));
}

#[tokio::test(start_paused = true)]
async fn the_granted_ttl_counts_and_not_the_asked_one() {
    let fake = Fake::new();
    let registry = fake.registry();
    let asked = RegistrationConfig { ttl: Ttl::from_secs(1).unwrap(), ..config("svc") };
    let registration = registry.register(asked, TestScheme::shared()).await.unwrap();
    soon(registration.registered()).await.unwrap();
    let RegistrationState::Registered { ttl, .. } = registration.state() else { panic!("{registration:?}") };
    assert_eq!(ttl.as_secs(), 2, "etcd's minimum");
    sleep(Duration::from_secs(20)).await;
    let refreshes = fake.count(|call| matches!(call, Call::KeepAlive(_)));
    assert!((29..=32).contains(&refreshes), "{refreshes} refreshes in 10 TTLs");
}

#[tokio::test(start_paused = true)]
async fn a_lease_revoked_from_outside_is_replaced_at_once() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    fake.end_lease(lease);
    assert_eq!(fake.value(KEY), None);
    let healed = until("back", || fake.value(KEY).is_some()).await;
    assert!(healed < Duration::from_millis(500), "the deletion is seen before the next refresh: {healed:?}");
    let new = soon(registration.registered()).await.unwrap();
    assert_ne!(new, lease);
    assert_eq!(fake.lease_of(KEY), Some(new));
}

#[tokio::test(start_paused = true)]
async fn a_keep_alive_that_finds_no_lease_registers_again() {
    let fake = Fake::new();
    let (registry, registration, lease) = register(&fake).await;
    // Somebody else holds the key, so the end of the lease is no deletion.
    fake.put_under(LeaseId(7), KEY, VALUE);
    fake.end_lease(lease);
    until("granted again", || fake.count(is_grant) == 2).await;
    until("own again", || fake.lease_of(KEY) != Some(LeaseId(7))).await;
    assert_ne!(soon(registration.registered()).await.unwrap(), lease);
    assert!(registry.metrics().text().contains("registration_losses_total{reason=\"lease_gone\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn an_own_key_that_somebody_deletes_is_put_back_under_the_same_lease() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    fake.delete(KEY);
    let healed = until("back", || fake.value(KEY).is_some()).await;
    assert!(healed < Duration::from_millis(50), "{healed:?}");
    assert_eq!(fake.lease_of(KEY), Some(lease));
    assert_eq!(fake.count(is_grant), 1);
}

#[tokio::test(start_paused = true)]
async fn an_own_key_that_somebody_overwrites_is_put_back() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    fake.put(KEY, "192.0.2.66:80;1");
    until("back", || fake.value(KEY).as_deref() == Some(VALUE)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
    // The same content without a lease would stay for ever.
    fake.put(KEY, VALUE);
    until("under a lease", || fake.lease_of(KEY) == Some(lease)).await;
}

#[tokio::test(start_paused = true)]
async fn two_who_claim_one_key_do_not_write_it_as_fast_as_they_can() {
    let fake = Fake::new();
    let registry = fake.registry();
    let registration = registry.register(config("one-key"), TestScheme::shared()).await.unwrap();
    let lease = soon(registration.registered()).await.unwrap();
    let rival = RegistrationConfig { endpoint: Endpoint::at("192.0.2.9:80".parse().unwrap()), ..config("one-key") };
    let rival = registry.register(rival, TestScheme::shared()).await.unwrap();
    soon(rival.registered()).await.unwrap();
    let before = fake.count(is_put);
    sleep(Duration::from_mins(2)).await;
    let puts = fake.count(is_put) - before;
    assert!((4..40).contains(&puts), "{puts} puts in two minutes");
    // Nobody lost a lease over it.
    assert_eq!(fake.count(is_grant), 2);
    assert!(fake.has_lease(lease));
}

#[tokio::test(start_paused = true)]
async fn the_same_instance_restarted_is_not_fought_over() {
    let fake = Fake::new();
    let (registry, old, old_lease) = register(&fake).await;
    let new = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    let new_lease = soon(new.registered()).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.count(is_put), 2, "the old one leaves the entry as it is");
    soon(old.deregister()).await.unwrap();
    assert!(!fake.has_lease(old_lease));
    assert_eq!(fake.lease_of(KEY), Some(new_lease), "and takes its own lease away alone");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_ttl_costs_nothing() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    sleep(Duration::from_secs(3)).await;
    fake.go_down();
    sleep(Duration::from_secs(5)).await;
    fake.come_back();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
    assert_eq!((fake.count(is_grant), fake.count(is_put)), (1, 1));
    assert!(matches!(registration.state(), RegistrationState::Registered { .. }));
}

#[tokio::test(start_paused = true)]
async fn after_a_long_outage_the_instance_is_registered_anew_within_a_second() {
    let fake = Fake::new();
    let (registry, registration, lease) = register(&fake).await;
    fake.go_down();
    sleep(Duration::from_mins(5)).await;
    assert_eq!(fake.value(KEY), None, "the lease ended");
    let RegistrationState::Lost { since, reason } = registration.state() else { panic!("{registration:?}") };
    assert!(reason.contains("connection refused"), "{reason}");
    assert!(since.elapsed() > Duration::from_secs(280));
    fake.come_back();
    let healed = until("back", || fake.value(KEY).is_some()).await;
    assert!(healed < Duration::from_secs(2), "{healed:?}");
    assert_ne!(soon(registration.registered()).await.unwrap(), lease);
    let text = registry.metrics().text();
    assert!(text.contains("registration_losses_total{reason=\"lease_expired\"} 1"), "counted once an outage: {text}");
}

/// It watches nothing yet, so that only the multiplexer's looking out tells it.
#[tokio::test(start_paused = true)]
async fn an_instance_that_came_up_during_an_outage_is_registered_within_a_second_of_its_end() {
    let fake = Fake::new();
    fake.go_down();
    let registry = fake.registry();
    let _registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    sleep(Duration::from_mins(5)).await;
    fake.come_back();
    let healed = until("registered", || fake.value(KEY).is_some()).await;
    assert!(healed < Duration::from_secs(1), "{healed:?}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.n_streams(), 1, "and watches its own key alone");
}

/// Refreshes failed for a while, and then etcd is there and does not know the lease.
#[tokio::test(start_paused = true)]
async fn a_lease_that_went_during_a_short_outage_is_replaced_within_a_second() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    fake.go_down();
    sleep(Duration::from_secs(8)).await;
    fake.end_lease(lease);
    fake.come_back();
    let healed = until("registered anew", || fake.value(KEY).is_some()).await;
    assert!(healed < Duration::from_secs(1), "{healed:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_during_an_outage_back_off_up_to_the_cap() {
    let fake = Fake::new();
    fake.go_down();
    let registry = fake.registry();
    let registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    let times = fake.times_of(is_grant);
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    assert!(pauses[0] <= Duration::from_millis(110), "{pauses:?}");
    assert!(pauses[10..].iter().all(|pause| (990..=2010).contains(&pause.as_millis())), "{pauses:?}");
    assert!(matches!(registration.state(), RegistrationState::Lost { .. }));
    fake.come_back();
    soon(registration.registered()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hung_etcd_is_waited_for_and_the_lease_given_up_when_it_must_have_ended() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    fake.hang();
    let hung_at = Instant::now();
    until("lost", || matches!(registration.state(), RegistrationState::Lost { .. })).await;
    let after = hung_at.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&after), "{after:?}");
    fake.come_back();
    assert_ne!(soon(registration.registered()).await.unwrap(), lease);
}

#[tokio::test(start_paused = true)]
async fn deregistering_is_bounded_when_etcd_hangs() {
    let fake = Fake::new();
    let (_registry, registration, _) = register(&fake).await;
    fake.hang();
    let asked_at = Instant::now();
    let error = registration.deregister().await.unwrap_err();
    assert!(matches!(error, RegistryError::NotRevoked { .. }), "{error}");
    assert!(error.to_string().contains("within 10s"), "{error}");
    assert!(asked_at.elapsed() <= Duration::from_millis(3100), "{:?}", asked_at.elapsed());
    let until_gone = until("expired", || fake.value(KEY).is_none()).await;
    assert!(until_gone <= Duration::from_secs(10), "no refresh goes on after it: {until_gone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_ttl_bounds_deregistering_even_more() {
    let fake = Fake::new();
    let registry = fake.registry();
    let short = RegistrationConfig { ttl: Ttl::from_secs(2).unwrap(), ..config("svc") };
    let registration = registry.register(short, TestScheme::shared()).await.unwrap();
    soon(registration.registered()).await.unwrap();
    fake.hang();
    let asked_at = Instant::now();
    registration.deregister().await.unwrap_err();
    assert!(asked_at.elapsed() <= Duration::from_millis(2100), "{:?}", asked_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_registration_is_deregistered_and_an_orphan_is_left_to_its_lease() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    drop(registration);
    until("gone", || fake.value(KEY).is_none()).await;
    assert!(!fake.has_lease(lease));

    let (_registry, registration, lease) = register(&fake).await;
    registration.orphan();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
    let rest = until("expired", || fake.value(KEY).is_none()).await;
    assert!(rest <= Duration::from_secs(5), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn services_on_one_registry_do_not_share_their_fate() {
    let fake = Fake::new();
    let (registry, first, lease) = register(&fake).await;
    let second = registry.register(config("other"), TestScheme::shared()).await.unwrap();
    let other_lease = soon(second.registered()).await.unwrap();
    assert_ne!(lease, other_lease);
    fake.end_lease(lease);
    until("back", || fake.value(KEY).is_some()).await;
    assert_eq!(soon(second.registered()).await.unwrap(), other_lease);
    soon(first.deregister()).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.lease_of("other/192.0.2.1:80"), Some(other_lease));
}

#[tokio::test(start_paused = true)]
async fn a_paused_registration_comes_back_when_it_is_resumed() {
    let fake = Fake::new();
    let (_registry, registration, _) = register(&fake).await;
    soon(registration.pause()).await.unwrap();
    assert_eq!(registration.state(), RegistrationState::Paused);
    assert_eq!(fake.value(KEY), None);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(fake.value(KEY), None, "nobody puts it back");
    registration.resume();
    soon(registration.registered()).await.unwrap();
    assert_eq!(fake.value(KEY).as_deref(), Some(VALUE));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_could_not_be_revoked_is_not_forgotten() {
    let fake = Fake::new();
    let (_registry, registration, old) = register(&fake).await;
    fake.go_down();
    // Past its TTL: it must have ended, and perhaps has not.
    sleep(Duration::from_secs(30)).await;
    let error = soon(registration.pause()).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotRevoked { .. }), "{error}");
    let revokes = || fake.count(|call| *call == Call::Revoke(old));
    let before = revokes();
    fake.come_back();
    registration.resume();
    assert_ne!(soon(registration.registered()).await.unwrap(), old);
    until("revoked once there is a successor", || revokes() > before).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_with_the_lease_in_it_changes_with_the_lease_and_leaves_no_twin() {
    let fake = Fake::new();
    let registry = fake.registry();
    let registration = registry.register(config("leased"), TestScheme::shared()).await.unwrap();
    let old = soon(registration.registered()).await.unwrap();
    assert!(fake.value(&format!("leased/{old}")).is_some());
    // Refreshes fail until the lease must have ended; the leader's change kept it alive all the
    // same.
    fake.go_down();
    until("lost", || matches!(registration.state(), RegistrationState::Lost { .. })).await;
    fake.come_back();
    let new = soon(registration.registered()).await.unwrap();
    until("no twin", || fake.value(&format!("leased/{old}")).is_none()).await;
    assert!(fake.value(&format!("leased/{new}")).is_some());
    assert!(fake.calls().contains(&Call::Revoke(old)));
}

#[tokio::test(start_paused = true)]
async fn all_entries_of_an_instance_are_written_at_one_revision_and_each_is_looked_after() {
    let fake = Fake::new();
    let registry = fake.registry();
    let registration = registry.register(config("two"), TestScheme::shared()).await.unwrap();
    soon(registration.registered()).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    let before = fake.revision();
    assert_eq!(fake.count(is_put), 1);
    fake.delete("two/b/192.0.2.1:80");
    until("back", || fake.value("two/b/192.0.2.1:80").is_some()).await;
    assert_eq!(fake.revision().0, before.0 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_watch_on_own_keys_is_closed_by_writing_again() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    fake.go_down();
    sleep(Duration::from_secs(2)).await;
    fake.delete(KEY);
    fake.compact();
    fake.come_back();
    until("back", || fake.value(KEY).is_some()).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_lost_its_data_gets_the_instance_again() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    fake.become_another_cluster();
    fake.cut();
    until("back", || fake.value(KEY).is_some()).await;
    assert_ne!(soon(registration.registered()).await.unwrap(), lease);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_keeps_the_lease_alive_all_the_same() {
    let fake = Fake::new();
    fake.refuse_watches(Some("permission denied"));
    let (_registry, _registration, lease) = register(&fake).await;
    sleep(Duration::from_mins(5)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease));
    assert_eq!(fake.count(is_grant), 1);
    let puts = fake.count(is_put);
    assert!((5..15).contains(&puts), "looked after without a watch too, seldom: {puts}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_registered_is_refused_before_anything_is_written() {
    let fake = Fake::new();
    let registry = fake.registry();
    for (name, words) in [
        ("elsewhere", "outside the prefixes it reads: elsewhere/"),
        ("nothing", "there are none"),
        ("twice", "is there twice"),
        ("refuse-me", "cannot register"),
    ] {
        let error = registry.register(config(name), TestScheme::shared()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(!error.is_transient());
    }
    for wildcard in ["0.0.0.0:80", "[::]:80"] {
        let endpoint = Endpoint::at(wildcard.parse().unwrap());
        let error = registry.register(RegistrationConfig { endpoint, ..config("svc") }, TestScheme::shared()).await;
        assert!(error.unwrap_err().to_string().contains("wildcard"));
    }
    assert!(fake.calls().is_empty(), "{:?}", fake.calls());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_registrations_do_not_come_back_in_one_instant() {
    let fake = Fake::new();
    let registry = fake.registry();
    let mut registrations = Vec::new();
    for n in 0..1000u32 {
        let address = format!("192.0.2.{}:{}", n % 250 + 1, n / 250 + 1).parse().unwrap();
        let config = RegistrationConfig { endpoint: Endpoint::at(address), ..config("svc") };
        registrations.push(registry.register(config, TestScheme::shared()).await.unwrap());
    }
    for registration in &registrations {
        soon(registration.registered()).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.n_streams(), 1);
    fake.go_down();
    sleep(Duration::from_mins(1)).await;
    fake.come_back();
    let back_at = Instant::now();
    for registration in &registrations {
        soon(registration.registered()).await.unwrap();
    }
    assert!(back_at.elapsed() < Duration::from_secs(3), "{:?}", back_at.elapsed());
    let mut per_slot = std::collections::BTreeMap::new();
    for at in fake.times_of(is_grant).into_iter().filter(|at| *at >= back_at) {
        *per_slot.entry((at - back_at).as_millis() / 50).or_insert(0) += 1;
    }
    assert!(per_slot.values().all(|n| *n < 500), "{per_slot:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_of_state_are_told() {
    let fake = Fake::new();
    let registry = fake.registry();
    let mut registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    assert_eq!(registration.state(), RegistrationState::Registering);
    let state = soon(registration.changed()).await.unwrap();
    assert!(matches!(state, RegistrationState::Registered { .. }), "{state:?}");
    soon(registration.pause()).await.unwrap();
    assert_eq!(soon(registration.changed()).await.unwrap(), RegistrationState::Paused);
}

/// An instance on loopback that accepts connections while the listener is kept.
async fn listening() -> (tokio::net::TcpListener, RegistrationConfig) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let mut check = CheckConfig::new(Check::Tcp);
    (check.interval, check.fall) = (Duration::from_millis(20), 2);
    let endpoint = Endpoint::at(address);
    (listener, RegistrationConfig { check: Some(check), ..RegistrationConfig::new(service("svc"), endpoint) })
}

async fn until_state(registration: &mut Registration, wanted: impl Fn(&RegistrationState) -> bool) {
    let waiting = async {
        while !wanted(&registration.state()) {
            registration.changed().await.unwrap();
        }
    };
    let waited = timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{:?}", registration.state());
}

fn is_unfit(state: &RegistrationState) -> bool {
    matches!(state, RegistrationState::Unfit { .. })
}

// On the real clock: what is checked is a real socket.
#[tokio::test]
async fn an_instance_is_registered_while_it_is_fit() {
    let fake = Fake::new();
    let registry = fake.registry();
    let (listener, config) = listening().await;
    let address = listener.local_addr().unwrap();
    let key = format!("svc/{address}");
    drop(listener);
    let mut registration = registry.register(config, TestScheme::shared()).await.unwrap();
    until_state(
        &mut registration,
        |it| matches!(it, RegistrationState::Unfit { reason } if reason.contains("refused")),
    )
    .await;
    assert!(!fake.calls().iter().any(|call| matches!(call, Call::Grant)), "no lease for one that is not fit");

    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    registration.registered().await.unwrap();
    let lease = fake.lease_of(&key).unwrap();
    drop(listener);
    until_state(&mut registration, is_unfit).await;
    assert!(fake.value(&key).is_none() && !fake.has_lease(lease), "taken out at once");

    let _listener = tokio::net::TcpListener::bind(address).await.unwrap();
    registration.registered().await.unwrap();
    assert_ne!(fake.lease_of(&key), Some(lease));
    registration.deregister().await.unwrap();
    assert!(fake.value(&key).is_none());
}

#[tokio::test]
async fn a_pause_counts_more_than_a_check() {
    let fake = Fake::new();
    let registry = fake.registry();
    let (listener, config) = listening().await;
    let address = listener.local_addr().unwrap();
    let mut registration = registry.register(config, TestScheme::shared()).await.unwrap();
    registration.registered().await.unwrap();
    registration.pause().await.unwrap();
    drop(listener);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(registration.state(), RegistrationState::Paused);
    registration.resume();
    until_state(&mut registration, is_unfit).await;
    let _listener = tokio::net::TcpListener::bind(address).await.unwrap();
    registration.registered().await.unwrap();
}

#[tokio::test]
async fn an_instance_that_fails_while_etcd_is_away_is_left_to_its_lease() {
    let fake = Fake::new();
    let registry = fake.registry();
    let (listener, config) = listening().await;
    let mut registration = registry.register(config, TestScheme::shared()).await.unwrap();
    registration.registered().await.unwrap();
    fake.go_down();
    drop(listener);
    until_state(&mut registration, is_unfit).await;
    let refreshed = fake.count(|call| matches!(call, Call::KeepAlive(_)));
    fake.come_back();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(fake.count(|call| matches!(call, Call::KeepAlive(_))), refreshed, "refreshed no longer");
}

fn denied() -> RegistryError {
    RegistryError::PermissionDenied { endpoint: "fake".into(), user: Some("node".into()), what: "write".into() }
}

fn too_large() -> RegistryError {
    let (endpoint, what) = ("fake".to_owned(), "write".to_owned());
    RegistryError::NeverTaken { endpoint, what, message: "request is too large".into() }
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_is_said_as_such_and_asked_for_now_and_then() {
    let fake = Fake::new();
    fake.refuse_puts(Some(denied()));
    let registry = fake.registry();
    let mut registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    let state = soon(registration.changed()).await.unwrap();
    let RegistrationState::Refused { reason, again: true } = &state else { panic!("{state:?}") };
    assert!(reason.contains("does not let node write"), "{reason}");
    sleep(Duration::from_mins(10)).await;
    let puts = fake.count(is_put);
    assert!((8..=22).contains(&puts), "once a minute or so: {puts}");
    assert_eq!(registration.state(), state, "it says the same, once");
    fake.refuse_puts(None);
    let registered = timeout(Duration::from_secs(61), registration.registered()).await;
    assert!(registered.is_ok(), "{registration:?}");
}

#[tokio::test(start_paused = true)]
async fn what_etcd_will_never_take_is_said_as_such_and_not_tried_again_before_it_was_away() {
    let fake = Fake::new();
    fake.refuse_puts(Some(too_large()));
    let registry = fake.registry();
    let mut reader = registry.subscribe(service("other"), TestScheme::shared()).await.unwrap();
    let mut registration = registry.register(config("svc"), TestScheme::shared()).await.unwrap();
    let state = soon(registration.changed()).await.unwrap();
    let RegistrationState::Refused { reason, again: false } = &state else { panic!("{state:?}") };
    assert!(reason.contains("too large"), "{reason}");
    sleep(Duration::from_hours(1)).await;
    assert_eq!(fake.count(is_put), 1);
    // It may be another one that comes back, with other limits.
    fake.refuse_puts(None);
    fake.go_down();
    sleep(Duration::from_secs(5)).await;
    fake.come_back();
    soon(registration.registered()).await.unwrap();
    assert!(reader.settled().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_permission_that_ends_takes_nothing_away_that_stands() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    fake.refuse_puts(Some(denied()));
    // What is not known to stand is written again, and that is refused.
    fake.compact();
    fake.cut();
    fake.put("something", "else");
    fake.compact();
    fake.delete("svc/unrelated");
    sleep(Duration::from_mins(5)).await;
    assert_eq!(fake.lease_of(KEY), Some(lease), "{registration:?}");
    assert!(matches!(registration.state(), RegistrationState::Refused { again: true, .. }), "{registration:?}");
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_an_operator_writes_is_heeded_and_goes_with_the_instance() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    for weight in ["192.0.2.1:80;7", "192.0.2.1:80;0"] {
        // As `etcdctl put` does: under no lease.
        fake.put(KEY, weight);
        until("under our lease", || fake.lease_of(KEY) == Some(lease)).await;
        sleep(Duration::from_mins(5)).await;
        assert_eq!(fake.value(KEY).as_deref(), Some(weight));
        assert!(matches!(registration.state(), RegistrationState::Registered { .. }), "{registration:?}");
    }
    // Also after the lease was lost.
    fake.end_lease(lease);
    until("back", || fake.value(KEY).is_some()).await;
    assert_eq!(fake.value(KEY).as_deref(), Some("192.0.2.1:80;0"));
    soon(registration.deregister()).await.unwrap();
    assert_eq!(fake.value(KEY), None);
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_instance_or_of_none_is_put_back() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    for foreign in ["192.0.2.9:80;1", "192.0.2.1:80,192.0.2.2:80;1", "no address", "trap", ""] {
        fake.put(KEY, foreign);
        until("put back", || fake.value(KEY).as_deref() == Some(VALUE)).await;
        assert_eq!(fake.lease_of(KEY), Some(lease));
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_process_registers_for_this_instance_counts_while_it_is_there() {
    let fake = Fake::new();
    let (_registry, _registration, lease) = register(&fake).await;
    fake.put_under(LeaseId(7), KEY, "192.0.2.1:80;5");
    sleep(Duration::from_mins(5)).await;
    assert_eq!((fake.value(KEY).as_deref(), fake.lease_of(KEY)), (Some("192.0.2.1:80;5"), Some(LeaseId(7))));
    fake.end_lease(LeaseId(7));
    until("ours again", || fake.lease_of(KEY) == Some(lease)).await;
    assert_eq!(fake.value(KEY).as_deref(), Some(VALUE));
}

#[tokio::test(start_paused = true)]
async fn the_owners_weight_counts_after_an_operators_and_the_other_way_round() {
    let fake = Fake::new();
    let (_registry, registration, lease) = register(&fake).await;
    let stands = |weight| fake.value(KEY).as_deref() == Some(&*format!("192.0.2.1:80;{weight}"));
    registration.set_weight(3);
    until("the owner's", || stands(3) && fake.lease_of(KEY) == Some(lease)).await;
    fake.put(KEY, "192.0.2.1:80;4");
    until("the operator's", || stands(4) && fake.lease_of(KEY) == Some(lease)).await;
    registration.set_weight(5);
    until("the owner's again", || stands(5)).await;
    sleep(Duration::from_mins(5)).await;
    assert!(stands(5));
    assert_eq!(fake.count(is_grant), 1);
}
