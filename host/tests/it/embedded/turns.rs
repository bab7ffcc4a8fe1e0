//! Locks and elections that the server keeps (`v3lockpb`, `v3electionpb`).

use std::time::Duration;

use etcd_client::{Client, LockOptions, LockResponse, ObserveStream, ProclaimOptions, PutOptions, ResignOptions};
use tokio::{task::JoinHandle, time::timeout};

use super::fixture::{Registry, on_both, refusal};

const PATIENCE: Duration = Duration::from_secs(15);

async fn lease(client: &mut Client, seconds: i64) -> i64 {
    client.lease_grant(seconds, None).await.unwrap().id()
}

/// Waits for a lock in a task of its own.
fn wait_for(client: &Client, name: &'static str, lease: i64) -> JoinHandle<Result<LockResponse, etcd_client::Error>> {
    let mut client = client.clone();
    tokio::spawn(async move { client.lock(name, Some(LockOptions::new().with_lease(lease))).await })
}

/// Until so many keys are in line.
async fn in_line(client: &mut Client, name: &str, n: i64) {
    let prefix = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let there = async {
        while client.get(format!("{name}/"), Some(prefix.clone())).await.unwrap().count() != n {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{n} keys of {name}"));
}

async fn a_lock_goes_from_one_to_the_next_in_the_order_of_asking(mut r: Registry) {
    let [first, second, third] = [(); 3].map(|()| r.client.clone());
    let mut leases = Vec::new();
    for mut client in [first.clone(), second.clone(), third.clone()] {
        leases.push(lease(&mut client, 60).await);
    }
    let held = wait_for(&first, "lock", leases[0]).await.unwrap().unwrap();
    assert_eq!(held.key(), format!("lock/{:x}", leases[0]).as_bytes());
    assert!(held.header().unwrap().revision() > 0);
    let again = wait_for(&first, "lock", leases[0]).await.unwrap().unwrap();
    assert_eq!(again.key(), held.key(), "who holds it has it");
    let mut waits = wait_for(&second, "lock", leases[1]);
    in_line(&mut r.client, "lock", 2).await;
    let mut last = wait_for(&third, "lock", leases[2]);
    in_line(&mut r.client, "lock", 3).await;
    assert!(!waits.is_finished() && !last.is_finished());
    r.client.unlock(held.key()).await.unwrap();
    let next = timeout(PATIENCE, &mut waits).await.unwrap().unwrap().unwrap();
    assert_eq!(next.key(), format!("lock/{:x}", leases[1]).as_bytes());
    assert!(!last.is_finished());
    // A lease that ends gives the lock on as well.
    r.client.lease_revoke(leases[1]).await.unwrap();
    timeout(PATIENCE, &mut last).await.unwrap().unwrap().unwrap();
}

async fn who_goes_while_it_waits_is_in_line_no_more(mut r: Registry) {
    let (mine, other) = (lease(&mut r.client, 60).await, lease(&mut r.client, 60).await);
    let held = wait_for(&r.client, "lock", mine).await.unwrap().unwrap();
    let waits = wait_for(&r.client, "lock", other);
    in_line(&mut r.client, "lock", 2).await;
    waits.abort();
    in_line(&mut r.client, "lock", 1).await;
    r.client.unlock(held.key()).await.unwrap();
    in_line(&mut r.client, "lock", 0).await;
}

async fn a_lock_without_a_lease_gets_one_of_a_minute(mut r: Registry) {
    let held = r.client.lock("lock", None).await.unwrap();
    let key = r.client.get(held.key(), None).await.unwrap();
    let lease = key.kvs()[0].lease();
    assert_eq!(held.key(), format!("lock/{lease:x}").as_bytes());
    assert_eq!(r.client.lease_time_to_live(lease, None).await.unwrap().granted_ttl(), 60);
}

async fn what_cannot_be_locked_is_refused_in_etcd_s_words(mut r: Registry) {
    let options = LockOptions::new().with_lease(77);
    let none = "Unknown: etcdserver: requested lease not found";
    assert_eq!(refusal(r.client.lock("lock", Some(options)).await), none);
    assert_eq!(refusal(r.client.unlock("").await), "Unknown: etcdserver: key is not provided");
    // Nothing is there, and nothing is wrong with that.
    r.client.unlock("nothing").await.unwrap();
    assert_eq!(refusal(r.client.campaign("vote", "a", 77).await), none);
    assert_eq!(refusal(r.client.leader("vote").await), "Unknown: election: no leader");
    assert_eq!(refusal(r.client.proclaim("a", None).await), "Unknown: \"leader\" field must be provided");
    assert_eq!(refusal(r.client.resign(None).await), "Unknown: \"leader\" field must be provided");
}

/// The value of the next leader that is told of.
async fn told(stream: &mut ObserveStream) -> String {
    let told = timeout(PATIENCE, stream.message()).await.expect("a leader within 15 s").unwrap().unwrap();
    assert!(told.header().unwrap().revision() >= told.kv().unwrap().mod_revision());
    told.kv().unwrap().value_str().unwrap().to_owned()
}

async fn an_election_has_one_leader_who_can_be_observed(mut r: Registry) {
    let (mine, other) = (lease(&mut r.client, 60).await, lease(&mut r.client, 60).await);
    let won = r.client.campaign("vote", "one", mine).await.unwrap();
    let leader = won.leader().unwrap().clone();
    assert_eq!((leader.name(), leader.lease()), (&b"vote"[..], mine));
    assert_eq!(leader.key(), format!("vote/{mine:x}").as_bytes());
    assert_eq!(won.header().unwrap().revision(), leader.rev());
    // An etcd begins to answer when there is something to tell.
    let mut observer = r.client.observe("vote").await.unwrap();
    assert_eq!(told(&mut observer).await, "one");
    let mut client = r.client.clone();
    let mut waits = tokio::spawn(async move { client.campaign("vote", "two", other).await });
    in_line(&mut r.client, "vote", 2).await;
    assert_eq!(r.client.leader("vote").await.unwrap().kv().unwrap().value(), b"one");

    let as_leader = || Some(ProclaimOptions::new().with_leader(leader.clone()));
    r.client.proclaim("one again", as_leader()).await.unwrap();
    assert_eq!(told(&mut observer).await, "one again");
    // Who campaigns with the key that it has says something new with it.
    r.client.campaign("vote", "one more", mine).await.unwrap();
    assert_eq!(told(&mut observer).await, "one more");

    assert!(!waits.is_finished());
    let resign = || Some(ResignOptions::new().with_leader(leader.clone()));
    r.client.resign(resign()).await.unwrap();
    let won = timeout(PATIENCE, &mut waits).await.unwrap().unwrap().unwrap();
    assert_eq!(told(&mut observer).await, "two");
    assert_eq!(refusal(r.client.proclaim("late", as_leader()).await), "Unknown: election: not leader");
    r.client.resign(resign()).await.unwrap();
    assert_eq!(r.client.leader("vote").await.unwrap().kv().unwrap().key(), won.leader().unwrap().key());
}

async fn a_candidate_who_goes_is_in_line_no_more(mut r: Registry) {
    let (mine, other) = (lease(&mut r.client, 60).await, lease(&mut r.client, 60).await);
    r.client.campaign("vote", "one", mine).await.unwrap();
    let mut client = r.client.clone();
    let waits = tokio::spawn(async move { client.campaign("vote", "two", other).await });
    in_line(&mut r.client, "vote", 2).await;
    waits.abort();
    in_line(&mut r.client, "vote", 1).await;
}

#[tokio::test]
async fn whoever_observes_before_there_is_a_leader_is_told_of_the_first() {
    let mut r = Registry::embedded().await;
    let mut observer = r.client.observe("vote").await.unwrap();
    let mine = lease(&mut r.client, 60).await;
    r.client.campaign("vote", "first", mine).await.unwrap();
    assert_eq!(told(&mut observer).await, "first");
}

async fn keys_of_others_with_the_same_beginning_do_not_count(mut r: Registry) {
    for key in ["lock", "lock0", "locker/1", "lock.1"] {
        r.client.put(key, "", Some(PutOptions::new())).await.unwrap();
    }
    timeout(PATIENCE, r.client.lock("lock", None)).await.expect("nobody is before it").unwrap();
    timeout(PATIENCE, r.client.lock("", None)).await.expect("a lock without a name").unwrap();
}

on_both!(
    a_lock_goes_from_one_to_the_next_in_the_order_of_asking,
    who_goes_while_it_waits_is_in_line_no_more,
    a_lock_without_a_lease_gets_one_of_a_minute,
    what_cannot_be_locked_is_refused_in_etcd_s_words,
    an_election_has_one_leader_who_can_be_observed,
    a_candidate_who_goes_is_in_line_no_more,
    keys_of_others_with_the_same_beginning_do_not_count,
);
