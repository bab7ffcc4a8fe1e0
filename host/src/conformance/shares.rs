//! Who gets how much: by weight within one zone, and by zone.
//!
//! The shares of a plan are counted and exact. Those of a policy that is asked are sampled, on idle
//! endpoints, with as many picks as the line says; an endpoint's share is in bounds when it is
//! within 5 standard deviations and a twentieth of what its weight says.

use std::sync::Arc;

use super::{
    Claim, Run, made_up,
    report::{Bar, Bars, Outcome},
};
use crate::{
    model::{Endpoint, Locality},
    policy::{PickContext, Plan, Scope},
};

const SECTION: &str = "shares";

/// A share may be off by this part of itself beyond what chance explains.
const TOLERANCE: f64 = 0.05;

/// A policy that claims to heed zones keeps at least this share at home when the zones are alike.
const AT_HOME: f64 = 0.9;

pub(super) fn check(run: &mut Run<'_>) {
    let zone = run.options.zone.clone();
    by_weight(run, &zone);
    if zone.is_empty() {
        run.note(SECTION, "zones", Outcome::Skipped, "the node was told no zone (--zone)");
    } else {
        by_zone(run, &zone);
    }
}

/// The shares of these endpoints, and the number of picks if they were sampled.
fn shares(run: &Run<'_>, scope: &Scope, endpoints: &[Endpoint]) -> Result<(Vec<f64>, Option<usize>), String> {
    let mut counts = vec![0u32; endpoints.len()];
    let plan = super::checked_build(&*run.policy, scope, endpoints)?;
    let sampled = match plan {
        Plan::Rotation(list) | Plan::HashTable(list) => {
            for index in &list {
                counts[*index as usize] += 1;
            }
            None
        }
        Plan::EachRequest(picker) => {
            let (mut random, picks) = (run.random(30), run.tries(50_000, 10_000));
            for sequence in 0..picks as u32 {
                let key = format!("key-{}", random.u32(..));
                let hash = Some(made_up::hash(&key));
                let request = made_up::Request::keyed(&key);
                let context = PickContext { sequence, random: (random.u32(..), random.u32(..)), hash, attempt: 0 };
                let decision = picker.pick(context, &request).map_err(|error| format!("pick {sequence} {error}"))?;
                if let Some(index) = request.target(&decision) {
                    counts[index as usize] += 1;
                }
            }
            Some(picks)
        }
    };
    let all: u32 = counts.iter().sum();
    Ok((counts.into_iter().map(|count| f64::from(count) / f64::from(all.max(1))).collect(), sampled))
}

fn bars(title: String, endpoints: &[Endpoint], shares: &[f64], label: impl Fn(&Endpoint) -> String) -> Bars {
    let all: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
    let bar = |(endpoint, got): (&Endpoint, &f64)| Bar {
        label: label(endpoint),
        by_weight: f64::from(endpoint.weight) / all,
        got: *got,
    };
    Bars { title, bars: endpoints.iter().zip(shares).map(bar).collect() }
}

