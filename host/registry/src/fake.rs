//! A registry for tests: an etcd in memory behind our own trait, with a handle that drives it and
//! sees what was asked of it.
//!
//! It keeps etcd's rules that the state machines rely on (revisions, compaction, leases, watches
//! that replay and are inclusive), on tokio's clock, so that a paused one works.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use waymark_core::{
    model::{Endpoint, LeaseId, Revision, ServiceName, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
};

use super::{
    Registry, RegistryConfig,
    error::{CallError, Cause, RegistryError},
    etcd::{
        Etcd, Event, Header, Kv, MAX_OPS, Page, Range, Token, WatchAnswer, WatchHalves, WatchRequest, WatchRx, WatchTx,
        Written,
    },
};

/// How long a call to a hung etcd takes to fail.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// What was asked of it, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Range,
    OpenWatch,
    Watch { key: String, from: Revision },
    CancelWatch,
    Grant,
    KeepAlive(LeaseId),
    Put(LeaseId),
    Revoke(LeaseId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Up,
    Refusing,
    Hanging,
}

struct Stream {
    /// Which token it was opened with.
    token: u64,
    answers: mpsc::UnboundedSender<Result<WatchAnswer, RegistryError>>,
    /// What is watched, and from which revision on.
    watches: HashMap<i64, (Range, Revision)>,
}

struct Lease {
    ttl: Ttl,
    deadline: Instant,
}

struct Store {
    mode: Mode,
    cluster: u64,
    revision: Revision,
    compacted: Revision,
    kvs: BTreeMap<Vec<u8>, Kv>,
    history: Vec<Event>,
    leases: HashMap<LeaseId, Lease>,
    next_lease: i64,
    min_ttl: Ttl,
    streams: Vec<Stream>,
    refuse_watches: Option<String>,
    refuse_ranges: Option<String>,
    break_ranges: Option<String>,
    refuse_puts: Option<RegistryError>,
    /// How many bytes an answer with keys may have, and how many each had.
    largest_answer: usize,
    answer_sizes: Vec<usize>,
    /// Watches are allowed on streams that were opened since this many were, and with a token of
    /// then.
    token: u64,
    own_ids: bool,
    calls: Vec<(Instant, Call)>,
}

/// The registry and the handle in one: clones share everything.
#[derive(Clone)]
pub(super) struct Fake(Arc<Mutex<Store>>);

fn contains(range: &Range, key: &[u8]) -> bool {
    match range.end.as_slice() {
        [] => key == range.key,
        [0] => key >= range.key.as_slice(),
        end => key >= range.key.as_slice() && key < end,
    }
}

fn down() -> RegistryError {
    RegistryError::Unreachable { endpoint: "fake".to_owned(), source: Cause::new("connection refused") }
}

impl Store {
    fn header(&self) -> Header {
        Header { cluster: self.cluster, revision: self.revision }
    }

    fn commit(&mut self, events: Vec<Event>) {
        for event in &events {
            match event {
                Event::Put(kv) => {
                    self.kvs.insert(kv.key.clone(), kv.clone());
                }
                Event::Delete { key, .. } => {
                    self.kvs.remove(key);
                }
            }
        }
        if self.mode != Mode::Hanging {
            for stream in &self.streams {
                for (id, (range, _)) in &stream.watches {
                    stream.send(self.header(), *id, matching(&events, range, Revision(0)));
                }
            }
        }
        self.history.extend(events);
    }

    /// As a transport that takes no larger messages.
    fn weigh(&mut self, pages: &[Page]) -> Result<(), CallError> {
        let size = pages.iter().flat_map(|page| &page.kvs).map(|kv| kv.key.len() + kv.value.len()).sum();
        self.answer_sizes.push(size);
        if size > self.largest_answer {
            let (endpoint, what, message) = ("fake".to_owned(), "read".to_owned(), "message too large".to_owned());
            return Err(RegistryError::NeverTaken { endpoint, what, message }.into());
        }
        Ok(())
    }

    fn page(&self, range: &Range, at: Option<Revision>, limit: u32) -> Result<Page, CallError> {
        if self.refuse_ranges.as_ref().is_some_and(|prefix| range.key.starts_with(prefix.as_bytes())) {
            let (endpoint, what) = ("fake".to_owned(), format!("read {:?}", range.describe()));
            return Err(RegistryError::PermissionDenied { endpoint, user: None, what }.into());
        }
        if at.is_some_and(|at| at < self.compacted) {
            return Err(CallError::Compacted);
        }
        // As of `at`: what was written later does not exist yet, which is enough for paging tests.
        let visible = |kv: &&Kv| contains(range, &kv.key) && at.is_none_or(|at| kv.mod_revision <= at);
        let mut kvs = self.kvs.values().filter(visible).cloned().collect::<Vec<_>>();
        let more = kvs.len() > limit as usize;
        kvs.truncate(limit as usize);
        Ok(Page { header: self.header(), kvs, more })
    }

