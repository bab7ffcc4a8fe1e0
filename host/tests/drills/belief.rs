//! Holds what a node believed, step by step, against what etcd held.
//!
//! ```text
//!   etcd's history, by revision, as a plain watch tells it:   ─ +a ─ +b ─ +c ─ -b ─ …        (an era)
//!   what the node's calls could go to, as it was published:   {a b}@3  {a b c}@4  stale {a b c}@4  {a c}@5
//! ```
//!
//! Each believed set must be etcd's at the believed revision, or one of two exceptions that have a
//! name. *Stale*: etcd cannot be reached and the node says so; it keeps what it knew. *Held*: for a
//! moment after such a time, what etcd has lost meanwhile is kept (`registry::reconnect_grace`);
//! nobody is kept whom the step before did not have, and nobody is missing. Revisions never go
//! back, but to another era: the store was emptied, or put back to an older state.
//!
//! Steps that follow one another faster than a watch of the node's API reads them are seen as one.

use std::{collections::BTreeSet, time::Duration};

/// How long after etcd was away something may be held. Two seconds are wanted; the others are for
/// machines that are busy with other things.
const HELD_AFTER: Duration = Duration::from_secs(20);

/// One change in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    /// The instance: what stands after the service's prefix.
    pub(crate) instance: String,
    /// It was written; else it is gone.
    pub(crate) there: bool,
}

/// All changes of a store from its beginning, in order.
pub(crate) type Era = Vec<Event>;

/// One step of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Believed {
    /// Since the recording began.
    pub(crate) at: Duration,
    pub(crate) revision: i64,
    /// The registry has answered at least once.
    pub(crate) listed: bool,
    /// The node says that it does not know better.
    pub(crate) stale: bool,
    pub(crate) instances: BTreeSet<String>,
}

/// How many steps there were of each kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) exact: usize,
    pub(crate) stale: usize,
    pub(crate) held: usize,
}

fn at(era: &Era, revision: i64) -> BTreeSet<String> {
    let mut there = BTreeSet::new();
    for event in era.iter().take_while(|event| event.revision <= revision) {
        if event.there {
            there.insert(event.instance.clone());
        } else {
            there.remove(&event.instance);
        }
    }
    there
}

/// Goes through the steps in their order.
///
/// # Errors
///
/// The first step that is neither etcd's state at its revision nor an exception with a name.
pub(crate) fn check(eras: &[Era], steps: &[Believed]) -> Result<Checked, String> {
    let mut checked = Checked::default();
    let (mut era, mut revision, mut known) = (0, 0, BTreeSet::new());
    // When the node last did not know better.
    let mut away = None;
    for (nth, step) in steps.iter().enumerate() {
        let fault = |what: &str| {
            let held: Vec<_> = eras.iter().map(|era| at(era, step.revision)).collect();
            format!(
                "step {nth}, {step:?}: {what}; before: {known:?} at {revision}; etcd at that revision, by era: {held:?}"
            )
        };
        if !step.listed && step.instances.is_empty() {
            continue;
        }
        if step.stale {
            let least = eras.get(era).map(|era| at(era, revision)).unwrap_or_default();
            if step.revision != revision || !step.instances.is_subset(&known) || !least.is_subset(&step.instances) {
                return Err(fault("it learned something while it says that etcd is away"));
            }
            (away, checked.stale) = (Some(step.at), checked.stale + 1);
            known.clone_from(&step.instances);
            continue;
        }
        let may_hold = away.is_some_and(|away| step.at <= away + HELD_AFTER);
        let fits = |n: usize| {
            let there = at(&eras[n], step.revision);
            let is_new = n > era;
            if !is_new && step.revision < revision {
                return None;
            }
            let kept = || {
                (may_hold || is_new) && there.is_subset(&step.instances) && step.instances.is_subset(&(&there | &known))
            };
            if there == step.instances { Some(true) } else { kept().then_some(false) }
        };
        let found = (era..eras.len()).find_map(|n| Some((n, fits(n)?)));
        let Some((n, is_exact)) = found else {
            let back = step.revision < revision;
            return Err(fault(if back { "its revision went back" } else { "etcd did not hold that" }));
        };
        if n > era {
            (era, away) = (n, Some(step.at));
        }
        if is_exact {
            checked.exact += 1;
        } else {
            checked.held += 1;
        }
        (revision, known) = (step.revision, step.instances.clone());
    }
    Ok(checked)
}

