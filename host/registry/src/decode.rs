//! Asks the key scheme what entries say, so that one service's entries, or its scheme, cost no
//! other service its turn.
//!
//! ```text
//!   list, watch ──entries──▶ Decoder ──a turn at a time──▶ queue of all services ──▶ key scheme
//!                              │  ▲                          or, while it is slow or fails: the queue of those, one thread
//!                  deferred ◀──┘  └── due again
//! ```
//!
//! - **Turns.** A service's entries are read some milliseconds at a time, and then it stands at the
//!   end of the line again.
//! - **A budget.** What a whole batch may take grows with its entries. What is over it is deferred:
//!   its owner sees what was read so far.
//! - **Failures.** An entry on which the scheme overran its deadline or trapped is not tried again
//!   for a while, which grows. After some, the breaker opens: the service's other entries wait, and
//!   are tried again one turn at a time.
//! - **Another queue.** A service whose entries are slow or fail waits in a line of its own kind
//!   until it has done well for a while.
//!
//! What an entry registers is bounded here too ([`EntryLimits`]), and where its instances are
//! ([`AddressFilter`]).

mod breaker;
mod deferred;
mod limits;

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use waymark_core::{
    model::ServiceName,
    naming::{Entry, KeyScheme, NamingError},
};
use waymark_net::address_filter::{AddressFilter, Allow};

pub(super) use self::limits::Accepted;
use self::{breaker::Breaker, deferred::Deferred};
use super::{EntryLimits, error::chain, etcd::Kv, metrics::Metrics, work_queue::WorkQueue};

/// How long one turn may take, but for the call that it is in.
const TURN: Duration = Duration::from_millis(20);

/// What a batch may take, and what more for each of its entries: a healthy scheme takes some
/// microseconds.
const BATCH: Duration = Duration::from_secs(1);
const EACH: Duration = Duration::from_millis(1);

/// From here on an entry is slow: by the processor time that it took, since on a busy machine any
/// entry may be kept waiting; or by the time that its call held up the line.
const SLOW: Duration = Duration::from_millis(20);
const HELD_UP: Duration = Duration::from_millis(100);

/// How long a service that was slow or failed stands in the other line.
const PROBATION: Duration = Duration::from_secs(30);

/// What was made of one entry.
#[derive(Debug)]
pub(super) enum Reading {
    /// What it registers; nothing for a marker.
    Read(Accepted),
    /// It is not the scheme's. Whatever the key said before no longer holds.
    Unreadable(String),
    /// The scheme failed, which says nothing about the entry: what the key said before is the best
    /// we know.
    Failed(String),
    /// It has yet to be read: what the key said before is the best we know.
    Waiting,
}

/// Where key schemes are asked. Clones share the lines.
#[derive(Clone)]
pub(super) struct DecodeQueues {
    /// For all.
    pub(super) all: WorkQueue,
    /// For those that are slow or fail: one thread, for which they wait on each other.
    pub(super) slow: WorkQueue,
}

impl DecodeQueues {
    pub(super) fn new() -> Self {
        Self { all: WorkQueue::per_core(), slow: WorkQueue::single() }
    }
}

/// What reading entries of any service needs.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) scheme: Arc<dyn KeyScheme>,
    pub(super) queues: DecodeQueues,
    pub(super) limits: EntryLimits,
    pub(super) address_filter: AddressFilter,
    pub(super) metrics: Metrics,
}

/// Reads the entries of one service.
pub(super) struct Decoder {
    service: ServiceName,
    it: Reader,
    breaker: Breaker,
    deferred: Deferred,
    /// Until when it stands in the other line.
    probation: Option<Instant>,
}

impl Decoder {
    pub(super) fn new(service: ServiceName, it: Reader) -> Self {
        Self { service, it, breaker: Breaker::default(), deferred: Deferred::default(), probation: None }
    }

