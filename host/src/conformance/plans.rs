//! Plans for endpoints of all sorts: none, one, many, unusable ones, odd ones, random ones; and
//! configurations of all sorts.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Run, checked_build, made_up, report::Outcome};
use crate::{
    model::{Endpoint, InstanceId},
    policy::{BuildError, Plan},
};

const SECTION: &str = "plans";

/// What to look for a plan with. A policy that cannot plan for ten plain endpoints is tried no
/// further.
pub(super) fn check(run: &mut Run<'_>) -> bool {
    let base = run.build(&made_up::mixed(10)).map(|plan| describe(&plan));
    if !run.require(SECTION, "10 endpoints", base) {
        return false;
    }
    for (check, endpoints) in [
        ("no endpoint", Vec::new()),
        ("1 endpoint", made_up::mixed(1)),
        ("1,000 endpoints", made_up::mixed(1_000)),
        ("10,000 endpoints", made_up::mixed(10_000)),
        ("endpoints of one address", same_address()),
        ("ids of 4 KiB", long_ids()),
        ("metadata of any text", odd_metadata(run)),
    ] {
        let plan = run.build(&endpoints).map(|plan| describe(&plan));
        run.require(SECTION, check, plan);
    }
    random_sets(run);
    nothing_for_weight_0(run);
    all_weights_0(run);
    configurations(run);
    true
}

fn describe(plan: &Plan) -> String {
    match plan {
        Plan::Rotation(list) | Plan::HashTable(list) => format!("{} of {} entries", plan.kind(), list.len()),
        Plan::EachRequest(_) => "asked for each request".into(),
    }
}

fn same_address() -> Vec<Endpoint> {
    made_up::mixed(10).into_iter().map(|endpoint| Endpoint { address: made_up::address(0), ..endpoint }).collect()
}

fn long_ids() -> Vec<Endpoint> {
    let long = |(n, endpoint)| Endpoint { id: InstanceId::new(format!("{n:04}{}", "x".repeat(4092))), ..endpoint };
    made_up::mixed(10).into_iter().enumerate().map(long).collect()
}

fn odd_metadata(run: &Run<'_>) -> Vec<Endpoint> {
    let mut random = run.random(1);
    let odd = |endpoint: Endpoint| {
        let pairs = (0..8).map(|n| (format!("{n}{}", made_up::text(&mut random, 30)), made_up::text(&mut random, 200)));
        Endpoint { metadata: pairs.collect::<Arc<[_]>>(), ..endpoint }
    };
    made_up::mixed(10).into_iter().map(odd).collect()
}

/// Any sets of endpoints: every index has to be one of the set, and nobody may trap.
fn random_sets(run: &mut Run<'_>) {
    let (mut random, tries) = (run.random(2), run.tries(300, 40));
    let mut tried = || {
        for case in 0..tries {
            let n = if case < 20 { case } else { random.usize(..200) };
            let endpoints = made_up::any(&mut random, n);
            run.build(&endpoints).map_err(|error| format!("case {case}, {n} endpoints: {error}"))?;
        }
        Ok(format!("{tries} random sets of up to 200"))
    };
    let result = tried();
    run.require(SECTION, "index ranges", result);
}

/// "0 means: send it nothing", says the interface. What is asked for each request is looked at
/// among the picks.
fn nothing_for_weight_0(run: &mut Run<'_>) {
    const CHECK: &str = "weight 0 in a plan";
    let mut endpoints = made_up::mixed(10);
    for endpoint in endpoints.iter_mut().step_by(2) {
        endpoint.weight = 0;
    }
    let result = run.build(&endpoints).and_then(|plan| match &plan {
        Plan::Rotation(list) | Plan::HashTable(list) => match list.iter().find(|index| *index % 2 == 0) {
            Some(index) => Err(format!("endpoint {index} has weight 0 and stands in the plan")),
            None => Ok("gets nothing".to_owned()),
        },
        Plan::EachRequest(_) => Ok("see the picks".to_owned()),
    });
    run.require(SECTION, CHECK, result);
}