#[cfg(test)]
#[allow(dead_code, reason = "the drills have a main function of their own, which runs no tests")]
mod tests {
    use super::*;

    fn set(names: &str) -> BTreeSet<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// `+a -a`, one change a revision, from 2 on as in a fresh etcd.
    fn era(changes: &str) -> Era {
        let event = |(revision, change): (i64, &str)| Event {
            revision,
            instance: change[1..].to_owned(),
            there: change.starts_with('+'),
        };
        (2..).zip(changes.split_whitespace()).map(event).collect()
    }

    fn step(seconds: u64, revision: i64, names: &str) -> Believed {
        Believed { at: Duration::from_secs(seconds), revision, listed: true, stale: false, instances: set(names) }
    }

    fn stale(seconds: u64, revision: i64, names: &str) -> Believed {
        Believed { stale: true, ..step(seconds, revision, names) }
    }

    #[test]
    fn what_etcd_held_at_each_revision_is_exact_whatever_was_left_out_between() {
        let eras = [era("+a +b +c -b")];
        let unlisted = Believed { listed: false, ..step(0, 0, "") };
        let steps = [unlisted, step(1, 3, "a b"), step(2, 3, "a b"), step(3, 5, "a c"), step(4, 9, "a c")];
        assert_eq!(check(&eras, &steps), Ok(Checked { exact: 4, ..Checked::default() }));
    }

    #[test]
    fn a_planted_fault_is_found_with_its_step() {
        let eras = [era("+a +b +c -b")];
        for (what, steps, says) in [
            ("somebody is missing", vec![step(1, 3, "a b"), step(2, 4, "a b")], "step 1"),
            ("somebody is there too early", vec![step(1, 3, "a b c")], "etcd did not hold that"),
            ("somebody is there who never was", vec![step(1, 3, "a b d")], "etcd did not hold that"),
            ("somebody is kept without an outage", vec![step(1, 4, "a b c"), step(2, 5, "a b c")], "step 1"),
            ("a revision goes back", vec![step(1, 4, "a b c"), step(2, 3, "a b")], "went back"),
            ("a set is of another revision", vec![step(1, 5, "a b c")], "etcd did not hold that"),
            ("something is learned while etcd is away", vec![step(1, 3, "a b"), stale(2, 3, "a b c")], "is away"),
            ("an outage empties the view", vec![step(1, 3, "a b"), stale(2, 3, "")], "is away"),
            ("a revision moves while etcd is away", vec![step(1, 3, "a b"), stale(2, 4, "a b")], "is away"),
            ("what is known at last is nobody", vec![step(1, 5, "")], "etcd did not hold that"),
        ] {
            let found = check(&eras, &steps).expect_err(what);
            assert!(found.contains(says), "{what}: {found}");
        }
    }

    #[test]
    fn after_an_outage_what_etcd_lost_is_held_for_a_while_and_nobody_else() {
        let eras = [era("+a +b -a -b +c")];
        let before = [step(1, 3, "a b"), stale(2, 3, "a b")];
        let with = |more: &[Believed]| check(&eras, &[&before[..], more].concat());
        let held = with(&[step(3, 5, "a b"), step(4, 6, "a b c"), step(5, 6, "c")]);
        assert_eq!(held, Ok(Checked { exact: 2, stale: 1, held: 2 }));
        assert!(with(&[step(3, 5, "a b"), step(4, 6, "a b")]).is_err(), "c is missing");
        assert!(with(&[step(3, 5, "a"), step(4, 5, "a b")]).is_err(), "b was let go, and is back");
        assert!(with(&[step(60, 5, "a b")]).is_err(), "held for too long");
    }

    #[test]
    fn a_store_that_was_emptied_or_put_back_begins_another_era_and_never_an_earlier_one() {
        let eras = [era("+a +b +c"), era("+a +d")];
        let steps = [step(1, 4, "a b c"), stale(2, 4, "a b c"), step(3, 3, "a b c d"), step(4, 3, "a d")];
        assert_eq!(check(&eras, &steps), Ok(Checked { exact: 2, stale: 1, held: 1 }));
        let steps = [step(1, 4, "a b c"), step(2, 3, "a d"), step(3, 4, "a b c")];
        let found = check(&eras, &steps).expect_err("back to the first era");
        assert!(found.contains("step 2"), "{found}");
    }
}
