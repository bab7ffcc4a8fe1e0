//! What the demo found out, and whether that is what it should be: as a table for people, as JSON
//! for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    load::CallCounts,
    shares::{Expected, expected, percent},
    view::Known,
};
use crate::{
    admin::client::{PolicyStatus, SwapTimes},
    cli::output::{self, Cell},
};

/// Everything the demo found out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether everything was as it should be.
    pub(super) ok: bool,
    /// Where the registry was: `embedded`, or its endpoints.
    pub(super) registry: String,
    /// How long it took.
    pub(super) seconds: f64,
    /// The study note's part.
    pub(super) note: Option<NoteReport>,
    /// Each policy that ran.
    pub(super) policies: Vec<PolicyReport>,
    /// The killed instance.
    pub(super) kill: Option<KillReport>,
    /// The new instance.
    pub(super) join: Option<JoinReport>,
    /// All calls of the clients.
    pub(super) calls: CallsReport,
    /// What was not as it should be, in words.
    pub(super) problems: Vec<String>,
}

/// The study note's keys and replies.
#[derive(Debug, Serialize)]
pub(super) struct NoteReport {
    /// Keys and values as they were read from the registry.
    pub(super) entries: Vec<(String, String)>,
    /// Whether the servers had the note's ports.
    pub(super) ports_as_in_the_note: bool,
    /// What each kind of call was answered with.
    pub(super) calls: Vec<NoteCalls>,
}

/// Some calls of one kind, and their answers.
#[derive(Debug, Serialize)]
pub(super) struct NoteCalls {
    /// The method.
    pub(super) method: &'static str,
    /// The service it was called on.
    pub(super) service: &'static str,
    /// How the keys were read.
    pub(super) key_scheme: &'static str,
    /// Replies and status codes, each with its count.
    pub(super) answers: Vec<(String, u32)>,
    /// The message of the first failure.
    pub(super) words: Option<String>,
}

/// One policy that ran.
#[derive(Debug, Serialize)]
pub(super) struct PolicyReport {
    /// Its name.
    pub(super) name: String,
    /// `rotation`, `hash-table` or `each-request`.
    pub(super) plan: String,
    /// Its component's SHA-256.
    pub(super) sha256: String,
    /// `bundled`, or the file.
    pub(super) origin: String,
    /// How long the parts of the swap took inside the node.
    pub(super) swap: Option<SwapTimes>,
    /// From the request to set it until its answer, as the caller saw it.
    pub(super) swap_round_trip_seconds: f64,
    /// Calls answered while it ran.
    pub(super) answered: u64,
    /// Calls failed while it ran.
    pub(super) failed: u64,
    /// The shares of the instances.
    pub(super) shares: Vec<ShareReport>,
}

/// The share of one instance under one policy.
#[derive(Debug, Serialize)]
pub(super) struct ShareReport {
    /// Its number.
    pub(super) instance: usize,
    /// Its address.
    pub(super) address: String,
    /// Its zone.
    pub(super) zone: String,
    /// Its weight.
    pub(super) weight: u32,
    /// What it should have got.
    pub(super) expected: Option<Expected>,
    /// What it got.
    pub(super) seen: f64,
    /// Whether that is within the tolerance.
    pub(super) ok: bool,
}

/// What became of the killed instance.
#[derive(Debug, Serialize)]
pub(super) struct KillReport {
    /// Its number.
    pub(super) instance: usize,
    /// Its address.
    pub(super) address: String,
    /// Its lease's time to live.
    pub(super) ttl_seconds: u32,
    /// How long after its death its key was gone.
    pub(super) key_gone_after_seconds: f64,
    /// Calls made while its key was still there, all answered by others.
    pub(super) calls_meanwhile: u64,
    /// Calls that it had begun to answer when it died. Their answers had reached the callers in
    /// part: nothing can replace them.
    pub(super) cut_off: u64,
}

/// What became of the new instance.
#[derive(Debug, Serialize)]
pub(super) struct JoinReport {
    /// Its number.
    pub(super) instance: usize,
    /// Its address.
    pub(super) address: String,
    /// How long after it was registered it answered its first call.
    pub(super) first_answer_after_seconds: f64,
}

/// All calls of the clients.
#[derive(Debug, Default, Serialize)]
pub(super) struct CallsReport {
    /// Calls made.
    pub(super) total: u64,
    /// Calls that failed and should not have.
    pub(super) failed: u64,
    /// Calls cut off by the kill.
    pub(super) cut_off: u64,
    /// The first failures, in words.
    pub(super) failures: Vec<String>,
}