    fn put(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, lease: Option<LeaseId>) {
        self.revision = self.revision.next();
        let mod_revision = self.revision;
        let put = |(key, value)| Event::Put(Kv { key, value, mod_revision, lease });
        self.commit(entries.into_iter().map(put).collect());
    }

    fn delete(&mut self, keys: Vec<Vec<u8>>) {
        if keys.is_empty() {
            return;
        }
        self.revision = self.revision.next();
        let mod_revision = self.revision;
        self.commit(keys.into_iter().map(|key| Event::Delete { key, mod_revision }).collect());
    }

    fn end_lease(&mut self, lease: LeaseId) -> bool {
        let existed = self.leases.remove(&lease).is_some();
        let keys = self.kvs.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone()).collect();
        self.delete(keys);
        existed
    }
}

fn matching(events: &[Event], range: &Range, from: Revision) -> Vec<Event> {
    let key = |event: &Event| match event {
        Event::Put(kv) => kv.key.clone(),
        Event::Delete { key, .. } => key.clone(),
    };
    let wanted = |event: &&Event| event.mod_revision() >= from && contains(range, &key(event));
    events.iter().filter(wanted).cloned().collect()
}

impl Stream {
    fn send(&self, header: Header, id: i64, events: Vec<Event>) {
        if !events.is_empty() {
            self.answer(header, WatchAnswer { id, events, ..WatchAnswer::default() });
        }
    }

    fn answer(&self, header: Header, answer: WatchAnswer) {
        let answer = WatchAnswer { cluster: header.cluster, revision: header.revision, ..answer };
        let _ = self.answers.send(Ok(answer));
    }
}

