//! Watches over the wire; slow readers and the finer states are unit tests of the hub.

use std::time::Duration;

use etcd_client::{
    DeleteOptions, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponseStream,
};
use tokio::time::timeout;

use super::fixture::{Registry, events, next, on_both};

fn all() -> WatchOptions {
    WatchOptions::new().with_all_keys()
}

async fn watchers_share_a_stream_and_are_told_apart_by_ids_from_zero(mut r: Registry) {
    let mut watch = r.client.watch("a", None).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created() && !created.canceled());
    assert_eq!((created.watch_id(), created.header().unwrap().revision()), (0, r.revision(0)));
    watch.watch("p/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert_eq!(next(&mut watch).await.watch_id(), 1);
    watch.watch("x", Some(WatchOptions::new().with_watch_id(50))).await.unwrap();
    assert_eq!(next(&mut watch).await.watch_id(), 50);
    for key in ["p/1", "other", "a", "x", "p0"] {
        r.client.put(key, "v", None).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let message = next(&mut watch).await;
        let revision = message.header().unwrap().revision() - r.revision(0);
        seen.push((message.watch_id(), events(&message).join(" "), revision));
    }
    assert_eq!(seen, [(1, "+p/1=v".into(), 1), (0, "+a=v".into(), 3), (50, "+x=v".into(), 4)]);
}

async fn a_bad_watch_is_answered_with_created_and_canceled_and_the_stream_goes_on(mut r: Registry) {
    let mut watch = r.client.watch("a", Some(WatchOptions::new().with_watch_id(7))).await.unwrap();
    assert_eq!(next(&mut watch).await.watch_id(), 7);
    watch.watch("b", Some(WatchOptions::new().with_watch_id(7))).await.unwrap();
    let refused = next(&mut watch).await;
    assert!(refused.created() && refused.canceled());
    assert_eq!(
        (refused.watch_id(), refused.cancel_reason()),
        (-1, "mvcc: duplicate watch ID provided on the WatchStream")
    );
    watch.watch("b", Some(WatchOptions::new().with_range("a"))).await.unwrap();
    let refused = next(&mut watch).await;
    assert!(refused.created() && refused.canceled());
    assert_eq!((refused.watch_id(), refused.cancel_reason()), (-1, "mvcc: watcher range is empty"));
    r.put_all("a", &["1"]).await;
    assert_eq!(events(&next(&mut watch).await), ["+a=1"]);
}

async fn a_cancelled_watcher_is_told_so_and_hears_nothing_more(mut r: Registry) {
    let mut watch = r.client.watch("a", None).await.unwrap();
    next(&mut watch).await;
    watch.watch("a", None).await.unwrap();
    next(&mut watch).await;
    watch.cancel(9).await.unwrap();
    watch.cancel(0).await.unwrap();
    let cancelled = next(&mut watch).await;
    assert!(cancelled.canceled() && !cancelled.created());
    assert_eq!((cancelled.watch_id(), cancelled.cancel_reason()), (0, ""));
    r.put_all("a", &["1"]).await;
    let message = next(&mut watch).await;
    assert_eq!((message.watch_id(), events(&message)), (1, vec!["+a=1".to_owned()]));
}

async fn a_past_start_replays_inclusively_and_never_splits_a_txn(mut r: Registry) {
    r.put_all("a", &["1", "2"]).await;
    let ops = [TxnOp::put("a", "3", None), TxnOp::put("b", "3", None)];
    r.client.txn(Txn::new().and_then(ops)).await.unwrap();
    r.client.delete("a", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let options = all().with_start_revision(r.revision(2)).with_prev_key();
    let mut watch = r.client.watch("", Some(options)).await.unwrap();
    assert!(next(&mut watch).await.created());
    let message = next(&mut watch).await;
    assert_eq!(events(&message), ["+a=2(1)", "+a=3(2)", "+b=3", "-a(3)"]);
    assert_eq!(message.header().unwrap().revision(), r.revision(4));
    let ops = [TxnOp::put("x", "5", None), TxnOp::put("b", "5", None)];
    r.client.txn(Txn::new().and_then(ops)).await.unwrap();
    assert_eq!(events(&next(&mut watch).await), ["+x=5", "+b=5(3)"]);
}

async fn a_future_start_waits_for_its_revision(mut r: Registry) {
    let options = WatchOptions::new().with_start_revision(r.revision(3));
    let mut watch = r.client.watch("a", Some(options)).await.unwrap();
    assert!(next(&mut watch).await.created());
    r.put_all("a", &["1", "2", "3"]).await;
    assert_eq!(events(&next(&mut watch).await), ["+a=3"]);
}

async fn filters_leave_out_puts_or_deletes(mut r: Registry) {
    let no_put = all().with_filters([WatchFilterType::NoPut]);
    let mut watch = r.client.watch("", Some(no_put)).await.unwrap();
    next(&mut watch).await;
    watch.watch("", Some(all().with_filters([WatchFilterType::NoDelete]))).await.unwrap();
    next(&mut watch).await;
    r.put_all("a", &["1"]).await;
    r.client.delete("a", None).await.unwrap();
    let message = next(&mut watch).await;
    assert_eq!((message.watch_id(), events(&message)), (1, vec!["+a=1".to_owned()]));
    let message = next(&mut watch).await;
    assert_eq!((message.watch_id(), events(&message)), (0, vec!["-a".to_owned()]));
}

async fn a_compacted_start_is_created_and_then_canceled_with_the_revision_to_list_from(mut r: Registry) {
    r.put_all("a", &["1", "2", "3", "4"]).await;
    r.client.compact(r.revision(3), None).await.unwrap();
    let options = WatchOptions::new().with_start_revision(r.revision(2));
    let mut watch = r.client.watch("a", Some(options)).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created() && !created.canceled());
    assert_eq!(created.header().unwrap().revision(), r.revision(4));
    let canceled = next(&mut watch).await;
    assert!(canceled.canceled() && !canceled.created());
    assert_eq!((canceled.watch_id(), canceled.compact_revision(), canceled.cancel_reason()), (0, r.revision(3), ""));
    assert_eq!(canceled.header().unwrap().revision(), 0);
    // At the compact revision itself history is still whole, but what was there before is gone.
    let options = WatchOptions::new().with_start_revision(r.revision(3)).with_prev_key();
    watch.watch("a", Some(options)).await.unwrap();
    assert!(next(&mut watch).await.created());
    assert_eq!(events(&next(&mut watch).await), ["+a=3", "+a=4(3)"]);
}