impl PolicyReport {
    /// Compares what was seen under a policy with what its rule says.
    pub(super) fn new(
        status: &PolicyStatus,
        round_trip: f64,
        zone: &str,
        known: &[&Known],
        tally: &CallCounts,
    ) -> Self {
        let policy = &status.running;
        let members: Vec<_> = known.iter().map(|known| known.member.clone()).collect();
        let shares = expected(&policy.name, &policy.config, zone, &members);
        let calls = tally.answered();
        let share = |(place, known): (usize, &&Known)| {
            let expected = shares.as_ref().map(|shares| shares[place]);
            let seen = tally.share(&known.address);
            ShareReport {
                instance: known.number,
                address: known.address.clone(),
                zone: known.member.zone.clone(),
                weight: known.member.weight,
                expected,
                seen,
                ok: expected.is_none_or(|expected| expected.is_met(seen, calls)),
            }
        };
        Self {
            name: policy.name.clone(),
            plan: policy.plan.clone(),
            sha256: policy.sha256.clone(),
            origin: policy.origin.clone(),
            swap: status.swap,
            swap_round_trip_seconds: round_trip,
            answered: calls,
            failed: tally.failures,
            shares: known.iter().enumerate().map(share).collect(),
        }
    }
}

impl Report {
    /// Draws the conclusion, once everything has happened.
    pub(super) fn conclude(&mut self) {
        let mut problems = std::mem::take(&mut self.problems);
        if self.calls.failed > 0 {
            problems.push(format!("{} call(s) failed that should not have", self.calls.failed));
        }
        for policy in &self.policies {
            for share in policy.shares.iter().filter(|share| !share.ok) {
                problems.push(format!(
                    "under {}, instance #{} got {} of the calls instead of {}",
                    policy.name,
                    share.instance,
                    percent(share.seen),
                    share.expected.map_or_else(String::new, Expected::text)
                ));
            }
        }
        if let Some(kill) = &self.kill
            && kill.key_gone_after_seconds > f64::from(kill.ttl_seconds) + EXPIRY_MARGIN
        {
            problems.push(format!(
                "the killed instance's key was there for {:.1} s, its TTL is {} s",
                kill.key_gone_after_seconds, kill.ttl_seconds
            ));
        }
        if let Some(note) = &self.note {
            problems.extend(note.problems());
        }
        self.ok = problems.is_empty();
        self.problems = problems;
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        line(&self.policies_table());
        line("");
        line(&self.swaps_table());
        line("");
        if let Some(kill) = &self.kill {
            line(&format!(
                "Killed #{}: its key was gone after {:.1} s (TTL {} s); {} calls meanwhile went to the others.",
                kill.instance, kill.key_gone_after_seconds, kill.ttl_seconds, kill.calls_meanwhile
            ));
            if kill.cut_off > 0 {
                line(&format!(
                    "{} call(s) were cut off in the midst of its answer. Such a call cannot be tried again.",
                    kill.cut_off
                ));
            }
        }
        if let Some(join) = &self.join {
            line(&format!(
                "Started #{}: it answered its first call {} after it was registered.",
                join.instance,
                short(join.first_answer_after_seconds)
            ));
        }
        line(&format!(
            "{} calls in {:.0} s, {} failed that should not have.",
            self.calls.total, self.seconds, self.calls.failed
        ));
        for failure in &self.calls.failures {
            line(&format!("  failed: {}", output::name(failure)));
        }
        line("");
        if self.ok {
            line("Everything was as it should be.");
        } else {
            line("Not everything was as it should be:");
            self.problems.iter().for_each(|problem| line(&format!("  - {problem}")));
        }
        out.truncate(out.trim_end().len());
        out
    }

    fn swaps_table(&self) -> String {
        let mut table =
            output::table(["POLICY", "LIVE AFTER", "LOADED IN", "BUILT IN", "PUBLISHED IN", "SHA256", "FROM"]);
        for policy in &self.policies {
            let time = |seconds: f64| Cell::new(short(seconds)).right();
            let part = |part: fn(&SwapTimes) -> f64| time(policy.swap.as_ref().map(part).unwrap_or_default());
            table.add_row(vec![
                Cell::new(output::name(&policy.name)),
                time(policy.swap_round_trip_seconds),
                part(|swap| swap.load_seconds),
                part(|swap| swap.build_seconds),
                part(|swap| swap.publish_seconds),
                Cell::new(policy.sha256.get(..12).unwrap_or_default()),
                Cell::new(output::name(&policy.origin)),
            ]);
        }
        table.trim_fmt()
    }

