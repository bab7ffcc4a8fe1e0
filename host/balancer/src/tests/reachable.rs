//! Picks where some endpoints are connected to and others are not, and instances at one address.

use waymark_core::{model::InstanceId, traffic::CallLimits};

use super::*;

/// A service with `n` endpoints and a data plane that notes whom it is to connect to.
async fn service(plan: impl Fn(&[Endpoint]) -> Plan + Send + Sync + 'static, n: u8) -> (Service, Arc<Noted>) {
    let policy = fake("test", move |endpoints: &[Endpoint]| Ok(plan(endpoints))).0;
    let upstream = Arc::<Noted>::default();
    let service = Service::of(policy, Traffic::default(), Some(Arc::clone(&upstream))).await;
    service.list(1, &(1..=n).map(|n| (n, 1)).collect::<Vec<_>>());
    service.at(1).await;
    (service, upstream)
}

fn rotation(endpoints: &[Endpoint]) -> Plan {
    Plan::Rotation((0..endpoints.len() as u32).collect())
}

fn picks(state: &ServiceState, n: usize) -> Vec<u32> {
    let index = |_| match pick(state, &[]) {
        Pick::Endpoint(index) => index,
        other => panic!("{other:?}"),
    };
    (0..n).map(index).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_connected_is_preferred_and_the_others_are_connected_to_beside() {
    for plan in [rotation, |endpoints: &[Endpoint]| Plan::HashTable((0..endpoints.len() as u32).collect())] {
        let (service, upstream) = service(plan, 3).await;
        let begun = &upstream.begun;
        let state = service.at(1).await;
        let cell = |index: usize| &state.endpoints[index].cell;
        // Nobody is: as the plan says.
        let first = picks(&state, 30);
        assert!((0..3).all(|index| first.contains(&index)), "{first:?}");
        assert!(begun.lock().unwrap().is_empty(), "a call that waits begins it itself");
        cell(1).set_connectivity(Connectivity::Ready);
        assert_eq!(state.limiter.connected(), 1);
        // Those that are about to be have a moment, whoever began it.
        let waits = picks(&state, 30);
        assert!((0..3).all(|index| waits.contains(&index)), "{waits:?}");
        tokio::time::advance(GRACE).await;
        assert_eq!(picks(&state, 30), [1; 30]);
        assert_eq!(
            {
                begun.lock().unwrap().sort();
                begun.lock().unwrap().clone()
            },
            ["192.0.2.1:80", "192.0.2.3:80"]
        );
        cell(0).set_connectivity(Connectivity::BackingOff);
        cell(2).set_connectivity(Connectivity::Ready);
        let both = picks(&state, 30);
        assert!(!both.contains(&0) && both.contains(&1) && both.contains(&2), "{both:?}");
        // One that is lost is connected to again, and others have its calls meanwhile.
        cell(1).set_connectivity(Connectivity::Connecting);
        tokio::time::advance(GRACE).await;
        assert_eq!(picks(&state, 30), [2; 30]);
        // Nobody is left: better one that is not connected to than none.
        cell(2).set_connectivity(Connectivity::BackingOff);
        assert_eq!((state.limiter.connected(), picks(&state, 3)), (0, vec![1; 3]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_asked_for_each_request_is_heard_among_those_that_are_connected() {
    let asked = |_: &[Endpoint]| {
        // Always the same first, and then the others.
        Plan::EachRequest(Box::new(Asked(|context: PickContext, _: &dyn RequestFacts| {
            Ok(Decision::Endpoint(context.attempt % 3))
        })))
    };
    let (service, upstream) = service(asked, 3).await;
    let state = service.at(1).await;
    state.endpoints[2].cell.set_connectivity(Connectivity::Ready);
    assert_eq!(picks(&state, 3), [0; 3], "for a moment");
    tokio::time::advance(GRACE).await;
    assert_eq!(picks(&state, 3), [2; 3]);
    assert_eq!(*upstream.begun.lock().unwrap(), ["192.0.2.1:80"], "only what it chose first");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_that_is_not_connected_to_does_not_lose_for_ever() {
    let either = |_: &[Endpoint]| {
        Plan::EachRequest(Box::new(Asked(|_: PickContext, _: &dyn RequestFacts| Ok(Decision::Either(0, 1)))))
    };
    let (service, upstream) = service(either, 2).await;
    let state = service.at(1).await;
    state.endpoints[0].cell.set_connectivity(Connectivity::Ready);
    assert_eq!(picks(&state, 3), [0; 3]);
    assert_eq!(*upstream.begun.lock().unwrap(), ["192.0.2.2:80"]);
    let _busy = state.endpoints[0].cell.begin().unwrap();
    state.endpoints[1].cell.set_connectivity(Connectivity::Ready);
    assert_eq!(picks(&state, 3), [1; 3]);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_connected_takes_the_call_one_that_is_not_does() {
    let policy = fake("all", everyone).0;
    let limits = CallLimits { max_in_flight_per_endpoint: Some(1), ..CallLimits::default() };
    let service = Service::with(policy, Traffic { limits, ..Traffic::default() }).await;
    service.list(1, &[(1, 1), (2, 1)]);
    let state = service.at(1).await;
    state.endpoints[0].cell.set_connectivity(Connectivity::Ready);
    let call = state.endpoints[0].cell.begin().unwrap();
    assert_eq!(picks(&state, 4), [1; 4], "the one that is connected to is full");
    drop(call);
    assert_eq!(picks(&state, 4), [0; 4]);
    assert_eq!(pick(&state, &[0]), Pick::Endpoint(1), "and it was tried");
    assert!(state.has_other(&state.endpoints[0], &[]) && !state.has_other_connected(&state.endpoints[0], &[]));
    assert!(state.has_other_connected(&state.endpoints[1], &[]));
}

#[tokio::test(start_paused = true)]
async fn so_many_are_connected_to_beginning_with_those_the_plan_names() {
    let (service, upstream) = service(|_| Plan::Rotation([7, 7, 8].into()), 9).await;
    let begun = &upstream.begun;
    let state = service.at(1).await;
    assert_eq!(state.connect_some(2), 2);
    begun.lock().unwrap().sort();
    assert_eq!(*begun.lock().unwrap(), ["192.0.2.8:80", "192.0.2.9:80"]);
    assert_eq!((state.connect_some(5), state.connect_some(100), state.connect_some(1)), (5, 2, 0));
    assert_eq!(state.limiter.connecting(), 9);
    // Who waits is told of the first that is, and nobody counts one that is gone.
    let told = state.limiter.readied();
    state.endpoints[4].cell.set_connectivity(Connectivity::Ready);
    told.await;
    service.list(2, &[]);
    drop((service.at(2).await, Arc::clone(&state.limiter)));
    let limiter = Arc::clone(&state.limiter);
    drop(state);
    assert_eq!((limiter.connected(), limiter.connecting()), (0, 0));
}

fn at(id: &str, address: &str, weight: u32) -> Endpoint {
    Endpoint { id: InstanceId::new(id), weight, ..Endpoint::at(address.parse().unwrap()) }
}

#[tokio::test]
async fn instances_at_one_address_are_one_endpoint() {
    let service = Service::new(fake("all", everyone).0).await;
    let list = |revision, endpoints: &[Endpoint]| {
        let endpoints = endpoints.to_vec();
        service.update(Update::Reset { revision: Revision(revision), endpoints, skipped: 0 });
    };
    let (old, new, other) =
        (at("b-old", "192.0.2.1:80", 1), at("a-new", "192.0.2.1:80", 3), at("c", "192.0.2.2:80", 1));
    list(1, &[old.clone(), other.clone()]);
    let cell = Arc::clone(&service.at(1).await.endpoints[0].cell);
    list(2, &[old, new.clone(), other.clone()]);
    let state = service.at(2).await;
    let ids: Vec<_> = state.endpoints.iter().map(|state| state.endpoint.id.as_str()).collect();
    assert_eq!(ids, ["a-new", "c"]);
    assert_eq!((state.endpoints[0].endpoint.weight, state.skipped, state.skips.duplicate), (3, 1, 1));
    assert!(Arc::ptr_eq(&state.endpoints[0].cell, &cell), "the connection stays");
    let shares = picks(&state, 100);
    assert_eq!(shares.iter().filter(|index| **index == 0).count(), 50);
    assert!(matches!(pick(&state, &[0]), Pick::Endpoint(1)), "a further attempt goes elsewhere");
    // The first one's lease has ended.
    list(3, &[new, other]);
    let state = service.at(3).await;
    assert!(Arc::ptr_eq(&state.endpoints[0].cell, &cell) && state.skipped == 0);
}