impl Fake {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Store {
            mode: Mode::Up,
            cluster: 0xfa4e,
            revision: Revision(1),
            compacted: Revision(0),
            kvs: BTreeMap::new(),
            history: Vec::new(),
            leases: HashMap::new(),
            next_lease: 100,
            min_ttl: Ttl::from_secs(2).unwrap(),
            streams: Vec::new(),
            refuse_watches: None,
            refuse_ranges: None,
            break_ranges: None,
            refuse_puts: None,
            largest_answer: usize::MAX,
            answer_sizes: Vec::new(),
            token: 0,
            own_ids: false,
            calls: Vec::new(),
        })))
    }

    /// A registry over it, with the default configuration.
    pub(super) fn registry(&self) -> Registry {
        Registry::over(Arc::new(self.clone()), Arc::new(RegistryConfig::new(["fake:1"])))
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    // What the tests do to it.

    pub(super) fn put(&self, key: &str, value: &str) {
        self.store().put(vec![(key.into(), value.into())], None);
    }

    pub(super) fn put_under(&self, lease: LeaseId, key: &str, value: &str) {
        self.store().put(vec![(key.into(), value.into())], Some(lease));
    }

    pub(super) fn delete(&self, key: &str) {
        self.store().delete(vec![key.into()]);
    }

    pub(super) fn end_lease(&self, lease: LeaseId) {
        self.store().end_lease(lease);
    }

    /// Forgets all history up to now.
    pub(super) fn compact(&self) {
        let mut store = self.store();
        store.compacted = store.revision;
        store.history.clear();
    }

    /// Breaks every stream, and goes on serving.
    pub(super) fn cut(&self) {
        for stream in self.store().streams.drain(..) {
            let _ = stream.answers.send(Err(down()));
        }
    }

    /// Refuses connections.
    pub(super) fn go_down(&self) {
        self.store().mode = Mode::Refusing;
        self.cut();
    }

    /// Takes calls and answers none; streams stay open and silent.
    pub(super) fn hang(&self) {
        self.store().mode = Mode::Hanging;
    }

    /// Serves again, on new streams.
    pub(super) fn come_back(&self) {
        self.cut();
        self.store().mode = Mode::Up;
    }

    /// Another cluster with other data at the same address.
    pub(super) fn become_another_cluster(&self) {
        let mut store = self.store();
        store.cluster += 1;
        store.kvs.clear();
        store.leases.clear();
        store.history.clear();
    }

    /// The same cluster, restored from a backup.
    pub(super) fn go_back_to(&self, revision: Revision) {
        let mut store = self.store();
        store.revision = revision;
        store.kvs.retain(|_, kv| kv.mod_revision <= revision);
        store.history.retain(|event| event.mod_revision() <= revision);
    }

    pub(super) fn refuse_watches(&self, reason: Option<&str>) {
        self.store().refuse_watches = reason.map(Into::into);
    }

    /// Does not let anybody read this prefix.
    pub(super) fn refuse_ranges(&self, prefix: Option<&str>) {
        self.store().refuse_ranges = prefix.map(Into::into);
    }

    /// Panics when somebody reads this prefix.
    pub(super) fn break_ranges(&self, prefix: Option<&str>) {
        self.store().break_ranges = prefix.map(Into::into);
    }

    /// Answers with so many bytes of keys and values at most.
    pub(super) fn answer_at_most(&self, bytes: usize) {
        self.store().largest_answer = bytes;
    }

    /// How many bytes of keys and values each answer had so far.
    pub(super) fn answer_sizes(&self) -> Vec<usize> {
        self.store().answer_sizes.clone()
    }

    /// Takes no entries, for this reason.
    pub(super) fn refuse_puts(&self, error: Option<RegistryError>) {
        self.store().refuse_puts = error;
    }

    /// Has all tokens that were given expire: watches that stand go on, and new ones are refused on
    /// streams that were opened with such.
    pub(super) fn expire_tokens(&self) {
        self.store().token += 1;
    }

    /// Gives watches numbers of its own, as etcd's proxy does.
    pub(super) fn use_own_ids(&self) {
        self.store().own_ids = true;
    }

    // What the tests see.

    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.store().kvs.get(key.as_bytes()).map(|kv| String::from_utf8(kv.value.clone()).unwrap())
    }

    pub(super) fn lease_of(&self, key: &str) -> Option<LeaseId> {
        self.store().kvs.get(key.as_bytes())?.lease
    }

    pub(super) fn has_lease(&self, lease: LeaseId) -> bool {
        self.store().leases.contains_key(&lease)
    }

    pub(super) fn revision(&self) -> Revision {
        self.store().revision
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.store().calls.iter().map(|(_, call)| call.clone()).collect()
    }

    pub(super) fn times_of(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Instant> {
        self.store().calls.iter().filter(|(_, call)| wanted(call)).map(|(at, _)| *at).collect()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.times_of(wanted).len()
    }

    pub(super) fn n_streams(&self) -> usize {
        self.store().streams.iter().filter(|stream| !stream.answers.is_closed()).count()
    }

    // What it does.

    async fn gate(&self, call: Call) -> Result<(), RegistryError> {
        self.store().calls.push((Instant::now(), call));
        // Never in no time: the tasks of a test must not spin within one instant of the paused
        // clock.
        sleep(Duration::from_micros(100)).await;
        let mode = self.store().mode;
        match mode {
            Mode::Up => Ok(()),
            Mode::Refusing => Err(down()),
            Mode::Hanging => {
                sleep(CALL_TIMEOUT).await;
                Err(RegistryError::TimedOut { endpoint: "fake".to_owned(), after: CALL_TIMEOUT })
            }
        }
    }

    fn request(&self, stream: usize, request: WatchRequest) {
        let mut store = self.store();
        let (header, compacted) = (store.header(), store.compacted);
        let expired = store.streams[stream].token != store.token;
        let refuse = store.refuse_watches.clone().or(expired.then(|| "etcdserver: permission denied".to_owned()));
        match request {
            WatchRequest::Create { id, range, from } => {
                let key = range.describe();
                store.calls.push((Instant::now(), Call::Watch { key, from }));
                let id = if store.own_ids { 1000 - id } else { id };
                // 0 is etcd's word for "from now on".
                let from = if from == Revision(0) { header.revision.next() } else { from };
                let replay = matching(&store.history, &range, from);
                let stream = &mut store.streams[stream];
                if let Some(reason) = refuse {
                    let refused =
                        WatchAnswer { id: -1, created: true, canceled: true, reason, ..WatchAnswer::default() };
                    return stream.answer(header, refused);
                }
                stream.answer(header, WatchAnswer { id, created: true, ..WatchAnswer::default() });
                if from <= compacted {
                    let header = Header { revision: Revision(0), ..header };
                    let compacted = Some(compacted);
                    let canceled = WatchAnswer { id, canceled: true, compacted, ..WatchAnswer::default() };
                    return stream.answer(header, canceled);
                }
                stream.send(header, id, replay);
                stream.watches.insert(id, (range, from));
            }
            WatchRequest::Cancel { id } => {
                store.calls.push((Instant::now(), Call::CancelWatch));
                let stream = &mut store.streams[stream];
                stream.watches.remove(&id);
                stream.answer(header, WatchAnswer { id, canceled: true, ..WatchAnswer::default() });
            }
            WatchRequest::Progress => {
                let stream = &mut store.streams[stream];
                // As etcd from 3.5.8 on: nothing is said while a watch begins later.
                if stream.watches.values().all(|(_, from)| *from <= header.revision) {
                    stream.answer(header, WatchAnswer { id: -1, ..WatchAnswer::default() });
                }
            }
        }
    }

    async fn expire(self, lease: LeaseId) {
        loop {
            let Some(deadline) = self.store().leases.get(&lease).map(|lease| lease.deadline) else { return };
            sleep_until(deadline).await;
            let mut store = self.store();
            if store.leases.get(&lease).is_none_or(|lease| lease.deadline <= Instant::now()) {
                store.end_lease(lease);
                return;
            }
        }
    }
}

