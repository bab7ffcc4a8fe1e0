//! The acts of the demo, in their order, and what each of them does.

use std::{sync::PoisonError, time::Duration};

use futures::future::try_join_all;
use greeter::Serving;
use tokio::time::{Instant, sleep};

use super::{
    DemoError,
    load::{Death, ENOUGH, Load},
    note,
    observe::Observer,
    processes::{Process, Spec},
    scene::Scene,
    stage::{SERVICE, ZONE, loopback},
    summary::{JoinReport, KillReport, PolicyReport, short},
    ui::ViewSource,
    view::Known,
};
use crate::{admin::client::PolicySource, plugin::bundled};

/// How long a thing that takes moments may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// How long a call on the slow instance takes.
const SLOW: Duration = Duration::from_millis(40);

/// Zone, weight and slowness of the five instances. Every policy gives them other shares.
const FLEET: [(&str, u32, bool); 5] =
    [("a", 3, false), ("a", 2, false), ("a", 1, false), ("b", 3, false), ("b", 1, true)];

/// The one that comes later.
const NEWCOMER: (&str, u32, bool) = ("b", 2, false);

/// Which instance is killed: the one of the largest weight in the node's own zone.
const VICTIM: usize = 0;

/// The policy that comes from a file.
const FROM_FILE: &str = "least_request";

/// A part of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The study note.
    Note,
    /// Five instances, and clients that call.
    Fleet,
    /// A bundled policy takes over.
    Policy { name: &'static str, config: &'static str, why: &'static str },
    /// A policy from a file takes over.
    File,
    /// An instance is killed.
    Kill,
    /// Another one comes.
    Join,
}

const ACTS: [Act; 8] = [
    Act::Note,
    Act::Fleet,
    Act::Policy {
        name: "round_robin",
        config: "{}",
        why: "Every instance in turn, whatever it is: with five of them, each gets a fifth.",
    },
    Act::Policy {
        name: "weighted",
        config: "{}",
        why: "In proportion to the weights that the instances registered: 3, 2, 1, 3 and 1 of ten.",
    },
    Act::Policy {
        name: "zone_aware",
        // Below six instances it would prefer no zone.
        config: r#"{"min_endpoints": 2}"#,
        why: "The node stands in zone a. That zone weighs enough to carry all calls, so zone b gets none.",
    },
    Act::File,
    Act::Kill,
    Act::Join,
];

impl Act {
    fn title(self) -> String {
        match self {
            Self::Note => "The study note: two servers in the registry".into(),
            Self::Fleet => "Five instances of one service, and clients that call it".into(),
            Self::Policy { name, .. } => format!("Policy {name}"),
            Self::File => format!("Policy {FROM_FILE}, from a .wasm file on disk"),
            Self::Kill => "An instance is killed".into(),
            Self::Join => "Another instance comes".into(),
        }
    }
}

impl Scene {
    /// Plays all acts.
    pub(super) async fn play(&mut self) -> Result<(), DemoError> {
        let prefixes = note::SERVICES.iter().map(|(service, ..)| format!("{service}/"));
        let prefixes: Vec<_> = prefixes.chain([format!("{SERVICE}/")]).collect();
        self.stage.wait_until_vacant(&prefixes, &self.ui.clone()).await?;
        for (number, act) in ACTS.into_iter().enumerate() {
            self.ui.head(format!("{} of {}. {}", number + 1, ACTS.len(), act.title()));
            match act {
                Act::Note => note::play(self).await?,
                Act::Fleet => self.start_fleet().await?,
                Act::Policy { name, config, why } => {
                    self.ui.say(why);
                    self.swap(PolicySource::Bundled(name.into()), config).await?;
                }
                Act::File => self.swap_to_file().await?,
                Act::Kill => self.kill_one().await?,
                Act::Join => self.start_another().await?,
            }
        }
        Ok(())
    }

