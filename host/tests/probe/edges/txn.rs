//! Transactions: what is refused, what is compared with what, what is seen inside.

use etcd_client::proto::{PbCompare, PbTargetUnion as Of, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};

use crate::script::{
    Action, Is, NOW, REST, START, Script, compact, compare, delete, get, grant, op, op_delete, op_get, op_put, op_txn,
    put, put_request, txn, txn_request,
};

fn value(key: &str, is: Is, value: &str) -> PbCompare {
    compare(key, "", is, Of::Value(value.into()))
}

/// Runs the comparison and shows which branch was taken.
fn ask(s: &mut Script, compare: PbCompare) {
    s.act(txn([compare], [], []));
}

fn puts(n: usize) -> Vec<PbTxnRequestOp> {
    (0..n).map(|n| op_put(&format!("many/{n:03}"), "1")).collect()
}

fn nested(inner: PbTxnRequest) -> Action {
    txn([], [op_txn(inner)], [])
}

pub(super) fn add(s: &mut Script) {
    refused(s);
    compared(s);
    run(s);
    s.clear();
}

fn refused(s: &mut Script) {
    s.rule("an empty txn is a read").act(txn([], [], [])).act(get("a", ""));
    s.rule("a txn that writes nothing does not raise the revision");
    s.act(txn([], [op_get("a", REST)], [])).act(txn([], [op_delete("none", "")], [])).act(get("a", ""));
    s.rule("at most 128 operations");
    s.act(txn([], puts(128), [])).act(txn([], puts(129), [])).act(txn([], [], puts(129)));
    s.act(txn(vec![value("a", Is::Equal, "1"); 128], [], [])).act(txn(vec![value("a", Is::Equal, "1"); 129], [], []));
    s.rule("nested txns share the 128 operations");
    s.act(nested(txn_request([], puts(127), []))).act(nested(txn_request([], puts(128), [])));
    s.act(delete("many/", "many0"));
    s.rule("a key is put only once");
    s.act(txn([], [op_put("a", "1"), op_put("a", "2")], [])).act(txn([], [], [op_put("a", "1"), op_put("a", "2")]));
    s.act(txn([], [op_put("a", "1")], [op_put("a", "2")]));
    s.rule("a put and a delete must not overlap");
    s.act(txn([], [op_put("a", "1"), op_delete("a", "")], [])).act(txn(
        [],
        [op_delete("a", "c"), op_put("b", "1")],
        [],
    ));
    s.act(txn([], [op_put("b", "1"), op_delete("a", "b")], [])).act(txn(
        [],
        [op_delete("c", "a"), op_put("b", "1")],
        [],
    ));
    s.act(txn([], [op_delete("a", ""), op_delete("a", "b")], []));
    s.rule("the overlap is looked for in nested txns too");
    s.act(txn([], [op_put("a", "1"), op_txn(txn_request([], [op_put("a", "2")], []))], []));
    s.act(txn([], [op_delete("a", "b"), op_txn(txn_request([], [], [op_put("a", "2")]))], []));
    s.act(nested(txn_request([], [op_put("a", "1")], [op_put("a", "2")])));
    s.act(txn(
        [],
        [op_txn(txn_request([], [op_put("a", "1")], [])), op_txn(txn_request([], [op_put("a", "2")], []))],
        [],
    ));
    s.rule("an empty key in a txn is refused");
    s.act(txn([value("", Is::Equal, "")], [], [])).act(txn([], [op_put("", "1")], [])).act(txn(
        [],
        [op_get("", "")],
        [],
    ));
    s.act(txn([], [], [op_delete("", "")])).act(nested(txn_request([], [op_get("", "")], [])));
    s.rule("an empty operation in a txn is refused").act(txn([], [PbTxnRequestOp { request: None }], []));
    s.rule("what is refused in a put is refused in a txn, and nothing is written");
    let mut ignoring = put_request("none", "");
    ignoring.ignore_value = true;
    let refused = op(PbTxnOpRequest::RequestPut(ignoring.clone()));
    s.act(txn([], [op_put("other", "1"), refused.clone()], [])).act(get("other", ""));
    s.rule("what is refused in the branch not taken does not matter").act(txn(
        [],
        [op_put("other", "2")],
        [refused.clone()],
    ));
    let mut leased = put_request("other", "3");
    leased.lease = 404;
    s.rule("a lease that is not there is refused in a txn");
    s.act(txn([], [op_put("x", "1"), op(PbTxnOpRequest::RequestPut(leased))], [])).act(get("x", ""));
    s.rule("which of two refusals of a put comes first");
    let mut both = put_request("none", "");
    (both.lease, both.ignore_value) = (404, true);
    s.act(Action::Put(both.clone())).act(txn([], [op(PbTxnOpRequest::RequestPut(both))], []));
    s.rule("the puts of a txn are refused before its reads");
    let mut late = crate::script::get_request("other", "");
    late.revision = NOW + 1;
    let (late, early) = (op(PbTxnOpRequest::RequestRange(late)), refused.clone());
    s.act(txn([], [late.clone(), early.clone()], [])).act(txn([], [early, late], []));
    ignoring.value = b"value".to_vec();
    s.rule("a put that is never right is refused in any branch");
    s.act(txn([], [], [op(PbTxnOpRequest::RequestPut(ignoring))]));
    s.rule("revisions of reads are checked before anything is written");
    for revision in [NOW + 1, START, -1, NOW] {
        let mut read = crate::script::get_request("other", "");
        read.revision = revision;
        s.act(txn([], [op_put("w", "1"), op(PbTxnOpRequest::RequestRange(read))], [])).act(get("w", ""));
    }
    s.clear();
}

