//! etcd over the network: only this file and those under it name `etcd_client`.
//!
//! `etcd_client` neither fails over between endpoints nor authenticates again nor bounds a call on
//! a hung server by itself (its balancer goes on choosing dead endpoints). So there is one client
//! an endpoint here, each call is bounded, goes to the endpoint that answered last, and to the next
//! where that one cannot serve or takes its time. Keys get and lose the namespace here.

mod convert;
mod credentials;
mod status;
mod stream;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, PutOptions, TlsOptions, Txn,
    TxnOp, TxnOpResponse, WatchClient,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};
use waymark_core::{
    model::{LeaseId, Revision, Ttl},
    naming::Entry,
    secret::Secret,
    text,
};

use self::{
    convert::{Namespace, header},
    credentials::Credentials,
    status::{Blame, is_about_token, message_of},
};
use super::{
    config::RegistryConfig,
    endpoint_probe::{self, Found},
    error::{CallError, RegistryError, chain},
    etcd::{Etcd, Header, Page, Range, Token, WatchHalves, WatchRequest, Written},
};

/// Larger than any answer we ask for: pages are limited by their number of keys, and an expired
/// lease is one message however many keys it had. The Go client sets no limit either.
const MAX_MESSAGE: usize = 1 << 30;

/// After so long another member is asked the same, beside those that have not answered yet. Far
/// more than a healthy etcd takes, so that a slow one is not asked everything twice, and less than
/// the second within which a registration must be back.
const SLOW_TO_ANSWER: Duration = Duration::from_millis(600);

/// However little time there is and however many members, one of them gets this long to answer.
const LEAST_BOUND: Duration = Duration::from_millis(200);

/// A connected, and where needed authenticated, client of one endpoint.
#[derive(Clone)]
struct Connected {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
}

/// One endpoint of the cluster.
struct Member {
    /// With its scheme, for messages too.
    blame: Blame,
    /// Filled by the first call that needs it; emptied when etcd no longer takes its token.
    slot: Mutex<Arc<OnceCell<Connected>>>,
}

