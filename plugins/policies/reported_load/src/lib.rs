//! In proportion to what each instance could carry by its own report: the calls a second that it
//! serves, by the part of it that they use. That is the weight of gRPC's `weighted_round_robin`
//! (proposal A58; Envoy's `client_side_weighted_round_robin`):
//!
//! ```text
//!   rps / (utilization + error_utilization_penalty * eps / rps)
//! ```
//!
//! As there, what an instance measures of itself (`application_utilization`) counts before its
//! processor's load; who has reported nothing, or nothing lately, gets the mean of the others; with
//! less than two who have, all get the same; and a weight is at most ten times that mean, and at
//! least a hundredth of it. gRPC also waits ten seconds before it believes a new instance: here the
//! node's `slow-start` holds that one back.
//!
//! gRPC walks over a schedule of its own. A policy is asked on many instances of itself, so that
//! chance takes the schedule's place, with one draw for any number of endpoints (`WeightedDraw` of
//! the SDK). Weights are taken anew in every round of picks, of which there are at least 64: each
//! of the first asks for one endpoint's report, and the last of these makes the draw. So no pick
//! asks the host for more than one report, and most for none; a further attempt also asks what was
//! tried. A registered weight of 0 gets nothing; other weights are not heeded.

use waymark_plugin::{
    Config, Context, Decision, Description, Endpoint, Field, Host, LoadReport, Plan, Policy, Scope, WeightedDraw,
    export_policy, receiving,
};

/// Picks in a round, unless there are more endpoints.
const ROUND: usize = 64;

/// The bounds of a weight as parts of the mean, of gRPC's scheduler.
const LEAST: f64 = 0.01;
const MOST: f64 = 10.0;

/// What the mean is in the whole numbers that draws are made of.
const MEAN: f64 = 1_000_000.0;

/// The policy: the endpoints, what is known of them, and the draw that was made of it last.
#[derive(Debug)]
pub struct ReportedLoad {
    members: Vec<Member>,
    draw: WeightedDraw,
    /// How many picks this round has had.
    picks: usize,
    utilization: Utilization,
    penalty: f64,
    expiration_ms: u32,
}

/// An endpoint that may get something, with the weight of its last report.
#[derive(Clone, Copy, Debug)]
struct Member {
    endpoint: u32,
    weight: Option<f64>,
}

/// What tells how much an instance is used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Utilization {
    /// Its own measure, else its processor time.
    Application,
    Cpu,
    Memory,
    /// A metric of this name.
    Named(String),
}

impl Utilization {
    /// How a metric of their own is written: gRPC's way (proposal A114).
    const NAMED: &str = "named_metrics.";

    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "application" => Self::Application,
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            _ => Self::Named(text.strip_prefix(Self::NAMED).filter(|name| !name.is_empty())?.to_owned()),
        })
    }

    fn read(&self, endpoint: u32, report: &LoadReport, host: &impl Host) -> f64 {
        match self {
            Self::Application if report.application_utilization > 0.0 => report.application_utilization,
            Self::Application | Self::Cpu => report.cpu_utilization,
            Self::Memory => report.memory_utilization,
            Self::Named(name) => host.metric(endpoint, name).unwrap_or_default(),
        }
    }
}

impl Policy for ReportedLoad {
    const DESCRIPTION: Description = Description::new(
        "reported_load",
        env!("CARGO_PKG_VERSION"),
        "In proportion to what instances can carry by their own load reports (ORCA).",
    )
    .with_fields(&[
        Field {
            name: "utilization",
            default: r#""application""#,
            doc: "which figure says how much an instance is used: application (and cpu where it reports none), cpu, memory, or \
                  named_metrics.NAME",
        },
        Field {
            name: "error_utilization_penalty",
            default: "1",
            doc: "how much the share of calls that an instance answers with an error counts as utilization; 0, not at all, to 100",
        },
        Field {
            name: "weight_expiration_s",
            default: "180",
            doc: "seconds after which a report counts no more, 1 to 86400",
        },
    ]);

    fn build(config: &Config<'_>, _: &Scope, endpoints: &[Endpoint]) -> Result<Plan<Self>, String> {
        let utilization = config.typed(
            "utilization",
            |json| Utilization::of(&json.text()?),
            || r#""application", "cpu", "memory" or "named_metrics.NAME""#.to_owned(),
        )?;
        let penalty = config.number("error_utilization_penalty", 0..=100)?;
        let expiration_ms = config.integer("weight_expiration_s", 1..=86_400)? * 1000;
        let endpoints = receiving(endpoints);
        // With one there is nothing to weigh, and with nobody the host knows what to say.
        if endpoints.len() < 2 {
            return Ok(Plan::Rotation(endpoints));
        }
        let members: Vec<_> = endpoints.into_iter().map(|endpoint| Member { endpoint, weight: None }).collect();
        let draw = draw(&members);
        Ok(Plan::EachRequest(Self { members, draw, picks: 0, utilization, penalty, expiration_ms }))
    }

