//! Following which services there are.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use tokio::time::timeout;

use super::*;

fn name(text: impl std::fmt::Display) -> ServiceName {
    ServiceName::new(text.to_string()).unwrap()
}

/// Services that have no endpoints, of which callers may bring about so many.
fn services(max_empty: usize) -> Services {
    let follow = |service| {
        let (mut writer, reader) = snapshot::channel(service);
        writer.apply(Update::Reset { revision: Revision(1), endpoints: Vec::new(), skipped: 0 });
        std::future::ready(Ok(reader))
    };
    let policy = fake("all", everyone).0;
    let config = ServicesConfig::new(follow, move |_: &ServiceName| ServiceDefaults::new(policy.clone()));
    Services::new(ServicesConfig { max_empty, ..config })
}

/// All that can be told now.
fn told(changes: &mut ServiceChanges) -> Vec<String> {
    let next = || Some(word(&changes.next().now_or_never()??));
    std::iter::from_fn(next).collect()
}

fn word(change: &ServiceChange) -> String {
    match change {
        ServiceChange::Added(handle) => format!("+{}", handle.name()),
        ServiceChange::Removed(service) => format!("-{service}"),
    }
}

#[tokio::test(start_paused = true)]
async fn those_there_are_come_first_and_then_each_that_comes_or_goes() {
    let services = services(1);
    services.add(&name("b")).await.unwrap();
    services.add(&name("a")).await.unwrap();
    let mut changes = services.changes();
    assert_eq!(told(&mut changes), ["+a", "+b"]);
    let next = changes.next();
    let add = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        services.add(&name("c")).await.unwrap();
    };
    let (next, ()) = timeout(Duration::from_secs(61), async { tokio::join!(next, add) }).await.unwrap();
    assert_eq!(word(&next.unwrap()), "+c");
    services.remove(&name("b"));
    services.remove(&name("b"));
    services.add(&name("c")).await.unwrap();
    assert_eq!(told(&mut changes), ["-b"], "what is there already does not come");
    services.discover(&name("d")).await.unwrap();
    services.discover(&name("e")).await.unwrap();
    assert_eq!(told(&mut changes), ["+e"], "d lost its place to e before it was told of");
    services.discover(&name("f")).await.unwrap();
    assert_eq!(told(&mut changes), ["-e", "+f"]);
    // Another one begins with what there is now.
    assert_eq!(told(&mut services.changes()), ["+a", "+c", "+f"]);
}

#[tokio::test]
async fn a_handle_that_comes_tells_of_each_new_state() {
    let service = Service::new(fake("all", everyone).0).await;
    let mut changes = service.services.changes();
    let Some(ServiceChange::Added(handle)) = changes.next().await else { panic!("it is there") };
    let mut states = handle.subscribe();
    service.list(1, &[(1, 1)]);
    states.changed().await.unwrap();
    assert_eq!(states.current().endpoints.len(), 1);
}