fn compared(s: &mut Script) {
    s.rule("a VALUE compare on a missing key is false");
    for is in [Is::Equal, Is::NotEqual, Is::Greater, Is::Less] {
        ask(s, value("none", is, ""));
        ask(s, value("none", is, "1"));
    }
    s.rule("other compares take a missing key for zeros");
    for is in [Is::Equal, Is::NotEqual, Is::Greater, Is::Less] {
        for of in [Of::Version(0), Of::CreateRevision(0), Of::ModRevision(0), Of::Lease(0), Of::Version(1)] {
            ask(s, compare("none", "", is, of));
        }
    }
    s.act(grant(12, 1000)).act(put("a", "1")).act(put("a", "2")).act(put("b", "2"));
    s.act(crate::script::put_leased("c", "3", 12));
    s.rule("compares of a key that is there");
    for is in [Is::Equal, Is::NotEqual, Is::Greater, Is::Less] {
        for of in [Of::Version(2), Of::CreateRevision(NOW - 3), Of::ModRevision(NOW - 2), Of::Value(b"2".to_vec())] {
            ask(s, compare("a", "", is, of));
        }
        ask(s, compare("c", "", is, Of::Lease(12)));
    }
    s.rule("a compare of a range holds for all of its keys");
    for (end, is, against) in [
        ("c", Is::Equal, "2"),
        (REST, Is::Equal, "2"),
        (REST, Is::Greater, "1"),
        ("a", Is::Equal, "9"),
        ("\u{1}", Is::NotEqual, "9"),
    ] {
        ask(s, compare("a", end, is, Of::Value(against.into())));
    }
    ask(s, compare("x", "y", Is::Equal, Of::Value(b"9".to_vec())));
    ask(s, compare("x", "y", Is::Equal, Of::Version(9)));
    ask(s, compare("x", "y", Is::Equal, Of::Version(0)));
    s.rule("all compares must hold").act(txn([value("a", Is::Equal, "2"), value("b", Is::Equal, "3")], [], []));
    s.act(txn([value("a", Is::Equal, "2"), value("b", Is::Equal, "2")], [op_get("a", "")], [op_get("b", "")]));
    s.rule("a compare without a value to compare with");
    for target in 0..5 {
        s.act(txn([PbCompare { target, key: b"a".to_vec(), ..PbCompare::default() }], [], []));
    }
    s.act(Action::Revoke(12)).clear();
}

fn run(s: &mut Script) {
    s.act(put("a", "1")).act(put("b", "1"));
    s.rule("reads in a txn see its earlier writes");
    s.act(txn([], [op_get("a", ""), op_put("a", "2"), op_get("a", ""), op_delete("b", ""), op_get("a", REST)], []));
    s.rule("all writes of a txn share one revision");
    s.act(txn([], [op_put("p", "1"), op_put("q", "1"), op_put("r", "1"), op_delete("a", "")], [])).act(get(REST, REST));
    s.act(get("p", "s"));
    s.rule("a put and a read of the past in one txn");
    let mut past = crate::script::get_request("p", "s");
    past.revision = NOW;
    s.act(txn([], [op_put("p", "2"), op(PbTxnOpRequest::RequestRange(past))], []));
    s.rule("a put tells the previous value in a txn");
    let mut telling = put_request("q", "2");
    telling.prev_kv = true;
    s.act(txn([], [op(PbTxnOpRequest::RequestPut(telling))], []));
    s.rule("nested txns compare against the data before the txn");
    let inner = txn_request([value("q", Is::Equal, "3")], [op_put("in", "then")], [op_put("in", "else")]);
    s.act(txn([], [op_put("q", "3"), op_txn(inner)], [])).act(get("in", ""));
    s.rule("a failed compare runs the other branch");
    s.act(txn([value("q", Is::Equal, "none")], [op_put("in", "1")], [op_put("in", "2"), op_get("in", "")]));
    s.rule("nested twice");
    let deepest = txn_request([], [op_get("in", ""), op_put("deep", "1"), op_get("deep", "")], []);
    s.act(nested(txn_request([], [op_txn(deepest)], [])));
    s.rule("a delete of two ranges in one txn").act(txn([], [op_delete("p", "q"), op_delete("q", REST)], []));
    s.rule("a key deleted and looked at in one txn");
    s.act(put("v", "1")).act(put("v", "2")).act(txn([], [op_delete("v", ""), op_get("v", "")], [])).act(put("v", "3"));
    s.act(get("v", "")).act(compact(NOW - 1));
}
