//! Watches: ids, starts in the past and the future, compaction, filters, progress, fragments, many
//! at once.

use crate::script::{
    Action, Create, NOW, REST, START, Script, compact, delete, grant, op_delete, op_put, put, put_leased, put_with, txn,
};

fn everything() -> Create {
    Create::new(REST, REST)
}

fn from(start: i64, create: Create) -> Create {
    Create { start, ..create }
}

pub(super) fn add(s: &mut Script) {
    ids(s);
    starts(s);
    compacted(s);
    progress(s);
    big(s);
    s.rule("many writers and many watchers at once").act(Action::Storm);
    // Who of the writers came first must not show later on.
    s.act(Action::Sync).act(compact(NOW));
}

fn ids(s: &mut Script) {
    s.rule("ids start at 0 on each stream and are counted up");
    s.act(Action::Open(0)).act(Action::Open(1));
    s.act(Action::Watch(0, Create::new("a", ""))).act(Action::Watch(0, Create::new("p/", "p0")));
    s.act(Action::Watch(1, Create::new("a", "")));
    s.rule("a chosen id is taken, and skipped when counting");
    s.act(Action::Watch(0, Create { watch_id: 50, ..everything() }));
    s.act(Action::Watch(0, Create { watch_id: 2, ..Create::new("b", "") })).act(Action::Watch(0, Create::new("b", "")));
    s.rule("a duplicate id is answered with created and canceled and the id -1");
    s.act(Action::Watch(0, Create { watch_id: 50, ..Create::new("x", "") }));
    s.rule("a range that is empty is refused");
    s.act(Action::Watch(0, Create::new("b", "a"))).act(Action::Watch(0, Create::new("b", "b")));
    s.rule("an empty key with an end means from the first").act(Action::Watch(1, Create::new("", REST)));
    s.rule("a watcher is told what is in its range, one message a revision");
    for key in ["p/1", "other", "a", "b", "p0"] {
        s.told(put(key, "v"));
    }
    s.told(txn([], [op_put("p/1", "w"), op_put("p/2", "w"), op_delete("a", ""), op_put("zz", "w")], []));
    s.told(delete("p/", "p0")).told(delete("none", "")).told(put("a", "again"));
    s.rule("a cancelled watcher is told so and hears nothing more");
    s.act(Action::Cancel(0, 0)).told(put("a", "v")).act(Action::CancelUnknown(0, 99)).told(put("a", "w"));
    s.rule("an id is free again after the cancellation");
    s.act(Action::Watch(0, Create::new("a", ""))).told(put("a", "x"));
    s.rule("a client's half-close does not end the stream");
    s.act(Action::HalfClose(1)).told(put("a", "y")).act(Action::Close(1));
    s.rule("filters leave out puts or deletes");
    s.act(Action::Open(1));
    s.act(Action::Watch(1, Create { no_put: true, ..Create::new("f/", "f0") }));
    s.act(Action::Watch(1, Create { no_delete: true, ..Create::new("f/", "f0") }));
    s.act(Action::Watch(1, Create { no_put: true, no_delete: true, ..Create::new("f/", "f0") }));
    s.told(put("f/1", "v")).told(txn([], [op_delete("f/1", ""), op_put("f/2", "v")], [])).told(delete("f/", "f0"));
    s.rule("previous values come when asked for");
    s.act(Action::Watch(1, Create { prev_kv: true, ..Create::new("q", "") }));
    s.told(put("q", "1")).told(put("q", "2")).told(delete("q", "")).told(put("q", "3"));
    s.act(grant(60, 1000)).told(put_leased("q", "4", 60)).told(put_with("q", "", |put| put.ignore_value = true));
    s.told(put_leased("q", "5", 60)).told(Action::Revoke(60));
    s.act(Action::Close(1)).act(Action::Close(0)).clear();
}