impl Etcd for Fake {
    fn check(&self) -> BoxFuture<'_, Result<(String, Header), RegistryError>> {
        async {
            self.gate(Call::Range).await?;
            Ok(("fake".to_owned(), self.store().header()))
        }
        .boxed()
    }

    fn range(&self, range: Range, at: Option<Revision>, limit: u32) -> BoxFuture<'_, Result<Page, CallError>> {
        async move {
            self.gate(Call::Range).await?;
            let mut store = self.store();
            let page = store.page(&range, at, limit)?;
            store.weigh(std::slice::from_ref(&page))?;
            Ok(page)
        }
        .boxed()
    }

    fn ranges(&self, ranges: Vec<Range>, limit: u32) -> BoxFuture<'_, Result<Vec<Page>, CallError>> {
        async move {
            assert!(ranges.len() <= MAX_OPS, "{} operations in one transaction", ranges.len());
            self.gate(Call::Range).await?;
            let mut store = self.store();
            let broken = store.break_ranges.clone();
            let breaks = |range: &Range| broken.as_ref().is_some_and(|prefix| range.key.starts_with(prefix.as_bytes()));
            if ranges.iter().any(breaks) {
                drop(store);
                panic!("a fault, for a test");
            }
            let pages: Vec<Page> =
                ranges.iter().map(|range| store.page(range, None, limit)).collect::<Result<_, CallError>>()?;
            store.weigh(&pages)?;
            Ok(pages)
        }
        .boxed()
    }

    fn watch(&self, first: WatchRequest, token: Token) -> BoxFuture<'_, Result<WatchHalves, RegistryError>> {
        async move {
            self.gate(Call::OpenWatch).await?;
            let (answers, rx) = mpsc::unbounded_channel();
            let stream = {
                let mut store = self.store();
                // The one at hand is of the beginning.
                let token = if token == Token::New { store.token } else { 0 };
                store.streams.push(Stream { token, answers: answers.clone(), watches: HashMap::new() });
                store.streams.len() - 1
            };
            self.request(stream, first);
            let tx = FakeTx { fake: self.clone(), answers };
            Ok((Box::new(tx) as Box<dyn WatchTx>, Box::new(FakeRx(rx)) as Box<dyn WatchRx>))
        }
        .boxed()
    }

    fn grant(&self, ttl: Ttl) -> BoxFuture<'_, Result<(LeaseId, Ttl), CallError>> {
        async move {
            self.gate(Call::Grant).await?;
            let mut store = self.store();
            let (id, ttl) = (LeaseId(store.next_lease), ttl.max(store.min_ttl));
            store.next_lease += 1;
            store.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl.as_duration() });
            tokio::spawn(self.clone().expire(id));
            Ok((id, ttl))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId, _: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        async move {
            self.gate(Call::KeepAlive(lease)).await?;
            let mut store = self.store();
            let lease = store.leases.get_mut(&lease).ok_or(CallError::LeaseGone)?;
            lease.deadline = Instant::now() + lease.ttl.as_duration();
            Ok(())
        }
        .boxed()
    }

    fn put(&self, entries: Vec<Entry>, lease: LeaseId) -> BoxFuture<'_, Result<Written, CallError>> {
        async move {
            self.gate(Call::Put(lease)).await?;
            let mut store = self.store();
            if let Some(error) = &store.refuse_puts {
                return Err(error.clone().into());
            }
            if !store.leases.contains_key(&lease) {
                return Err(CallError::LeaseGone);
            }
            let previous = entries.iter().map(|entry| store.kvs.get(entry.key.as_bytes()).cloned()).collect();
            store.put(entries.into_iter().map(|entry| (entry.key.into_bytes(), entry.value)).collect(), Some(lease));
            Ok(Written { header: store.header(), previous })
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId, _: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        async move {
            self.gate(Call::Revoke(lease)).await?;
            self.store().end_lease(lease);
            Ok(())
        }
        .boxed()
    }
}