    fn policies_table(&self) -> String {
        let widest = self.policies.iter().map(|policy| policy.shares.len()).max().unwrap_or_default();
        let mut header: Vec<String> = ["POLICY", "PLAN", "CALLS", "FAILED", "SHARE"].map(String::from).into();
        header.extend((1..=widest).map(|number| format!("#{number}")));
        let mut table = output::table(header);
        for policy in &self.policies {
            let mut seen = vec![
                Cell::new(output::name(&policy.name)),
                Cell::new(&policy.plan),
                number(policy.answered + policy.failed),
                number(policy.failed),
                Cell::new("seen"),
            ];
            let tone = |share: &ShareReport| if share.ok { output::Tone::Good } else { output::Tone::Bad };
            let right = Cell::right;
            seen.extend(policy.shares.iter().map(|share| right(output::toned(percent(share.seen), tone(share)))));
            table.add_row(seen);
            let mut wanted = vec![Cell::new(""), Cell::new(""), Cell::new(""), Cell::new(""), Cell::new("expected")];
            let text = |share: &ShareReport| share.expected.map_or_else(|| "-".to_owned(), Expected::text);
            wanted.extend(policy.shares.iter().map(|share| right(output::toned(text(share), output::Tone::Dim))));
            table.add_row(wanted);
        }
        table.trim_fmt()
    }
}

/// How much later than its TTL a key may be gone: etcd looks for expired leases twice a second, and
/// the demo ten times.
const EXPIRY_MARGIN: f64 = 1.5;

impl NoteReport {
    /// Calls whose answers are not the note's.
    fn problems(&self) -> Vec<String> {
        self.calls.iter().filter_map(NoteCalls::problem).collect()
    }
}

impl NoteCalls {
    /// How many calls got this answer.
    pub(super) fn count(&self, answer: &str) -> u32 {
        self.answers.iter().find(|(text, _)| text == answer).map_or(0, |(_, count)| *count)
    }

    /// The answers in words: `server1:hello x 10, UNIMPLEMENTED x 10`.
    pub(super) fn text(&self) -> String {
        self.answers.iter().map(|(text, count)| format!("{text} x {count}")).collect::<Vec<_>>().join(", ")
    }

    fn problem(&self) -> Option<String> {
        let all: u32 = self.answers.iter().map(|(_, count)| count).sum();
        let reply = self.count(if self.method == "SayHello1" { "server1:hello" } else { "server2:hello" });
        let wanted = match (self.service, self.key_scheme) {
            // Read by its bare name, it is two services in turn: each method is unknown to every
            // other server.
            ("ayang/server", "bare_prefix") => {
                let strayed = self.count(UNIMPLEMENTED);
                (reply.abs_diff(strayed) > all / 5 || reply + strayed != all)
                    .then_some("about half of them answered and the rest UNIMPLEMENTED")
            }
            ("ayang/server", _) => (self.count(UNAVAILABLE) != all).then_some("all of them UNAVAILABLE"),
            _ => (reply != all).then_some("all of them answered"),
        };
        let call = format!("{} on {} ({})", self.method, self.service, self.key_scheme);
        wanted.map(|wanted| format!("{call} gave {} instead of {wanted}", self.text()))
    }
}

/// How status codes of the study note's part are written.
pub(super) const UNIMPLEMENTED: &str = "UNIMPLEMENTED";
/// As [`UNIMPLEMENTED`].
pub(super) const UNAVAILABLE: &str = "UNAVAILABLE";

fn number(number: u64) -> Cell {
    Cell::new(number).right()
}

