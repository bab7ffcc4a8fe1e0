//! Range, Put, DeleteRange and Compact.

use etcd_client::{CompactionOptions, DeleteOptions, GetOptions, GetResponse, PutOptions, SortOrder, SortTarget};

use super::fixture::{Registry, on_both, refusal};

fn keys(found: &GetResponse) -> Vec<&str> {
    found.kvs().iter().map(|kv| kv.key_str().unwrap()).collect()
}

async fn a_put_makes_a_revision_and_a_delete_starts_the_version_anew(mut r: Registry) {
    let put = r.client.put("a", "1", None).await.unwrap();
    assert_eq!(put.header().unwrap().revision(), r.revision(1));
    assert!(put.prev_key().is_none());
    let put = r.client.put("a", "2", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"1");
    let found = r.client.get("a", None).await.unwrap();
    let kv = &found.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (r.revision(1), r.revision(2), 2));
    let deleted = r.client.delete("a", Some(DeleteOptions::new().with_prev_key())).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value()), (1, &b"2"[..]));
    r.client.put("a", "3", None).await.unwrap();
    let found = r.client.get("a", None).await.unwrap();
    let kv = &found.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (r.revision(4), r.revision(4), 1));
}

async fn deleting_nothing_makes_no_revision(mut r: Registry) {
    let deleted = r.client.delete("nothing", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.header().unwrap().revision()), (0, r.revision(0)));
}

async fn the_count_ignores_limit_and_filters(mut r: Registry) {
    for key in ["p/1", "p/2", "p/3", "p/4"] {
        r.client.put(key, "v", None).await.unwrap();
    }
    let prefix = || GetOptions::new().with_prefix();
    let found = r.client.get("p/", Some(prefix().with_limit(2))).await.unwrap();
    assert_eq!((keys(&found), found.more(), found.count()), (vec!["p/1", "p/2"], true, 4));
    let found = r.client.get("p/", Some(prefix().with_limit(4))).await.unwrap();
    assert_eq!((found.kvs().len(), found.more(), found.count()), (4, false, 4));
    let found = r.client.get("p/", Some(prefix().with_min_mod_revision(r.revision(3)))).await.unwrap();
    assert_eq!((keys(&found), found.more(), found.count()), (vec!["p/3", "p/4"], false, 4));
    let options = prefix().with_max_create_revision(r.revision(2)).with_limit(1);
    let found = r.client.get("p/", Some(options)).await.unwrap();
    assert_eq!((keys(&found), found.more(), found.count()), (vec!["p/1"], true, 4));
    let found = r.client.get("p/", Some(prefix().with_count_only().with_limit(1))).await.unwrap();
    assert_eq!((found.kvs().len(), found.more(), found.count()), (0, false, 4));
}

async fn ranges_are_half_open_and_zero_means_to_the_end(mut r: Registry) {
    for key in ["a", "b", "c", "d"] {
        r.client.put(key, "v", None).await.unwrap();
    }
    for (key, end, expected) in [
        ("b", "d", vec!["b", "c"]),
        ("b", "b", vec![]),
        ("c", "b", vec![]),
        ("b", "\0", vec!["b", "c", "d"]),
        ("\0", "\0", vec!["a", "b", "c", "d"]),
        ("bb", "cc", vec!["c"]),
    ] {
        let found = r.client.get(key, Some(GetOptions::new().with_range(end))).await.unwrap();
        assert_eq!(keys(&found), expected, "[{key:?}, {end:?})");
        assert_eq!(found.count(), i64::try_from(expected.len()).unwrap());
    }
    let found = r.client.get("b", Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
    assert_eq!(found.kvs()[0].value(), b"");
}

async fn results_are_sorted_by_what_is_asked_for(mut r: Registry) {
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("a", "0"), ("a", "3")] {
        r.client.put(key, value, None).await.unwrap();
    }
    for (target, order, expected) in [
        (SortTarget::Key, SortOrder::Descend, ["c", "b", "a"]),
        (SortTarget::Value, SortOrder::Ascend, ["b", "c", "a"]),
        (SortTarget::Value, SortOrder::None, ["b", "c", "a"]),
        (SortTarget::Version, SortOrder::Descend, ["a", "b", "c"]),
        (SortTarget::Version, SortOrder::Ascend, ["b", "c", "a"]),
        (SortTarget::Mod, SortOrder::Descend, ["a", "c", "b"]),
        (SortTarget::Create, SortOrder::Descend, ["c", "b", "a"]),
    ] {
        let options = GetOptions::new().with_all_keys().with_sort(target, order);
        let found = r.client.get("", Some(options)).await.unwrap();
        assert_eq!(keys(&found), expected, "{target:?} {order:?}");
    }
    // The limit counts after the sort.
    let options = GetOptions::new().with_all_keys().with_sort(SortTarget::Value, SortOrder::Ascend).with_limit(1);
    let found = r.client.get("", Some(options)).await.unwrap();
    assert_eq!((keys(&found), found.more()), (vec!["b"], true));
}

