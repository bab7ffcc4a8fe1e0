//! Names that callers make up.

use std::future::Future;

use futures::{FutureExt as _, future::join_all};
use tokio::sync::Semaphore;

use super::*;

fn name(text: impl std::fmt::Display) -> ServiceName {
    ServiceName::new(text.to_string()).unwrap()
}

fn services<F>(
    limits: (usize, usize),
    follow: impl Fn(ServiceName) -> F + Send + Sync + 'static,
    discoverable: Discoverable,
) -> Services
where
    F: Future<Output = Result<snapshot::Reader, waymark_core::naming::NamingError>> + Send + 'static,
{
    Services::new(config(limits, follow, discoverable))
}

fn config<F>(
    limits: (usize, usize),
    follow: impl Fn(ServiceName) -> F + Send + Sync + 'static,
    discoverable: Discoverable,
) -> ServicesConfig
where
    F: Future<Output = Result<snapshot::Reader, waymark_core::naming::NamingError>> + Send + 'static,
{
    let policy = fake("all", everyone).0;
    let defaults = move |_: &ServiceName| ServiceDefaults::new(policy.clone());
    let config = ServicesConfig::new(follow, defaults);
    ServicesConfig { max_services: limits.0, max_empty: limits.1, discoverable, ..config }
}

/// A registry in which those have an endpoint whose names begin with `real`.
fn listed(service: ServiceName) -> std::future::Ready<Result<snapshot::Reader, waymark_core::naming::NamingError>> {
    let real = service.as_str().starts_with("real");
    let (mut writer, reader) = snapshot::channel(service);
    let endpoints = real.then(|| Endpoint::at("192.0.2.1:80".parse().unwrap())).into_iter().collect();
    writer.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 0 });
    std::future::ready(Ok(reader))
}

fn names(services: &Services) -> Vec<String> {
    services.list().iter().map(|handle| handle.name().to_string()).collect()
}

#[tokio::test]
async fn made_up_names_take_the_place_of_made_up_names_only() {
    let upstream = Arc::<Noted>::default();
    let services = Services::with_upstream(config((5, 2), listed, Discoverable::All), Arc::clone(&upstream));
    services.add(&name("configured")).await.unwrap();
    services.discover(&name("real-1")).await.unwrap();
    for n in 0..100 {
        let handle = services.discover(&name(format_args!("made-up-{n}"))).await.unwrap();
        assert!(handle.state().listed && handle.state().endpoints.is_empty());
    }
    assert_eq!(names(&services), ["configured", "made-up-98", "made-up-99", "real-1"]);
    assert_eq!(*upstream.forgotten.lock().unwrap(), (0..98).map(|n| format!("made-up-{n}")).collect::<Vec<_>>());
    assert_eq!(services.census(), Census { services: 4, empty: 2, displaced: 98 });
    // Real ones find room as long as there is any that is not theirs.
    for n in 2..5 {
        services.discover(&name(format_args!("real-{n}"))).await.unwrap();
    }
    assert_eq!(names(&services), ["configured", "real-1", "real-2", "real-3", "real-4"]);
    let error = services.discover(&name("real-5")).await.map(drop).unwrap_err();
    assert_eq!(error, DiscoverError::TooMany { service: name("real-5"), limit: 5 });
    services.remove(&name("real-1"));
    services.discover(&name("real-5")).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_a_service_that_loses_its_place_hears_of_it() {
    let services = services((5, 1), listed, Discoverable::All);
    let handle = services.discover(&name("a")).await.unwrap();
    let mut reader = handle.subscribe();
    services.discover(&name("b")).await.unwrap();
    assert_eq!(reader.changed().await, Err(ServiceClosed));
    // Asked for again it is begun again; asked for by whoever runs the node, it stays.
    services.add(&name("a")).await.unwrap();
    services.discover(&name("c")).await.unwrap();
    services.discover(&name("d")).await.unwrap();
    assert_eq!(names(&services), ["a", "d"]);
}

/// The same names over and over find what was begun for them, and one that is made up is begun once
/// however many ask.
#[tokio::test]
async fn those_who_ask_for_a_new_service_at_once_wait_for_the_same_beginning() {
    let (begun, go) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let follow = {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        move |service| {
            begun.fetch_add(1, SeqCst);
            let go = Arc::clone(&go);
            async move {
                go.acquire().await.unwrap().forget();
                listed(service).await
            }
        }
    };
    let services = services((5, 5), follow, Discoverable::All);
    let a = name("a");
    let mut first = Box::pin(services.discover(&a));
    assert!(first.as_mut().now_or_never().is_none());
    let mut others: Vec<_> = (0..100).map(|_| Box::pin(services.discover(&a))).collect();
    assert!(others.iter_mut().all(|other| other.as_mut().now_or_never().is_none()));
    assert_eq!(begun.load(SeqCst), 1);
    // Whoever began it gives up: the next one begins it.
    drop(first);
    assert!(others.iter_mut().all(|other| other.as_mut().now_or_never().is_none()));
    assert_eq!((begun.load(SeqCst), services.census().services), (2, 1));
    go.add_permits(100);
    assert!(join_all(others).await.iter().all(Result::is_ok));
    assert_eq!((begun.load(SeqCst), services.census().services), (2, 1));
}

#[tokio::test]
async fn however_many_come_at_once_no_more_are_begun_than_there_are_places() {
    let begun = Arc::<AtomicUsize>::default();
    let follow = {
        let begun = Arc::clone(&begun);
        move |_| {
            begun.fetch_add(1, SeqCst);
            std::future::pending()
        }
    };
    let services = services((7, 100), follow, Discoverable::All);
    // Fewer than a task may do at a time.
    let all: Vec<_> = (0..50).map(name).collect();
    let mut asked: Vec<_> = all.iter().map(|name| Box::pin(services.discover(name))).collect();
    let refused = asked.iter_mut().filter_map(|asked| asked.as_mut().now_or_never()).filter(Result::is_err).count();
    assert_eq!((begun.load(SeqCst), refused), (7, 43), "whoever is refused gives its turn back at once");
    // Those who give up give their places back.
    drop(asked);
    assert_eq!(services.census(), Census::default());
    assert!(services.discover(&name("one-more")).now_or_never().is_none());
}

#[tokio::test]
async fn callers_bring_about_only_what_they_may() {
    let patterns = vec![Pattern::parse("real/").unwrap()];
    let services = services((5, 5), listed, Discoverable::Listed(patterns));
    let error = services.discover(&name("other")).await.map(drop).unwrap_err();
    assert_eq!(error, DiscoverError::NotAllowed { service: name("other") });
    services.discover(&name("real/1")).await.unwrap();
    services.add(&name("other")).await.unwrap();
    services.discover(&name("other")).await.unwrap();
    assert_eq!(names(&services), ["other", "real/1"]);
}
