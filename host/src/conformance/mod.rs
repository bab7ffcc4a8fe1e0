//! The conformance kit: tries a plugin on made-up endpoints, requests and entries, with the host's
//! own code, before it runs.
//!
//! ```text
//!   policy:      component ─▶ plans ─▶ picks ─▶ determinism ─▶ removal ─▶ shares ─▶ stability ─▶ cost, memory
//!   key scheme:  component ─▶ prefixes ─▶ round trip ─▶ what it did not write ─▶ determinism ─▶ cost, memory
//! ```
//!
//! Each step adds lines to a [`Report`]. What the interface promises is required of every plugin;
//! what only some plugins do (shares by weight, staying in the zone, keys that stay where they are)
//! is observed, and required of those that [claim](Claim) it. Figures of cost are printed and never
//! required: they depend on the machine. A step that cannot say anything, because an earlier one
//! failed, says so instead of failing for the same reason again.
//!
//! Everything made up comes from the seed, so that a failure is found again; every step ends after
//! a number of tries, or after a time if that comes first. When the time for all of it is up
//! (`time_limit`), what is left is cut: said, and not passed.

mod claim;
mod component;
mod cost;
mod determinism;
mod key_scheme;
mod live;
mod made_up;
mod memory;
mod picks;
mod plans;
mod removal;
mod report;
mod shares;
mod simulate;
mod stability;
#[cfg(test)]
mod tests;
mod time_limit;

use std::{sync::Arc, time::Instant};

pub use claim::{Claim, bundled_claims};
pub use cost::{fitness, slow_picks};
pub use report::{Bar, Bars, Cost, Line, Outcome, Report, Spread};
pub use simulate::{EndpointShare, KeyMoves, Load, PickCost, Simulated, Simulation, simulate};

use crate::{
    model::{Endpoint, ServiceName},
    plugin::{Kind, LoadError, Plugin},
    policy::{Plan, Policy, Scope},
};
use time_limit::Limited;

/// What a run of the kit may vary.
#[derive(Debug, Clone)]
pub struct Options {
    /// The plugin's configuration, a JSON object.
    pub config: String,
    /// The zone that the node is told to stand in.
    pub zone: String,
    /// Where everything made up comes from: the same seed gives the same run.
    pub seed: u64,
    /// Fewer tries, for a first look: seconds instead of up to minutes.
    pub quick: bool,
    /// What is required beyond the interface, or not.
    pub claims: Vec<Claim>,
    /// When it has to be done; what is not tried by then is cut from the report. None: as long as
    /// it takes.
    pub until: Option<Instant>,
}

impl Default for Options {
    fn default() -> Self {
        Self { config: "{}".into(), zone: "zone-a".into(), seed: 1, quick: false, claims: Vec::new(), until: None }
    }
}

/// Tries out a plugin. `again` is the same one, loaded by another engine: what it answers must not
/// depend on the engine. It takes seconds, and up to some minutes for a slow plugin: call it on a
/// blocking thread. `progress` is told what is tried next.
///
/// # Errors
///
/// The configuration is not a JSON object. What the plugin does wrong is in the report.
pub fn check(
    plugin: &Plugin,
    again: &Plugin,
    options: &Options,
    progress: &dyn Fn(&'static str),
) -> Result<Report, LoadError> {
    let mut report = Report::new(plugin, options);
    component::check(plugin, &mut report);
    match plugin.kind {
        Kind::Policy => {
            let subject = PolicyUnderTest::of(plugin, again, &options.config)?;
            Ok(check_policy(&subject, options, report, progress))
        }
        Kind::KeyScheme => {
            let scheme = Limited::new(plugin.clone().into_key_scheme(&options.config)?, &report.limit);
            let again = Limited::new(again.clone().into_key_scheme(&options.config)?, &report.limit);
            let memory = plugin.clone();
            let subject = key_scheme::SchemeUnderTest {
                scheme: &scheme,
                again: &again,
                warned: !plugin.description.warning.is_empty(),
                memory: Box::new(move || memory.take_memory_peak()),
            };
            progress("key scheme");
            key_scheme::check(&subject, options, &mut report);
            Ok(report)
        }
    }
}

/// Makes a policy of a configuration.
type Configure = dyn Fn(&str) -> Result<Arc<dyn Policy>, LoadError>;

/// A policy under test.
struct PolicyUnderTest {
    policy: Arc<dyn Policy>,
    /// The same from another engine.
    again: Arc<dyn Policy>,
    /// The names of its configuration's fields with their defaults, as JSON.
    fields: Vec<(String, String)>,
    configure: Box<Configure>,
    /// The most linear memory that one of its instances has had since this was last asked for, in
    /// bytes.
    memory: Box<dyn Fn() -> usize>,
}

impl PolicyUnderTest {
    fn of(plugin: &Plugin, again: &Plugin, config: &str) -> Result<Self, LoadError> {
        let configure = |plugin: &Plugin| {
            let plugin = plugin.clone();
            move |config: &str| Ok(Arc::new(plugin.clone().into_policy(config)?) as Arc<dyn Policy>)
        };
        let (first, second, memory) = (configure(plugin), configure(again), plugin.clone());
        Ok(Self {
            policy: first(config)?,
            again: second(config)?,
            fields: plugin.description.fields.iter().map(|field| (field.name.clone(), field.default.clone())).collect(),
            configure: Box::new(first),
            memory: Box::new(move || memory.take_memory_peak()),
        })
    }
}

/// One run over a policy: what every step gets.
struct Run<'a> {
    subject: &'a PolicyUnderTest,
    /// The subject's policies, for as long as there is time.
    policy: Arc<dyn Policy>,
    again: Arc<dyn Policy>,
    options: &'a Options,
    scope: Scope,
    report: Report,
}

