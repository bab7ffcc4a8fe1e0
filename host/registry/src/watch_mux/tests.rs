#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    etcd::Event,
    fake::{Call, Fake},
};

const CLUSTER: u64 = 0xfa4e;

fn mux(fake: &Fake) -> WatchMux {
    let config = WatchMuxConfig {
        idle_timeout: Duration::from_secs(10),
        backoff_base: Duration::from_millis(100),
        backoff_cap: Duration::from_secs(1),
        has_user: true,
    };
    WatchMux::spawn(Arc::new(fake.clone()), config, Metrics::default())
}

/// The keys of the next events.
async fn keys(watching: &mut WatchHandle) -> Vec<String> {
    loop {
        let notice = timeout(Duration::from_mins(1), watching.next()).await.expect("a notice within a minute");
        if let Notice::Events(events) = notice.expect("the watch goes on") {
            let key = |event: Event| match event {
                Event::Put(kv) => kv.key,
                Event::Delete { key, .. } => key,
            };
            return events.into_iter().map(|event| String::from_utf8(key(event)).unwrap()).collect();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watches_on_one_stream_get_their_own_events_alone() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut a = mux.watch(vec![Range::prefix("a/")], Revision(2), CLUSTER);
    let mut b = mux.watch(vec![Range::prefix("b/"), Range::key("c")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    for key in ["a/1", "b/1", "c", "d"] {
        fake.put(key, "x");
    }
    assert_eq!(keys(&mut a).await, ["a/1"]);
    assert_eq!(keys(&mut b).await, ["b/1"]);
    assert_eq!(keys(&mut b).await, ["c"]);
    assert_eq!(fake.n_streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_numbers_watches_itself_is_understood() {
    let fake = Fake::new();
    fake.use_own_ids();
    let mux = mux(&fake);
    let mut watches =
        (0..20).map(|n| mux.watch(vec![Range::key(format!("k{n}"))], Revision(2), CLUSTER)).collect::<Vec<_>>();
    sleep(Duration::from_millis(10)).await;
    for n in 0..20 {
        fake.put(&format!("k{n}"), "x");
    }
    for (n, watching) in watches.iter_mut().enumerate() {
        assert_eq!(keys(watching).await, [format!("k{n}")]);
    }
    // Each is cancelled under the server's number.
    watches.truncate(1);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(fake.count(|call| *call == Call::CancelWatch), 19);
    fake.put("k0", "y");
    assert_eq!(keys(&mut watches[0]).await, ["k0"]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_loses_its_place_and_holds_up_nobody() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut slow = mux.watch(vec![Range::prefix("a/")], Revision(2), CLUSTER);
    let mut quick = mux.watch(vec![Range::prefix("a/")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    for n in 0..QUEUE * 2 {
        fake.put(&format!("a/{n}"), "x");
        assert_eq!(keys(&mut quick).await, [format!("a/{n}")]);
    }
    let mut read = 0;
    while slow.next().await.is_some() {
        read += 1;
    }
    assert!(read <= QUEUE, "{read}");
}

#[tokio::test(start_paused = true)]
async fn every_range_resumes_after_what_it_has_seen_itself() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut both = mux.watch(vec![Range::prefix("a/"), Range::prefix("b/")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    fake.put("a/1", "x");
    fake.put("b/1", "x");
    fake.put("a/2", "x");
    for want in ["a/1", "b/1", "a/2"] {
        assert_eq!(keys(&mut both).await, [want]);
    }
    fake.go_down();
    sleep(Duration::from_secs(5)).await;
    fake.put("b/2", "x");
    fake.come_back();
    assert_eq!(keys(&mut both).await, ["b/2"], "nothing twice, nothing missed");
    let calls = fake.calls();
    assert!(calls.contains(&Call::Watch { key: "a/".into(), from: Revision(5) }), "{calls:?}");
    assert!(calls.contains(&Call::Watch { key: "b/".into(), from: Revision(4) }), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_begun_while_etcd_is_away_is_told_so_and_begins_when_it_is_back() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let _first = mux.watch(vec![Range::key("a")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    fake.go_down();
    sleep(Duration::from_secs(5)).await;
    let mut late = mux.watch(vec![Range::key("b")], Revision(2), CLUSTER);
    assert!(matches!(late.next().await, Some(Notice::Down(reason)) if reason.contains("refused")));
    fake.come_back();
    assert!(matches!(timeout(Duration::from_secs(2), late.next()).await.unwrap(), Some(Notice::Synced(_))));
}

#[tokio::test(start_paused = true)]
async fn a_watch_dropped_before_it_was_created_is_cancelled_when_it_is() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut kept = mux.watch(vec![Range::key("kept")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    drop(mux.watch(vec![Range::key("dropped")], Revision(2), CLUSTER));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(fake.count(|call| *call == Call::CancelWatch), 1);
    fake.put("kept", "x");
    assert_eq!(keys(&mut kept).await, ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_last_handle_and_watch() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let reconnects = mux.reconnects();
    let watching = mux.watch(vec![Range::key("a")], Revision(2), CLUSTER);
    sleep(Duration::from_millis(10)).await;
    drop(mux);
    sleep(Duration::from_millis(10)).await;
    assert!(reconnects.has_changed().is_ok(), "a watch keeps it");
    drop(watching);
    sleep(Duration::from_millis(10)).await;
    assert!(reconnects.has_changed().is_err(), "nobody is left");
    assert_eq!(fake.n_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_out_for_etcd_learns_that_it_is_there_and_watches_nothing() {
    let fake = Fake::new();
    fake.go_down();
    let mux = mux(&fake);
    let mut reconnects = mux.reconnects();
    let keep_connecting = mux.keep_connecting(Range::key("a"));
    sleep(Duration::from_mins(1)).await;
    assert!(!reconnects.has_changed().unwrap());
    fake.come_back();
    timeout(Duration::from_secs(2), reconnects.changed()).await.unwrap().unwrap();
    // Of whatever cluster.
    fake.become_another_cluster();
    fake.cut();
    timeout(Duration::from_secs(2), reconnects.changed()).await.unwrap().unwrap();
    drop(keep_connecting);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(fake.n_streams(), 0);
}

/// etcd does not say how far it is then.
#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_happens_is_not_lost_while_it_is_answered() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut idle = mux.watch(vec![Range::key("a")], Revision(2), CLUSTER);
    assert!(matches!(idle.next().await, Some(Notice::Synced(_))));
    let silent = timeout(Duration::from_mins(10), idle.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(fake.n_streams(), 1);
    // What was asked is nobody's, and nothing of it stays.
    let calls = fake.calls();
    let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
    let (asked, cancelled) =
        (count(|call| matches!(call, Call::Watch { .. })), count(|call| *call == Call::CancelWatch));
    assert!(asked > 100 && asked - 1 - cancelled <= 1, "{asked} {cancelled}");
    // Silence is told from that.
    fake.hang();
    assert!(matches!(timeout(Duration::from_mins(1), idle.next()).await, Ok(Some(Notice::Down(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_as_the_newest_token_allows_and_the_others_miss_nothing() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut early = mux.watch(vec![Range::prefix("a/")], Revision(2), CLUSTER);
    assert!(matches!(early.next().await, Some(Notice::Synced(_))));
    fake.expire_tokens();
    fake.put("a/1", "x");
    assert_eq!(keys(&mut early).await, ["a/1"], "what stands is told on");
    // Some at once: one stream does for all.
    let now = fake.revision().next();
    let mut late = ["b/", "c/"].map(|prefix| mux.watch(vec![Range::prefix(prefix)], now, CLUSTER));
    for watching in &mut late {
        let begun = timeout(Duration::from_secs(5), watching.next()).await.unwrap();
        assert!(matches!(begun, Some(Notice::Synced(_))), "{begun:?}");
    }
    for key in ["b/1", "a/2", "c/1"] {
        fake.put(key, "x");
    }
    assert_eq!(keys(&mut late[0]).await, ["b/1"]);
    assert_eq!(keys(&mut late[1]).await, ["c/1"]);
    assert_eq!(keys(&mut early).await, ["a/2"], "nothing twice, nothing missed");
    assert_eq!((fake.count(|call| *call == Call::OpenWatch), fake.n_streams()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_a_new_token_does_not_allow_either_is_refused_alone() {
    let fake = Fake::new();
    let mux = mux(&fake);
    let mut allowed = mux.watch(vec![Range::prefix("a/")], Revision(2), CLUSTER);
    assert!(matches!(allowed.next().await, Some(Notice::Synced(_))));
    fake.refuse_watches(Some("etcdserver: permission denied"));
    let mut refused = mux.watch(vec![Range::prefix("b/")], Revision(2), CLUSTER);
    let notice = timeout(Duration::from_secs(5), refused.next()).await.unwrap();
    assert!(
        matches!(&notice, Some(Notice::Restart(RestartReason::Refused, words)) if words.contains("permission denied")),
        "{notice:?}"
    );
    fake.put("a/1", "x");
    assert_eq!(keys(&mut allowed).await, ["a/1"]);
    assert_eq!(fake.n_streams(), 1, "the one it was tried on is gone");
}