/// Milliseconds, with the digits that matter.
pub(super) fn short(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    if millis >= 100.0 {
        format!("{millis:.0} ms")
    } else if millis >= 0.1 {
        format!("{millis:.1} ms")
    } else {
        format!("{:.0} µs", millis * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::shares::Member;

    fn known(number: usize, weight: u32) -> Known {
        Known {
            number,
            address: format!("192.0.2.{number}:80"),
            member: Member { zone: "a".into(), weight, slow: false },
            killed: false,
        }
    }

    fn status(policy: &str) -> PolicyStatus {
        let running = crate::admin::client::PolicyVersion {
            name: policy.into(),
            sha256: "0123456789abcdef".into(),
            plan: "rotation".into(),
            origin: "bundled".into(),
            ..Default::default()
        };
        let swap =
            SwapTimes { load_seconds: 0.1, build_seconds: 0.000_4, publish_seconds: 0.000_002, pick_seconds: None };
        PolicyStatus {
            service: "demo/greeter".into(),
            running,
            degraded: String::new(),
            history: vec![],
            swap: Some(swap),
            warning: String::new(),
            generation: Some(3),
        }
    }

    fn tally(calls: [u64; 2]) -> CallCounts {
        let answers = calls.into_iter().zip(1..).map(|(calls, n)| (format!("192.0.2.{n}:80"), calls)).collect();
        CallCounts { answers, failures: 0 }
    }

    fn report(calls: [u64; 2]) -> Report {
        let (a, b) = (known(1, 3), known(2, 1));
        let policy = PolicyReport::new(&status("weighted"), 0.102, "a", &[&a, &b], &tally(calls));
        let mut report = Report { policies: vec![policy], ..Report::default() };
        report.conclude();
        report
    }

    #[test]
    fn shares_within_the_tolerance_are_fine() {
        let report = report([750, 250]);
        assert!(report.ok, "{:?}", report.problems);
        let text = report.text();
        assert!(text.contains("75.0 %") && text.contains("102 ms"), "{text}");
        assert!(text.contains("2 µs"), "{text}");
        assert!(text.ends_with("Everything was as it should be."), "{text}");
    }

    #[test]
    fn a_share_that_is_off_is_a_problem_by_its_name() {
        let report = report([500, 500]);
        assert!(!report.ok);
        assert_eq!(report.problems[0], "under weighted, instance #1 got 50.0 % of the calls instead of 75.0 %");
        assert!(report.text().contains("Not everything was as it should be:"));
    }

    #[test]
    fn a_call_that_should_not_have_failed_is_a_problem() {
        let mut report = report([750, 250]);
        report.calls = CallsReport { total: 1000, failed: 1, cut_off: 2, failures: vec!["UNAVAILABLE: gone".into()] };
        report.conclude();
        assert_eq!(report.problems, ["1 call(s) failed that should not have"]);
    }

    #[test]
    fn a_key_that_outlives_its_ttl_is_a_problem() {
        let mut report = report([750, 250]);
        let kill = |after| KillReport {
            instance: 1,
            address: "192.0.2.1:80".into(),
            ttl_seconds: 2,
            key_gone_after_seconds: after,
            calls_meanwhile: 9,
            cut_off: 0,
        };
        report.kill = Some(kill(2.4));
        report.conclude();
        assert!(report.ok);
        report.kill = Some(kill(4.0));
        report.conclude();
        assert!(!report.ok);
    }

    #[test]
    fn the_note_s_answers_are_known() {
        let calls = |method, service, key_scheme, answers: &[(&str, u32)]| NoteCalls {
            method,
            service,
            key_scheme,
            answers: answers.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect(),
            words: None,
        };
        let good = [
            calls("SayHello1", "ayang/server1", "etcd_naming", &[("server1:hello", 20)]),
            calls("SayHello2", "ayang/server", "bare_prefix", &[("server2:hello", 10), (UNIMPLEMENTED, 10)]),
            calls("SayHello1", "ayang/server", "etcd_naming", &[(UNAVAILABLE, 20)]),
        ];
        assert!(good.iter().all(|calls| calls.problem().is_none()));
        let bad = [
            calls("SayHello1", "ayang/server1", "etcd_naming", &[("server1:hello", 19), (UNIMPLEMENTED, 1)]),
            calls("SayHello1", "ayang/server", "bare_prefix", &[("server1:hello", 20)]),
            calls("SayHello1", "ayang/server", "etcd_naming", &[("server1:hello", 1), (UNAVAILABLE, 19)]),
        ];
        assert!(bad.iter().all(|calls| calls.problem().is_some()));
    }

    #[test]
    fn times_keep_the_digits_that_matter() {
        assert_eq!(
            [0.104, 0.0123, 0.000_25, 0.000_002].map(short),
            ["104 ms", "12.3 ms", "0.2 ms", "2 µs"].map(String::from)
        );
    }
}
