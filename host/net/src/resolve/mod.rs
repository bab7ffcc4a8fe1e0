//! What addresses names have: look-ups with bounds of their own.
//!
//! ```text
//!   addresses(name) ──▶ known, and its time is not over ──▶ answered at once
//!        │ no
//!        ├─ a look-up of the name runs ─┐
//!        └─ none: begun in a task ──────┴──▶ all who ask wait for the same one, or are given what was known until lately
//! ```
//!
//! The system's own call (`getaddrinfo`) holds a thread for as long as a name server says nothing,
//! half a minute for each name: with some hundred names of one service, every thread that anybody
//! could wait with was gone, and the whole node stood still. Here a look-up is a task and two
//! sockets (`system`), there is one a name, so many at once in all, and each ends in time. An
//! answer is kept for as long as its name server said, and used a while longer when the name server
//! says nothing more (RFC 8767): what was right a minute ago is better than no address.

mod happy_eyeballs;
mod literal;
mod query;
mod system;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

pub use self::happy_eyeballs::happy_eyeballs;
use self::system::System;

/// How long one look-up may take, all search domains and name servers together. Well over what
/// answers take, and who waits for a name has less: an attempt to connect has two seconds.
const LIMIT: Duration = Duration::from_secs(5);

/// How many look-ups run at once. Each has two sockets at a time.
const AT_ONCE: usize = 256;

/// How long it is remembered that a look-up failed. RFC 9520, section 3.2, asks for a second at
/// least.
const FAILED: Duration = Duration::from_secs(1);

/// How long at most it is remembered that a name does not exist. Name servers often say minutes or
/// hours, and an instance may well be registered before its name is.
const NEGATIVE_MOST: Duration = Duration::from_secs(5);

/// How long what was known may be used after its time, when the name server does not answer. RFC
/// 8767, section 5, has one to three days.
const STALE: Duration = Duration::from_hours(24);

/// How long it is waited for a new answer before one whose time is over is used. RFC 8767 has 1.8
/// s, which is most of what an attempt to connect has.
const STALE_AFTER: Duration = Duration::from_millis(500);

/// How many names are remembered.
const NAMES: usize = 20_000;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotFound {
    /// Whoever knows says that there is no such name, or that it has no address.
    #[error("{0}")]
    NoSuchName(Arc<str>),
    /// Nobody who knows could be asked.
    #[error("{0}")]
    NoAnswer(Arc<str>),
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    addresses: Vec<IpAddr>,
    /// For how long it is right.
    lives: Duration,
}

/// A look-up that found nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    why: NotFound,
    /// For how long that is right, if it was said.
    lives: Option<Duration>,
}

/// Whoever knows names.
trait Source: Send + Sync + 'static {
    /// Looks this name up, for as long as it takes.
    fn look_up(&self, name: Arc<str>) -> BoxFuture<'_, Result<Answer, Failed>>;
}

type Outcome = Result<Arc<[IpAddr]>, NotFound>;

/// Looks up names. Cheap to clone; clones share what is known.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    source: Box<dyn Source>,
    names: Mutex<HashMap<Arc<str>, CachedName>>,
    turns: Semaphore,
}

/// What is known of one name, and the look-up of it that runs.
#[derive(Default)]
struct CachedName {
    known: Option<Known>,
    failed: Option<(NotFound, Instant)>,
    /// The look-up that runs.
    running: Option<watch::Receiver<Option<Outcome>>>,
}

struct Known {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

impl CachedName {
    fn stale(&self, now: Instant) -> Option<Arc<[IpAddr]>> {
        let known = self.known.as_ref().filter(|known| now < known.until + STALE)?;
        Some(Arc::clone(&known.addresses))
    }

    /// Whether nothing would be lost with it.
    fn is_idle(&self, now: Instant) -> bool {
        self.running.is_none()
            && self.known.as_ref().is_none_or(|known| known.until <= now)
            && self.failed.as_ref().is_none_or(|(_, until)| *until <= now)
    }
}

/// What is to be done for somebody who asks.
enum Next {
    Tell(Outcome),
    Wait { running: watch::Receiver<Option<Outcome>>, stale: Option<Arc<[IpAddr]>> },
}

impl Default for Resolver {
    /// As the system is configured: `/etc/hosts` first, then the name servers, search domains and
    /// options of `/etc/resolv.conf`. Both files are read when a name is looked up first, and again
    /// when they have changed.
    fn default() -> Self {
        Self::new(System::default())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.inner.names().len()).finish_non_exhaustive()
    }
}