async fn a_client_that_closes_its_half_still_gets_events(mut r: Registry) {
    let watch = r.client.watch("a", None).await.unwrap();
    let (sender, mut stream): (WatchRequestSender, WatchResponseStream) = watch.split();
    assert!(stream.message().await.unwrap().unwrap().created());
    drop(sender);
    r.put_all("a", &["1"]).await;
    let message = timeout(Duration::from_secs(10), stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(events(&message), ["+a=1"]);
}

async fn progress_is_told_on_request_with_the_id_minus_one(mut r: Registry) {
    let mut watch = r.client.watch("a", None).await.unwrap();
    next(&mut watch).await;
    r.put_all("b", &["1", "2"]).await;
    watch.request_progress().await.unwrap();
    let progress = next(&mut watch).await;
    assert_eq!((progress.watch_id(), progress.header().unwrap().revision()), (-1, r.revision(2)));
    assert!(progress.events().is_empty() && !progress.created() && !progress.canceled());
}

/// Deletes three keys of 1 MiB at once; with the previous values that is a message of 3 MiB.
async fn fragments(r: &mut Registry, options: WatchOptions) -> Vec<(usize, usize)> {
    let lease = r.client.lease_grant(60, None).await.unwrap().id();
    for key in ["a", "b", "c"] {
        let value = vec![b'v'; 1024 * 1024];
        r.client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
    }
    let mut watch = r.client.watch("", Some(options)).await.unwrap();
    next(&mut watch).await;
    r.client.lease_revoke(lease).await.unwrap();
    let mut seen = Vec::new();
    while seen.iter().map(|(events, _)| events).sum::<usize>() < 3 {
        let message = next(&mut watch).await;
        assert_eq!(message.header().unwrap().revision(), r.revision(4));
        let bytes = message.events().iter().filter_map(|event| event.prev_kv()).map(|kv| kv.value().len()).sum();
        seen.push((message.events().len(), bytes));
    }
    seen
}

async fn a_big_message_comes_in_fragments_to_those_who_ask(mut r: Registry) {
    const MIB: usize = 1024 * 1024;
    let options = all().with_prev_key().with_fragment();
    assert_eq!(fragments(&mut r, options).await, [(1, MIB), (1, MIB), (1, MIB)]);
}

async fn a_big_message_stays_whole_for_others(mut r: Registry) {
    assert_eq!(fragments(&mut r, all().with_prev_key()).await, [(3, 3 * 1024 * 1024)]);
}

on_both!(
    watchers_share_a_stream_and_are_told_apart_by_ids_from_zero,
    a_bad_watch_is_answered_with_created_and_canceled_and_the_stream_goes_on,
    a_cancelled_watcher_is_told_so_and_hears_nothing_more,
    a_past_start_replays_inclusively_and_never_splits_a_txn,
    a_future_start_waits_for_its_revision,
    filters_leave_out_puts_or_deletes,
    a_compacted_start_is_created_and_then_canceled_with_the_revision_to_list_from,
    a_client_that_closes_its_half_still_gets_events,
    progress_is_told_on_request_with_the_id_minus_one,
    a_big_message_comes_in_fragments_to_those_who_ask,
    a_big_message_stays_whole_for_others,
);
