//! A key scheme: its prefixes, what it writes and reads back, what it makes of entries that it did
//! not write.
//!
//! Schemes differ in what they can name and write: some take no `/` in a service's name, some only
//! ids that are the address or a number, some nothing at all, because they only read what others
//! write. What one takes is found out first, and the rest is tried with that.

mod form;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::form::{Form, lease, name_a_service};
use super::{
    Options,
    cost::Samples,
    made_up,
    memory::{MAY_GROW, resident_memory},
    report::{Outcome, Report},
};
use crate::{
    model::{Endpoint, InstanceId, LeaseId, Locality, ServiceName, Ttl},
    naming::{Entry, KeyScheme, NamingError},
};

/// A key scheme under test.
pub(super) struct SchemeUnderTest<'a> {
    pub(super) scheme: &'a dyn KeyScheme,
    /// The same from another engine.
    pub(super) again: &'a dyn KeyScheme,
    /// It warns of itself: what breaks the interface's rules is then observed, not failed.
    pub(super) warned: bool,
    /// See `super::PolicyUnderTest::memory`.
    pub(super) memory: Box<dyn Fn() -> usize + 'a>,
}

/// The lease of who registers alone.
const LEASE: LeaseId = LeaseId(0x1234_5678_9abc);

/// What is tried is named in order of what it needs: without prefixes there is nothing to write.
pub(super) fn check(subject: &SchemeUnderTest<'_>, options: &Options, report: &mut Report) {
    let (service, prefixes) = name_a_service(subject.scheme);
    let mut kit = Kit {
        subject,
        service,
        form: Form::ReadOnly,
        prefixes: prefixes.clone().unwrap_or_default(),
        tries: |full, quick| if options.quick { quick } else { full },
        random: fastrand::Rng::with_seed(options.seed),
    };
    let prefixes = prefixes.map(|prefixes| prefixes.join(", ")).map_err(|error| error.to_string());
    if !report.require("keys", "prefixes", prefixes) {
        for section in ["round trip", "foreign entries", "determinism", "cost", "memory"] {
            report.note(section, "all of it", Outcome::Skipped, "there are no prefixes");
        }
        return;
    }
    match kit.find_form() {
        Ok(form) => kit.form = form,
        Err(error) => {
            report.note("keys", "under the prefixes", Outcome::Failed, error);
            for section in ["round trip", "foreign entries", "determinism", "cost", "memory"] {
                report.note(section, "all of it", Outcome::Skipped, "it writes no instance");
            }
            return;
        }
    }
    if kit.form == Form::ReadOnly {
        report.note("keys", "writing", Outcome::Observed, "it only reads: it refuses to write any instance");
        report.note("round trip", "all of it", Outcome::Skipped, "it only reads");
    } else {
        report.require("keys", "under the prefixes", kit.under_prefixes());
        report.require("keys", "one for each instance", kit.distinct());
        kit.others(report);
        kit.lease(report);
        kit.round_trip(report);
    }
    report.require("foreign entries", "garbage values", kit.garbage());
    report.require("foreign entries", "garbage keys", kit.garbage_keys());
    report.require("determinism", "another instance and engine", kit.determinism());
    match kit.cost(options.quick, report) {
        Ok(()) => report.note("cost", "each function", Outcome::Observed, "see the figures"),
        Err(error) => {
            let outcome = if report.limit.has_cut() { Outcome::Cut } else { Outcome::Skipped };
            report.note("cost", "each function", outcome, error);
        }
    }
    kit.memory(report);
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a plain name")
}

struct Kit<'a, F> {
    subject: &'a SchemeUnderTest<'a>,
    service: ServiceName,
    /// What is tried where any instance will do.
    form: Form,
    prefixes: Vec<String>,
    tries: F,
    random: fastrand::Rng,
}

