//! Whether keys stay where they are when another endpoint leaves or joins.
//!
//! A hash table claims it by being one. A policy that is asked is looked at: if equal keys go to
//! the same endpoint whatever else the request is, and different ones to several, it goes by the
//! key.

use std::collections::BTreeSet;

use super::{Claim, Run, made_up, report::Outcome};
use crate::{
    model::Endpoint,
    policy::{PickContext, Picker, Plan},
};

const SECTION: &str = "stability";

/// The endpoints before one leaves.
const ENDPOINTS: usize = 20;

/// So many of the keys of endpoints that stay may move, in parts of 1. Maglev moves about 3 %
/// (section 5.3 of its paper), a ring none; a plain modulo moves 95 %.
const MAY_MOVE: f64 = 0.1;

/// Where each key goes, by instance.
pub(super) type Places = Vec<Option<String>>;

pub(super) fn check(run: &mut Run<'_>) {
    let keys: Vec<String> = (0..run.tries(10_000, 2_000)).map(|n| format!("user-{n}")).collect();
    let all = made_up::alike(ENDPOINTS, &run.options.zone);
    let inferred = match run.build(&all) {
        Ok(Plan::HashTable(_)) => true,
        Ok(Plan::EachRequest(picker)) => match keyed(&mut run.random(40), &*picker, &keys) {
            Ok(true) => true,
            Ok(false) => return unkeyed(run, "it does not go by the key"),
            Err(error) => return run.note(SECTION, "keys", Outcome::Failed, error),
        },
        Ok(Plan::Rotation(_)) => return unkeyed(run, "a rotation does not go by the key"),
        Err(error) => return run.note(SECTION, "keys", Outcome::Failed, error),
    };
    let mut without = all.clone();
    let gone = without.remove(ENDPOINTS / 2);
    let compared =
        || Ok::<_, String>((places(run.build(&all)?, &all, &keys)?, places(run.build(&without)?, &without, &keys)?));
    match compared() {
        Ok((before, after)) => {
            leaves(run, inferred, &before, &after, gone.id.as_str());
            joins(run, inferred, &after, &before, gone.id.as_str());
        }
        Err(error) => run.note(SECTION, "an endpoint leaves", Outcome::Failed, error),
    }
}

fn unkeyed(run: &mut Run<'_>, why: &str) {
    let outcome = if run.claims(Claim::Stable) { Outcome::Failed } else { Outcome::Skipped };
    run.note(SECTION, "keys", outcome, why);
}

fn place(picker: &dyn Picker, key: &str, sequence: u32, random: (u32, u32)) -> Result<Option<u32>, String> {
    let request = made_up::Request::keyed(key);
    let context = PickContext { sequence, random, hash: Some(made_up::hash(key)), attempt: 0 };
    let decision = picker.pick(context, &request).map_err(|error| error.to_string())?;
    Ok(request.target(&decision))
}

/// Whether a policy that is asked goes by the key.
pub(super) fn keyed(random: &mut fastrand::Rng, picker: &dyn Picker, keys: &[String]) -> Result<bool, String> {
    let mut seen = BTreeSet::new();
    for key in keys.iter().take(200) {
        let first = place(picker, key, random.u32(..), (random.u32(..), random.u32(..)))?;
        let second = place(picker, key, random.u32(..), (random.u32(..), random.u32(..)))?;
        if first != second {
            return Ok(false);
        }
        seen.insert(first);
    }
    Ok(seen.len() > 1)
}

/// Where each key goes with the plan of these endpoints.
pub(super) fn places(plan: Plan, endpoints: &[Endpoint], keys: &[String]) -> Result<Places, String> {
    let name = |index: u32| endpoints[index as usize].id.to_string();
    match plan {
        Plan::HashTable(table) => {
            Ok(keys.iter().map(|key| Some(name(table[made_up::hash(key) as usize % table.len()]))).collect())
        }
        Plan::EachRequest(picker) => {
            keys.iter().map(|key| Ok(place(&*picker, key, 0, (1, 2))?.map(name))).collect::<Result<_, String>>()
        }
        Plan::Rotation(_) => Err("with one endpoint less it plans a rotation".into()),
    }
}

/// Of the keys that did not go to `endpoint` in `its`, as many as there are, and how many of them
/// go elsewhere in `other`.
pub(super) fn moved(its: &Places, other: &Places, endpoint: &str) -> (usize, usize) {
    let rest = its.iter().zip(other).filter(|(its, _)| its.as_deref() != Some(endpoint));
    rest.fold((0, 0), |(all, moved), (its, other)| (all + 1, moved + usize::from(its != other)))
}

/// Of the keys that were not the lost endpoint's, how many moved.
fn leaves(run: &mut Run<'_>, inferred: bool, before: &Places, after: &Places, gone: &str) {
    let (all, moved) = moved(before, after, gone);
    let own = before.len() - all;
    let detail = format!(
        "{:.1} % of the keys were its own; of the others, {:.1} % moved",
        percent(own, before.len()),
        percent(moved, all)
    );
    verdict(run, inferred, "an endpoint leaves", moved, all, detail);
}

/// Of the keys that do not go to the new endpoint, how many moved.
fn joins(run: &mut Run<'_>, inferred: bool, before: &Places, after: &Places, new: &str) {
    let (all, moved) = moved(after, before, new);
    let own = before.len() - all;
    let detail = format!(
        "it takes {:.1} % of the keys; of the others, {:.1} % moved",
        percent(own, before.len()),
        percent(moved, all)
    );
    verdict(run, inferred, "an endpoint joins", moved, all, detail);
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

fn verdict(run: &mut Run<'_>, inferred: bool, check: &'static str, moved: usize, all: usize, detail: String) {
    let holds = moved as f64 <= MAY_MOVE * all as f64;
    let outcome = match (inferred || run.claims(Claim::Stable), holds) {
        (true, true) => Outcome::Ok,
        (true, false) => Outcome::Failed,
        (false, _) => Outcome::Observed,
    };
    run.note(SECTION, check, outcome, detail);
}
