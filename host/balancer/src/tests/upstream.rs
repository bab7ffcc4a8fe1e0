//! What is asked of whoever carries calls, and what it keeps with endpoints.

use super::*;

#[tokio::test]
async fn each_endpoint_is_to_be_checked_from_its_first_generation_on_where_that_is_asked_for() {
    for health in [Some(CheckConfig::new(Check::Tcp)), None] {
        let upstream = Arc::<Noted>::default();
        let traffic = Traffic { health: health.clone(), ..Traffic::default() };
        let service = Service::of(fake("all", everyone).0, traffic, Some(Arc::clone(&upstream))).await;
        service.list(1, &[(1, 1)]);
        service.at(1).await;
        service.list(2, &[(1, 1), (2, 1)]);
        service.at(2).await;
        let checked = upstream.checked.lock().unwrap();
        let all: &[&str] = if health.is_some() { &["192.0.2.1:80", "192.0.2.1:80", "192.0.2.2:80"] } else { &[] };
        assert_eq!(*checked, all, "whoever checks knows whom it checks already");
    }
}

#[tokio::test]
async fn what_is_kept_with_an_endpoint_is_made_once_and_goes_with_it() {
    let upstream = Arc::<Noted>::default();
    let service = Service::of(fake("all", everyone).0, Traffic::default(), Some(Arc::clone(&upstream))).await;
    service.list(1, &[(1, 1), (2, 1)]);
    let state = service.at(1).await;
    let kept = |state: &ServiceState| std::ptr::from_ref(state.endpoints[0].connection(&state.service, &*upstream));
    let first = kept(&state);
    assert_eq!(first, kept(&state));
    service.handle.set_policy(fake("other", everyone).0).await.unwrap();
    service.list(2, &[(1, 5), (3, 1)]);
    let later = service.at(2).await;
    assert_eq!(first, kept(&later), "another policy, weight and neighbour");
    let gone = Arc::downgrade(&state.endpoints[1].cell);
    assert_eq!(state.endpoints[1].connection(&state.service, &*upstream).address, "192.0.2.2:80");
    drop(state);
    assert!(gone.upgrade().is_none());
    service.services.remove(service.handle.name());
    assert_eq!(*upstream.forgotten.lock().unwrap(), ["svc"]);
}