    fn spec(&self, (zone, weight, slow): (&'static str, u32, bool)) -> Spec {
        Spec {
            service: SERVICE.into(),
            greeter: Serving::Both,
            listen: loopback(0),
            zone,
            weight,
            delay: if slow { SLOW } else { Duration::ZERO },
            ttl: self.pace.ttl,
        }
    }

    async fn start_fleet(&mut self) -> Result<(), DemoError> {
        self.ui.say(format!(
            "Five processes register as {SERVICE}: three in zone a with weights 3, 2 and 1, two in zone b with weights 3 and 1. \
             #5 is slow on purpose: each of its calls takes {} ms.",
            SLOW.as_millis()
        ));
        let first = self.stage.service(&self.service).await?;
        let specs = FLEET.map(|member| self.spec(member));
        let registry = self.stage.registry();
        let processes = try_join_all(specs.iter().map(|spec| Process::start(&self.program, spec, &registry))).await?;
        for (process, member) in processes.into_iter().zip(FLEET) {
            self.enrol(process, member);
        }
        let (client, service) = (self.stage.client(), self.service.clone());
        self.observer = Some(Observer::start(client, first, service, self.roster.clone(), self.ui.clone()));
        self.wait("the node's finding the five instances", SOON, |service| service.endpoints.len() == FLEET.len())
            .await?;
        self.ui.say(format!(
            "The node has found them by watching the registry. Clients now call SayHello1 through its port {} without a pause; \
             below you see who answers. The mark in each bar is the share that the policy should give.",
            self.stage.proxy().port()
        ));
        let load = Load::start(self.stage.proxy(), SERVICE).await?;
        load.begin_phase();
        self.load = Some(load.clone());
        if let Some(observer) = &self.observer {
            self.ui.show(ViewSource {
                service: observer.service(),
                load: load.clone(),
                roster: self.roster.clone(),
                zone: ZONE,
            });
        }
        // Connections are made at the first call. What is counted afterwards is balancing and
        // nothing else.
        let everybody = FLEET.len();
        until("an answer from each instance", SOON, || load.tally().answers.len() == everybody).await?;
        self.pause().await;
        Ok(())
    }

    async fn swap_to_file(&mut self) -> Result<(), DemoError> {
        let component = bundled::ALL.iter().find(|bundled| bundled.name == FROM_FILE);
        let component = component.ok_or(DemoError::NoPolicy(FROM_FILE))?;
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| DemoError::Io { what, source }
        };
        let folder = tempfile::Builder::new()
            .prefix("waymark-demo-")
            .tempdir()
            .map_err(io("make a folder for the policy's file"))?;
        let path = folder.path().join(format!("{FROM_FILE}.wasm"));
        tokio::fs::write(&path, component.bytes).await.map_err(io("write the policy's file"))?;
        self.ui.say(format!(
            "Any WebAssembly component of the right world is a policy. This one is read from {} and sent to the node, as \
             `waymark policy set {SERVICE} {FROM_FILE}.wasm` does. It is asked for every call, and takes the less busy of two \
             instances drawn at random: watch the slow #5 lose.",
            path.display()
        ));
        let bytes = tokio::fs::read(&path).await.map_err(io("read the policy's file"))?;
        let origin = path.display().to_string();
        (self.folder, self.file) = (Some(folder), Some(path));
        self.swap(PolicySource::Component { bytes, origin }, "{}").await
    }

    /// Swaps the policy under way, watches it, and compares the shares.
    async fn swap(&mut self, source: PolicySource, config: &str) -> Result<(), DemoError> {
        self.pause().await;
        self.load().end_phase();
        let began = Instant::now();
        let status = self.stage.set_policy(&self.service, source, config).await?;
        let round_trip = began.elapsed();
        self.load().begin_phase();
        self.ui.print(format!(
            "  {} is live {} after it was asked for: plan {}, version {}, sha256 {}",
            status.running.name,
            short(round_trip.as_secs_f64()),
            status.running.plan,
            status.running.version,
            status.running.sha256.get(..12).unwrap_or_default()
        ));
        let version = status.running.version;
        self.wait("the node's report of its new policy", SOON, |service| service.policy.version == version).await?;
        sleep(self.pace.watch).await;
        let load = self.load().clone();
        until("a sufficient number of calls", SOON, || load.tally().answered() >= ENOUGH).await?;
        let tally = load.end_phase();
        let known = self.known();
        let alive: Vec<&Known> = known.iter().filter(|known| !known.killed).collect();
        let report = PolicyReport::new(&status, round_trip.as_secs_f64(), ZONE, &alive, &tally);
        let verdict = if report.shares.iter().all(|share| share.ok) { "as expected" } else { "NOT as expected" };
        self.ui.print(format!(
            "  {} calls, {} failed, shares {verdict}",
            tally.answered() + tally.failures,
            tally.failures
        ));
        self.report.policies.push(report);
        // The picture goes on counting.
        load.begin_phase();
        Ok(())
    }

