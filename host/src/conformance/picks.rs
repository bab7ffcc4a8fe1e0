//! Picks of a policy that is asked for each request: in range, answered however long it runs, and
//! none for a weight of 0.

use super::{Claim, Run, made_up, report::Outcome};
use crate::policy::{Decision, Picker, Plan};

const SECTION: &str = "picks";

/// Whether picks can be relied on in the steps that follow.
pub(super) fn check(run: &mut Run<'_>) -> bool {
    match run.build(&made_up::mixed(10)) {
        Ok(Plan::EachRequest(_)) => {}
        Ok(plan) => {
            run.skip(SECTION, &format!("a {} answers without it", plan.kind()));
            return true;
        }
        // Built before, and not now: the determinism of its builds is what is wrong, and is looked
        // at.
        Err(error) => {
            run.note(SECTION, "index ranges", Outcome::Failed, error);
            return false;
        }
    }
    let result = index_ranges(run);
    let ranges = run.require(SECTION, "index ranges", result);
    if !ranges {
        return false;
    }
    let result = long_run(run);
    if !run.require(SECTION, "a long run", result) {
        return false;
    }
    names_endpoints(run);
    weight_0(run);
    heeds_tried(run);
    true
}

/// A plain request, of which nothing failed yet, among endpoints that can all be used, is there to
/// be sent. A policy that declines every one of them balances nothing; one that declines some (it
/// sheds load, it waits for a key) is looked at.
fn names_endpoints(run: &mut Run<'_>) {
    const CHECK: &str = "plain requests are sent";
    let (mut random, picks) = (run.random(14), run.tries(2_000, 500));
    let mut count = || -> Result<usize, String> {
        let mut declined = 0;
        for n in [1, 2, 10] {
            let Some(picker) = picker(run, &made_up::mixed(n))? else { continue };
            let mut declined_here = 0;
            for nth in 0..picks {
                let (mut context, mut request) = made_up::request(&mut random, n);
                (request.tried, context.attempt) = (Vec::new(), 0);
                let decision = picker.pick(context, &request).map_err(|error| format!("pick {nth} {error}"))?;
                declined_here += usize::from(request.target(&decision).is_none());
            }
            if declined_here == picks && !run.claims(Claim::Declines) {
                return Err(format!(
                    "it declined each of {picks} plain requests (queue, fail or drop) with {n} usable endpoint{}; if it is meant to, claim \
                     `declines`",
                    if n == 1 { "" } else { "s" }
                ));
            }
            declined += declined_here;
        }
        Ok(declined)
    };
    match count() {
        Ok(0) => run.note(SECTION, CHECK, Outcome::Ok, "each of them to an endpoint"),
        Ok(declined) => {
            run.note(SECTION, CHECK, Outcome::Observed, format!("{declined} of {} were declined", 3 * picks));
        }
        Err(error) => run.note(SECTION, CHECK, Outcome::Failed, error),
    }
}

/// The picker for these endpoints, if it is asked for each request of theirs.
fn picker(run: &Run<'_>, endpoints: &[crate::model::Endpoint]) -> Result<Option<Box<dyn Picker>>, String> {
    Ok(match run.build(endpoints)? {
        Plan::EachRequest(picker) => Some(picker),
        _ => None,
    })
}

/// A decision that a host can follow.
fn in_range(decision: &Decision, n: usize) -> Result<(), String> {
    let named: &[u32] = match decision {
        Decision::Endpoint(index) => &[*index],
        Decision::Either(a, b) => &[*a, *b],
        _ => &[],
    };
    match named.iter().find(|index| **index as usize >= n) {
        Some(index) => Err(format!("answered endpoint {index} of {n}")),
        None => Ok(()),
    }
}