#[tokio::test]
async fn who_reads_late_is_told_what_there_is_and_not_all_that_was() {
    let services = services(100);
    services.add(&name("stays")).await.unwrap();
    services.add(&name("replaced")).await.unwrap();
    services.add(&name("goes")).await.unwrap();
    let mut changes = services.changes();
    assert_eq!(told(&mut changes).len(), 3);
    for _ in 0..1000 {
        services.add(&name("comes-and-goes")).await.unwrap();
        services.remove(&name("comes-and-goes"));
    }
    services.remove(&name("replaced"));
    let other = services.add(&name("replaced")).await.unwrap();
    services.remove(&name("goes"));
    services.add(&name("goes")).await.unwrap();
    services.remove(&name("goes"));
    assert!(matches!(changes.next().await, Some(ServiceChange::Removed(service)) if service == name("replaced")));
    let Some(ServiceChange::Added(handle)) = changes.next().await else { panic!("it came again") };
    // A policy that the one has is the other's.
    other.set_policy(fake("other", everyone).0).await.unwrap();
    assert_eq!(&*handle.state().policy_name, "other");
    assert_eq!(told(&mut changes), ["-goes"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_loses_nothing() {
    let services = services(100);
    let mut changes = services.changes();
    for n in 0..5 {
        assert!(timeout(Duration::from_secs(1), changes.next()).await.is_err());
        let mut next = Box::pin(changes.next());
        assert!(next.as_mut().now_or_never().is_none());
        services.add(&name(n)).await.unwrap();
        // It has been woken, and is dropped before it looks.
        drop(next);
        assert_eq!(told(&mut changes), [format!("+{n}")]);
    }
}

#[tokio::test]
async fn changes_keep_no_services_and_no_service_alive() {
    let services = services(100);
    let mut changes = services.changes();
    let handle = services.add(&name("a")).await.unwrap();
    let mut states = handle.subscribe();
    drop(handle);
    services.remove(&name("a"));
    // Its last handle is gone, though nobody has read that it came.
    while states.changed().await.is_ok() {}
    services.add(&name("b")).await.unwrap();
    drop(services);
    assert!(changes.next().await.is_none() && changes.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_adds_up_the_changes_has_the_services_there_are() {
    let services = services(1_000);
    services.add(&name("last")).await.unwrap();
    let work = |seed: u64| {
        let services = services.clone();
        async move {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..2_000 {
                let service = name(random.u8(0..20));
                if random.bool() {
                    services.add(&service).await.unwrap();
                } else {
                    services.remove(&service);
                }
                if random.u8(0..8) == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    let follow = |mut changes: ServiceChanges| async move {
        let mut known = BTreeSet::new();
        while let Some(change) = changes.next().await {
            match change {
                ServiceChange::Added(handle) => {
                    assert!(known.insert(handle.name().clone()), "{} came twice", handle.name());
                }
                ServiceChange::Removed(service) if service == name("last") => break,
                ServiceChange::Removed(service) => assert!(known.remove(&service), "{service} was not there"),
            }
        }
        known.into_iter().filter(|service| *service != name("last")).collect::<Vec<_>>()
    };
    let first = tokio::spawn(follow(services.changes()));
    let working: Vec<_> = [7, 8].map(|seed| tokio::spawn(work(seed))).into();
    tokio::task::yield_now().await;
    let second = tokio::spawn(follow(services.changes()));
    for work in working {
        work.await.unwrap();
    }
    services.remove(&name("last"));
    let there_are: Vec<_> = services.list().iter().map(|handle| handle.name().clone()).collect();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (there_are.clone(), there_are));
}

/// Whoever changes what services begin with, and then lists them, finds each that began with what
/// was before.
#[tokio::test]
async fn a_list_has_every_service_that_has_asked_what_it_begins_with() {
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (listed, was_listed) = std::sync::mpsc::channel();
    let was_listed = Mutex::new(was_listed);
    let asked = Mutex::new(asked);
    let policy = fake("all", everyone).0;
    let defaults = move |_: &ServiceName| {
        asked.lock().unwrap().send(()).unwrap();
        // Time for a list that does not wait for this service.
        let _ = was_listed.lock().unwrap().recv_timeout(Duration::from_millis(200));
        ServiceDefaults::new(policy.clone())
    };
    let follow = |service| std::future::ready(Ok(snapshot::channel(service).1));
    let services = Services::new(ServicesConfig::new(follow, defaults));
    let list = std::thread::spawn({
        let services = services.clone();
        move || {
            was_asked.recv().unwrap();
            let names: Vec<_> = services.list().iter().map(|handle| handle.name().clone()).collect();
            // The service may have waited long enough.
            let _ = listed.send(());
            names
        }
    });
    services.add(&name("a")).await.unwrap();
    assert_eq!(list.join().unwrap(), [name("a")]);
}