    async fn kill_one(&mut self) -> Result<(), DemoError> {
        let victim = self.known()[VICTIM].clone();
        let pid = self.fleet[VICTIM].as_ref().map_or(0, Process::pid);
        self.ui.say(format!(
            "#{} is killed with `kill -9 {pid}`, as a crash would: it says goodbye to nobody. Its key stays until its lease ends, \
             up to {} s. Calls must not fail meanwhile: the node notices the broken connection and skips the instance.",
            victim.number, self.pace.ttl
        ));
        self.pause().await;
        let load = self.load().clone();
        load.begin_phase();
        let calls_before = load.totals().calls;
        let Some(mut process) = self.fleet[VICTIM].take() else { return Ok(()) };
        let (told, dead) = process.kill().await?;
        load.excuse(Death { address: victim.address.clone(), told, dead });
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)[VICTIM].killed = true;
        let limit = Duration::from_secs(u64::from(self.pace.ttl)) + SOON;
        let address = victim.address.clone();
        self.wait("the end of the killed instance's key", limit, move |service| {
            !service.endpoints.iter().any(|endpoint| endpoint.address == address)
        })
        .await?;
        let gone_after = dead.elapsed().as_secs_f64();
        let totals = load.totals();
        let calls_meanwhile = totals.calls - calls_before;
        self.ui.print(format!(
            "  its key was gone after {gone_after:.1} s; {calls_meanwhile} calls were made meanwhile, {} failed that should not have",
            totals.failed()
        ));
        self.report.kill = Some(KillReport {
            instance: victim.number,
            address: victim.address,
            ttl_seconds: self.pace.ttl,
            key_gone_after_seconds: gone_after,
            calls_meanwhile,
            cut_off: totals.cut_off(),
        });
        self.pause().await;
        Ok(())
    }

    async fn start_another(&mut self) -> Result<(), DemoError> {
        let (zone, weight, _) = NEWCOMER;
        self.ui.say(format!(
            "One more process registers itself: zone {zone}, weight {weight}. Nobody tells the node; it watches the registry, and \
             sends calls there from the next moment on."
        ));
        let process = Process::start(&self.program, &self.spec(NEWCOMER), &self.stage.registry()).await?;
        let registered = Instant::now();
        let address = process.address().to_string();
        let instance = self.enrol(process, NEWCOMER);
        let load = self.load().clone();
        load.begin_phase();
        until("an answer from the new instance", SOON, || load.tally().calls(&address) > 0).await?;
        let after = registered.elapsed().as_secs_f64();
        self.ui
            .say(format!("  #{instance} {address} answered its first call {} after it was registered", short(after)));
        self.report.join = Some(JoinReport { instance, address, first_answer_after_seconds: after });
        sleep(self.pace.watch / 2).await;
        Ok(())
    }
}

/// Waits until something that is only counted is so.
async fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Result<(), DemoError> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > limit {
            return Err(DemoError::Overdue { what: what.into(), seconds: limit.as_secs() });
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::cli::demo::shares::{Member, expected};

    #[test]
    fn every_policy_of_the_script_gives_other_shares() {
        let members: Vec<Member> = FLEET.map(|(zone, weight, slow)| Member { zone: zone.into(), weight, slow }).into();
        let names = ACTS.iter().filter_map(|act| match act {
            Act::Policy { name, config, .. } => Some((*name, *config)),
            Act::File => Some((FROM_FILE, "{}")),
            _ => None,
        });
        let shares: Vec<_> = names.map(|(name, config)| expected(name, config, ZONE, &members).unwrap()).collect();
        assert_eq!(shares.len(), 4);
        for (place, one) in shares.iter().enumerate() {
            assert!(shares[place + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn the_policy_from_a_file_is_bundled() {
        assert!(bundled::ALL.iter().any(|bundled| bundled.name == FROM_FILE && !bundled.bytes.is_empty()));
    }
}
