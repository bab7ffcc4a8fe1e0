#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use tokio::time::{sleep, timeout};
use waymark_core::snapshot::Reader;

use super::*;
use crate::{
    Registry, RegistryConfig, RemovalDamping,
    fake::{CALL_TIMEOUT, Fake, TestScheme, service},
};

const A: &str = "192.0.2.1:1";
const B: &str = "192.0.2.2:1";

async fn follow(fake: &Fake, state_dir: &Path) -> (Registry, Reader) {
    follow_at("fake:1", fake, state_dir).await
}

async fn follow_at(endpoint: &str, fake: &Fake, state_dir: &Path) -> (Registry, Reader) {
    let config = RegistryConfig { state_dir: Some(state_dir.into()), ..RegistryConfig::new([endpoint]) };
    let registry = Registry::over(Arc::new(fake.clone()), Arc::new(config));
    let reader = registry.subscribe(service("svc"), TestScheme::shared()).await.unwrap();
    (registry, reader)
}

async fn until(reader: &mut Reader, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let waiting = async {
        while !wanted(&reader.current()) {
            reader.changed().await.unwrap();
        }
        reader.current()
    };
    let outcome = timeout(Duration::from_mins(2), waiting).await;
    outcome.unwrap_or_else(|_| panic!("not within two minutes: {what}; it is {:?}", reader.current()))
}

fn addresses(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.endpoints.iter().map(|it| it.address.as_str()).collect()
}

