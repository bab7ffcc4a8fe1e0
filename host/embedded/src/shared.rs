//! What all services and tasks of one server hold in common: the machine behind its lock, the time,
//! and the ways to stop.

use std::{sync::Mutex, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::state_machine::StateMachine;

#[derive(Debug)]
pub(super) struct Shared {
    machine: Mutex<StateMachine>,
    started: Instant,
    /// A lease may now end earlier than the timer thinks.
    pub(super) deadline_moved: Notify,
    /// Streams end, new connections are refused.
    pub(super) stopping: CancellationToken,
    /// Connections are cut.
    pub(super) cut: CancellationToken,
    pub(super) progress_interval: Duration,
    /// What the member list says of this server.
    pub(super) name: String,
    pub(super) url: String,
}

impl Shared {
    pub(super) fn new(machine: StateMachine, progress_interval: Duration, name: String, url: String) -> Self {
        Self {
            machine: Mutex::new(machine),
            started: Instant::now(),
            deadline_moved: Notify::new(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            progress_interval,
            name,
            url,
        }
    }

    /// Runs one step on the machine, at the time it is now.
    pub(super) fn with<T>(&self, step: impl FnOnce(&mut StateMachine) -> T) -> T {
        let mut machine = self.machine.lock().unwrap_or_else(|poisoned| {
            // A step that panicked may have written half of its transaction, and the next commit
            // would publish it.
            self.machine.clear_poison();
            let mut machine = poisoned.into_inner();
            machine.damaged();
            machine
        });
        machine.advance(self.started.elapsed());
        step(&mut machine)
    }

    /// Ends leases in time, and lets time-based compaction happen, until the server stops.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; leases then end when the next request comes.
    pub(super) async fn run_timers(&self) {
        /// How often history is looked at when no lease asks for it.
        const COMPACTION_INTERVAL: Duration = Duration::from_secs(5);
        loop {
            let idle = self.started.elapsed() + COMPACTION_INTERVAL;
            let deadline = self.with(|machine| machine.next_deadline()).map_or(idle, |deadline| deadline.min(idle));
            tokio::select! {
                () = tokio::time::sleep_until(self.started + deadline) => {}
                () = self.deadline_moved.notified() => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Ends all streams and refuses new connections; requests under way may finish.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
        self.with(StateMachine::shut_down);
    }
}
