#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use tokio::time::{Instant, timeout};
use waymark_core::{
    model::{Revision, ServiceName},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    snapshot::{Reader, Snapshot},
};

use crate::{
    Registry, RegistryConfig,
    fake::{Call, Fake, TestScheme, service},
};
use std::sync::Arc;

async fn follow(fake: &Fake) -> (Registry, Reader) {
    let registry = fake.registry();
    let reader = registry.subscribe(service("svc"), TestScheme::shared()).await.unwrap();
    (registry, reader)
}

/// Waits until the snapshot is as wanted; on the paused clock this takes no time.
async fn until(reader: &mut Reader, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let waiting = async {
        loop {
            let current = reader.current();
            if wanted(&current) {
                return current;
            }
            reader.changed().await.unwrap();
        }
    };
    let outcome = timeout(Duration::from_mins(2), waiting).await;
    outcome.unwrap_or_else(|_| panic!("not within two minutes: {what}; it is {:?}", reader.current()))
}

/// Waits until it was listed and is watched.
async fn standing(reader: &mut Reader) {
    until(reader, "listed", |it| it.listed).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn addresses(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.endpoints.iter().map(|it| it.address.as_str()).collect()
}

fn is_list(call: &Call) -> bool {
    *call == Call::Range
}

#[tokio::test(start_paused = true)]
async fn a_service_is_listed_and_then_watched_from_the_next_revision() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.put("other/1", "192.0.2.9:1");
    let (_registry, mut reader) = follow(&fake).await;
    assert!(!reader.current().listed);
    let first = until(&mut reader, "listed", |it| it.listed).await;
    assert_eq!(addresses(&first), ["192.0.2.1:1"]);
    assert_eq!(first.revision, Revision(3));
    fake.put("svc/2", "192.0.2.2:1");
    let both = until(&mut reader, "both", |it| it.endpoints.len() == 2).await;
    assert_eq!(both.revision, Revision(4));
    fake.delete("svc/1");
    until(&mut reader, "one left", |it| addresses(it) == ["192.0.2.2:1"]).await;
    assert!(fake.calls().contains(&Call::Watch { key: "svc/".into(), from: Revision(4) }));
    assert_eq!(fake.count(is_list), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_read_in_pages_at_one_revision() {
    let fake = Fake::new();
    for n in 0..25 {
        fake.put(&format!("svc/{n:02}"), &format!("192.0.2.{}:1", n + 1));
    }
    let config = RegistryConfig { page_size: 10, ..RegistryConfig::new(["fake:1"]) };
    let registry = Registry::over(Arc::new(fake.clone()), Arc::new(config));
    let mut reader = registry.subscribe(service("svc"), TestScheme::shared()).await.unwrap();
    let listed = until(&mut reader, "listed", |it| it.listed).await;
    assert_eq!(listed.endpoints.len(), 25);
    assert_eq!(fake.count(is_list), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_resumes_after_the_last_revision_and_marks_the_snapshot_stale_meanwhile() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.put("svc/2", "192.0.2.2:1");
    until(&mut reader, "both", |it| it.endpoints.len() == 2).await;
    fake.go_down();
    let stale = until(&mut reader, "stale", |it| it.stale.is_some()).await;
    assert_eq!(stale.endpoints.len(), 2, "losing etcd empties nothing");
    let reason = &stale.stale.as_ref().unwrap().reason;
    assert!(reason.contains("connection refused"), "{reason}");
    // Missed while away, and told on resuming.
    fake.delete("svc/1");
    fake.put("svc/3", "192.0.2.3:1");
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(reader.current().endpoints.len(), 2);
    fake.come_back();
    let back_at = Instant::now();
    let fresh = until(&mut reader, "fresh", |it| it.stale.is_none() && it.endpoints.len() == 2).await;
    assert_eq!(addresses(&fresh), ["192.0.2.2:1", "192.0.2.3:1"]);
    assert!(back_at.elapsed() <= Duration::from_secs(1), "healed after {:?}", back_at.elapsed());
    assert_eq!(fake.count(is_list), 1, "resuming needs no list");
    let resumed_from = Call::Watch { key: "svc/".into(), from: Revision(4) };
    assert_eq!(fake.calls().iter().filter(|call| **call == resumed_from).count(), 1, "{:?}", fake.calls());
}

#[tokio::test(start_paused = true)]
async fn a_service_without_changes_is_fresh_again_too() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    // The store moves on elsewhere, so that the resumed watch must learn that nothing is missing.
    fake.put("other/1", "x");
    fake.cut();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    let fresh = until(&mut reader, "fresh", |it| it.stale.is_none()).await;
    assert_eq!(fresh.endpoints.len(), 1);
    assert_eq!(fake.count(is_list), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_compaction_the_whole_service_is_listed_and_swapped() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.put("svc/2", "192.0.2.2:1");
    let (registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.go_down();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    fake.delete("svc/1");
    fake.put("svc/3", "192.0.2.3:1");
    fake.compact();
    fake.come_back();
    let after = until(&mut reader, "swapped", |it| it.stale.is_none()).await;
    assert_eq!(addresses(&after), ["192.0.2.2:1", "192.0.2.3:1"]);
    assert_eq!(fake.count(is_list), 2);
    assert!(registry.metrics().text().contains("registry_watch_restarts_total{reason=\"compacted\"} 1"));
    fake.put("svc/4", "192.0.2.4:1");
    until(&mut reader, "followed on", |it| it.endpoints.len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn another_cluster_at_the_same_address_is_listed_from_scratch() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.become_another_cluster();
    fake.put("svc/7", "192.0.2.7:1");
    fake.cut();
    until(&mut reader, "the other cluster's", |it| addresses(it) == ["192.0.2.7:1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_is_listed_from_scratch() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    let (registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    for n in 2..9 {
        fake.put(&format!("svc/{n}"), &format!("192.0.2.{n}:1"));
    }
    until(&mut reader, "all", |it| it.endpoints.len() == 8).await;
    fake.go_back_to(Revision(3));
    fake.cut();
    let back = until(&mut reader, "restored", |it| it.endpoints.len() == 2).await;
    assert_eq!(back.revision, Revision(3));
    assert!(registry.metrics().text().contains("revision_went_back"));
    fake.put("svc/5", "192.0.2.5:1");
    until(&mut reader, "followed on", |it| it.endpoints.len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_away_at_the_start_is_found_when_it_comes() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.go_down();
    let (_registry, mut reader) = follow(&fake).await;
    let settled = reader.settled().await.unwrap();
    assert!(!settled.listed && settled.stale.is_some());
    tokio::time::sleep(Duration::from_mins(1)).await;
    // The multiplexer, for all that wait.
    let tried = fake.count(|call| *call == Call::OpenWatch);
    assert!((100..250).contains(&tried), "tried {tried} times in a minute");
    fake.come_back();
    let back_at = Instant::now();
    until(&mut reader, "listed", |it| it.listed && it.stale.is_none()).await;
    assert!(back_at.elapsed() <= Duration::from_secs(1), "{:?}", back_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn while_etcd_is_away_one_tries_for_all_that_were_never_listed() {
    let fake = Fake::new();
    fake.go_down();
    let registry = fake.registry();
    let mut readers = Vec::new();
    for n in 0..100 {
        fake.put(&format!("svc{n:03}/1"), "192.0.2.1:1");
        readers.push(registry.subscribe(service(&format!("svc{n:03}")), TestScheme::shared()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = fake.count(is_list);
    tokio::time::sleep(Duration::from_mins(5)).await;
    let lists = fake.count(is_list) - before;
    assert!(lists <= 5 * 100 * 2, "{lists} lists within five minutes, by a hundred services");
    fake.come_back();
    let back_at = Instant::now();
    for reader in &mut readers {
        until(reader, "listed", |it| it.listed).await;
    }
    assert!(back_at.elapsed() <= Duration::from_secs(1), "listed after {:?}", back_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_taken_for_dead_after_the_idle_timeout() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(reader.current().stale.is_none(), "a quiet stream is asked for its progress, and lives");
    fake.hang();
    let hung_at = Instant::now();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    let after = hung_at.elapsed();
    assert!((Duration::from_secs(5)..=Duration::from_secs(11)).contains(&after), "{after:?}");
    fake.put("svc/2", "192.0.2.2:1");
    fake.come_back();
    until(&mut reader, "fresh", |it| it.stale.is_none() && it.endpoints.len() == 2).await;
    assert_eq!(fake.count(is_list), 1);
}

#[tokio::test(start_paused = true)]
async fn all_services_share_one_stream_and_each_ends_with_its_last_reader() {
    let fake = Fake::new();
    let registry = fake.registry();
    let mut readers = Vec::new();
    for n in 0..50 {
        fake.put(&format!("s{n}/1"), "192.0.2.1:1");
        readers.push(registry.subscribe(service(&format!("s{n}")), TestScheme::shared()).await.unwrap());
    }
    for reader in &mut readers {
        until(reader, "listed", |it| it.listed).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.n_streams(), 1);
    assert!(registry.metrics().text().contains("registry_watches 50"));
    let kept = readers.pop().unwrap();
    let clone = kept.clone();
    drop(kept);
    drop(readers);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.count(|call| *call == Call::CancelWatch), 49);
    assert!(registry.metrics().text().contains("registry_watches 1"));
    fake.put("s49/2", "192.0.2.2:1");
    let mut clone = clone;
    until(&mut clone, "still followed", |it| it.endpoints.len() == 2).await;
    drop(clone);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.n_streams(), 0, "nobody watches, so there is no stream");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_etcd_refuses_is_tried_again_and_said_to_be_stale() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.refuse_watches(Some("permission denied"));
    let (_registry, mut reader) = follow(&fake).await;
    let stale = until(&mut reader, "stale", |it| it.stale.is_some()).await;
    assert!(stale.stale.as_ref().unwrap().reason.contains("permission denied"), "{stale:?}");
    assert_eq!(stale.endpoints.len(), 1);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(fake.count(is_list) < 100, "not in a tight loop: {}", fake.count(is_list));
    fake.refuse_watches(None);
    fake.put("svc/2", "192.0.2.2:1");
    until(&mut reader, "healed", |it| it.stale.is_none() && it.endpoints.len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_entries_show_in_the_snapshot_and_harm_nobody() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.put("svc/bad", "{}");
    let (registry, mut reader) = follow(&fake).await;
    let first = until(&mut reader, "listed", |it| it.listed).await;
    assert_eq!((first.endpoints.len(), first.skipped), (1, 1));
    fake.put("svc/worse", "http://");
    until(&mut reader, "counted", |it| it.skipped == 2).await;
    assert!(registry.metrics().text().contains("registry_entries_skipped{service=\"svc\"} 2"));
    fake.delete("svc/bad");
    fake.put("svc/worse", "192.0.2.2:1");
    until(&mut reader, "mended", |it| it.skipped == 0 && it.endpoints.len() == 2).await;
    fake.put("svc/odd", "192.0.2.3:1!of what weight?");
    let odd = until(&mut reader, "warned of", |it| it.skips.warned == 1).await;
    assert_eq!((odd.endpoints.len(), odd.skipped, &*odd.skips.scheme), (3, 0, "test"));
    assert!(registry.metrics().text().contains("registry_entries_warned{service=\"svc\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_key_scheme_that_fails_on_some_entries_delays_the_others_and_hides_none() {
    let fake = Fake::new();
    for n in 0..20 {
        fake.put(&format!("svc/a{n:02}"), "trap");
        fake.put(&format!("svc/b{n:02}"), &format!("192.0.2.{n}:1"));
    }
    let (registry, mut reader) = follow(&fake).await;
    let first = until(&mut reader, "listed", |it| it.skips.failed > 0).await;
    assert_eq!((first.skips.failed, first.skips.waiting, first.endpoints.len()), (9, 31, 0), "the breaker is open");
    assert!(registry.metrics().text().contains("registry_key_scheme_paused{service=\"svc\"} 1"));
    fake.put("svc/b00", "192.0.2.100:1");
    until(&mut reader, "all read", |it| it.endpoints.len() == 20 && it.skips.failed == 20).await;
    assert!(
        addresses(&reader.current()).contains(&"192.0.2.100:1"),
        "what was put off is superseded by what was written since"
    );
    for n in 0..20 {
        fake.put(&format!("svc/a{n:02}"), &format!("192.0.2.{}:1", n + 50));
    }
    until(&mut reader, "mended", |it| it.endpoints.len() == 40 && it.skipped == 0 && it.skips.total() == 0).await;
    let text = registry.metrics().text();
    assert!(!text.contains("registry_entries_skipped{"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_arrives_whole() {
    let fake = Fake::new();
    let (_registry, mut reader) = follow(&fake).await;
    until(&mut reader, "listed", |it| it.listed).await;
    for n in 0..5000 {
        fake.put(&format!("svc/{n}"), &format!("192.0.{}.{}:1", n / 250, n % 250));
    }
    until(&mut reader, "all", |it| it.endpoints.len() == 5000).await;
}

struct NamesNothing;

impl KeyScheme for NamesNothing {
    fn name(&self) -> &'static str {
        "names-nothing"
    }
    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        Ok(if service.as_str() == "all" { vec![String::new()] } else { vec![] })
    }
    fn encode(
        &self,
        _: &ServiceName,
        _: &waymark_core::model::Endpoint,
        _: waymark_core::model::LeaseId,
        _: waymark_core::model::Ttl,
    ) -> Result<Vec<Entry>, NamingError> {
        unimplemented!("never asked")
    }
    fn decode(&self, _: &ServiceName, _: &Entry) -> Result<Decoded, NamingError> {
        unimplemented!("never asked")
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_scheme_that_names_no_prefix_is_an_error_at_once() {
    let registry = Fake::new().registry();
    let error = registry.subscribe(service("refused"), TestScheme::shared()).await.unwrap_err();
    assert!(error.to_string().contains("it said so"), "{error}");
    let error = registry.subscribe(service("x"), Arc::new(NamesNothing)).await.unwrap_err();
    assert!(error.to_string().contains("no prefix"), "{error}");
    let error = registry.subscribe(service("all"), Arc::new(NamesNothing)).await.unwrap_err();
    assert!(error.to_string().contains("every key"), "{error}");
}

#[test]
fn a_prefix_under_another_is_watched_once() {
    let prefixes = ["a/b/", "a/", "c/", "a/x/"].map(String::from);
    assert_eq!(crate::outermost(&prefixes), ["a/", "c/"]);
}

#[tokio::test(start_paused = true)]
async fn when_an_outage_took_everybody_they_are_kept_until_they_are_back() {
    let fake = Fake::new();
    for n in 1..=3 {
        fake.put(&format!("svc/{n}"), &format!("192.0.2.{n}:1"));
    }
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.go_down();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    // All leases ended meanwhile.
    (1..=3).for_each(|n| fake.delete(&format!("svc/{n}")));
    fake.come_back();
    let back = until(&mut reader, "fresh", |it| it.stale.is_none()).await;
    assert_eq!(back.endpoints.len(), 3, "everybody was cut off");
    // Two register again, the third one never does.
    fake.put("svc/1", "192.0.2.1:1");
    fake.put("svc/2", "192.0.2.2:1");
    let since = Instant::now();
    let settled = until(&mut reader, "the third is given up", |it| it.endpoints.len() == 2).await;
    assert_eq!(addresses(&settled), ["192.0.2.1:1", "192.0.2.2:1"]);
    assert!(
        (Duration::from_secs(1)..=crate::reconnect_grace::RECONNECT_GRACE).contains(&since.elapsed()),
        "{:?}",
        since.elapsed()
    );
    // From then on what goes is gone.
    fake.delete("svc/1");
    fake.delete("svc/2");
    let since = Instant::now();
    until(&mut reader, "nobody", |it| it.endpoints.is_empty()).await;
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn when_etcd_lost_its_data_what_was_there_is_kept_until_it_is_back() {
    let fake = Fake::new();
    for n in 1..=3 {
        fake.put(&format!("svc/{n}"), &format!("192.0.2.{n}:1"));
    }
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.become_another_cluster();
    fake.cut();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    let back = until(&mut reader, "listed again", |it| it.stale.is_none()).await;
    assert_eq!(back.endpoints.len(), 3);
    fake.put("svc/1", "192.0.2.1:1");
    let settled = until(&mut reader, "one came back", |it| it.endpoints.len() == 1).await;
    assert_eq!(addresses(&settled), ["192.0.2.1:1"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_an_outage_took_is_gone_at_once_where_most_are_left() {
    let fake = Fake::new();
    for n in 1..=3 {
        fake.put(&format!("svc/{n}"), &format!("192.0.2.{n}:1"));
    }
    let (_registry, mut reader) = follow(&fake).await;
    standing(&mut reader).await;
    fake.go_down();
    until(&mut reader, "stale", |it| it.stale.is_some()).await;
    fake.delete("svc/1");
    fake.come_back();
    let back = until(&mut reader, "fresh", |it| it.stale.is_none()).await;
    assert_eq!(addresses(&back), ["192.0.2.2:1", "192.0.2.3:1"]);
}

/// Lists work and watches do not, so that it is stale and not by turns.
#[tokio::test(start_paused = true)]
async fn what_goes_while_the_watch_is_refused_is_not_kept_for_ever() {
    let fake = Fake::new();
    fake.put("svc/1", "192.0.2.1:1");
    fake.put("svc/2", "192.0.2.2:1");
    fake.refuse_watches(Some("permission denied"));
    let (_registry, mut reader) = follow(&fake).await;
    until(&mut reader, "both", |it| it.endpoints.len() == 2).await;
    until(&mut reader, "refused", |it| it.stale.is_some()).await;
    fake.delete("svc/1");
    fake.delete("svc/2");
    let since = Instant::now();
    until(&mut reader, "gone", |it| it.endpoints.is_empty()).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}