/// An empty plan is a fair answer to "send nothing", and so is a policy's own way out; a trap is
/// neither.
fn all_weights_0(run: &mut Run<'_>) {
    let idle: Vec<_> = made_up::mixed(5).into_iter().map(|endpoint| Endpoint { weight: 0, ..endpoint }).collect();
    match run.build(&idle) {
        Ok(plan) => {
            let (outcome, detail) = match &plan {
                Plan::Rotation(list) | Plan::HashTable(list) if list.is_empty() => {
                    (Outcome::Ok, "sends to nobody".into())
                }
                Plan::EachRequest(_) => (Outcome::Ok, describe(&plan)),
                _ => (Outcome::Observed, format!("sends to them all the same: {}", describe(&plan))),
            };
            run.note(SECTION, "all weights 0", outcome, detail);
        }
        Err(error) => run.note(SECTION, "all weights 0", Outcome::Failed, error),
    }
}

/// A configuration that is wrong is refused, or taken; it does not bring the policy down.
fn configurations(run: &mut Run<'_>) {
    let given: Map<String, Value> = serde_json::from_str(&run.options.config).unwrap_or_default();
    let with = |name: &str, value: Value| {
        let mut config = given.clone();
        config.insert(name.into(), value);
        Value::Object(config).to_string()
    };
    let endpoints = made_up::mixed(10);
    let build = |config: &str| -> Result<Result<Plan, String>, String> {
        let policy = run.configured(config)?;
        match policy.build(&run.scope, &endpoints) {
            Ok(plan) => Ok(Ok(plan)),
            Err(BuildError::Refused { reason, .. }) => Ok(Err(reason)),
            Err(error) => Err(format!("with {config}: {error}")),
        }
    };
    let wrong =
        [json!(null), json!(-1), json!(1e300), json!(u64::MAX), json!("x"), json!([[]]), json!({"x": {}}), json!(true)];
    let probe = || {
        let (mut refused, mut taken) = (0, 0);
        for (name, _) in &run.subject.fields {
            for value in &wrong {
                let refusal = build(&with(name, value.clone()))?.is_err();
                if refusal { refused += 1 } else { taken += 1 }
            }
        }
        Ok(format!("{refused} of {} values out of place refused", refused + taken))
    };
    let values = probe();
    let unknown = build(&with("no_such_field", json!(1)));
    let explicit = explicit_defaults(run, &given);
    if !run.subject.fields.is_empty() {
        run.require(SECTION, "configuration", values);
    }
    match unknown {
        Ok(Err(reason)) => run.note(SECTION, "an unknown field", Outcome::Ok, format!("refused: {reason}")),
        Ok(Ok(_)) => {
            run.note(SECTION, "an unknown field", Outcome::Observed, "taken in silence: a typing error goes unseen");
        }
        Err(error) => run.note(SECTION, "an unknown field", Outcome::Failed, error),
    }
    if let Some(explicit) = explicit {
        run.require(SECTION, "described defaults", explicit);
    }
}

/// Whether the defaults that it describes are those that it has.
fn explicit_defaults(run: &Run<'_>, given: &Map<String, Value>) -> Option<Result<String, String>> {
    let mut config = Map::new();
    for (name, default) in &run.subject.fields {
        if !default.is_empty() {
            config.insert(name.clone(), serde_json::from_str(default).ok()?);
        }
    }
    if config.is_empty() {
        return None;
    }
    config.extend(given.clone());
    let (config, endpoints) = (Value::Object(config).to_string(), made_up::mixed(30));
    let compare = || {
        let policy = run.configured(&config)?;
        let explicit =
            checked_build(&*policy, &run.scope, &endpoints).map_err(|error| format!("with {config}: {error}"))?;
        super::determinism::same_plan(&run.build(&endpoints)?, &explicit)
            .map_err(|how| format!("with {config}, which are its defaults, {how}"))?;
        Ok("the same plan when they are given".to_owned())
    };
    Some(compare())
}
