//! Keys and values: revisions, versions, ranges, their order and limits, compaction.

use crate::script::{Action, NOW, REST, START, Script, compact, delete, get, get_with, put, put_leased, put_with};

pub(super) fn add(s: &mut Script) {
    s.rule("a fresh store").act(get("a", "")).act(get(REST, REST)).clear();

    s.rule("a write raises the revision by one and the version of its key");
    s.act(put("a", "1")).act(put("a", "2")).act(get("a", ""));
    s.act(put_with("a", "3", |put| put.prev_kv = true)).act(put_with("new", "1", |put| put.prev_kv = true));
    s.rule("a delete of nothing does not raise the revision");
    s.act(delete("none", "")).act(delete("x", "y")).act(get("a", ""));
    s.rule("a version goes back to 1 after a delete");
    s.act(delete("a", "")).act(get("a", "")).act(put("a", "4")).act(get("a", "")).act(put("a", "5")).act(get("a", ""));
    s.act(delete("a", "")).act(put("a", "6")).act(get_with("a", "", |get| get.revision = NOW));

    s.rule("an empty key is refused");
    s.act(put("", "v")).act(get("", "")).act(delete("", "")).act(get("", REST));
    s.rule("an empty value is a value").act(put("empty", "")).act(get("empty", ""));

    s.clear();
    for (key, value) in [("a", "9"), ("b", "8"), ("c", "7"), ("ca", "6"), ("d", "5"), ("z", "4")] {
        s.act(put(key, value));
    }
    s.act(put("b", "1")).act(put("b", "2")).act(put("a", "3"));
    s.rule("range_end at or before the key is an empty range");
    s.act(get("b", "b")).act(get("b", "a")).act(delete("b", "b")).act(delete("c", "a"));
    s.rule("a range ends before its end").act(get("a", "c")).act(get("b", "c\0")).act(get("bb", "cb"));
    s.rule("an end of one zero byte means everything after")
        .act(get("c", REST))
        .act(get(REST, REST))
        .act(get("zz", REST));

    s.rule("count ignores the limit");
    for limit in [0, 1, 2, 6, 7, -1] {
        s.act(get_with("a", REST, |get| get.limit = limit));
    }
    s.rule("count ignores the filters");
    for filter in 0..4 {
        s.act(get_with("a", REST, |get| match filter {
            0 => get.min_mod_revision = NOW - 2,
            1 => get.max_mod_revision = NOW - 3,
            2 => get.min_create_revision = NOW - 4,
            _ => get.max_create_revision = NOW - 6,
        }));
        s.act(get_with("a", REST, |get| {
            get.limit = 2;
            match filter {
                0 => get.min_mod_revision = NOW - 2,
                1 => get.max_mod_revision = NOW - 3,
                2 => get.min_create_revision = NOW - 4,
                _ => get.max_create_revision = NOW - 6,
            }
        }));
    }
    s.rule("count only and keys only");
    s.act(get_with("a", REST, |get| get.count_only = true)).act(get_with("a", REST, |get| get.keys_only = true));
    s.act(get_with("a", REST, |get| {
        get.count_only = true;
        get.limit = 1;
    }));
    s.act(get_with("a", REST, |get| {
        get.keys_only = true;
        get.sort_target = 4;
        get.sort_order = 1;
    }));
    s.rule("a sort target without an order means ascending");
    for target in 0..5 {
        s.act(get_with("a", REST, |get| get.sort_target = target));
    }
    s.rule("a sort comes before the limit");
    for (target, order) in (0..5).flat_map(|target| [(target, 1), (target, 2)]) {
        s.act(get_with("a", REST, |get| {
            get.sort_target = target;
            get.sort_order = order;
            get.limit = 3;
        }));
    }
    s.rule("a sort without an order comes after the limit");
    for target in 0..5 {
        s.act(get_with("a", REST, |get| {
            get.sort_target = target;
            get.limit = 3;
        }));
    }
    // A sort target outside the enumeration is left out: it brings a real etcd down.
    s.rule("a serializable read is a read").act(get_with("a", "", |get| get.serializable = true));

    s.rule("a read at a past revision sees the past");
    for back in 0..10 {
        s.act(get_with("a", REST, |get| get.revision = NOW - back));
    }
    s.rule("a read at a future revision is refused");
    s.act(get_with("a", "", |get| get.revision = NOW + 1)).act(get_with("a", "", |get| get.revision = NOW + 1000));
    s.rule("a negative revision means the newest").act(get_with("a", "", |get| get.revision = -1));

    s.rule("ignore_value keeps the value, ignore_lease the lease");
    s.act(grant(11)).act(put_leased("l", "1", 11));
    s.act(put_with("l", "", |put| {
        put.ignore_value = true;
        put.prev_kv = true;
    }));
    s.act(get("l", "")).act(put_leased("l", "2", 11));
    s.act(put_with("l", "3", |put| put.ignore_lease = true)).act(get("l", ""));
    s.act(put_with("l", "", |put| (put.ignore_lease, put.ignore_value) = (true, true))).act(get("l", ""));
    s.rule("ignore_value and ignore_lease of a missing key are refused");
    s.act(put_with("none", "", |put| put.ignore_value = true))
        .act(put_with("none", "v", |put| put.ignore_lease = true));
    s.rule("ignore_value with a value, ignore_lease with a lease are refused");
    s.act(put_with("l", "v", |put| put.ignore_value = true));
    s.act(put_with("l", "v", |put| (put.ignore_lease, put.lease) = (true, 11)));
    s.act(Action::Revoke(11));

    s.rule("a delete tells what it deleted");
    s.act(delete("b", "d")).act(delete("a", "")).act(get(REST, REST));
    s.act(Action::Delete(etcd_client::proto::PbDeleteRequest {
        prev_kv: false,
        ..crate::script::delete_request("d", "")
    }));

    s.rule("a compaction").act(compact(NOW - 3));
    s.act(get_with("a", REST, |get| get.revision = NOW - 3)).act(get_with("a", REST, |get| get.revision = NOW));
    s.rule("a read below the compaction is refused");
    s.act(get_with("a", REST, |get| get.revision = NOW - 4)).act(get_with("a", "", |get| get.revision = START));
    s.rule("a compaction below or at the last one is refused");
    s.act(compact(NOW - 3)).act(compact(NOW - 5)).act(compact(START)).act(compact(0)).act(compact(-1));
    s.rule("a compaction of the future is refused").act(compact(NOW + 1)).act(compact(NOW + 100));
    s.rule("a compaction at the newest revision keeps what is there");
    s.act(put("kept", "1")).act(put("gone", "1")).act(delete("gone", "")).act(compact(NOW)).act(get(REST, REST));
    s.act(get_with(REST, REST, |get| get.revision = NOW)).act(get_with("kept", "", |get| get.revision = NOW - 1));
    s.act(put("kept", "2")).act(get_with("kept", "", |get| get.revision = NOW - 1)).act(get("kept", ""));

    s.rule("a request over 1.5 MiB is refused").act(put("big", &"v".repeat(1600 * 1024)));
    s.rule("a message over 2 MiB is refused").act(put("big", &"v".repeat(2100 * 1024)));
    s.rule("a value of 1 MiB is taken")
        .act(put("big", &"v".repeat(1024 * 1024)))
        .act(get("big", ""))
        .act(delete("big", ""));
    s.clear();
}

fn grant(id: i64) -> Action {
    crate::script::grant(id, 1000)
}