    /// Reads entries, in their order. What was deferred of the same keys is superseded.
    pub(super) async fn read(&mut self, kvs: &[Kv]) -> Vec<Reading> {
        let mut readings: Vec<Option<Reading>> = Vec::with_capacity(kvs.len());
        let mut todo = VecDeque::with_capacity(kvs.len());
        let now = Instant::now();
        for (n, kv) in kvs.iter().enumerate() {
            if let Some(reason) = self.deferred.still_deferred(kv, now) {
                readings.push(Some(Reading::Failed(reason)));
                continue;
            }
            // Keys are bytes to etcd and text to key schemes.
            let Ok(key) = std::str::from_utf8(&kv.key) else {
                readings.push(Some(Reading::Unreadable("its key is not UTF-8".to_owned())));
                continue;
            };
            readings.push(None);
            todo.push_back((n, Entry { key: key.to_owned(), value: kv.value.clone() }));
        }
        let budget = BATCH + EACH * u32::try_from(todo.len()).unwrap_or(u32::MAX);
        let mut spent = Duration::ZERO;
        while !todo.is_empty() && spent < budget && self.breaker.lets_through(Instant::now()) {
            let turn = self.turn(std::mem::take(&mut todo)).await;
            spent += turn.took;
            todo = turn.rest;
            self.judge(&turn.done, turn.slow);
            for (n, outcome) in turn.done {
                readings[n] = Some(match outcome {
                    Outcome::Read(accepted) => Reading::Read(accepted),
                    Outcome::Unreadable(reason) => Reading::Unreadable(reason),
                    Outcome::Failed { reason, .. } => {
                        self.deferred.failed(&kvs[n], &reason, Instant::now());
                        Reading::Failed(reason)
                    }
                });
            }
        }
        let again = self.breaker.next_try().unwrap_or_else(Instant::now);
        for (n, _) in todo {
            self.deferred.wait(&kvs[n], again);
        }
        self.it.metrics.waiting(self.service.as_str(), self.deferred.len() as u64);
        readings.into_iter().map(|reading| reading.unwrap_or(Reading::Waiting)).collect()
    }

    /// These keys are gone.
    pub(super) fn forget(&mut self, keys: &[Vec<u8>]) {
        for key in keys {
            self.deferred.forget(key);
        }
    }

    /// These are all entries that there are, about to be read: what waited only for its turn is
    /// forgotten, and what is gone; what failed is not tried sooner for it.
    pub(super) fn begin_list(&mut self, kvs: &[Kv]) {
        self.deferred.keep_failed(kvs);
    }

    /// When something that was deferred is to be read; none while nothing is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deferred.due().map(|due| self.breaker.next_try().map_or(due, |open| open.max(due)))
    }

    /// What is due now, to be read. Empty where so much was deferred that it was not kept: then the
    /// service has to be listed again.
    pub(super) fn take_due(&mut self) -> Vec<Kv> {
        self.deferred.take_due(Instant::now())
    }

    async fn turn(&self, todo: VecDeque<(usize, Entry)>) -> Turn {
        let queue = if self.on_probation() { &self.it.queues.slow } else { &self.it.queues.all };
        let (it, service) = (self.it.clone(), self.service.clone());
        let entries = todo.iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let done = queue.run(move || take_turn(&it, &service, todo)).await;
        done.unwrap_or_else(|_| {
            // The runtime is ending.
            let failed = |n| (n, Outcome::Failed { reason: "it gave no answer".to_owned(), overran: false });
            Turn { done: entries.into_iter().map(failed).collect(), ..Turn::default() }
        })
    }

    fn on_probation(&self) -> bool {
        self.probation.is_some_and(|until| until > Instant::now())
    }

    fn judge(&mut self, done: &[(usize, Outcome)], slow: bool) {
        let now = Instant::now();
        let mut failed = 0;
        for (_, outcome) in done {
            if let Outcome::Failed { overran, reason } = outcome {
                failed += 1;
                self.it.metrics.key_scheme_failed(*overran);
                if self.breaker.failed(*overran, now) {
                    tracing::warn!(
                        service = %self.service,
                        key_scheme = self.it.scheme.name(),
                        pause_seconds = self.breaker.pause().as_secs_f64(),
                        reason,
                        "the key scheme keeps failing on this service's entries; the others wait, and what is known stays in use"
                    );
                }
            }
        }
        if failed == 0 && self.breaker.succeeded(now) {
            tracing::info!(service = %self.service, key_scheme = self.it.scheme.name(), "the key scheme reads this service's entries again");
        }
        self.it.metrics.paused(self.service.as_str(), self.breaker.is_open());
        if failed > 0 || slow {
            self.probation = Some(now + PROBATION);
        }
    }
}

