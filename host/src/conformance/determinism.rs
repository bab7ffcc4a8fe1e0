//! The same input gives the same plan and the same picks: on another instance, in another engine,
//! however often and in whatever order it is asked. The host runs many instances of a policy, and
//! makes new ones whenever it likes.

use super::{Run, checked_build, made_up};
use crate::{
    model::Endpoint,
    policy::{Decision, PickContext, Picker, Plan},
};

const SECTION: &str = "determinism";

pub(super) fn check(run: &mut Run<'_>) {
    let sets = [made_up::mixed(10), made_up::mixed(1_000), made_up::any(&mut run.random(20), 50)];
    let result = plans(run, &sets, false);
    run.require(SECTION, "two builds", result);
    let result = plans(run, &sets, true);
    run.require(SECTION, "another engine", result);
    let picked = run.build(&sets[0]).is_ok_and(|plan| matches!(plan, Plan::EachRequest(_)));
    if picked {
        let result = picks(run, &sets[0]);
        run.require(SECTION, "picks", result);
    }
}

/// Whether two plans are equal, as far as can be seen without picking.
pub(super) fn same_plan(one: &Plan, other: &Plan) -> Result<(), String> {
    match (one, other) {
        (Plan::Rotation(a), Plan::Rotation(b)) | (Plan::HashTable(a), Plan::HashTable(b)) => {
            if a.len() != b.len() {
                return Err(format!("one plan has {} entries and the other {}", a.len(), b.len()));
            }
            match a.iter().zip(b).position(|(a, b)| a != b) {
                Some(at) => Err(format!("the plans differ at entry {at}: endpoint {} and endpoint {}", a[at], b[at])),
                None => Ok(()),
            }
        }
        (Plan::EachRequest(_), Plan::EachRequest(_)) => Ok(()),
        _ => Err(format!("one plan is a {} and the other a {}", one.kind(), other.kind())),
    }
}

fn plans(run: &Run<'_>, sets: &[Vec<Endpoint>], other_engine: bool) -> Result<String, String> {
    for endpoints in sets {
        let first = run.build(endpoints)?;
        let policy = if other_engine { &run.again } else { &run.policy };
        let second = checked_build(&**policy, &run.scope, endpoints)?;
        same_plan(&first, &second).map_err(|how| format!("for {} endpoints, {how}", endpoints.len()))?;
    }
    Ok("the same plans".into())
}

fn picks(run: &Run<'_>, endpoints: &[Endpoint]) -> Result<String, String> {
    let (mut random, n) = (run.random(21), run.tries(2_000, 500));
    let requests: Vec<_> = (0..n).map(|_| made_up::request(&mut random, endpoints.len())).collect();
    let picker = |plan| match plan {
        Plan::EachRequest(picker) => Ok(picker),
        plan => Err(format!("one build asks for each request, and one is a {}", plan.kind())),
    };
    let one = picker(run.build(endpoints)?)?;
    let other = picker(run.build(endpoints)?)?;
    let elsewhere = picker(checked_build(&*run.again, &run.scope, endpoints)?)?;
    let ask = |picker: &dyn Picker, (context, request): &(PickContext, made_up::Request)| -> Result<Decision, String> {
        picker.pick(*context, request).map_err(|error| error.to_string())
    };
    let expected = requests.iter().map(|request| ask(&*one, request)).collect::<Result<Vec<_>, _>>()?;
    let last_first: Vec<usize> = (0..n).rev().collect();
    let in_order: Vec<usize> = (0..n).collect();
    for (what, picker, order) in [
        ("asked once more", &one, &in_order),
        ("asked of another instance, the last first", &other, &last_first),
        ("asked of another engine", &elsewhere, &in_order),
    ] {
        for nth in order.iter().copied() {
            let answer = ask(&**picker, &requests[nth])?;
            if answer != expected[nth] {
                return Err(format!("pick {nth} answered {:?}, and {what} {answer:?}", expected[nth]));
            }
        }
    }
    Ok(format!("{n} picks, the same on 3 instances, in 2 orders"))
}
