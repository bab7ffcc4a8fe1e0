//! Watches the service through the node's API, for the picture and for the story: whatever changes
//! becomes an event.

use std::{sync::PoisonError, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    DemoError,
    ui::{Roster, Ui},
    view::skipped,
};
use crate::{
    admin::client::{NodeClient, Service},
    model::ServiceName,
};

/// How often the node is asked. Calls in flight change all the time, so the picture needs asking; a
/// stream tells of changes alone.
const EVERY: Duration = Duration::from_millis(100);

/// Asks the node as long as it lives.
pub(super) struct Observer {
    service: watch::Receiver<Service>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Begins with the service as the node has just told it.
    pub(super) fn start(client: NodeClient, first: Service, name: ServiceName, roster: Roster, ui: Ui) -> Self {
        let (told, service) = watch::channel(first.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut former = first;
            let mut silent = false;
            loop {
                ticks.tick().await;
                match client.service(&name, false).await {
                    Ok(now) => {
                        silent = false;
                        for event in events(&former, &now, &roster) {
                            ui.event(event);
                        }
                        former = now.clone();
                        told.send_replace(now);
                    }
                    Err(error) if !silent => {
                        silent = true;
                        ui.event(format!("the node's API does not answer: {error}"));
                    }
                    Err(_) => {}
                }
            }
        });
        Self { service, task }
    }

    /// What the node last told, for others to follow.
    pub(super) fn service(&self) -> watch::Receiver<Service> {
        self.service.clone()
    }

    /// Waits until the service is as it should be.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn wait(
        &mut self,
        what: impl Into<String>,
        limit: Duration,
        is_so: impl Fn(&Service) -> bool,
    ) -> Result<(), DemoError> {
        match timeout(limit, self.service.wait_for(|service| is_so(service))).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(DemoError::Overdue { what: what.into(), seconds: limit.as_secs() }),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is different, in words.
fn events(former: &Service, now: &Service, roster: &Roster) -> Vec<String> {
    let name = |address: &str| {
        let roster = roster.lock().unwrap_or_else(PoisonError::into_inner);
        let known = roster.iter().rev().find(|known| known.address == address);
        known.map_or_else(|| address.to_owned(), |known| format!("{} {address}", known.label()))
    };
    let mut events = Vec::new();
    for endpoint in &now.endpoints {
        let before = former.endpoints.iter().find(|before| before.address == endpoint.address);
        match before {
            None => events.push(format!(
                "{} is registered: zone {}, weight {}",
                name(&endpoint.address),
                if endpoint.zone.is_empty() { "-" } else { &endpoint.zone },
                endpoint.weight
            )),
            Some(before) if skipped(endpoint) != skipped(before) => {
                let name = name(&endpoint.address);
                events.push(match skipped(endpoint) {
                    Some(standing) => format!("{name} is {standing}; the node skips it"),
                    None => format!("{name} gets calls again"),
                });
            }
            Some(_) => {}
        }
    }
    for before in &former.endpoints {
        if !now.endpoints.iter().any(|endpoint| endpoint.address == before.address) {
            events.push(format!("{} is no longer registered", name(&before.address)));
        }
    }
    if former.policy.version != now.policy.version {
        let policy = &now.policy;
        let sha256 = policy.sha256.get(..12).unwrap_or_default();
        let by = if policy.by.is_empty() { String::new() } else { format!(", set by {}", policy.by) };
        events.push(format!("{} is live{by} (sha256 {sha256}, {})", policy.name, policy.origin));
    }
    match (&former.stale_seconds, &now.stale_seconds) {
        (None, Some(_)) => events.push(format!("the registry is away: {}", now.stale_reason)),
        (Some(_), None) => events.push("the registry is back".into()),
        _ => {}
    }
    events.sort();
    events
}