async fn an_old_revision_is_read_until_it_is_compacted(mut r: Registry) {
    r.put_all("a", &["1", "2", "3"]).await;
    r.client.delete("a", None).await.unwrap();
    r.put_all("a", &["5"]).await;
    for (n, expected) in [(1, Some("1")), (2, Some("2")), (3, Some("3")), (4, None), (5, Some("5"))] {
        let found = r.client.get("a", Some(GetOptions::new().with_revision(r.revision(n)))).await.unwrap();
        assert_eq!(found.kvs().first().map(|kv| kv.value_str().unwrap()), expected, "at {n}");
        assert_eq!(found.header().unwrap().revision(), r.revision(5), "the header speaks of now");
    }
    let future = r.client.get("a", Some(GetOptions::new().with_revision(r.revision(6)))).await;
    assert_eq!(refusal(future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
    let compacted = r.client.compact(r.revision(3), Some(CompactionOptions::new().with_physical())).await.unwrap();
    assert_eq!(compacted.header().unwrap().revision(), r.revision(5));
    let gone = "OutOfRange: etcdserver: mvcc: required revision has been compacted";
    let old = r.client.get("a", Some(GetOptions::new().with_revision(r.revision(2)))).await;
    assert_eq!(refusal(old), gone);
    let at = r.client.get("a", Some(GetOptions::new().with_revision(r.revision(3)))).await.unwrap();
    assert_eq!(at.kvs()[0].value(), b"3");
    assert_eq!(refusal(r.client.compact(r.revision(3), None).await), gone);
    let future = r.client.compact(r.revision(6), None).await;
    assert_eq!(refusal(future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
}

async fn bad_requests_are_refused_in_the_words_of_etcd(mut r: Registry) {
    let no_key = "InvalidArgument: etcdserver: key is not provided";
    assert_eq!(refusal(r.client.put("", "v", None).await), no_key);
    assert_eq!(refusal(r.client.get("", None).await), no_key);
    assert_eq!(refusal(r.client.delete("", None).await), no_key);
    let ignore_value = || Some(PutOptions::new().with_ignore_value());
    let put = r.client.put("a", "", ignore_value()).await;
    assert_eq!(refusal(put), "InvalidArgument: etcdserver: key not found");
    let put = r.client.put("a", "v", ignore_value()).await;
    assert_eq!(refusal(put), "InvalidArgument: etcdserver: value is provided");
    let put = r.client.put("a", "v", Some(PutOptions::new().with_ignore_lease().with_lease(5))).await;
    assert_eq!(refusal(put), "InvalidArgument: etcdserver: lease is provided");
    let put = r.client.put("a", "v", Some(PutOptions::new().with_lease(5))).await;
    assert_eq!(refusal(put), "NotFound: etcdserver: requested lease not found");
    let put = r.client.put("a", vec![0; 1_700_000], None).await;
    assert_eq!(refusal(put), "InvalidArgument: etcdserver: request is too large");
    let found = r.client.get("a", None).await.unwrap();
    assert_eq!(found.header().unwrap().revision(), r.revision(0));
}

async fn ignore_value_and_ignore_lease_keep_what_is_there(mut r: Registry) {
    let lease = r.client.lease_grant(60, None).await.unwrap().id();
    r.client.put("a", "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    r.client.put("a", "2", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    let found = r.client.get("a", None).await.unwrap();
    assert_eq!((found.kvs()[0].value(), found.kvs()[0].lease()), (&b"2"[..], lease));
    r.client.put("a", "", Some(PutOptions::new().with_ignore_value())).await.unwrap();
    let found = r.client.get("a", None).await.unwrap();
    assert_eq!((found.kvs()[0].value(), found.kvs()[0].lease(), found.kvs()[0].version()), (&b"2"[..], 0, 3));
}

on_both!(
    a_put_makes_a_revision_and_a_delete_starts_the_version_anew,
    deleting_nothing_makes_no_revision,
    the_count_ignores_limit_and_filters,
    ranges_are_half_open_and_zero_means_to_the_end,
    results_are_sorted_by_what_is_asked_for,
    an_old_revision_is_read_until_it_is_compacted,
    bad_requests_are_refused_in_the_words_of_etcd,
    ignore_value_and_ignore_lease_keep_what_is_there,
);
