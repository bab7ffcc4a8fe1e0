//! What the demo shows at one moment: plain data, put together from the node's answers and the
//! clients' books.

use std::{collections::VecDeque, time::Duration};

use super::{
    load::CallCounts,
    shares::{Expected, Member, expected},
};
use crate::{
    admin::client::{Endpoint, Service},
    balancer::EndpointStatus,
};

/// How many events are kept for the screen.
const EVENTS: usize = 5;

/// One instance the demo has started, in the order of starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Its number, from 1; 0 for one that somebody else has registered.
    pub(super) number: usize,
    /// Where it listens.
    pub(super) address: String,
    /// Zone, weight and slowness.
    pub(super) member: Member,
    /// Whether the demo has killed it.
    pub(super) killed: bool,
}

impl Known {
    /// What it is called: `#3`, or `+` for somebody else's.
    pub(super) fn label(&self) -> String {
        if self.number == 0 { "+".into() } else { format!("#{}", self.number) }
    }
}

/// A line of the table of instances.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The instance.
    pub(super) known: Known,
    /// What the node holds of it.
    pub(super) place: InstanceStatus,
    /// Calls it answered under the running policy.
    pub(super) calls: u64,
    /// Their share.
    pub(super) share: f64,
    /// The share it should have; none while nothing is expected of it.
    pub(super) expected: Option<Expected>,
    /// Calls it has now, by the node's count.
    pub(super) in_flight: u32,
}

/// What the node holds of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstanceStatus {
    /// It gets calls.
    Usable,
    /// Its key is there, and the node skips it for this.
    Skipped(EndpointStatus),
    /// The registry has no key of it.
    Unregistered,
}

/// The running policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PolicyLine {
    /// Its name.
    pub(super) name: String,
    /// Its component's SHA-256, whole.
    pub(super) sha256: String,
    /// `rotation`, `hash-table` or `each-request`.
    pub(super) plan: String,
    /// `bundled`, or a file.
    pub(super) origin: String,
}

/// Everything on the screen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct View {
    /// The running policy.
    pub(super) policy: PolicyLine,
    /// The instances.
    pub(super) rows: Vec<Row>,
    /// Calls that ended in the last second.
    pub(super) per_second: f64,
    /// Calls that ended.
    pub(super) calls: u64,
    /// Of these, failed ones that should not have.
    pub(super) failed: u64,
    /// Of these, failed ones that a killed instance had.
    pub(super) cut_off: u64,
    /// etcd's revision that the node's endpoints are from.
    pub(super) revision: i64,
    /// The node's generation.
    pub(super) generation: u64,
    /// The last events, oldest first, with the time since the demo began.
    pub(super) events: VecDeque<(Duration, String)>,
}

impl View {
    /// Takes in what the node says of the service, and the calls of the running phase.
    pub(super) fn update(&mut self, service: &Service, own_zone: &str, known: &[Known], tally: &CallCounts) {
        self.policy = PolicyLine {
            name: service.policy.name.clone(),
            sha256: service.policy.sha256.clone(),
            plan: service.plan.clone(),
            origin: service.policy.origin.clone(),
        };
        self.revision = service.revision;
        self.generation = service.generation;
        let known = with_strangers(service, known);
        let usable: Vec<&Known> =
            known.iter().filter(|known| place(service, known) == InstanceStatus::Usable).collect();
        let members: Vec<Member> = usable.iter().map(|known| known.member.clone()).collect();
        let shares = expected(&service.policy.name, &service.policy.config, own_zone, &members);
        let expected_of = |known: &Known| {
            let place = usable.iter().position(|usable| usable.address == known.address)?;
            shares.as_ref().map(|shares| shares[place])
        };
        let row = |known: &Known| Row {
            known: known.clone(),
            place: place(service, known),
            calls: tally.calls(&known.address),
            share: tally.share(&known.address),
            expected: expected_of(known),
            in_flight: endpoint(service, known).map_or(0, |endpoint| endpoint.in_flight),
        };
        self.rows = known.iter().map(row).collect();
    }

    /// Adds an event, and forgets the oldest.
    pub(super) fn event(&mut self, at: Duration, text: String) {
        self.events.push_back((at, text));
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

/// The demo's own instances, and after them those that the user has registered.
fn with_strangers(service: &Service, known: &[Known]) -> Vec<Known> {
    let is_known = |address: &str| known.iter().any(|known| known.address == address);
    let strangers = service.endpoints.iter().filter(|endpoint| !is_known(&endpoint.address)).map(|endpoint| Known {
        number: 0,
        address: endpoint.address.clone(),
        member: Member { zone: endpoint.zone.clone(), weight: endpoint.weight, slow: false },
        killed: false,
    });
    known.iter().cloned().chain(strangers).collect()
}

fn endpoint<'a>(service: &'a Service, known: &Known) -> Option<&'a Endpoint> {
    service.endpoints.iter().find(|endpoint| endpoint.address == known.address)
}

fn place(service: &Service, known: &Known) -> InstanceStatus {
    match endpoint(service, known) {
        None => InstanceStatus::Unregistered,
        Some(endpoint) => skipped(endpoint).map_or(InstanceStatus::Usable, InstanceStatus::Skipped),
    }
}

/// Why the node sends this endpoint no calls, if it does not.
pub(super) fn skipped(endpoint: &Endpoint) -> Option<EndpointStatus> {
    endpoint.state.filter(|status| !status.is_usable())
}

/// Calls a second, from a counter that is read now and then.
#[derive(Debug, Default)]
pub(super) struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// The rate over about the last second, given the counter at this time since the beginning.
    pub(super) fn sample(&mut self, at: Duration, count: u64) -> f64 {
        self.samples.push_back((at, count));
        while self.samples.len() > 2 && self.samples[1].0 + Duration::from_secs(1) <= at {
            self.samples.pop_front();
        }
        let (first_at, first) = self.samples[0];
        let elapsed = at.saturating_sub(first_at).as_secs_f64();
        if elapsed > 0.0 { count.saturating_sub(first) as f64 / elapsed } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut rate = Rate::default();
        let mut last = 0.0;
        // 100 calls in the first second, then 10 a second.
        for tenth in 0u32..=30 {
            let count = if tenth <= 10 { tenth * 10 } else { 100 + (tenth - 10) };
            last = rate.sample(Duration::from_millis(100) * tenth, u64::from(count));
            if tenth == 10 {
                assert!((last - 100.0).abs() < 0.01, "{last}");
            }
        }
        assert!((last - 10.0).abs() < 0.01, "{last}");
    }

    #[test]
    fn only_the_last_events_are_kept() {
        let mut view = View::default();
        for n in 0u32..9 {
            view.event(Duration::from_secs(n.into()), format!("event {n}"));
        }
        assert_eq!(view.events.len(), EVENTS);
        assert_eq!(view.events.front().map(|(_, text)| text.as_str()), Some("event 4"));
    }
}
