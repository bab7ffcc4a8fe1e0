//! The task by itself: what it keeps from one generation to the next.
#![allow(clippy::unwrap_used, reason = "tests")]
use waymark_core::model::{Revision, ServiceName, Update};

use super::*;
use crate::{ServiceHandle, builders::Builders, capacity::Capacity, history::Quarantine, upstream::NoUpstream};

struct InOrder;

impl Policy for InOrder {
    fn name(&self) -> &'static str {
        "in_order"
    }

    fn build(&self, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan, BuildError> {
        Ok(Plan::Rotation((0..endpoints.len() as u32).collect()))
    }
}

fn candidate() -> Candidate {
    let info = PolicyInfo {
        name: "in_order".into(),
        plugin_version: String::new(),
        sha256: String::new(),
        origin: String::new(),
        config: "{}".into(),
        allow: String::new(),
        by: "test".into(),
    };
    Candidate { policy: Arc::new(InOrder), info, load_time: Duration::ZERO }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_swap_keeps_the_list_of_endpoints_and_a_change_keeps_what_is_known_of_them() {
    let service = ServiceName::new("svc").unwrap();
    let (mut writer, reader) = snapshot::channel(service.clone());
    let setup = ServiceSetup {
        service,
        zone: Arc::default(),
        initial: candidate(),
        hash_key: None,
        idempotent: false,
        traffic: Arc::default(),
        upstream: Arc::new(NoUpstream),
        builders: Arc::new(Builders::new(2)),
        reservation: Capacity::new(1, 1).reserve(&ServiceName::new("svc").unwrap(), true).unwrap().0,
        coalesce: Duration::from_millis(50),
        quarantine: Quarantine { failures: 1, window: Duration::from_secs(1), cpu_percent: 25 },
    };
    let handle = ServiceHandle::spawn(setup, reader);
    let mut states = handle.subscribe();
    writer.apply(Update::Reset { revision: Revision(1), endpoints: vec![endpoint(1), endpoint(2)], skipped: 0 });
    states.changed().await.unwrap();
    let first = states.current();

    handle.set_policy(candidate()).await.unwrap();
    let swapped = states.current();
    assert_eq!(swapped.generation, first.generation + 1);
    assert!(Arc::ptr_eq(&first.endpoints, &swapped.endpoints));

    states.changed().await.unwrap();
    writer.apply(Update::Changed {
        revision: Revision(2),
        upserted: vec![endpoint(3)],
        removed: vec![endpoint(1).id],
        skipped: 0,
    });
    states.changed().await.unwrap();
    let changed = states.current();
    let ids: Vec<_> = changed.endpoints.iter().map(|e| e.endpoint.id.as_str()).collect();
    assert_eq!(ids, ["192.0.2.2:80", "192.0.2.3:80"]);
    assert!(Arc::ptr_eq(&first.endpoints[1].cell, &changed.endpoints[0].cell));
}
