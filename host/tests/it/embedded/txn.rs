//! Transactions over the wire; the finer rules are unit tests of the machine.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::fixture::{Registry, on_both, refusal};

/// A response as one line: which branch, and for each operation what it did and the revision in its
/// header.
fn line(r: &Registry, response: &TxnResponse) -> String {
    let relative =
        |header: Option<&etcd_client::ResponseHeader>| match header.map(etcd_client::ResponseHeader::revision) {
            Some(0) => "0".into(),
            Some(revision) => format!("+{}", revision - r.revision(0)),
            None => "none".into(),
        };
    let ops: Vec<_> = response
        .op_responses()
        .iter()
        .map(|op| match op {
            TxnOpResponse::Put(put) => format!("put @{}", relative(put.header())),
            TxnOpResponse::Get(get) => {
                let found: Vec<_> = get.kvs().iter().map(|kv| kv.value_str().unwrap()).collect();
                format!("get {found:?} @{}", relative(get.header()))
            }
            TxnOpResponse::Delete(delete) => format!("delete {} @{}", delete.deleted(), relative(delete.header())),
            TxnOpResponse::Txn(nested) => format!("({})", line(r, nested)),
        })
        .collect();
    format!("{} [{}] @{}", response.succeeded(), ops.join(", "), relative(response.header()))
}

async fn operations_run_in_order_at_one_revision(mut r: Registry) {
    r.put_all("a", &["1"]).await;
    let nested = Txn::new()
        .when([Compare::version("a", CompareOp::Greater, 5)])
        .or_else([TxnOp::put("d", "1", None), TxnOp::get("b", None)]);
    let ops = [
        TxnOp::get("a", None),
        TxnOp::put("b", "2", None),
        TxnOp::get("\0", Some(GetOptions::new().with_from_key())),
        TxnOp::txn(nested),
        TxnOp::delete("a", None),
        TxnOp::delete("x", None),
        TxnOp::get("a", None),
    ];
    let response = r.client.txn(Txn::new().and_then(ops)).await.unwrap();
    assert_eq!(
        line(&r, &response),
        "true [get [\"1\"] @+1, put @+2, get [\"1\", \"2\"] @+2, (false [put @+2, get [\"2\"] @+2] @0), delete 1 @+2, \
         delete 0 @+2, get [] @+2] @+2"
    );
    let found = r.client.get("d", None).await.unwrap();
    assert_eq!(found.kvs()[0].mod_revision(), r.revision(2));
}

async fn a_txn_that_changes_nothing_makes_no_revision(mut r: Registry) {
    r.put_all("a", &["1"]).await;
    let reads = Txn::new().and_then([TxnOp::get("a", None)]);
    let response = r.client.txn(reads).await.unwrap();
    assert_eq!(line(&r, &response), "true [get [\"1\"] @+1] @+1");
    let response = r.client.txn(Txn::new().and_then([TxnOp::delete("x", None)])).await.unwrap();
    assert_eq!(line(&r, &response), "true [delete 0 @+1] @+1");
    let response = r.client.txn(Txn::new()).await.unwrap();
    assert_eq!(line(&r, &response), "true [] @+1");
}