fn index_ranges(run: &Run<'_>) -> Result<String, String> {
    let (mut random, each) = (run.random(10), run.tries(500, 100));
    let (sizes, mut declined) = ([1, 2, 3, 7, 10, 100, 1_000], 0);
    for n in sizes {
        let Some(picker) = picker(run, &made_up::mixed(n))? else { continue };
        for nth in 0..each {
            let (context, mut request) = made_up::request(&mut random, n);
            if nth % 20 == 19 {
                request.tried = (0..n as u32).collect();
            }
            let decision = picker.pick(context, &request);
            let decision = decision.map_err(|error| format!("pick {nth} among {n} endpoints {error}"))?;
            in_range(&decision, n).map_err(|wrong| format!("pick {nth} {wrong}"))?;
            declined += usize::from(request.target(&decision).is_none());
        }
    }
    let picks = sizes.len() * each;
    Ok(format!(
        "{picks} picks among 1 to 1,000 endpoints{}",
        match declined {
            0 => String::new(),
            declined => format!(", {declined} of them declined (queue, fail or drop)"),
        }
    ))
}

/// What goes wrong only after a while: a counter that overflows, memory that ends.
fn long_run(run: &Run<'_>) -> Result<String, String> {
    let (mut random, picks, n) = (run.random(11), run.tries(50_000, 5_000), 10);
    let Some(picker) = picker(run, &made_up::mixed(n))? else { return Ok(String::new()) };
    for nth in 0..picks {
        let (context, request) = made_up::request(&mut random, n);
        let decision = picker.pick(context, &request).map_err(|error| format!("pick {nth} {error}"))?;
        in_range(&decision, n).map_err(|wrong| format!("pick {nth} {wrong}"))?;
    }
    Ok(format!("{picks} picks, every one answered"))
}

fn weight_0(run: &mut Run<'_>) {
    let (mut random, picks) = (run.random(12), run.tries(2_000, 500));
    let mut endpoints = made_up::mixed(10);
    for endpoint in endpoints.iter_mut().step_by(2) {
        endpoint.weight = 0;
    }
    let mut tried = || {
        let Some(picker) = picker(run, &endpoints)? else { return Ok("it plans for such endpoints".to_owned()) };
        for nth in 0..picks {
            let (context, mut request) = made_up::request(&mut random, 10);
            request.tried.clear();
            let context = crate::policy::PickContext { attempt: 0, ..context };
            let decision = picker.pick(context, &request).map_err(|error| format!("pick {nth} {error}"))?;
            let named = match decision {
                Decision::Endpoint(index) => [index, index],
                Decision::Either(a, b) => [a, b],
                _ => continue,
            };
            if let Some(index) = named.iter().find(|index| **index % 2 == 0) {
                return Err(format!("pick {nth} sends to endpoint {index}, which has weight 0"));
            }
        }
        Ok("gets nothing".to_owned())
    };
    let result = tried();
    run.require(SECTION, "weight 0", result);
}

/// How often a further attempt names an endpoint that the request has failed on. The host asks
/// again then, and at last rotates.
fn heeds_tried(run: &mut Run<'_>) {
    let (mut random, picks) = (run.random(13), run.tries(2_000, 500));
    let mut count = || -> Result<usize, String> {
        let Some(picker) = picker(run, &made_up::mixed(10))? else { return Ok(0) };
        let mut again = 0;
        for _ in 0..picks {
            let (mut context, mut request) = made_up::request(&mut random, 10);
            (request.tried, context.attempt) = (Vec::new(), 0);
            let first = picker.pick(context, &request).map_err(|error| error.to_string())?;
            let Some(first) = request.target(&first) else { continue };
            (request.tried, context.attempt) = (vec![first], 1);
            let second = picker.pick(context, &request).map_err(|error| error.to_string())?;
            again += usize::from(request.target(&second) == Some(first));
        }
        Ok(again)
    };
    let (outcome, detail) = match count() {
        Ok(0) => (Outcome::Observed, "a second attempt never goes where the first one failed".into()),
        Ok(again) => {
            let part = again as f64 / picks as f64 * 100.0;
            (
                Outcome::Observed,
                format!("{part:.1} % of second attempts name the endpoint that failed; the host asks again"),
            )
        }
        Err(error) => (Outcome::Failed, error),
    };
    run.note(SECTION, "further attempts", outcome, detail);
}
