//! Leases: TTLs, keys that come and go with them, what is said of leases that are not there.

use crate::script::{
    Action, Create, REST, Script, delete, get, grant, op, op_put, put, put_leased, put_request, put_with, txn,
};
use etcd_client::proto::PbTxnOpRequest;

fn left(id: i64) -> Action {
    Action::TimeToLive { id, keys: true }
}

pub(super) fn add(s: &mut Script) {
    s.rule("a TTL under 2 becomes 2, and one over 9e9 is refused");
    for (id, ttl) in [(21, 1), (22, 0), (23, -1), (24, 9_000_000_000), (25, 9_000_000_001), (26, i64::MAX)] {
        s.act(grant(id, ttl));
    }
    s.act(Action::Revoke(21)).act(Action::Revoke(22)).act(Action::Revoke(23)).act(Action::Revoke(24));
    s.rule("a lease that is there cannot be granted").act(grant(30, 1000)).act(grant(30, 1000));
    s.rule("an id of 0 lets the server choose").act(grant(0, 1000)).act(grant(0, 1000)).act(Action::Leases);
    s.rule("TimeToLive of a missing lease answers -1 without an error");
    s.act(left(404)).act(Action::TimeToLive { id: 404, keys: false }).act(left(30)).act(left(0));
    s.rule("keep-alive answers a ttl of 0 for a missing lease");
    s.act(Action::KeepAlive(vec![404])).act(Action::KeepAlive(vec![30, 404, 30])).act(Action::KeepAlive(vec![0]));
    s.rule("a missing lease is refused");
    s.act(put_leased("a", "1", 404)).act(Action::Revoke(404)).act(Action::Revoke(0)).act(get("a", ""));
    s.rule("a lease knows its keys");
    s.act(put_leased("a", "1", 30)).act(put_leased("b", "1", 30)).act(left(30));
    s.act(Action::TimeToLive { id: 30, keys: false });
    s.rule("a put without a lease detaches the key").act(put("a", "2")).act(left(30)).act(get("a", ""));
    s.rule("a put with another lease moves the key");
    s.act(grant(31, 1000)).act(put_leased("b", "2", 31)).act(left(30)).act(left(31));
    s.rule("ignore_lease keeps the key where it is");
    s.act(put_with("b", "3", |put| put.ignore_lease = true)).act(left(31));
    s.rule("a deleted key leaves its lease").act(delete("b", "")).act(left(31));
    s.rule("a txn attaches too");
    let mut leased = put_request("t", "1");
    leased.lease = 30;
    s.act(txn([], [op_put("u", "1"), op(PbTxnOpRequest::RequestPut(leased))], [])).act(left(30));
    s.rule("a revoked lease takes its keys in one revision");
    for key in ["k/3", "k/1", "k/2"] {
        s.act(put_leased(key, "1", 30));
    }
    s.act(Action::Revoke(30)).act(get(REST, REST)).act(left(30)).act(Action::Revoke(30));
    s.rule("a revoked lease without keys does not raise the revision").act(Action::Revoke(31)).act(get("a", ""));
    s.rule("a revoked lease can be granted again").act(grant(30, 1000)).act(left(30)).act(Action::Revoke(30));

    s.rule("an expired lease takes its keys in one revision and one message");
    s.act(Action::Open(9)).act(Action::Watch(9, Create { prev_kv: true, ..Create::new("e/", "e0") }));
    s.act(Action::Watch(9, Create::new("e/2", ""))).act(grant(40, 3));
    for key in ["e/3", "e/1", "e/2"] {
        s.act(put_leased(key, "old", 40));
    }
    s.act(put_leased("e/1", "new", 40)).act(put("e/4", "stays")).act(Action::Sync);
    s.act(Action::Await(9, 0, 1)).act(Action::Await(9, 1, 1)).act(Action::Sync);
    s.act(get("e/", "e0")).act(left(40)).act(Action::KeepAlive(vec![40])).act(put_leased("e/1", "late", 40));
    s.act(Action::Close(9)).clear();
}