/// What is made of one entry, here and now and within the usual bounds. For fuzzing.
pub(super) fn read_here(scheme: &dyn KeyScheme, service: &ServiceName, kv: &Kv) -> Reading {
    let key = match std::str::from_utf8(&kv.key) {
        Ok(key) => key.to_owned(),
        Err(error) => return Reading::Unreadable(error.to_string()),
    };
    match scheme.decode(service, &Entry { key, value: kv.value.clone() }) {
        Ok(decoded) => {
            Reading::Read(limits::apply(decoded, &EntryLimits::default(), &AddressFilter::new(Allow::here())))
        }
        Err(error @ NamingError::Failed { .. }) => Reading::Failed(chain(&error)),
        Err(error) => Reading::Unreadable(chain(&error)),
    }
}

enum Outcome {
    Read(Accepted),
    Unreadable(String),
    Failed { reason: String, overran: bool },
}

#[derive(Default)]
struct Turn {
    done: Vec<(usize, Outcome)>,
    rest: VecDeque<(usize, Entry)>,
    took: Duration,
    slow: bool,
}

/// Where it may block.
fn take_turn(it: &Reader, service: &ServiceName, mut todo: VecDeque<(usize, Entry)>) -> Turn {
    // Not tokio's clock: that is the caller's, and may stand still in a test.
    let began = std::time::Instant::now();
    let mut turn = Turn::default();
    while let Some((n, entry)) = todo.pop_front() {
        let (before, used) = (std::time::Instant::now(), processor_time());
        let outcome = decode(it, service, &entry);
        turn.slow |= processor_time().saturating_sub(used) >= SLOW || before.elapsed() >= HELD_UP;
        let failed = matches!(outcome, Outcome::Failed { .. });
        turn.done.push((n, outcome));
        turn.took = began.elapsed();
        // After a failure it is the breaker's turn.
        if failed || turn.took >= TURN {
            break;
        }
    }
    turn.rest = todo;
    turn
}

/// What this thread has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

fn decode(it: &Reader, service: &ServiceName, entry: &Entry) -> Outcome {
    // A key scheme that panics is a plugin host's bug; it must not take the service's endpoints
    // with it.
    let once = || {
        catch_unwind(AssertUnwindSafe(|| it.scheme.decode(service, entry))).unwrap_or_else(|_| {
            let (scheme, reason) = (it.scheme.name().to_owned(), "it panicked".to_owned());
            Err(NamingError::Failed { scheme, call: "decode", reason, overran: false })
        })
    };
    let result = match once() {
        // Once more: a failed plugin gets a fresh instance for its next call. But not where that
        // would take its deadline again.
        Err(NamingError::Failed { overran: false, .. }) => once(),
        result => result,
    };
    match result {
        Ok(decoded) => Outcome::Read(limits::apply(decoded, &it.limits, &it.address_filter)),
        Err(error @ NamingError::Failed { overran, .. }) => Outcome::Failed { reason: chain(&error), overran },
        Err(error) => Outcome::Unreadable(chain(&error)),
    }
}

#[cfg(test)]
mod tests;
