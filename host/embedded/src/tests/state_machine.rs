//! The machine as a whole: transactions, leases, alarms, with the time passed in.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll, Waker},
    time::Duration,
};

use etcd_client::{
    AlarmAction, AlarmType, Compare, CompareOp, Txn, TxnOp,
    proto::{PbAlarmRequest, PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpResponse, PbTxnRequest},
};
use proptest::prelude::*;

use crate::{
    error::EtcdError,
    key_range::KeyRange,
    shared::Shared,
    state_machine::{Identity, Limits, StateMachine},
    store::AutoCompaction,
    txn,
    watch::{Message, WatchSpec},
};

fn machine() -> StateMachine {
    let limits = Limits { compaction: AutoCompaction::Off, watch_queue: 10, quota: 10_000 };
    StateMachine::new(Identity { cluster_id: 1, member_id: 2 }, 1, -1, limits, fastrand::Rng::with_seed(7))
}

fn put_request(key: &str, value: &str, lease: i64) -> PbPutRequest {
    PbPutRequest { key: key.into(), value: value.into(), lease, ..PbPutRequest::default() }
}

fn get(machine: &StateMachine, key: &str) -> Option<String> {
    let request = PbRangeRequest { key: key.into(), ..PbRangeRequest::default() };
    let found = machine.range(&request).unwrap().into_response(false);
    found.kvs.first().map(|kv| String::from_utf8(kv.value.clone()).unwrap())
}

fn run(machine: &mut StateMachine, txn: Txn) -> Result<(bool, i64), EtcdError> {
    let request = PbTxnRequest::from(txn);
    txn::check(&request)?;
    let response = machine.txn(&request)?;
    Ok((response.succeeded, response.header.unwrap().revision))
}

fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::put(key, value, None)
}

#[test]
fn what_ends_half_way_is_read_by_nobody() {
    let shared = Shared::new(machine(), Duration::from_secs(10), "test".into(), "http://127.0.0.1:1".into());
    let lease = shared.with(|machine| machine.grant(0, 10)).unwrap().id;
    shared.with(|machine| machine.put(&put_request("a", "whole", lease))).unwrap();
    let faulty = AssertUnwindSafe(|| shared.with(|machine| machine.end_half_way(&put_request("b", "half", 0))));
    std::panic::catch_unwind(faulty).unwrap_err();
    let range = PbRangeRequest { key: "b".into(), ..PbRangeRequest::default() };
    for _ in 0..2 {
        assert_eq!(shared.with(|machine| machine.range(&range).map(drop)), Err(EtcdError::Corrupt));
        let refused = shared.with(|machine| machine.put(&put_request("c", "next", 0)).map(drop));
        assert_eq!(refused, Err(EtcdError::Corrupt), "it would publish the half as well");
    }
    assert_eq!(shared.with(|machine| machine.alarms(AlarmType::Corrupt as i32)).len(), 1);
    assert_eq!(shared.with(|machine| machine.next_deadline()), None, "a lease that cannot end is not waited for");
}

