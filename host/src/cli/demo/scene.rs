//! What the demo plays on: everything that runs, and what was found out so far.

use std::{path::PathBuf, sync::PoisonError, time::Duration};

use futures::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    DemoError,
    load::Load,
    observe::Observer,
    processes::Process,
    shares::Member,
    stage::{SERVICE, Stage},
    summary::{CallsReport, Report},
    ui::{Roster, Ui},
    view::Known,
};
use crate::{admin::client::Service, model::ServiceName};

/// How fast the story is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Time to read a paragraph.
    pub(super) read: Duration,
    /// Time to watch a policy at work.
    pub(super) watch: Duration,
    /// The instances' TTL in seconds: how long a killed one stays registered.
    pub(super) ttl: u32,
}

/// Everything that runs, and what was found out so far.
pub(super) struct Scene {
    pub(super) stage: Stage,
    pub(super) ui: Ui,
    pub(super) pace: Pace,
    pub(super) program: PathBuf,
    pub(super) note_servers: Vec<Process>,
    pub(super) report: Report,
    began: Instant,
    pub(super) service: ServiceName,
    pub(super) roster: Roster,
    /// In the order of the roster; none where one was killed.
    pub(super) fleet: Vec<Option<Process>>,
    pub(super) load: Option<Load>,
    pub(super) observer: Option<Observer>,
    /// The folder of the policy's file, for as long as the demo lasts.
    pub(super) folder: Option<TempDir>,
    /// The policy's file.
    pub(super) file: Option<PathBuf>,
}

impl Scene {
    pub(super) fn new(stage: Stage, ui: Ui, pace: Pace, program: PathBuf, began: Instant) -> Self {
        let registry = if stage.is_embedded() { "embedded".into() } else { stage.registry() };
        Self {
            stage,
            ui,
            pace,
            program,
            note_servers: Vec::new(),
            report: Report { registry, ..Report::default() },
            began,
            service: ServiceName::new(SERVICE).expect("a plain name"),
            roster: Roster::default(),
            fleet: Vec::new(),
            load: None,
            observer: None,
            folder: None,
            file: None,
        }
    }

    /// Time to read.
    pub(super) async fn pause(&self) {
        sleep(self.pace.read).await;
    }

    /// Ends the calls and draws the conclusion.
    pub(super) fn conclude(&mut self) {
        // The clients of a demo that is kept go on; they do nothing new.
        let totals = self.load.as_ref().map(Load::totals).unwrap_or_default();
        self.report.calls = CallsReport {
            total: totals.calls,
            failed: totals.failed(),
            cut_off: totals.cut_off(),
            failures: totals.first_failures(),
        };
        if let Some(kill) = &mut self.report.kill {
            kill.cut_off = self.report.calls.cut_off;
        }
        self.report.seconds = self.began.elapsed().as_secs_f64();
        self.report.conclude();
    }

    /// Ends the calls: each client finishes the one it is in.
    pub(super) async fn stop_calls(&mut self) {
        if let Some(load) = &self.load {
            load.stop().await;
        }
    }

    /// Counts the shares anew after every change, for as long as somebody tries things out.
    pub(super) async fn follow_changes(&self) {
        let (Some(load), Some(observer)) = (&self.load, &self.observer) else { return };
        let mut service = observer.service();
        let mut generation = service.borrow().generation;
        load.begin_phase();
        while service.changed().await.is_ok() {
            let now = service.borrow_and_update().generation;
            if now != generation {
                generation = now;
                load.begin_phase();
            }
        }
    }

    /// Stops everything, in an order in which nothing misses anything.
    pub(super) async fn close(mut self) {
        self.ui.hide();
        self.stop_calls().await;
        drop(self.observer.take());
        let processes = self.note_servers.drain(..).chain(self.fleet.drain(..).flatten());
        join_all(processes.map(Process::stop)).await;
        self.stage.shutdown().await;
        drop(self.folder.take());
    }

    /// All instances that there are or were.
    pub(super) fn known(&self) -> Vec<Known> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a process on the list, and returns its number.
    pub(super) fn enrol(&mut self, process: Process, (zone, weight, slow): (&'static str, u32, bool)) -> usize {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let number = roster.len() + 1;
        let member = Member { zone: zone.into(), weight, slow };
        roster.push(Known { number, address: process.address().to_string(), member, killed: false });
        self.fleet.push(Some(process));
        number
    }

    /// The clients' calls.
    pub(super) fn load(&self) -> &Load {
        self.load.as_ref().expect("the clients call since the second act")
    }

    /// Waits until the node tells this of the service.
    pub(super) async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&Service) -> bool,
    ) -> Result<(), DemoError> {
        self.observer.as_mut().expect("the service is observed since the second act").wait(what, limit, is_so).await
    }
}