impl Member {
    fn cell(&self) -> Arc<OnceCell<Connected>> {
        Arc::clone(&self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the next call connect and authenticate anew, unless another call has already arranged
    /// for that.
    fn discard(&self, used: &Arc<OnceCell<Connected>>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&slot, used) {
            *slot = Arc::default();
        }
    }
}

/// The members of one cluster, as one.
pub(super) struct EtcdClient {
    members: Box<[Member]>,
    /// The member to ask first: the one that answered last, as far as is known.
    preferred: AtomicUsize,
    namespace: Namespace,
    credentials: Option<Credentials>,
    config: Arc<RegistryConfig>,
}

impl EtcdClient {
    /// Checks the configuration. Nothing is sent before the first call.
    pub(super) fn new(config: Arc<RegistryConfig>) -> Result<Self, RegistryError> {
        let members = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let url = endpoint_probe::normalize(endpoint, config.tls.is_some())?;
                let user = config.user.as_ref().map(|user| user.name.clone());
                let blame = Blame { endpoint: url, user, after: config.request_timeout };
                Ok(Member { blame, slot: Mutex::default() })
            })
            .collect::<Result<Box<[_]>, RegistryError>>()?;
        if members.is_empty() {
            return Err(RegistryError::NoEndpoint);
        }
        // Anywhere, so that a fleet with one configuration does not lean on its first endpoint.
        let preferred = AtomicUsize::new(fastrand::usize(..members.len()));
        let namespace = Namespace::new(config.namespace.as_deref().unwrap_or_default());
        let credentials = config.user.clone().map(Credentials::new);
        Ok(Self { members, preferred, namespace, credentials, config })
    }

    fn options(&self, url: &str, user: Option<&(&str, Secret)>) -> ConnectOptions {
        let config = &self.config;
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(config.connect_timeout)
            .with_timeout(config.request_timeout)
            .with_keep_alive(config.keep_alive_interval, config.keep_alive_timeout)
            // etcd takes pings without a call in progress for abuse (PermitWithoutStream is off).
            .with_keep_alive_while_idle(false);
        if let Some((user, password)) = user {
            options = options.with_user(*user, password.reveal());
        }
        if url.starts_with("https://") {
            let tls = config.tls.clone().unwrap_or_default();
            let mut with = match tls.ca {
                Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
                None => TlsOptions::new().with_native_roots(),
            };
            if let Some((certificate, key)) = tls.identity {
                with = with.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = tls.server_name {
                with = with.domain_name(name);
            }
            options = options.with_tls(with);
        }
        options
    }

    /// Connects, and authenticates where there is a user.
    async fn connect(&self, member: &Member) -> Result<Connected, etcd_client::Error> {
        let url = &member.blame.endpoint;
        let user = match &self.credentials {
            Some(credentials) => Some(credentials.read().await?),
            None => None,
        };
        let client = match Client::connect([url], Some(self.options(url, user.as_ref()))).await {
            // As the Go client does: credentials do no harm where none are wanted.
            Err(error) if user.is_some() && message_of(&error).ends_with("authentication is not enabled") => {
                Client::connect([url], Some(self.options(url, None))).await?
            }
            result => result?,
        };
        Ok(Connected {
            kv: client.kv_client().max_decoding_message_size(MAX_MESSAGE),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
        })
    }

    /// One call to one member, bounded in time. Authenticates again where etcd says that the token
    /// has expired.
    async fn call_member<T, F, A>(&self, member: &Member, what: &str, bound: Duration, call: F) -> Result<T, CallError>
    where
        F: Fn(Connected) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut fresh = false;
        loop {
            let slot = member.cell();
            fresh |= !slot.initialized();
            let result = timeout(bound, async {
                let connected = slot.get_or_try_init(|| self.connect(member)).await?.clone();
                call(connected).await
            });
            match result.await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if !fresh && self.credentials.is_some() && is_about_token(&error) => {
                    member.discard(&slot);
                    fresh = true;
                }
                Ok(Err(error)) => return Err(member.blame.classify(what, &error)),
                Err(_) => {
                    return Err(
                        RegistryError::TimedOut { endpoint: member.blame.endpoint.clone(), after: bound }.into()
                    );
                }
            }
        }
    }

    /// One call to whichever member can serve it. Every call made here may be made twice without
    /// harm: a second put writes the same, a second grant leaves an empty lease to expire.
    async fn call<T, F, A>(&self, what: &str, call: F) -> Result<T, CallError>
    where
        F: Fn(Connected) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.call_and_tell(what, self.config.request_timeout, call).await.map(|(_, value)| value)
    }

    /// Like [`Self::call`], with a share of this time for each member, so that one that hangs does
    /// not use up what the others need.
    async fn call_within<T, F, A>(&self, what: &str, within: Duration, call: F) -> Result<T, CallError>
    where
        F: Fn(Connected) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        let share = within / u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let bound = share.max(LEAST_BOUND).min(self.config.request_timeout);
        self.call_and_tell(what, bound, call).await.map(|(_, value)| value)
    }

    /// Like [`Self::call`] with another bound for each member; also says who answered.
    ///
    /// A member that is slow to answer is not waited for alone: a follower that has lost its
    /// leader, or a process that hangs, takes a call and keeps it, while its neighbour answers at
    /// once. During an election all keep what they are given, and what is sent after it is
    /// answered; hence again and again, for as long as a call may take. The first answer counts.
    async fn call_and_tell<T, F, A>(&self, what: &str, bound: Duration, call: F) -> Result<(&Member, T), CallError>
    where
        F: Fn(Connected) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        let n_members = self.members.len();
        // A single member gets a second chance too: the first call after it restarted finds the old
        // connection broken.
        let mut left = n_members.max(2) - 1;
        let first = self.preferred.load(Ordering::Relaxed);
        let asked_at = Instant::now();
        let attempt = |index: usize| {
            let call = &call;
            async move { (index, self.call_member(&self.members[index], what, bound, call).await) }
        };
        let mut running = FuturesUnordered::from_iter([attempt(first)]);
        let mut next = (first + 1) % n_members;
        loop {
            // A single member has nobody beside it, and is not asked twice at once.
            let may_help = n_members > 1 && asked_at.elapsed() < bound;
            let (index, result) = tokio::select! {
                Some(finished) = running.next() => finished,
                () = sleep(SLOW_TO_ANSWER), if may_help => {
                    running.push(attempt(next));
                    next = (next + 1) % n_members;
                    continue;
                }
            };
            match result {
                Ok(value) => {
                    // Only if no other call has moved it already.
                    let _ = self.preferred.compare_exchange(first, index, Ordering::Relaxed, Ordering::Relaxed);
                    return Ok((&self.members[index], value));
                }
                Err(CallError::Failed(error)) if error.try_elsewhere() => {
                    let blame = &self.members[index].blame;
                    tracing::debug!(endpoint = blame.endpoint, error = chain(&error), "an endpoint cannot serve");
                    if n_members == 1 && matches!(error, RegistryError::TimedOut { .. }) {
                        return Err(error.into());
                    }
                    // At once, since whoever waits for this call may give up before the next member
                    // has answered.
                    let after = (index + 1) % n_members;
                    let _ = self.preferred.compare_exchange(index, after, Ordering::Relaxed, Ordering::Relaxed);
                    if left > 0 {
                        left -= 1;
                        running.push(attempt(next));
                        next = (next + 1) % n_members;
                    } else if running.is_empty() {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks one member, and finds out what is wrong where it fails.
    async fn check_member(&self, member: &Member) -> Result<(String, Header), RegistryError> {
        let options = GetOptions::new().with_count_only();
        let key = self.namespace.key(b"waymark");
        let result = self.call_member(member, "read", self.config.request_timeout, |mut etcd| {
            let (key, options) = (key.clone(), options.clone());
            async move { etcd.kv.get(key, Some(options)).await }
        });
        let error = match result.await {
            Ok(answer) => return Ok((member.blame.endpoint.clone(), header(answer.header()))),
            // Which keys the user may read depends on the key scheme and cannot be known here: it
            // is an etcd, and takes the user.
            Err(CallError::Failed(RegistryError::PermissionDenied { .. })) => {
                return Ok((member.blame.endpoint.clone(), Header { cluster: 0, revision: Revision(0) }));
            }
            Err(CallError::Failed(error)) => error,
            Err(CallError::Compacted | CallError::LeaseGone) => {
                let (endpoint, what) = (member.blame.endpoint.clone(), "read".to_owned());
                return Err(RegistryError::Refused { endpoint, what, message: "an unexpected answer".to_owned() });
            }
        };
        if !error.try_elsewhere() || matches!(error, RegistryError::Unavailable { .. }) {
            return Err(error);
        }
        let endpoint = member.blame.endpoint.clone();
        let tls = endpoint.starts_with("https://");
        Err(match endpoint_probe::probe(&endpoint, self.config.connect_timeout).await {
            Found::Nothing(source) => RegistryError::Unreachable { endpoint, source },
            Found::Tls if !tls => RegistryError::WantsTls { endpoint },
            Found::Tls => match error {
                RegistryError::Unreachable { endpoint, source } => {
                    let with_certificate = self.config.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
                    RegistryError::Tls { endpoint, advice: status::tls_advice(&source, with_certificate), source }
                }
                error => error,
            },
            Found::Http2 if tls => RegistryError::SpeaksPlaintext { endpoint },
            Found::Http2 | Found::Silent => error,
            Found::Unavailable(message) => RegistryError::Unavailable { endpoint, message },
            Found::Other(found) => RegistryError::NotEtcd { endpoint, found },
        })
    }
}

impl Etcd for EtcdClient {
    fn check(&self) -> BoxFuture<'_, Result<(String, Header), RegistryError>> {
        async {
            let results = futures::future::join_all(self.members.iter().map(|member| self.check_member(member))).await;
            let mut worst: Option<RegistryError> = None;
            for result in results {
                match result {
                    Ok(answer) => return Ok(answer),
                    // What can be mended by us says more than what may pass by itself.
                    Err(error) if worst.as_ref().is_none_or(|worst| worst.may_pass() && !error.may_pass()) => {
                        worst = Some(error);
                    }
                    Err(_) => {}
                }
            }
            Err(worst.unwrap_or(RegistryError::NoEndpoint))
        }
        .boxed()
    }

    fn range(&self, range: Range, at: Option<Revision>, limit: u32) -> BoxFuture<'_, Result<Page, CallError>> {
        async move {
            let what = format!("read {:?}", range.describe());
            let (key, end) = self.namespace.range(&range);
            let options =
                GetOptions::new().with_range(end).with_limit(i64::from(limit)).with_revision(at.map_or(0, |at| at.0));
            let answer = self.call(&what, |mut etcd| {
                let (key, options) = (key.clone(), options.clone());
                async move { etcd.kv.get(key, Some(options)).await }
            });
            let mut answer = answer.await?;
            let kvs = answer.take_kvs().into_iter().map(|kv| self.namespace.kv(kv)).collect();
            Ok(Page { header: header(answer.header()), kvs, more: answer.more() })
        }
        .boxed()
    }

    fn ranges(&self, ranges: Vec<Range>, limit: u32) -> BoxFuture<'_, Result<Vec<Page>, CallError>> {
        async move {
            if let [range] = ranges.as_slice() {
                return Ok(vec![self.range(range.clone(), None, limit).await?]);
            }
            let what = match ranges.as_slice() {
                [first, rest @ ..] => format!("read {:?} and {} more", first.describe(), rest.len()),
                [] => "read nothing".to_owned(),
            };
            let gets = ranges.iter().map(|range| {
                let (key, end) = self.namespace.range(range);
                TxnOp::get(key, Some(GetOptions::new().with_range(end).with_limit(i64::from(limit))))
            });
            let txn = Txn::new().and_then(gets.collect::<Vec<_>>());
            let answer = self.call(&what, |mut etcd| {
                let txn = txn.clone();
                async move { etcd.kv.txn(txn).await }
            });
            let answer = answer.await?;
            // The whole transaction's: its revision is that of every read in it.
            let header = header(answer.header());
            let pages = answer.op_responses().into_iter().filter_map(|done| match done {
                TxnOpResponse::Get(mut page) => {
                    let kvs = page.take_kvs().into_iter().map(|kv| self.namespace.kv(kv)).collect();
                    Some(Page { header, kvs, more: page.more() })
                }
                _ => None,
            });
            let pages = pages.collect::<Vec<_>>();
            if pages.len() == ranges.len() {
                return Ok(pages);
            }
            let (endpoint, message) = (self.members[0].blame.endpoint.clone(), "it left answers out".to_owned());
            Err(RegistryError::Refused { endpoint, what, message }.into())
        }
        .boxed()
    }

    fn watch(&self, first: WatchRequest, token: Token) -> BoxFuture<'_, Result<WatchHalves, RegistryError>> {
        async move {
            let what = match &first {
                WatchRequest::Create { range, .. } => format!("watch {:?}", range.describe()),
                WatchRequest::Cancel { .. } | WatchRequest::Progress => "open a watch".to_owned(),
            };
            if token == Token::New {
                for member in &self.members {
                    member.discard(&member.cell());
                }
            }
            let (key, options) = stream::create_options(&self.namespace, first);
            let opened = self.call_and_tell(&what, self.config.request_timeout, |mut etcd| {
                let (key, options) = (key.clone(), options.clone());
                async move { etcd.watch.watch(key, Some(options)).await }
            });
            match opened.await {
                Ok((member, opened)) => Ok(stream::halves(opened, member.blame.clone(), self.namespace.clone())),
                Err(CallError::Failed(error)) => Err(error),
                Err(error @ (CallError::Compacted | CallError::LeaseGone)) => Err(RegistryError::Refused {
                    endpoint: self.members[0].blame.endpoint.clone(),
                    what,
                    message: error.to_string(),
                }),
            }
        }
        .boxed()
    }

    fn grant(&self, ttl: Ttl) -> BoxFuture<'_, Result<(LeaseId, Ttl), CallError>> {
        async move {
            let seconds = i64::from(ttl.as_secs());
            let what = "grant a lease";
            let granting = self.call_and_tell(what, self.config.request_timeout, |mut etcd| async move {
                etcd.lease.grant(seconds, None).await
            });
            let (member, answer) = granting.await?;
            let granted = Ttl::from_secs(answer.ttl()).map_err(|error| RegistryError::Refused {
                endpoint: member.blame.endpoint.clone(),
                what: what.to_owned(),
                message: error.to_string(),
            })?;
            Ok((LeaseId(answer.id()), granted))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId, within: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        async move {
            // A stream a refresh, not a stream a lease: each refresh then goes to a member that
            // works, is bounded in time, and shares no fate with another lease's.
            self.call_within("keep a lease alive", within, |mut etcd| async move {
                let (keeper, mut answers) = etcd.lease.keep_alive(lease.0).await?;
                // Half-closed, the stream ends in peace instead of being reset.
                drop(keeper);
                let _ = timeout(Duration::from_millis(100), answers.message()).await;
                Ok(())
            })
            .await
        }
        .boxed()
    }

    fn put(&self, entries: Vec<Entry>, lease: LeaseId) -> BoxFuture<'_, Result<Written, CallError>> {
        async move {
            let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            let first = entries.first().map_or("", |entry| entry.key.as_str());
            let what = format!("write {:?} ({bytes} bytes)", text::printable(first, text::NAME));
            let options = PutOptions::new().with_lease(lease.0).with_prev_key();
            let puts = entries
                .into_iter()
                .map(|entry| TxnOp::put(self.namespace.key(entry.key.as_bytes()), entry.value, Some(options.clone())))
                .collect::<Vec<_>>();
            let txn = Txn::new().and_then(puts);
            let answer = self.call(&what, |mut etcd| {
                let txn = txn.clone();
                async move { etcd.kv.txn(txn).await }
            });
            let answer = answer.await?;
            let previous = answer.op_responses().into_iter().map(|done| match done {
                TxnOpResponse::Put(mut put) => put.take_prev_key().map(|kv| self.namespace.kv(kv)),
                _ => None,
            });
            Ok(Written { header: header(answer.header()), previous: previous.collect() })
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId, within: Duration) -> BoxFuture<'_, Result<(), CallError>> {
        async move {
            match self
                .call_within("revoke a lease", within, |mut etcd| async move { etcd.lease.revoke(lease.0).await })
                .await
            {
                Ok(_) | Err(CallError::LeaseGone) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }
}