fn by_weight(run: &mut Run<'_>, zone: &str) {
    const CHECK: &str = "by weight";
    let mut endpoints = made_up::alike(8, zone);
    for (endpoint, weight) in endpoints.iter_mut().zip([1, 1, 1, 2, 2, 3, 5, 10]) {
        endpoint.weight = weight;
    }
    let (shares, sampled) = match shares(run, &run.scope, &endpoints) {
        Ok(found) => found,
        Err(error) => return run.note(SECTION, CHECK, Outcome::Failed, error),
    };
    let bars = bars("shares by weight, in one zone".into(), &endpoints, &shares, |e| format!("weight {}", e.weight));
    // In bounds of what the weights say; else, of equal shares.
    let chance = |share: f64| sampled.map_or(0.0, |n| 5.0 * (share * (1.0 - share) / n as f64).sqrt());
    let within = |got: f64, expected: f64| (got - expected).abs() <= TOLERANCE * expected + chance(expected);
    let follows = bars.bars.iter().all(|bar| within(bar.got, bar.by_weight));
    let equal = bars.bars.iter().all(|bar| within(bar.got, 1.0 / bars.bars.len() as f64));
    let worst = bars.bars.iter().map(|bar| (bar.got / bar.by_weight - 1.0).abs()).fold(0.0, f64::max);
    let how = match (follows, equal) {
        (true, _) => "follow the weights".to_owned(),
        (_, true) => "equal, whatever the weight".to_owned(),
        _ => "neither by weight nor equal".to_owned(),
    };
    let taken = sampled.map_or("counted".to_owned(), |n| format!("{n} picks"));
    let detail = format!("{how}; up to {:.1} % off, {taken}", worst * 100.0);
    let outcome = match (run.claims(Claim::Weights), follows) {
        (true, true) => Outcome::Ok,
        (true, false) => Outcome::Failed,
        (false, _) => Outcome::Observed,
    };
    run.report.shares.push(bars);
    run.note(SECTION, CHECK, outcome, detail);
}

/// Endpoints in the node's zone and in two others.
fn zoned(zone: &str, own: usize, others: usize) -> Vec<Endpoint> {
    let place = |n: usize| if n < own { zone.to_owned() } else { format!("other-{}", (n - own) % 2 + 1) };
    (0..own + others).map(|n| Endpoint { locality: Locality::zone(place(n)), ..made_up::endpoint(n) }).collect()
}

fn by_zone(run: &mut Run<'_>, zone: &str) {
    let scope = Scope { zone: Arc::from(zone), ..run.scope.clone() };
    let at_home = |run: &Run<'_>, own, others| -> Result<(f64, Bars, bool), String> {
        let endpoints = zoned(zone, own, others);
        let (shares, _) = shares(run, &scope, &endpoints)?;
        let home = shares[..own].iter().sum();
        let title = format!("shares by zone, {own} of {} endpoints at home", own + others);
        let mut zones = Vec::<Bar>::new();
        for bar in bars(title.clone(), &endpoints, &shares, |e| e.locality.zone.to_string()).bars {
            match zones.iter_mut().find(|zone| zone.label == bar.label) {
                Some(zone) => (zone.by_weight, zone.got) = (zone.by_weight + bar.by_weight, zone.got + bar.got),
                None => zones.push(bar),
            }
        }
        let everybody = shares.iter().all(|share| *share > 0.0);
        Ok((home, Bars { title, bars: zones }, everybody))
    };
    let claimed = run.claims(Claim::Zone);
    let verdict = |holds: bool| match (claimed, holds) {
        (true, true) => Outcome::Ok,
        (true, false) => Outcome::Failed,
        (false, _) => Outcome::Observed,
    };
    match at_home(run, 4, 8) {
        Ok((home, bars, _)) => {
            run.report.shares.push(bars);
            let detail = format!("{:.1} % stays at home; by weight it would be 33.3 %", home * 100.0);
            run.note(SECTION, "three equal zones", verdict(home >= AT_HOME), detail);
        }
        Err(error) => run.note(SECTION, "three equal zones", Outcome::Failed, error),
    }
    match at_home(run, 1, 11) {
        Ok((home, bars, _)) => {
            run.report.shares.push(bars);
            let detail = format!("{:.1} % stays at home; by weight it would be 8.3 %", home * 100.0);
            run.note(SECTION, "a small zone", Outcome::Observed, detail);
        }
        Err(error) => run.note(SECTION, "a small zone", Outcome::Failed, error),
    }
    match at_home(run, 0, 12) {
        Ok((_, _, everybody)) => {
            let detail = if everybody { "the others all serve" } else { "some of the others get nothing" };
            run.note(SECTION, "nobody at home", verdict(everybody), detail);
        }
        Err(error) => run.note(SECTION, "nobody at home", Outcome::Failed, error),
    }
}