impl<'a> Run<'a> {
    fn new(subject: &'a PolicyUnderTest, options: &'a Options, report: Report) -> Self {
        let service = ServiceName::new(made_up::SERVICE).expect("a plain name");
        let scope = Scope { service, zone: options.zone.as_str().into() };
        let limited = |policy: &Arc<dyn Policy>| Arc::new(Limited::new(Arc::clone(policy), &report.limit));
        let (policy, again) = (limited(&subject.policy), limited(&subject.again));
        Self { subject, policy, again, options, scope, report }
    }

    /// The policy with another configuration.
    fn configured(&self, config: &str) -> Result<Arc<dyn Policy>, String> {
        let policy = (self.subject.configure)(config).map_err(|error| error.to_string())?;
        Ok(Arc::new(Limited::new(policy, &self.report.limit)))
    }

    /// The plan for these endpoints, checked like the host checks it.
    fn build(&self, endpoints: &[Endpoint]) -> Result<Plan, String> {
        checked_build(&*self.policy, &self.scope, endpoints)
    }

    /// The random numbers of one step: those of another step do not move when this one draws more.
    fn random(&self, step: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step))
    }

    /// The number of tries: `full`, or `quick` in a quick run.
    fn tries(&self, full: usize, quick: usize) -> usize {
        if self.options.quick { quick } else { full }
    }

    fn claims(&self, claim: Claim) -> bool {
        self.options.claims.contains(&claim)
    }

    fn note(&mut self, section: &'static str, check: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.report.note(section, check, outcome, detail);
    }

    /// `Ok` or `Failed`.
    fn require(&mut self, section: &'static str, check: &'static str, result: Result<String, String>) -> bool {
        self.report.require(section, check, result)
    }

    fn skip(&mut self, section: &'static str, why: &str) {
        self.note(section, "all of it", Outcome::Skipped, why);
    }
}

/// One part of the kit.
type Step = fn(&mut Run<'_>);

/// What a build of this policy costs for ten endpoints and, if it is asked for each request, a
/// pick; and why there is not more to say, if so. It takes about half a second, and no longer than
/// `until`: call it on a blocking thread.
///
/// # Errors
///
/// It is no policy, or it cannot build with this configuration; the text says why.
pub fn cost(plugin: &Plugin, config: &str, until: Option<Instant>) -> Result<(Vec<Cost>, Option<String>), String> {
    let options = Options { config: config.into(), quick: true, until, ..Options::default() };
    let subject = PolicyUnderTest::of(plugin, plugin, config).map_err(|error| error.to_string())?;
    let mut run = Run::new(&subject, &options, Report::new(plugin, &options));
    match cost::measure(&mut run, 10) {
        Err(reason) if run.report.cost.is_empty() => Err(reason),
        measured => Ok((run.report.cost, measured.err())),
    }
}

fn check_policy(
    subject: &PolicyUnderTest,
    options: &Options,
    report: Report,
    progress: &dyn Fn(&'static str),
) -> Report {
    let mut run = Run::new(subject, options, report);
    progress("plans");
    if !plans::check(&mut run) {
        for section in ["picks", "determinism", "removal", "shares", "stability", "cost", "memory"] {
            run.skip(section, "there is no plan");
        }
        return run.report;
    }
    progress("picks");
    let picks = picks::check(&mut run);
    let steps: [(&'static str, Step); 6] = [
        ("determinism", determinism::check),
        ("removal", removal::check),
        ("shares", shares::check),
        ("stability", stability::check),
        ("cost", cost::check),
        ("memory", memory::check),
    ];
    for (section, step) in steps {
        progress(section);
        if run.report.limit.is_over() {
            run.note(section, "all of it", Outcome::Cut, time_limit::REASON);
        } else if picks {
            step(&mut run);
        } else {
            run.skip(section, "its picks fail");
        }
    }
    run.report
}

/// Builds, and checks what a component's plan is checked for as well: here for policies that are
/// none.
fn checked_build(policy: &dyn Policy, scope: &Scope, endpoints: &[Endpoint]) -> Result<Plan, String> {
    let plan = policy.build(scope, endpoints).map_err(|error| error.to_string())?;
    if let Plan::Rotation(list) | Plan::HashTable(list) = &plan {
        if let Some(index) = list.iter().find(|index| **index as usize >= endpoints.len()) {
            return Err(format!("its plan names endpoint {index} of {}", endpoints.len()));
        }
        if list.is_empty() && endpoints.iter().any(|endpoint| endpoint.weight > 0) {
            return Err(format!("its plan for {} endpoints is empty", endpoints.len()));
        }
    }
    Ok(plan)
}