    fn pick(&mut self, context: Context, host: &impl Host) -> Decision {
        self.learn(host);
        let again = context.attempt > 0;
        let drawn = self.draw.draw_without(context.random, |endpoint| again && host.tried(endpoint));
        // Where everything was tried, a second try is better than none.
        drawn.or_else(|| self.draw.draw(context.random)).map_or(Decision::Queue, Decision::Endpoint)
    }
}

export_policy!(ReportedLoad);

impl ReportedLoad {
    /// What this pick has to do for the ones that follow.
    fn learn(&mut self, host: &impl Host) {
        if let Some(&Member { endpoint, .. }) = self.members.get(self.picks) {
            self.members[self.picks].weight = self.weight(endpoint, host);
            if self.picks + 1 == self.members.len() {
                self.draw = draw(&self.members);
            }
        }
        self.picks = if self.picks + 1 < ROUND.max(self.members.len()) { self.picks + 1 } else { 0 };
    }

    /// What an endpoint can carry by its report; none when it does not say.
    fn weight(&self, endpoint: u32, host: &impl Host) -> Option<f64> {
        let report = host.report(endpoint).filter(|report| report.age_ms < self.expiration_ms && report.rps > 0.0)?;
        let used = self.utilization.read(endpoint, &report, host);
        let weight = report.rps / (used + self.penalty * report.eps / report.rps);
        // Figures out of all proportion come to infinity or to nothing, of which there is no mean.
        (used > 0.0 && weight.is_normal()).then_some(weight)
    }
}