impl<F: Fn(usize, usize) -> usize> Kit<'_, F> {
    fn encode(&self, service: &ServiceName, endpoint: &Endpoint, lease: LeaseId) -> Result<Vec<Entry>, NamingError> {
        self.subject.scheme.encode(service, endpoint, lease, Ttl::DEFAULT)
    }

    /// The first form that it does not refuse; an error when it fails.
    fn find_form(&self) -> Result<Form, String> {
        for form in Form::ALL {
            match self.encode(&self.service, &form.instance(1), lease(1)) {
                Ok(_) => return Ok(form),
                Err(NamingError::Refused { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Form::ReadOnly)
    }

    /// What it wrote; where it writes nothing, something under its prefixes.
    fn plain(&self) -> Vec<Entry> {
        if self.form == Form::ReadOnly {
            let address = made_up::address(1);
            let value = format!(r#"{{"Addr":"{address}","address":"{address}"}}"#).into_bytes();
            return self
                .prefixes
                .iter()
                .map(|it| Entry { key: format!("{it}instance-1"), value: value.clone() })
                .collect();
        }
        // Required before everything that uses it.
        self.encode(&self.service, &self.form.instance(1), lease(1)).unwrap_or_default()
    }

    /// Instances of all sorts: ids that are addresses, as Go's users have them, and others.
    fn instances(&self) -> Vec<Endpoint> {
        let mut random = self.random.clone();
        let mut instances = vec![Endpoint::at(made_up::address(1)), made_up::endpoint(2)];
        // Some that it writes, whatever else it refuses.
        instances.extend((1_000..1_003).map(|n| self.form.instance(n)));
        for n in 3..(self.tries)(300, 60) {
            let pairs: BTreeMap<String, String> =
                (0..random.usize(..4)).map(|pair| (format!("k{pair}"), made_up::text(&mut random, 30))).collect();
            let endpoint = Endpoint {
                weight: random.choice([0, 1, 1, 7, u32::MAX]).unwrap_or(1),
                locality: Locality::zone(random.choice(["", "zone-a", "zürich \"1\""]).unwrap_or_default()),
                metadata: pairs.into_iter().collect::<Arc<[_]>>(),
                ..Endpoint::at(made_up::address(n))
            };
            let id = if random.bool() { endpoint.id.clone() } else { InstanceId::new(format!("instance-{n}")) };
            instances.push(Endpoint { id, ..endpoint });
        }
        instances
    }

    fn under_prefixes(&self) -> Result<String, String> {
        // The host checks it, with this error.
        let written =
            self.encode(&self.service, &self.form.instance(2), lease(2)).map_err(|error| error.to_string())?;
        Ok(written.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>().join(", "))
    }

    fn distinct(&self) -> Result<String, String> {
        let mut keys = BTreeSet::new();
        let n = 100;
        for nth in 0..n {
            let written = self.encode(&self.service, &self.form.instance(nth), lease(nth));
            for entry in written.map_err(|error| error.to_string())? {
                if !keys.insert(entry.key.clone()) {
                    return Err(format!("two instances have the key {:?}: one would overwrite the other", entry.key));
                }
            }
        }
        Ok(format!("{} keys for {n} instances", keys.len()))
    }

    /// What this service sees of another one, by name.
    fn sees(&self, other: &str) -> Result<bool, String> {
        let entries = match self.encode(&service(other), &self.form.instance(1), lease(1)) {
            Ok(entries) => entries,
            // A name that it cannot hold is in nobody's way.
            Err(NamingError::Refused { .. }) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let read = |entry: &&Entry| self.prefixes.iter().any(|prefix| entry.key.starts_with(prefix.as_str()));
        for entry in entries.iter().filter(read) {
            match self.subject.scheme.decode(&self.service, entry) {
                Ok(decoded) if !decoded.endpoints.is_empty() => return Ok(true),
                Err(error @ NamingError::Failed { .. }) => return Err(error.to_string()),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Which other services' instances it takes for its own.
    fn others(&self, report: &mut Report) {
        const CHECK: &str = "other services";
        let mut seen = Vec::new();
        let own = &self.service;
        let others = [format!("{own}2"), format!("{own}ing"), "waymark".into(), "waymark/other".into(), "other".into()];
        for other in others {
            match self.sees(&other) {
                Ok(true) => seen.push(other),
                Ok(false) => {}
                Err(error) => return report.note("keys", CHECK, Outcome::Failed, error),
            }
        }
        let (outcome, detail) = match (seen.is_empty(), self.subject.warned) {
            (true, _) => (Outcome::Ok, "none of their instances is taken for its own".to_owned()),
            (false, true) => {
                (Outcome::Observed, format!("takes those of {} for its own, as it warns", seen.join(", ")))
            }
            (false, false) => (Outcome::Failed, format!("takes those of {} for its own", seen.join(", "))),
        };
        report.note("keys", CHECK, outcome, detail);
        match self.sees(&format!("{own}/inner")) {
            Ok(true) => {
                let detail = format!("{own} sees the instances of {own}/inner as its own");
                report.note("keys", "nested services", Outcome::Observed, detail);
            }
            Ok(false) => report.note("keys", "nested services", Outcome::Ok, "are kept apart"),
            Err(error) => report.note("keys", "nested services", Outcome::Failed, error),
        }
    }

    fn lease(&self, report: &mut Report) {
        let instance = self.form.instance(1);
        let keys = |lease| -> Result<Vec<Entry>, NamingError> {
            self.subject.scheme.encode(&self.service, &instance, lease, Ttl::DEFAULT)
        };
        let (outcome, detail) = match (keys(LeaseId(1)), keys(LeaseId(i64::MAX))) {
            (Ok(one), Ok(other)) if one == other => (Outcome::Observed, "is not written".to_owned()),
            (Ok(one), Ok(other)) if one.iter().zip(&other).all(|(a, b)| a.key == b.key) => {
                (Outcome::Observed, "stands in the value".to_owned())
            }
            (Ok(_), Ok(other)) => (Outcome::Observed, format!("stands in the key: {}", other[0].key)),
            (Err(error), _) | (_, Err(error)) => (Outcome::Failed, error.to_string()),
        };
        report.note("keys", "lease", outcome, detail);
    }

    fn round_trip(&self, report: &mut Report) {
        let (mut refused, mut lost) = (0, BTreeSet::new());
        let (mut ids, mut renamed) = (BTreeMap::new(), BTreeSet::new());
        let instances = self.instances();
        for (nth, instance) in instances.iter().enumerate() {
            let entries = match self.encode(&self.service, instance, lease(nth)) {
                Ok(entries) => entries,
                Err(NamingError::Refused { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => return report.note("round trip", "instances", Outcome::Failed, error.to_string()),
            };
            let read = match self.read_back(&entries, instance) {
                Ok(read) => read,
                Err(wrong) => return report.note("round trip", "instances", Outcome::Failed, wrong),
            };
            lost.extend(lost_of(&read, instance));
            // It may be known by another id, as long as nobody else is.
            if read.id != instance.id {
                renamed.insert(if read.id.as_str() == read.address.as_str() {
                    "the address"
                } else {
                    "one of its own"
                });
            }
            if let Some(other) = ids.insert(read.id.clone(), instance.id.clone()) {
                let wrong = format!("instances {other} and {} are both read back with the id {}", instance.id, read.id);
                return report.note("round trip", "instances", Outcome::Failed, wrong);
            }
        }
        if refused == instances.len() {
            return report.note("round trip", "instances", Outcome::Failed, "it refused every one");
        }
        let kept = instances.len() - refused;
        let what = if renamed.is_empty() { "id and address kept" } else { "address kept" };
        let detail = match refused {
            0 => format!("{kept} instances, {what}"),
            refused => format!("{kept} instances, {what}; {refused} refused"),
        };
        report.note("round trip", "instances", Outcome::Ok, detail);
        if !renamed.is_empty() {
            let ids = renamed.into_iter().collect::<Vec<_>>().join(" or ");
            report.note("round trip", "ids", Outcome::Observed, format!("an instance's id is read back as {ids}"));
        }
        let (outcome, detail) = if lost.is_empty() {
            (Outcome::Ok, "zone, weight and metadata kept".to_owned())
        } else {
            (Outcome::Observed, format!("does not hold every {}", lost.into_iter().collect::<Vec<_>>().join(", ")))
        };
        report.note("round trip", "attributes", outcome, detail);
    }

    /// What the instance is read back as; an error when that is nobody, or somebody else.
    fn read_back(&self, entries: &[Entry], instance: &Endpoint) -> Result<Endpoint, String> {
        // By their ids: several entries may say the same of one instance, and the last one counts.
        let mut back = BTreeMap::new();
        for entry in entries {
            let decoded = self.subject.scheme.decode(&self.service, entry).map_err(|error| error.to_string())?;
            back.extend(decoded.endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)));
        }
        let n = back.len();
        let Some(read) = back.into_values().next().filter(|_| n == 1) else {
            return Err(format!("instance {} was read back as {n} instances", instance.id));
        };
        if read.address != instance.address {
            return Err(format!(
                "instance {} at {} was read back as {} at {}",
                instance.id, instance.address, read.id, read.address
            ));
        }
        Ok(read)
    }

    /// Reading something that it did not write ends with an answer or a refusal, and never with a
    /// failure.
    fn garbage(&self) -> Result<String, String> {
        let mut random = self.random.clone();
        let Some(entry) = self.plain().into_iter().next() else { return Err("it wrote nothing".into()) };
        let mut values = vec![Vec::new(), vec![0xff, 0xfe], b"{".to_vec(), b"[1,2,3]".to_vec(), b"null".to_vec()];
        values.push(b"[".repeat(100_000));
        values.push(vec![b'x'; 1 << 20]);
        values.extend((0..entry.value.len()).map(|end| entry.value[..end].to_vec()));
        for _ in 0..(self.tries)(2_000, 300) {
            let mut value = entry.value.clone();
            match random.u8(..3) {
                0 => value = (0..random.usize(..200)).map(|_| random.u8(..)).collect(),
                1 if !value.is_empty() => {
                    let at = random.usize(..value.len());
                    value[at] = random.u8(..);
                }
                _ => value.extend((0..random.usize(1..9)).map(|_| random.u8(..))),
            }
            values.push(value);
        }
        let all = values.len();
        let mut read = 0;
        for value in values {
            let entry = Entry { key: entry.key.clone(), value };
            match self.subject.scheme.decode(&self.service, &entry) {
                Ok(decoded) => read += usize::from(!decoded.endpoints.is_empty()),
                Err(error @ NamingError::Failed { .. }) => {
                    let begins = String::from_utf8_lossy(&entry.value[..entry.value.len().min(40)]).into_owned();
                    return Err(format!("a value of {} bytes that begins {begins:?}: {error}", entry.value.len()));
                }
                Err(_) => {}
            }
        }
        Ok(format!("{all} values, {read} of them readable, no failure"))
    }

    fn garbage_keys(&self) -> Result<String, String> {
        let mut random = self.random.clone();
        let Some(entry) = self.plain().into_iter().next() else { return Err("it wrote nothing".into()) };
        let mut keys = vec![String::new(), "/".into(), "x".repeat(1 << 16), entry.key.repeat(2)];
        keys.extend(entry.key.char_indices().map(|(end, _)| entry.key[..end].to_owned()));
        keys.extend((0..(self.tries)(500, 100)).map(|_| format!("{}{}", entry.key, made_up::text(&mut random, 40))));
        let all = keys.len();
        for key in keys {
            let entry = Entry { key, value: entry.value.clone() };
            if let Err(error @ NamingError::Failed { .. }) = self.subject.scheme.decode(&self.service, &entry) {
                return Err(error.to_string());
            }
        }
        Ok(format!("{all} keys, no failure"))
    }

    fn determinism(&self) -> Result<String, String> {
        let (scheme, again) = (self.subject.scheme, self.subject.again);
        let differs = |what: &str| format!("two calls of {what} with the same input answered differently");
        if [scheme, again].iter().any(|s| s.prefixes(&self.service) != scheme.prefixes(&self.service)) {
            return Err(differs("prefixes"));
        }
        let instances = self.instances();
        for instance in &instances {
            let entries = self.encode(&self.service, instance, LEASE);
            let other = again.encode(&self.service, instance, LEASE, Ttl::DEFAULT);
            if entries != self.encode(&self.service, instance, LEASE) || entries != other {
                return Err(differs("encode"));
            }
            for entry in entries.into_iter().flatten().chain(self.plain()) {
                let decoded = scheme.decode(&self.service, &entry);
                if decoded != scheme.decode(&self.service, &entry) || decoded != again.decode(&self.service, &entry) {
                    return Err(differs("decode"));
                }
            }
        }
        Ok(match self.form {
            Form::ReadOnly => "the same answers".to_owned(),
            _ => format!("{} instances, the same entries", instances.len()),
        })
    }

    fn cost(&self, quick: bool, report: &mut Report) -> Result<(), String> {
        const BATCH: u32 = 50;
        let instance = self.instances().pop().unwrap_or_else(|| made_up::endpoint(1));
        let entries = self.encode(&self.service, &instance, LEASE).unwrap_or_else(|_| self.plain());
        let Some(entry) = entries.first() else { return Err("it writes nothing".into()) };
        let text = |error: NamingError| error.to_string();
        let call = |call: &'static str| match call {
            "prefixes" => self.subject.scheme.prefixes(&self.service).map(drop).map_err(text),
            "encode" => self
                .subject
                .scheme
                .encode(&self.service, &self.form.instance(1), LEASE, Ttl::DEFAULT)
                .map(drop)
                .map_err(text),
            // What it makes of what others wrote is not known here; that it is not its own takes
            // time as well.
            _ => match self.subject.scheme.decode(&self.service, entry) {
                Err(error @ NamingError::Unreadable { .. }) if self.form != Form::ReadOnly => Err(text(error)),
                Err(error @ NamingError::Failed { .. }) => Err(text(error)),
                _ => Ok(()),
            },
        };
        let writes = self.form != Form::ReadOnly;
        for name in ["prefixes", "encode", "decode"].into_iter().filter(|name| writes || *name != "encode") {
            let mut samples = Samples::bounded(quick, &report.limit);
            while samples.want_more() {
                samples.take(BATCH, || (0..BATCH).try_for_each(|_| call(name)))?;
            }
            report.cost.push(samples.finish(name, 1, 0));
        }
        Ok(())
    }

    /// One instance serves many calls, so it must not keep something of each.
    fn memory(&self, report: &mut Report) {
        let (rounds, began) = ((self.tries)(10_000, 1_000), Instant::now());
        let limit = Duration::from_secs((self.tries)(60, 10) as u64);
        let (mut grew, mut resident, mut done) = ([false; 4], None, 0);
        (self.subject.memory)();
        'rounds: for (quarter, grew) in grew.iter_mut().enumerate() {
            for nth in 0..rounds / 4 {
                let read = |entry: &Entry| match self.subject.scheme.decode(&self.service, entry) {
                    Err(NamingError::Unreadable { .. }) if self.form == Form::ReadOnly => Ok(()),
                    answer => answer.map(drop),
                };
                let entries = match self.form {
                    Form::ReadOnly => Ok(self.plain()),
                    form => self.encode(&self.service, &form.instance(nth), LEASE),
                };
                if let Err(error) = entries.and_then(|entries| entries.iter().try_for_each(read)) {
                    return report.note("memory", "linear memory", Outcome::Failed, error.to_string());
                }
                done += 1;
                if began.elapsed() > limit {
                    break 'rounds;
                }
            }
            *grew = (self.subject.memory)() > 0;
            if quarter == 0 {
                resident = resident_memory();
            }
        }
        let linear = match grew {
            [_, _, false, false] => Ok(format!("no growth in the later half of {done} writes and reads")),
            _ if grew.iter().filter(|grew| **grew).count() > 1 => {
                Err(format!("an instance still grows after {done} writes and reads"))
            }
            _ => Ok(format!("grew once in {done} writes and reads")),
        };
        report.require("memory", "linear memory", linear);
        if let (Some(before), Some(after)) = (resident, resident_memory()) {
            let grown = after.saturating_sub(before);
            let detail = format!("grew by {} KiB; at most {} are in bounds", grown >> 10, MAY_GROW >> 10);
            report.require("memory", "the host's memory", if grown <= MAY_GROW { Ok(detail) } else { Err(detail) });
        }
    }
}

/// What of the instance is not read back.
fn lost_of(read: &Endpoint, instance: &Endpoint) -> Vec<&'static str> {
    let mut lost = Vec::new();
    lost.extend((read.locality != instance.locality).then_some("zone"));
    lost.extend((read.weight != instance.weight).then_some("weight"));
    lost.extend((read.metadata != instance.metadata).then_some("metadata"));
    lost
}