/// A folder in which an earlier process has kept these.
async fn folder_with(entries: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    for (n, address) in entries.iter().enumerate() {
        fake.put(&format!("svc/{n}"), address);
    }
    let (_registry, mut reader) = follow(&fake, folder.path()).await;
    until(&mut reader, "listed", |it| it.endpoints.len() == entries.len()).await;
    sleep(SAVE_EVERY * 3).await;
    folder
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_etcd_is_down_at_the_start_has_the_endpoints_of_before() {
    let folder = folder_with(&[A, B]).await;
    let fake = Fake::new();
    fake.put("svc/9", "192.0.2.9:1");
    fake.go_down();
    let (_registry, mut reader) = follow(&fake, folder.path()).await;
    let settled = reader.settled().await.unwrap();
    assert_eq!(addresses(&settled), [A, B]);
    assert!(!settled.listed, "that there are no others was not said by etcd");
    let failed = until(&mut reader, "the failure", |it| {
        it.stale.as_ref().is_some_and(|stale| stale.reason.contains("connection refused"))
    });
    let reason = failed.await.stale.as_ref().unwrap().reason.to_string();
    assert!(reason.contains("kept on disk"), "{reason}");
    fake.come_back();
    // Most went, so they are given the time to come back that follows every outage.
    let listed = until(&mut reader, "replaced whole", |it| it.listed && it.endpoints.len() == 1).await;
    assert_eq!(addresses(&listed), ["192.0.2.9:1"]);
    assert!(listed.stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_of_a_registry_is_not_served_for_one_elsewhere() {
    let folder = folder_with(&[A, B]).await;
    let fake = Fake::new();
    fake.go_down();
    let (registry, mut reader) = follow_at("elsewhere:1", &fake, folder.path()).await;
    assert_eq!(addresses(&reader.settled().await.unwrap()), [""; 0]);
    sleep(Duration::from_mins(1)).await;
    assert!(reader.current().endpoints.is_empty(), "{:?}", reader.current());
    assert!(!registry.metrics().text().contains("restores_total 1"));
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_goes_at_once_when_another_registry_answers_there() {
    let folder = folder_with(&[A, B]).await;
    let fake = Fake::new();
    fake.become_another_cluster();
    fake.put("svc/9", "192.0.2.9:1");
    fake.go_down();
    let (_registry, mut reader) = follow(&fake, folder.path()).await;
    assert_eq!(addresses(&reader.settled().await.unwrap()), [A, B]);
    fake.come_back();
    let listed = until(&mut reader, "listed", |it| it.listed).await;
    assert_eq!(addresses(&listed), ["192.0.2.9:1"], "nothing of the other one is waited for");
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_goes_when_another_registry_answers_and_does_not_tell_this_service() {
    let folder = folder_with(&[A, B]).await;
    let fake = Fake::new();
    fake.become_another_cluster();
    fake.refuse_ranges(Some("svc/"));
    fake.go_down();
    let (registry, mut reader) = follow(&fake, folder.path()).await;
    assert_eq!(addresses(&reader.settled().await.unwrap()), [A, B]);
    fake.come_back();
    // It answers whoever asks for something else.
    let _other = registry.subscribe(service("other"), TestScheme::shared()).await.unwrap();
    let gone = until(&mut reader, "gone", |it| it.endpoints.is_empty()).await;
    assert!(gone.stale.is_some() && !gone.listed, "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn kept_endpoints_are_as_old_as_they_are_from_the_first_moment() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path();
    let identity = Identity::new(&["fake:1".to_owned()], false);
    let dir = DiskCache::new(state_dir.into(), identity, Duration::from_hours(24));
    let subject = CacheKey { service: "svc".into(), key_scheme: "test".into(), namespace: String::new() };
    let hours = |hours| SystemTime::now() - Duration::from_hours(hours);
    let kept = |right_at| CachedEndpoints {
        cluster: 0xfa4e,
        revision: Revision(5),
        right_at,
        endpoints: vec![waymark_core::model::Endpoint::at(A.parse().unwrap())],
    };
    let fake = Fake::new();
    fake.go_down();
    dir.save(&subject, &kept(hours(2)));
    let (_registry, mut reader) = follow(&fake, state_dir).await;
    let first = reader.settled().await.unwrap();
    assert_eq!(addresses(&first), [A]);
    let stale = first.stale.as_ref().unwrap();
    assert!(stale.since.elapsed() >= Duration::from_hours(2), "{:?}", stale.since.elapsed());
    assert!(stale.reason.contains("kept on disk, known to be right 72"), "{}", stale.reason);
    // More than a day is too old, unless it is said otherwise.
    dir.save(&subject, &CachedEndpoints { endpoints: Vec::new(), ..kept(hours(25)) });
    dir.save(&subject, &kept(hours(25)));
    let (_registry, mut reader) = follow(&fake, state_dir).await;
    assert!(reader.settled().await.unwrap().endpoints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_hangs_is_not_waited_for() {
    let folder = folder_with(&[A]).await;
    let fake = Fake::new();
    fake.hang();
    let (_registry, mut reader) = follow(&fake, folder.path()).await;
    let began = Instant::now();
    assert_eq!(addresses(&reader.settled().await.unwrap()), [A]);
    assert!(began.elapsed() >= RESTORE_AFTER && began.elapsed() < CALL_TIMEOUT / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_answers_is_believed_and_not_the_file() {
    let folder = folder_with(&[A, B]).await;
    let fake = Fake::new();
    fake.put("svc/9", "192.0.2.9:1");
    let (registry, mut reader) = follow(&fake, folder.path()).await;
    let first = reader.settled().await.unwrap();
    assert!(first.listed);
    assert_eq!(addresses(&first), ["192.0.2.9:1"]);
    assert!(!registry.metrics().text().contains("restores_total 1"));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_kept_and_the_last_one_when_nobody_reads_any_more() {
    let folder = folder_with(&[A]).await;
    let fake = Fake::new();
    fake.put("svc/0", B);
    let (registry, mut reader) = follow(&fake, folder.path()).await;
    until(&mut reader, "listed", |it| it.listed).await;
    drop((reader, registry));
    sleep(Duration::from_millis(10)).await;
    let down = Fake::new();
    down.go_down();
    let (_registry, mut reader) = follow(&down, folder.path()).await;
    assert_eq!(addresses(&reader.settled().await.unwrap()), [B]);
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_is_emptied_is_held_back_where_that_is_asked_for() {
    let fake = Fake::new();
    for n in 1..=10 {
        fake.put(&format!("svc/{n}"), &format!("192.0.2.{n}:1"));
    }
    let damping = RemovalDamping { share: 0.3, time: Duration::from_secs(30) };
    let config = RegistryConfig { removal_damping: Some(damping), ..RegistryConfig::new(["fake:1"]) };
    let registry = Registry::over(Arc::new(fake.clone()), Arc::new(config));
    let mut reader = registry.subscribe(service("svc"), TestScheme::shared()).await.unwrap();
    until(&mut reader, "listed", |it| it.endpoints.len() == 10).await;
    sleep(Duration::from_millis(100)).await;
    for n in 1..=10 {
        fake.delete(&format!("svc/{n}"));
    }
    let began = Instant::now();
    let held = until(&mut reader, "held", |it| it.held == 7).await;
    assert_eq!(held.endpoints.len(), 7);
    assert!(registry.metrics().text().contains(r#"endpoints_held{service="svc"} 7"#), "{}", registry.metrics().text());
    fake.put("svc/1", "192.0.2.1:1");
    until(&mut reader, "over", |it| it.held == 0).await;
    assert_eq!(addresses(&reader.current()), ["192.0.2.1:1"]);
    assert!(began.elapsed() >= damping.time, "{:?}", began.elapsed());
}