/// The draw of these weights, and of the mean where there is none.
fn draw(members: &[Member]) -> WeightedDraw {
    let known = || members.iter().filter_map(|member| member.weight);
    let mean = match known().count() {
        0 | 1 => None,
        n => Some(known().sum::<f64>() / n as f64),
    };
    WeightedDraw::new(members.iter().map(|member| {
        let part = match (member.weight, mean) {
            (Some(weight), Some(mean)) => (weight / mean).clamp(LEAST, MOST),
            _ => 1.0,
        };
        (member.endpoint, (part * MEAN) as u32)
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::{FakeHost, asked, assert_avoids_tried, build, endpoints, pick_shares, scope};

    use super::*;

    fn policy(config: &str, weights: &[u32]) -> ReportedLoad {
        asked(build(config, &scope(""), &endpoints(weights.len() as u8, weights)).unwrap())
    }

    fn said(application_utilization: f64, rps: f64) -> LoadReport {
        LoadReport { application_utilization, rps, ..LoadReport::default() }
    }

    fn host(reports: &[LoadReport]) -> FakeHost {
        FakeHost { reports: (0..).zip(reports.iter().copied()).collect(), ..FakeHost::default() }
    }

    /// Shares among as many endpoints as `due` has, against these parts.
    fn assert_shares(config: &str, host: &FakeHost, due: &[f64]) {
        let n = due.len();
        let shares = pick_shares(&mut policy(config, &vec![1; n]), host, n, 60_000);
        let sum: f64 = due.iter().sum();
        let close = shares.iter().zip(due).all(|(share, due)| (share - due / sum).abs() < 0.012);
        assert!(close, "{shares:?} instead of {due:?} by {config}");
    }

    #[test]
    fn nobody_and_one_are_a_plan() {
        let plan = |weights: &[u32]| {
            build::<ReportedLoad>("{}", &scope(""), &endpoints(weights.len() as u8, weights)).unwrap()
        };
        assert_eq!(plan(&[]).rotation(), Some(&[][..]));
        assert_eq!(plan(&[0, 7]).rotation(), Some(&[1][..]));
    }

    #[test]
    fn shares_are_calls_a_second_by_utilization() {
        assert_shares("{}", &host(&[said(0.5, 100.0), said(0.25, 100.0), said(0.5, 300.0)]), &[200.0, 400.0, 600.0]);
    }

    #[test]
    fn errors_count_as_utilization_by_the_penalty() {
        let host = host(&[LoadReport { eps: 50.0, ..said(0.5, 100.0) }, said(0.5, 100.0)]);
        assert_shares("{}", &host, &[100.0, 200.0]);
        assert_shares(r#"{"error_utilization_penalty": 3}"#, &host, &[50.0, 200.0]);
        assert_shares(r#"{"error_utilization_penalty": 0}"#, &host, &[1.0, 1.0]);
    }

    #[test]
    fn who_says_nothing_of_use_gets_the_mean() {
        let old = LoadReport { age_ms: 180_000, ..said(0.1, 100.0) };
        let idle = said(0.0, 100.0);
        let unasked = said(0.5, 0.0);
        let due = [200.0, 400.0, 300.0, 300.0, 300.0, 300.0];
        let mut host = host(&[said(0.5, 100.0), said(0.25, 100.0), old, idle, unasked]);
        assert_shares("{}", &host, &due);
        // With one that says something there is nothing to compare it with.
        host.reports.remove(&0);
        assert_shares("{}", &host, &[1.0; 6]);
        assert_shares("{}", &FakeHost::default(), &[1.0; 3]);
    }

    #[test]
    fn another_figure_may_say_how_much_an_instance_is_used() {
        let first = LoadReport { cpu_utilization: 0.2, memory_utilization: 0.8, ..said(0.0, 100.0) };
        let second = LoadReport { cpu_utilization: 0.4, memory_utilization: 0.2, ..said(0.8, 100.0) };
        let mut host = host(&[first, second]);
        host.metrics = [((0, "queue".to_owned()), 3.0), ((1, "queue".to_owned()), 1.0)].into();
        // The first has no measure of its own.
        assert_shares("{}", &host, &[1.0 / 0.2, 1.0 / 0.8]);
        assert_shares(r#"{"utilization": "cpu"}"#, &host, &[1.0 / 0.2, 1.0 / 0.4]);
        assert_shares(r#"{"utilization": "memory"}"#, &host, &[1.0 / 0.8, 1.0 / 0.2]);
        assert_shares(r#"{"utilization": "named_metrics.queue"}"#, &host, &[1.0 / 3.0, 1.0]);
        assert_shares(r#"{"utilization": "named_metrics.cache"}"#, &host, &[1.0, 1.0]);
    }

    #[test]
    fn a_report_out_of_all_proportion_is_bounded() {
        // The mean is a sixteenth of the high one, which counts as ten times that; the low ones as
        // a hundredth.
        let mut reports = vec![said(1.0, 1.0); 15];
        reports.push(said(1.0, 1e9));
        let mut due = vec![0.01; 15];
        due.push(10.0);
        assert_shares("{}", &host(&reports), &due);
    }

    #[test]
    fn a_report_whose_weight_is_no_number_counts_as_none() {
        // An infinite weight, and one too small to tell from nothing.
        let (high, low) = (said(1e-300, 1e300), LoadReport { eps: 1e300, ..said(0.5, 1e-300) });
        for report in [high, low] {
            assert_shares("{}", &host(&[report; 2]), &[1.0, 1.0]);
            let due = [200.0, 400.0, 300.0];
            assert_shares("{}", &host(&[said(0.5, 100.0), said(0.25, 100.0), report]), &due);
        }
    }

    #[test]
    fn weights_are_taken_anew_in_the_next_round() {
        let mut policy = policy("{}", &[1, 1]);
        let share = |policy: &mut ReportedLoad, host: FakeHost| pick_shares(policy, &host, 2, 64 * 500)[1];
        let first = share(&mut policy, host(&[said(0.5, 100.0), said(0.5, 100.0)]));
        let then = share(&mut policy, host(&[said(0.5, 100.0), said(0.5, 300.0)]));
        assert!((first - 0.5).abs() < 0.015 && (then - 0.75).abs() < 0.015, "{first}, then {then}");
    }

    #[test]
    fn a_bad_configuration_is_refused_by_the_name_of_its_field() {
        let refused = |config| build::<ReportedLoad>(config, &scope(""), &[]).unwrap_err();
        let message = r#"`utilization` must be "application", "cpu", "memory" or "named_metrics.NAME", not "disk""#;
        assert_eq!(refused(r#"{"utilization": "disk"}"#), message);
        assert!(refused(r#"{"utilization": "named_metrics."}"#).starts_with("`utilization` must be"));
        let message = "`error_utilization_penalty` must be a number from 0 to 100, not -1";
        assert_eq!(refused(r#"{"error_utilization_penalty": -1}"#), message);
        let message = "`weight_expiration_s` must be a whole number from 1 to 86400, not 0";
        assert_eq!(refused(r#"{"weight_expiration_s": 0}"#), message);
    }

    proptest! {
        #[test]
        fn what_was_tried_or_weighs_nothing_is_left_out(
            weights in prop::collection::vec(0u32..3, 2..12), random: (u32, u32),
            tried in prop::collection::btree_set(0u32..12, 0..12),
        ) {
            prop_assume!(weights.iter().filter(|weight| **weight > 0).count() > 1);
            assert_avoids_tried(&mut policy("{}", &weights), &weights, &tried, random);
        }

        #[test]
        fn any_report_leaves_everybody_something(reports in prop::collection::vec((0.0f64..1e12, 0.0f64..1e12, 0.0f64..1e12), 2..10)) {
            let reports: Vec<_> = reports.into_iter().map(|(used, rps, eps)| LoadReport { eps, ..said(used, rps) }).collect();
            let n = reports.len();
            let shares = pick_shares(&mut policy("{}", &vec![1; n]), &host(&reports), n, 20_000);
            prop_assert!(shares.iter().all(|share| *share > 0.0), "{shares:?} for {reports:?}");
        }
    }
}
