//! Leases over the wire. Expiry takes the shortest TTL there is, two seconds.

use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, WatchOptions};

use super::fixture::{Registry, events, next, on_both, refusal};

async fn a_short_ttl_becomes_two_seconds_and_a_huge_one_is_refused(mut r: Registry) {
    for ttl in [-1, 0, 1, 2] {
        assert_eq!(r.client.lease_grant(ttl, None).await.unwrap().ttl(), 2);
    }
    assert_eq!(r.client.lease_grant(9_000_000_000, None).await.unwrap().ttl(), 9_000_000_000);
    let too_long = r.client.lease_grant(9_000_000_001, None).await;
    assert_eq!(refusal(too_long), "OutOfRange: etcdserver: too large lease TTL");
    let taken = || Some(LeaseGrantOptions::new().with_id(77));
    assert_eq!(r.client.lease_grant(60, taken()).await.unwrap().id(), 77);
    assert_eq!(
        refusal(r.client.lease_grant(60, taken()).await),
        "FailedPrecondition: etcdserver: lease already exists"
    );
}

async fn a_lease_knows_its_keys_and_its_time(mut r: Registry) {
    r.client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(5))).await.unwrap();
    for key in ["a", "b", "c"] {
        r.client.put(key, "v", Some(PutOptions::new().with_lease(5))).await.unwrap();
    }
    r.client.put("b", "detached", None).await.unwrap();
    let options = || Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = r.client.lease_time_to_live(5, options()).await.unwrap();
    assert!((57..60).contains(&left.ttl()), "{} s left", left.ttl());
    assert_eq!(left.granted_ttl(), 60);
    let mut keys = left.keys().to_vec();
    keys.sort();
    assert_eq!(keys, [b"a", b"c"]);
    assert!(r.client.lease_time_to_live(5, None).await.unwrap().keys().is_empty());
    let missing = r.client.lease_time_to_live(6, options()).await.unwrap();
    assert_eq!((missing.id(), missing.ttl(), missing.granted_ttl()), (6, -1, 0));
}

async fn leases_are_listed_by_the_time_they_end(mut r: Registry) {
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        r.client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap();
    }
    let listed = r.client.leases().await.unwrap();
    assert_eq!(listed.leases().iter().map(etcd_client::LeaseStatus::id).collect::<Vec<_>>(), [2, 3, 1]);
}

async fn revoking_deletes_the_keys_in_one_revision(mut r: Registry) {
    r.client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(5))).await.unwrap();
    for key in ["b", "a"] {
        r.client.put(key, "v", Some(PutOptions::new().with_lease(5))).await.unwrap();
    }
    let options = WatchOptions::new().with_all_keys().with_prev_key();
    let mut watch = r.client.watch("", Some(options)).await.unwrap();
    assert!(next(&mut watch).await.created());
    let revoked = r.client.lease_revoke(5).await.unwrap();
    assert_eq!(revoked.header().unwrap().revision(), r.revision(3));
    let message = next(&mut watch).await;
    assert_eq!(events(&message), ["-a(v)", "-b(v)"]);
    assert_eq!(refusal(r.client.lease_revoke(5).await), "NotFound: etcdserver: requested lease not found");
}

async fn a_keep_alive_after_a_revoke_answers_with_ttl_zero(mut r: Registry) {
    r.client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(5))).await.unwrap();
    let (mut keeper, mut answers) = r.client.lease_keep_alive(5).await.unwrap();
    // The client itself has read the first answer.
    keeper.keep_alive().await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!((first.id(), first.ttl()), (5, 60));
    r.client.lease_revoke(5).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!((second.id(), second.ttl()), (5, 0));
}

async fn an_expired_lease_takes_its_keys_along_in_one_message(mut r: Registry) {
    r.client.lease_grant(1, Some(LeaseGrantOptions::new().with_id(5))).await.unwrap();
    for key in ["c", "a", "b"] {
        r.client.put(key, "v", Some(PutOptions::new().with_lease(5))).await.unwrap();
    }
    let mut watch = r.client.watch("", Some(WatchOptions::new().with_all_keys().with_prev_key())).await.unwrap();
    assert!(next(&mut watch).await.created());
    let message = next(&mut watch).await;
    assert_eq!(events(&message), ["-a(v)", "-b(v)", "-c(v)"]);
    assert_eq!(message.header().unwrap().revision(), r.revision(4));
    for event in message.events() {
        let kv = event.kv().unwrap();
        assert_eq!((kv.mod_revision(), kv.version(), kv.create_revision(), kv.lease()), (r.revision(4), 0, 0, 0));
        assert_eq!(event.prev_kv().unwrap().lease(), 5);
    }
    assert_eq!(r.client.lease_time_to_live(5, None).await.unwrap().ttl(), -1);
}

on_both!(
    a_short_ttl_becomes_two_seconds_and_a_huge_one_is_refused,
    a_lease_knows_its_keys_and_its_time,
    leases_are_listed_by_the_time_they_end,
    revoking_deletes_the_keys_in_one_revision,
    a_keep_alive_after_a_revoke_answers_with_ttl_zero,
    an_expired_lease_takes_its_keys_along_in_one_message,
);
