//! The clients: a few tasks that call `SayHello1` through the node for as long as the demo runs,
//! and what came of each call.
//!
//! They are plain tonic clients with one header. They learn who answered from the response
//! metadata, not from the node, so that what is shown is what a client sees.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greeter::{
    INSTANCE_HEADER,
    hello::{HelloRequest, greeter1_client::Greeter1Client},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::DemoError;
use crate::dataplane::WAYMARK_ERROR;

/// How many clients call at once, each on a connection of its own.
const CLIENTS: usize = 12;

/// How long a client waits between two calls, give or take half: together with the time the calls
/// take, some hundred calls a second, which leaves a small machine idle enough to look at.
const THINK: Duration = Duration::from_millis(12);

/// A call that is not answered by then has failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many calls a phase needs before its shares say anything.
pub(super) const ENOUGH: u64 = 400;

/// Failures kept with all that is known of them; more are only counted.
const KEPT_FAILURES: usize = 200;

/// The calls of one phase: those that began and ended in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CallCounts {
    /// Answered calls by the address of the instance that answered.
    pub(super) answers: BTreeMap<String, u64>,
    /// Failed calls.
    pub(super) failures: u64,
}

impl CallCounts {
    /// How many were answered.
    pub(super) fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// The share of the answered calls that this instance answered; 0 before the first.
    pub(super) fn share(&self, instance: &str) -> f64 {
        let all = self.answered();
        if all == 0 { 0.0 } else { self.calls(instance) as f64 / all as f64 }
    }

    /// How many calls this instance answered.
    pub(super) fn calls(&self, instance: &str) -> u64 {
        self.answers.get(instance).copied().unwrap_or_default()
    }
}

/// A call that failed.
#[derive(Debug, Clone)]
struct FailedCall {
    /// When it began.
    began: Instant,
    /// When it ended.
    ended: Instant,
    /// Its code.
    code: Code,
    /// Its message.
    message: String,
    /// The node's own name for the case; empty when the answer was not the node's.
    kind: String,
}

/// An instance that was killed.
#[derive(Debug, Clone)]
pub(super) struct Death {
    /// Where it listened.
    pub(super) address: String,
    /// When it was told to die.
    pub(super) told: Instant,
    /// When it was dead: its sockets were closed by then.
    pub(super) dead: Instant,
}

impl FailedCall {
    /// Whether an instance died in the midst of this call's answer: nothing can replace what its
    /// caller has in part. A call that it had not begun to answer goes to another instance, since
    /// the demo's service is configured as idempotent.
    fn is_cut_off_by(&self, death: &Death) -> bool {
        self.code == Code::Unavailable
            && self.kind == "endpoint-lost"
            && self.message.contains(&death.address)
            && self.began <= death.dead
            && self.ended >= death.told
    }
}

/// Everything since the load began.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Calls that ended, whatever way.
    pub(super) calls: u64,
    /// Of these, failed ones, cut-off ones included.
    all_failed: u64,
    /// The first of the failed ones.
    failures: Vec<FailedCall>,
    /// The instance that was killed.
    death: Option<Death>,
}

impl Totals {
    /// Calls that failed because an instance was killed while it had them.
    pub(super) fn cut_off(&self) -> u64 {
        self.failures.iter().filter(|failure| self.is_cut_off(failure)).count() as u64
    }

    /// Calls that failed and should not have.
    pub(super) fn failed(&self) -> u64 {
        self.all_failed - self.cut_off()
    }

    /// The first of these, in words.
    pub(super) fn first_failures(&self) -> Vec<String> {
        let failures = self.failures.iter().filter(|failure| !self.is_cut_off(failure));
        failures.take(5).map(|failure| format!("{:?}: {}", failure.code, failure.message)).collect()
    }

    fn is_cut_off(&self, failure: &FailedCall) -> bool {
        self.death.as_ref().is_some_and(|death| failure.is_cut_off_by(death))
    }
}

#[derive(Debug, Default)]
struct Books {
    totals: Totals,
    /// Counts the phases, so that a call can tell whether it ended in the one it began in.
    phase: u64,
    /// None between two phases: then calls go to the totals alone.
    tally: Option<CallCounts>,
}

impl Books {
    fn record(&mut self, began: Instant, phase: u64, answer: Result<String, Status>) {
        self.totals.calls += 1;
        let tally = self.tally.as_mut().filter(|_| phase == self.phase);
        match answer {
            Ok(instance) => {
                if let Some(tally) = tally {
                    *tally.answers.entry(instance).or_default() += 1;
                }
            }
            Err(status) => {
                self.totals.all_failed += 1;
                if let Some(tally) = tally {
                    tally.failures += 1;
                }
                if self.totals.failures.len() < KEPT_FAILURES {
                    let kind = status.metadata().get(WAYMARK_ERROR.as_str()).and_then(|kind| kind.to_str().ok());
                    self.totals.failures.push(FailedCall {
                        began,
                        ended: Instant::now(),
                        code: status.code(),
                        message: status.message().to_owned(),
                        kind: kind.unwrap_or_default().to_owned(),
                    });
                }
            }
        }
    }
}