#[test]
fn a_lease_that_ends_deletes_its_keys_in_one_revision_and_one_message() {
    let mut m = machine();
    let lease = m.grant(0, 10).unwrap().id;
    for key in ["b", "a", "c"] {
        m.put(&put_request(key, "v", lease)).unwrap();
    }
    m.put(&put_request("c", "detached", 0)).unwrap();
    let stream = m.open_stream();
    let spec = WatchSpec {
        range: KeyRange::new(b"\0", b"\0"),
        start_revision: 0,
        watch_id: 0,
        no_put: false,
        no_delete: false,
        prev_kv: true,
        fragment: false,
        progress_notify: false,
    };
    m.watch(stream, spec);
    assert_eq!(m.next_deadline(), Some(Duration::from_secs(10)));
    m.advance(Duration::from_secs(9));
    assert_eq!(m.time_to_live(lease, true).ttl, 1);
    let before = m.store().revision();
    m.advance(Duration::from_secs(10));
    assert_eq!(m.store().revision(), before + 1);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(m.poll_watch(stream, &mut cx), Poll::Ready(Ok(Message::Created { .. }))));
    let Poll::Ready(Ok(Message::Events { events, revision, .. })) = m.poll_watch(stream, &mut cx) else {
        panic!("no events")
    };
    assert_eq!(revision, before + 1);
    assert_eq!(events.iter().map(|event| &event.kv.key[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    for event in &events {
        assert_eq!((event.kv.version, event.kv.create_revision, event.kv.lease), (0, 0, 0));
        assert_eq!(event.prev.as_ref().unwrap().lease, lease);
    }
    assert_eq!(m.time_to_live(lease, true).ttl, -1);
    assert_eq!(m.renew(lease), 0);
    assert_eq!(m.revoke(lease), Err(EtcdError::LeaseNotFound));
}

#[test]
fn a_renewed_lease_keeps_its_keys_and_a_lease_without_keys_ends_without_a_revision() {
    let mut m = machine();
    let kept = m.grant(11, 10).unwrap().id;
    m.grant(12, 10).unwrap();
    m.put(&put_request("a", "v", kept)).unwrap();
    m.advance(Duration::from_secs(8));
    assert_eq!(m.renew(kept), 10);
    m.advance(Duration::from_secs(15));
    assert_eq!(m.lease_ids(), [11]);
    assert_eq!(m.store().revision(), 2);
    assert_eq!(get(&m, "a").as_deref(), Some("v"));
}

#[test]
fn a_put_moves_its_key_from_one_lease_to_another() {
    let mut m = machine();
    let (first, second) = (m.grant(1, 10).unwrap().id, m.grant(2, 10).unwrap().id);
    m.put(&put_request("a", "v", first)).unwrap();
    m.put(&put_request("a", "v", second)).unwrap();
    assert!(m.time_to_live(first, true).keys.is_empty());
    assert_eq!(m.time_to_live(second, true).keys, [b"a"]);
    let ignoring = PbPutRequest { ignore_lease: true, ..put_request("a", "w", 0) };
    m.put(&ignoring).unwrap();
    m.revoke(first).unwrap();
    assert_eq!(get(&m, "a").as_deref(), Some("w"));
    m.revoke(second).unwrap();
    assert_eq!(get(&m, "a"), None);
    assert_eq!(m.put(&put_request("a", "v", second)), Err(EtcdError::LeaseNotFound));
}

#[test]
fn a_key_deleted_under_a_lease_and_put_again_without_it_outlives_the_lease() {
    let mut m = machine();
    let lease = m.grant(1, 10).unwrap().id;
    m.put(&put_request("a", "v", lease)).unwrap();
    m.delete(&PbDeleteRequest { key: b"a".to_vec(), ..PbDeleteRequest::default() }).unwrap();
    m.put(&put_request("a", "w", 0)).unwrap();
    m.revoke(lease).unwrap();
    assert_eq!(get(&m, "a").as_deref(), Some("w"));
}

#[test]
fn a_txn_writes_all_its_keys_at_one_revision_and_reads_what_it_has_written() {
    let mut m = machine();
    let ops = [TxnOp::get("a", None), put("a", "1"), TxnOp::get("a", None), put("b", "2")];
    let request = PbTxnRequest::from(Txn::new().and_then(ops));
    let response = m.txn(&request).unwrap();
    assert_eq!(response.header.unwrap().revision, 2);
    let found: Vec<_> = response
        .responses
        .into_iter()
        .filter_map(|op| match op.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => Some((range.count, range.header.unwrap().revision)),
            _ => None,
        })
        .collect();
    assert_eq!(found, [(0, 1), (1, 2)]);
    assert_eq!(m.store().revision(), 2);
}

#[test]
fn a_txn_that_only_reads_or_deletes_nothing_makes_no_revision() {
    let mut m = machine();
    assert_eq!(run(&mut m, Txn::new().and_then([TxnOp::get("a", None)])), Ok((true, 1)));
    assert_eq!(run(&mut m, Txn::new().and_then([TxnOp::delete("a", None)])), Ok((true, 1)));
    assert_eq!(m.store().revision(), 1);
}

#[test]
fn a_missing_key_compares_as_zero_but_never_by_value() {
    let mut m = machine();
    for (compare, expected) in [
        (Compare::version("a", CompareOp::Equal, 0), true),
        (Compare::create_revision("a", CompareOp::Equal, 0), true),
        (Compare::mod_revision("a", CompareOp::Less, 1), true),
        (Compare::lease("a", CompareOp::Equal, 0), true),
        (Compare::value("a", CompareOp::Equal, ""), false),
        (Compare::value("a", CompareOp::NotEqual, "x"), false),
    ] {
        assert_eq!(run(&mut m, Txn::new().when([compare.clone()])), Ok((expected, 1)), "{compare:?}");
    }
}

#[test]
fn a_comparison_over_a_range_must_hold_for_every_key_of_it() {
    let mut m = machine();
    m.put(&put_request("a/1", "x", 0)).unwrap();
    m.put(&put_request("a/2", "x", 0)).unwrap();
    let all_x = || Txn::new().when([Compare::value("a/", CompareOp::Equal, "x").with_prefix()]);
    assert!(run(&mut m, all_x()).unwrap().0);
    m.put(&put_request("a/3", "y", 0)).unwrap();
    assert!(!run(&mut m, all_x()).unwrap().0);
}

#[test]
fn nested_comparisons_see_the_data_before_the_txn() {
    let mut m = machine();
    let nested = Txn::new().when([Compare::version("a", CompareOp::Equal, 0)]).and_then([put("was-missing", "1")]);
    run(&mut m, Txn::new().and_then([put("a", "1"), TxnOp::txn(nested)])).unwrap();
    assert_eq!(get(&m, "was-missing").as_deref(), Some("1"));
}

#[test]
fn a_refused_txn_changes_nothing() {
    let mut m = machine();
    let unknown_lease = TxnOp::put("b", "2", Some(etcd_client::PutOptions::new().with_lease(99)));
    assert_eq!(run(&mut m, Txn::new().and_then([put("a", "1"), unknown_lease])), Err(EtcdError::LeaseNotFound));
    let no_such_key = TxnOp::put("b", "", Some(etcd_client::PutOptions::new().with_ignore_value()));
    assert_eq!(run(&mut m, Txn::new().and_then([put("a", "1"), no_such_key])), Err(EtcdError::KeyNotFound));
    let future = TxnOp::get("a", Some(etcd_client::GetOptions::new().with_revision(50)));
    assert_eq!(run(&mut m, Txn::new().and_then([put("a", "1"), future])), Err(EtcdError::FutureRevision));
    assert_eq!((get(&m, "a"), m.store().revision()), (None, 1));
    // And nothing of it is left for the next one.
    assert_eq!(run(&mut m, Txn::new().and_then([put("c", "1")])), Ok((true, 2)));
    assert_eq!(get(&m, "a"), None);
}

#[test]
fn writing_a_key_twice_in_a_txn_is_refused_but_not_in_two_branches() {
    let delete = |key: &str, end: &str| TxnOp::delete(key, Some(etcd_client::DeleteOptions::new().with_range(end)));
    let both = || Txn::new().and_then([put("a", "1")]).or_else([put("a", "2")]);
    for (ops, allowed) in [
        (vec![put("a", "1"), put("a", "2")], false),
        (vec![put("a", "1"), TxnOp::delete("a", None)], false),
        (vec![put("b", "1"), delete("a", "c")], false),
        (vec![put("c", "1"), delete("a", "c")], true),
        (vec![put("b", "1"), delete("a", "aa"), delete("aa", "ab"), delete("az", "c")], false),
        (vec![delete("a", "c"), delete("b", "d")], true),
        // etcd's check takes the end of "from here on" literally.
        (vec![put("b", "1"), delete("a", "\0")], true),
        (vec![TxnOp::txn(both())], true),
        (vec![TxnOp::txn(both()), put("a", "3")], false),
        (vec![TxnOp::txn(both()), TxnOp::txn(both())], false),
        (vec![TxnOp::txn(both()), delete("a", "b")], false),
        (vec![TxnOp::txn(Txn::new().or_else([delete("a", "b")])), put("a", "1")], false),
    ] {
        let request = PbTxnRequest::from(Txn::new().and_then(ops));
        let expected = if allowed { Ok(()) } else { Err(EtcdError::DuplicateKey) };
        assert_eq!(txn::check(&request), expected, "{request:?}");
    }
}

#[test]
fn a_txn_has_at_most_128_operations_which_nested_ones_share() {
    let many = |count: usize| (0..count).map(|i| put(&format!("k{i}"), "")).collect::<Vec<_>>();
    let check = |txn: Txn| txn::check(&PbTxnRequest::from(txn));
    assert_eq!(check(Txn::new().and_then(many(128)).or_else(many(128))), Ok(()));
    assert_eq!(check(Txn::new().and_then(many(129))), Err(EtcdError::TooManyOps));
    let compares: Vec<_> = (0..129).map(|_| Compare::version("a", CompareOp::Equal, 0)).collect();
    assert_eq!(check(Txn::new().when(compares)), Err(EtcdError::TooManyOps));
    assert_eq!(check(Txn::new().and_then([TxnOp::txn(Txn::new().and_then(many(127)))])), Ok(()));
    assert_eq!(check(Txn::new().and_then([TxnOp::txn(Txn::new().and_then(many(128)))])), Err(EtcdError::TooManyOps));
}

#[test]
fn a_full_machine_raises_the_alarm_and_refuses_puts_until_it_is_cleared() {
    let mut m = machine();
    let big = "x".repeat(9_000);
    m.put(&put_request("a", &big, 0)).unwrap();
    assert_eq!(m.put(&put_request("b", &big, 0)), Err(EtcdError::NoSpace));
    assert_eq!(m.put(&put_request("c", "small", 0)), Err(EtcdError::NoSpace), "the alarm stays");
    assert_eq!(m.grant(0, 10), Err(EtcdError::NoSpace));
    assert_eq!(run(&mut m, Txn::new().and_then([put("c", "1")])), Err(EtcdError::NoSpace));
    m.delete(&PbDeleteRequest { key: b"a".to_vec(), ..PbDeleteRequest::default() }).unwrap();
    m.compact(3).unwrap();
    let listed = m.alarm(&PbAlarmRequest::default()).alarms;
    assert_eq!(listed.len(), 1);
    let clear = PbAlarmRequest {
        action: AlarmAction::Deactivate as i32,
        member_id: listed[0].member_id,
        alarm: AlarmType::Nospace as i32,
    };
    assert_eq!(m.alarm(&clear).alarms, listed);
    assert!(m.alarm(&clear).alarms.is_empty());
    m.put(&put_request("b", &big, 0)).unwrap();
}

#[test]
fn the_alarm_corrupt_stops_everything_but_leases_being_kept_alive() {
    let mut m = machine();
    let lease = m.grant(0, 10).unwrap().id;
    let corrupt =
        PbAlarmRequest { action: AlarmAction::Activate as i32, member_id: 2, alarm: AlarmType::Corrupt as i32 };
    m.alarm(&corrupt);
    assert_eq!(m.put(&put_request("a", "v", 0)), Err(EtcdError::Corrupt));
    let request = PbRangeRequest { key: b"a".to_vec(), ..PbRangeRequest::default() };
    assert_eq!(m.range(&request).err(), Some(EtcdError::Corrupt));
    assert_eq!(m.compact(1), Err(EtcdError::Corrupt));
    assert_eq!(m.renew(lease), 10);
}

proptest! {
    #[test]
    fn a_lease_always_owns_exactly_the_keys_that_name_it(
        steps in prop::collection::vec((0..4_u8, 0..4_u8, 0..4_i64), 1..60),
    ) {
        let mut m = machine();
        for (kind, key, lease) in steps {
            let key = format!("k{key}");
            match kind {
                0 => drop(m.grant(lease + 1, 10 + lease)),
                1 => drop(m.put(&put_request(&key, "v", lease))),
                2 => drop(m.delete(&PbDeleteRequest { key: key.into(), ..PbDeleteRequest::default() })),
                _ => drop(m.revoke(lease + 1)),
            }
            let all = PbRangeRequest { key: vec![0], range_end: vec![0], ..PbRangeRequest::default() };
            let kvs = m.range(&all).unwrap().into_response(false).kvs;
            for lease in m.lease_ids() {
                let named: Vec<_> = kvs.iter().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect();
                prop_assert_eq!(m.time_to_live(lease, true).keys, named);
            }
            prop_assert!(kvs.iter().all(|kv| kv.lease == 0 || m.lease_ids().contains(&kv.lease)));
        }
    }
}