struct FakeTx {
    fake: Fake,
    answers: mpsc::UnboundedSender<Result<WatchAnswer, RegistryError>>,
}

impl WatchTx for FakeTx {
    fn send(&mut self, request: WatchRequest) -> BoxFuture<'_, Result<(), RegistryError>> {
        let stream = {
            let store = self.fake.store();
            // A hung server takes requests into its buffers.
            let up = store.mode == Mode::Up;
            store.streams.iter().position(|stream| stream.answers.same_channel(&self.answers)).filter(|_| up)
        };
        if let Some(stream) = stream {
            self.fake.request(stream, request);
        }
        async { Ok(()) }.boxed()
    }
}

struct FakeRx(mpsc::UnboundedReceiver<Result<WatchAnswer, RegistryError>>);

impl WatchRx for FakeRx {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchAnswer, RegistryError>> {
        async { self.0.recv().await.unwrap_or_else(|| Err(down())) }.boxed()
    }

    fn endpoint(&self) -> &'static str {
        "fake"
    }
}

/// A key scheme for tests: `SERVICE/ANYTHING -> address[,address…][;weight]`. An empty value is a
/// marker; the keys of `refuse…` services are refused.
pub(super) struct TestScheme;

impl TestScheme {
    pub(super) fn shared() -> Arc<dyn KeyScheme> {
        Arc::new(Self)
    }
}

impl KeyScheme for TestScheme {
    fn name(&self) -> &'static str {
        "test"
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        if service.as_str().starts_with("refuse") {
            let (scheme, subject) = ("test".to_owned(), format!("service {service}"));
            return Err(NamingError::Refused { scheme, subject, reason: "it said so".to_owned() });
        }
        Ok(vec![format!("{service}/")])
    }

    fn encode(&self, service: &ServiceName, it: &Endpoint, lease: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        let entry = |key: String| Entry { key, value: format!("{};{}", it.address, it.weight).into_bytes() };
        Ok(match service.as_str() {
            "elsewhere" => vec![entry(format!("other/{}", it.address))],
            "nothing" => vec![],
            "twice" => vec![entry(format!("{service}/1")), entry(format!("{service}/1"))],
            "one-key" => vec![entry(format!("{service}/the"))],
            "leased" => vec![entry(format!("{service}/{lease}"))],
            "two" => vec![entry(format!("{service}/a/{}", it.address)), entry(format!("{service}/b/{}", it.address))],
            _ => vec![entry(format!("{service}/{}", it.address))],
        })
    }

    fn decode(&self, _: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        let text = String::from_utf8(entry.value.clone()).unwrap();
        let fail =
            |reason: String| Err(NamingError::Unreadable { scheme: "test".to_owned(), key: entry.key.clone(), reason });
        if text == "trap" {
            let (scheme, call) = ("test".to_owned(), "decode");
            return Err(NamingError::Failed { scheme, call, reason: "trapped".to_owned(), overran: false });
        }
        if text.is_empty() {
            return Ok(Decoded::default());
        }
        let (text, warnings) = match text.split_once('!') {
            Some((text, warning)) => (text.to_owned(), vec![warning.to_owned()]),
            None => (text, Vec::new()),
        };
        let (addresses, weight) = text.split_once(';').unwrap_or((&text, "1"));
        let mut endpoints = Vec::new();
        for address in addresses.split(',') {
            match address.parse() {
                Ok(address) => {
                    endpoints.push(Endpoint { weight: weight.parse().unwrap(), ..Endpoint::at(address) });
                }
                Err(error) => return fail(error.to_string()),
            }
        }
        Ok(Decoded { endpoints, warnings })
    }
}

/// A service's name.
pub(super) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}