/// The running clients. Cheap to clone; they stop when [`Load::stop`] is called or the last clone
/// is dropped.
#[derive(Debug, Clone)]
pub(super) struct Load {
    books: Arc<Mutex<Books>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Connects the clients to the node's proxy and lets them call.
    pub(super) async fn start(proxy: SocketAddr, service: &str) -> Result<Self, DemoError> {
        let books = Arc::<Mutex<Books>>::default();
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client::connect(proxy, service).await?;
            tasks.spawn(client.run(Arc::clone(&books), stop.subscribe()));
        }
        Ok(Self { books, tasks: Arc::new(Mutex::new(tasks)), stop })
    }

    /// Begins a phase: from now on calls are counted by instance.
    pub(super) fn begin_phase(&self) {
        let mut books = lock(&self.books);
        books.phase += 1;
        books.tally = Some(CallCounts::default());
    }

    /// Ends the phase and returns its calls.
    pub(super) fn end_phase(&self) -> CallCounts {
        let mut books = lock(&self.books);
        books.phase += 1;
        books.tally.take().unwrap_or_default()
    }

    /// The calls of the running phase by now.
    pub(super) fn tally(&self) -> CallCounts {
        lock(&self.books).tally.clone().unwrap_or_default()
    }

    /// All calls by now.
    pub(super) fn totals(&self) -> Totals {
        lock(&self.books).totals.clone()
    }

    /// An instance was killed: the calls that it had then may fail.
    pub(super) fn excuse(&self, death: Death) {
        lock(&self.books).totals.death = Some(death);
    }

    /// Lets every client end the call it is in, and returns all that happened.
    ///
    /// # Cancel safety
    ///
    /// The clients stop even if the future is dropped.
    pub(super) async fn stop(&self) -> Totals {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        while tasks.join_next().await.is_some() {}
        self.totals()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters are right even if a panic interrupted whoever held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Client {
    greeter: Greeter1Client<Channel>,
    service: MetadataValue<Ascii>,
}

impl Client {
    async fn connect(proxy: SocketAddr, service: &str) -> Result<Self, DemoError> {
        Ok(Self { greeter: Greeter1Client::new(dial(proxy).await?), service: header(service)? })
    }

    async fn run(mut self, books: Arc<Mutex<Books>>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let phase = lock(&books).phase;
            let began = Instant::now();
            let mut request = Request::new(HelloRequest { name: "hello".into() });
            request.set_timeout(DEADLINE);
            request.metadata_mut().insert(SERVICE_HEADER, self.service.clone());
            let answer = self.greeter.say_hello1(request).await.map(|response| {
                let instance = response.metadata().get(INSTANCE_HEADER).and_then(|name| name.to_str().ok());
                instance.unwrap_or("(not named)").to_owned()
            });
            lock(&books).record(began, phase, answer);
            tokio::select! {
                () = sleep(THINK.mul_f64(0.5 + fastrand::f64())) => {}
                // Also when the sender is gone: then nobody wants these calls any more.
                _ = stop.changed() => {}
            }
            if stop.has_changed().is_err() {
                return;
            }
        }
    }
}

/// The header by which a node knows which service a call is for.
pub(super) const SERVICE_HEADER: &str = "waymark-service";

/// A service's name as the value of that header.
pub(super) fn header(service: &str) -> Result<MetadataValue<Ascii>, DemoError> {
    MetadataValue::try_from(service).map_err(|_| DemoError::Header(service.to_owned()))
}

/// A connection of its own to an address.
pub(super) async fn dial(address: SocketAddr) -> Result<Channel, DemoError> {
    let failed = |source| DemoError::Dial { address, source };
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_call_counts_for_a_phase_only_if_it_began_and_ended_in_it() {
        let mut books = Books { phase: 1, tally: Some(CallCounts::default()), ..Books::default() };
        let now = Instant::now();
        books.record(now, 1, Ok("192.0.2.1:80".into()));
        books.record(now, 0, Ok("192.0.2.2:80".into()));
        books.record(now, 1, Err(Status::unavailable("gone")));
        let tally = books.tally.clone().unwrap();
        assert_eq!((tally.answered(), tally.failures), (1, 1));
        assert_eq!((tally.share("192.0.2.1:80"), tally.share("192.0.2.2:80")), (1.0, 0.0));
        assert_eq!((books.totals.calls, books.totals.failed(), books.totals.failures.len()), (3, 1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_call_that_the_killed_instance_had_may_fail() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let failure = |address: &str, kind: &str, began: Instant| FailedCall {
            began,
            ended: began + second * 2,
            code: Code::Unavailable,
            message: format!("the connection to the instance at {address} was lost"),
            kind: kind.into(),
        };
        let death = Death { address: "192.0.2.1:80".into(), told: now + second, dead: now + second };
        let failures = vec![
            failure("192.0.2.1:80", "endpoint-lost", now),
            failure("192.0.2.1:80", "endpoint-lost", now + second * 2),
            failure("192.0.2.2:80", "endpoint-lost", now),
            failure("192.0.2.1:80", "all-tried", now),
        ];
        let totals = Totals { calls: 9, all_failed: 4, failures, death: Some(death) };
        assert_eq!((totals.cut_off(), totals.failed(), totals.first_failures().len()), (1, 3, 3));
    }

    #[test]
    fn the_header_is_the_node_s() {
        assert_eq!(crate::dataplane::WAYMARK_SERVICE.as_str(), SERVICE_HEADER);
    }

    #[tokio::test]
    async fn clients_call_a_server_until_they_are_stopped() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(greeter::serve(listener, greeter::GreeterConfig::default(), std::future::pending()));
        let load = Load::start(address, "demo/greeter").await.unwrap();
        load.begin_phase();
        while load.tally().answered() < 20 {
            sleep(Duration::from_millis(5)).await;
        }
        let tally = load.end_phase();
        let totals = load.stop().await;
        assert_eq!((tally.share(&address.to_string()), tally.failures, totals.failed()), (1.0, 0, 0));
        assert!(totals.calls >= tally.answered());
        server.abort();
    }
}