fn starts(s: &mut Script) {
    s.rule("a start in the past is replayed inclusively, a txn whole");
    s.act(put("a", "1")).act(put("a", "2"));
    s.act(txn([], [op_put("a", "3"), op_put("b", "3")], [])).act(delete("a", "c")).act(put("a", "4"));
    s.act(Action::Open(2));
    // Opening the stream and each start in the past write one more fence: these start at the five
    // writes above.
    for back in 0..5 {
        let create = Create { prev_kv: back % 2 == 0, ..everything() };
        s.act(Action::Watch(2, from(NOW - 2 - 2 * back, create)));
    }
    s.told(put("b", "5"));
    s.rule("a start in the past of one key");
    s.act(Action::Watch(2, from(NOW - 11, Create::new("a", "")))).act(Action::Await(2, 5, 1)).act(Action::Sync);
    s.act(Action::Close(2));
    s.rule("a start in the future waits for its revision");
    s.act(Action::Open(2)).act(Action::Watch(2, from(NOW + 3, everything())));
    s.act(Action::Watch(2, from(NOW + 1, Create::new("a", ""))));
    s.told(put("a", "1")).told(put("a", "2")).told(put("a", "3"));
    s.act(Action::Close(2)).clear();
    s.rule("a negative start").act(Action::Open(2)).act(Action::Watch(2, from(-1, everything()))).act(Action::Close(2));
}

fn compacted(s: &mut Script) {
    for value in ["1", "2", "3", "4"] {
        s.act(put("a", value));
    }
    s.act(delete("a", "")).act(put("a", "5")).act(compact(NOW - 3));
    s.rule("a compacted start is created first and then canceled with the compact revision and no reason");
    // One more revision each time: a fence comes before a watch that starts in the past.
    s.act(Action::Open(3)).act(Action::Watch(3, from(START, everything())));
    s.act(Action::Watch(3, from(NOW - 7, everything()))).act(Action::Watch(3, from(1, Create::new("a", ""))));
    s.act(Action::Await(3, 2, 1));
    s.rule("a start at the compaction is replayed, and what was before it is not shown");
    s.act(Action::Watch(3, Create { prev_kv: true, ..from(NOW - 8, everything()) }));
    s.told(put("a", "6"));
    s.rule("a compaction does not disturb a watcher in step").act(compact(NOW)).told(put("a", "7"));
    s.rule("a watcher that was canceled for compaction can be canceled again").act(Action::Cancel(3, 0));
    s.told(put("a", "8")).act(Action::Close(3)).clear();
}

fn progress(s: &mut Script) {
    s.rule("progress is told with the id -1");
    s.act(Action::Open(4)).act(Action::Watch(4, everything())).act(put("a", "1")).act(Action::Sync);
    s.act(Action::Progress(4));
    s.act(Action::Watch(4, Create { progress_notify: true, ..Create::new("b", "") }));
    s.act(Action::Progress(4)).told(put("b", "1")).act(Action::Progress(4));
    s.rule("progress is not told while a watcher is not in step");
    s.act(Action::Watch(4, from(NOW + 20, Create::new("a", "")))).act(Action::Progress(4));
    s.act(put("a", "2")).act(Action::Progress(4)).act(Action::Cancel(4, 2));
    s.rule("progress is told again once all are in step").act(Action::Progress(4)).act(Action::Close(4));
    s.clear();
}

fn big(s: &mut Script) {
    const MIB: usize = 1024 * 1024;
    s.rule("a message over 1.5 MiB comes in fragments to those who ask, and whole to others");
    s.act(Action::Open(5));
    s.act(Action::Watch(5, Create { prev_kv: true, fragment: true, ..Create::new("big/", "big0") }));
    s.act(Action::Watch(5, Create { prev_kv: true, ..Create::new("big/", "big0") })).act(grant(61, 1000));
    for key in ["big/1", "big/2", "big/3"] {
        s.told(put_leased(key, &"v".repeat(MIB), 61));
    }
    s.act(put_leased("big/4", "small", 61)).act(put_leased("big/5", "small", 61));
    s.told(Action::Revoke(61)).act(Action::Close(5)).clear();
}