impl Resolver {
    fn new(source: impl Source) -> Self {
        let (names, turns) = (Mutex::default(), Semaphore::new(AT_ONCE));
        Self { inner: Arc::new(Inner { source: Box::new(source), names, turns }) }
    }

    /// The addresses of a host, in the order in which they were told: IPv6 first, as RFC 6724
    /// prefers it; never none. A text that is an address is its own. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// It has none, or nobody could say. It may take as long as a look-up may, five seconds and the
    /// time until it is its turn.
    ///
    /// # Cancel safety
    ///
    /// Safe: a look-up that was begun goes on, for whoever asks next.
    pub async fn addresses(&self, host: &str) -> Result<Arc<[IpAddr]>, NotFound> {
        if let Some(ip) = literal::address(host) {
            return Ok([ip].into());
        }
        // A name is the same in any case (RFC 4343).
        let name: Arc<str> = host.to_ascii_lowercase().into();
        let (mut running, stale) = match self.next(&name) {
            Next::Tell(outcome) => return outcome,
            Next::Wait { running, stale } => (running, stale),
        };
        let told = async {
            match running.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().expect("it was waited for"),
                Err(_) => Err(NotFound::NoAnswer("the look-up broke off".into())),
            }
        };
        match stale {
            None => told.await,
            Some(stale) => timeout(STALE_AFTER, told).await.unwrap_or(Ok(stale)),
        }
    }

    /// How many look-ups run or wait for their turn.
    pub fn running(&self) -> usize {
        self.inner.names().values().filter(|entry| entry.running.is_some()).count()
    }

    fn next(&self, name: &Arc<str>) -> Next {
        let now = Instant::now();
        let mut names = self.inner.names();
        if names.len() >= NAMES && !names.contains_key(name) {
            names.retain(|_, entry| !entry.is_idle(now));
        }
        let entry = names.entry(Arc::clone(name)).or_default();
        if let Some(known) = entry.known.as_ref().filter(|known| now < known.until) {
            return Next::Tell(Ok(Arc::clone(&known.addresses)));
        }
        let stale = entry.stale(now);
        if let Some((why, _)) = entry.failed.as_ref().filter(|(_, until)| now < *until) {
            return Next::Tell(stale.ok_or_else(|| why.clone()));
        }
        let running = entry.running.get_or_insert_with(|| {
            let (tell, running) = watch::channel(None);
            tokio::spawn(Arc::clone(&self.inner).look_up(Arc::clone(name), tell));
            running
        });
        Next::Wait { running: running.clone(), stale }
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, HashMap<Arc<str>, CachedName>> {
        // Nothing that runs under it can panic half-way.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(self: Arc<Self>, name: Arc<str>, tell: watch::Sender<Option<Outcome>>) {
        // However it ends, also by a panic of the source, the next who asks begins another.
        let ends = Ends { inner: &self, name: &name };
        let turn = self.turns.acquire().await;
        let found = timeout(LIMIT, self.source.look_up(Arc::clone(&name))).await;
        drop(turn);
        let found = found.unwrap_or_else(|_| {
            let why = format!("no name server answered within {} s", LIMIT.as_secs());
            Err(Failed { why: NotFound::NoAnswer(why.into()), lives: None })
        });
        let outcome = self.learn(&name, found);
        drop(ends);
        // Nobody may wait any more.
        tell.send_replace(Some(outcome));
    }

    /// Takes what was found down, and answers what those who wait are told.
    fn learn(&self, name: &Arc<str>, found: Result<Answer, Failed>) -> Outcome {
        let now = Instant::now();
        let mut names = self.names();
        let entry = names.entry(Arc::clone(name)).or_default();
        match found {
            Ok(Answer { addresses, lives }) => {
                let addresses: Arc<[IpAddr]> = addresses.into();
                let until = now + lives.min(STALE);
                *entry = CachedName {
                    known: Some(Known { addresses: Arc::clone(&addresses), until }),
                    ..CachedName::default()
                };
                Ok(addresses)
            }
            Err(Failed { why: why @ NotFound::NoSuchName(_), lives }) => {
                let until = now + lives.unwrap_or(FAILED).min(NEGATIVE_MOST);
                *entry = CachedName { failed: Some((why.clone(), until)), ..CachedName::default() };
                Err(why)
            }
            Err(Failed { why, .. }) => {
                entry.failed = Some((why.clone(), now + FAILED));
                entry.stale(now).ok_or(why)
            }
        }
    }
}

/// Ends the look-up of a name.
struct Ends<'a> {
    inner: &'a Inner,
    name: &'a Arc<str>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.inner.names().get_mut(self.name) {
            entry.running = None;
        }
    }
}