async fn every_kind_of_comparison_decides(mut r: Registry) {
    let lease = r.client.lease_grant(60, None).await.unwrap().id();
    r.put_all("a", &["m", "n"]).await;
    r.client.put("l", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    for (compare, expected) in [
        (Compare::value("a", CompareOp::Equal, "n"), true),
        (Compare::value("a", CompareOp::Less, "n"), false),
        (Compare::value("a", CompareOp::Greater, "m"), true),
        (Compare::value("a", CompareOp::NotEqual, "m"), true),
        (Compare::version("a", CompareOp::Equal, 2), true),
        (Compare::create_revision("a", CompareOp::Equal, r.revision(1)), true),
        (Compare::mod_revision("a", CompareOp::Less, r.revision(3)), true),
        (Compare::lease("l", CompareOp::Equal, lease), true),
        (Compare::lease("a", CompareOp::Greater, 0), false),
        (Compare::create_revision("missing", CompareOp::Equal, 0), true),
        (Compare::value("missing", CompareOp::NotEqual, "x"), false),
        (Compare::version("a", CompareOp::Greater, 0).with_range("z"), true),
        (Compare::version("a", CompareOp::Equal, 2).with_range("z"), false),
        (Compare::version("x", CompareOp::Equal, 0).with_range("z"), true),
    ] {
        let response = r.client.txn(Txn::new().when([compare.clone()])).await.unwrap();
        assert_eq!(response.succeeded(), expected, "{compare:?}");
    }
}

async fn forbidden_txns_are_refused_in_the_words_of_etcd(mut r: Registry) {
    let duplicate = "InvalidArgument: etcdserver: duplicate key given in txn request";
    let put = |key: &str| TxnOp::put(key, "v", None);
    let delete = |key: &str, end: &str| TxnOp::delete(key, Some(DeleteOptions::new().with_range(end)));
    for (ops, expected) in [
        (vec![put("a"), put("a")], duplicate),
        (vec![put("b"), delete("a", "c")], duplicate),
        (vec![put("")], "InvalidArgument: etcdserver: key is not provided"),
        (
            (0..129).map(|i| put(&i.to_string())).collect(),
            "InvalidArgument: etcdserver: too many operations in txn request",
        ),
        (
            vec![put("a"), TxnOp::get("a", Some(GetOptions::new().with_revision(r.revision(9))))],
            "OutOfRange: etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        assert_eq!(refusal(r.client.txn(Txn::new().and_then(ops)).await), expected);
    }
    let compare = Txn::new().when([Compare::version("", CompareOp::Equal, 0)]);
    assert_eq!(refusal(r.client.txn(compare).await), "InvalidArgument: etcdserver: key is not provided");
    let found = r.client.get("a", None).await.unwrap();
    assert_eq!((found.count(), found.header().unwrap().revision()), (0, r.revision(0)));
}

async fn deletes_may_overlap_and_the_end_from_here_on_escapes_the_check(mut r: Registry) {
    r.put_all("b", &["old"]).await;
    let range = |end: &str| Some(DeleteOptions::new().with_range(end));
    let ops = [TxnOp::delete("a", range("c")), TxnOp::delete("b", range("d"))];
    let response = r.client.txn(Txn::new().and_then(ops)).await.unwrap();
    assert_eq!(line(&r, &response), "true [delete 1 @+2, delete 0 @+2] @+2");
    r.put_all("b", &["old"]).await;
    let ops = [TxnOp::delete("a", range("\0")), TxnOp::put("b", "new", None)];
    let response = r.client.txn(Txn::new().and_then(ops)).await.unwrap();
    assert_eq!(line(&r, &response), "true [delete 1 @+4, put @+4] @+4");
    let found = r.client.get("b", None).await.unwrap();
    assert_eq!((found.kvs()[0].value(), found.kvs()[0].version()), (&b"new"[..], 1));
}

async fn a_put_wrong_in_two_ways_is_refused_for_its_lease_and_in_a_txn_for_its_key(mut r: Registry) {
    let wrong = || PutOptions::new().with_ignore_value().with_lease(404);
    let put = r.client.put("none", "", Some(wrong())).await;
    assert_eq!(refusal(put), "NotFound: etcdserver: requested lease not found");
    let txn = r.client.txn(Txn::new().and_then([TxnOp::put("none", "", Some(wrong()))])).await;
    assert_eq!(refusal(txn), "InvalidArgument: etcdserver: key not found");
}

on_both!(
    operations_run_in_order_at_one_revision,
    a_txn_that_changes_nothing_makes_no_revision,
    every_kind_of_comparison_decides,
    forbidden_txns_are_refused_in_the_words_of_etcd,
    deletes_may_overlap_and_the_end_from_here_on_escapes_the_check,
    a_put_wrong_in_two_ways_is_refused_for_its_lease_and_in_a_txn_for_its_key,
);
