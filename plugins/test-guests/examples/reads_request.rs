//! Uses everything a host offers to a pick, and shows it.
//!
//! The header `waymark-test` orders an answer: a number that endpoint, `a,b` the less loaded of
//! two, `queue`, `fail` and `drop` these, with all that is known of the request for a message.
//! Without it, the endpoint with the fewest calls in flight, then the lowest latency, among those
//! not tried.

use test_guests::plain;
use waymark_plugin::{Config, Context, Decision, Description, Endpoint, Host, Plan, Policy, Scope, export_policy};

struct Guest {
    endpoints: u32,
}

impl Policy for Guest {
    const DESCRIPTION: Description =
        plain("reads_request", "Does what the header `waymark-test` says, else least loaded.");

    fn build(_: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let endpoints = u32::try_from(endpoints.len()).map_err(|_| "too many endpoints".to_owned())?;
        Ok(Plan::EachRequest(Self { endpoints }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        match host.header("waymark-test") {
            Some(order) => self.obey(&order, context, host),
            None => self.least_loaded(host),
        }
    }
}

export_policy!(Guest);

impl Guest {
    fn obey(&self, order: &str, context: Context, host: &impl Host) -> Decision {
        if let Ok(endpoint) = order.parse() {
            return Decision::Endpoint(endpoint);
        }
        let pair = order.split_once(',').map(|(a, b)| (a.parse(), b.parse()));
        match (order, pair) {
            (_, Some((Ok(a), Ok(b)))) => Decision::Either((a, b)),
            ("queue", _) => Decision::Queue,
            ("drop", _) => Decision::Drop(self.facts(context, host)),
            _ => Decision::Fail(self.facts(context, host)),
        }
    }

    fn facts(&self, context: Context, host: &impl Host) -> String {
        let Context { sequence, hash, attempt, .. } = context;
        let each = |endpoint| {
            let tried = if host.tried(endpoint) { " tried" } else { "" };
            let (calls, latency, failing) =
                (host.in_flight(endpoint), host.latency_us(endpoint), host.failure_rate(endpoint));
            let failing = if failing > 0.0 { format!(" failing {failing}") } else { String::new() };
            let report = host.report(endpoint).map(|report| format!(" {report:?}")).unwrap_or_default();
            let queue = host.metric(endpoint, "queue").map(|queue| format!(" queue {queue}")).unwrap_or_default();
            format!(" {endpoint}:{calls}/{latency}us{tried}{failing}{report}{queue}")
        };
        let endpoints: String = (0..self.endpoints).map(each).collect();
        format!("{} sequence {sequence} attempt {attempt} hash {hash:?}{endpoints}", host.path())
    }

    fn least_loaded(&self, host: &impl Host) -> Decision {
        let load = |endpoint: &u32| (host.in_flight(*endpoint), host.latency_us(*endpoint));
        match (0..self.endpoints).filter(|endpoint| !host.tried(*endpoint)).min_by_key(load) {
            Some(endpoint) => Decision::Endpoint(endpoint),
            None => Decision::Fail("every endpoint was tried".to_owned()),
        }
    }
}
