//! Reads whole services: those that are to be read at the same moment share one call.
//!
//! ```text
//!   follow ──▶ Lister::list ──first pages──▶ worker ──one transaction of up to 128 ranges──▶ etcd
//!                  │                            (up to 4 at once)
//!                  └──further pages, at the revision of the first──────────────────────────▶ etcd
//! ```
//!
//! A page is as many keys as fit [`PAGE_BYTES`], as far as the page before tells how large they
//! are: an answer of a thousand large values takes longer than a call may, and is more than a proxy
//! takes.
//!
//! A node that starts, and one whose etcd lost its history, reads all its services at once. One
//! call each would cost etcd and us more than the keys do: with ten endpoints a service, five times
//! as much. All reads of a transaction are made at one revision, so a service read so is as whole
//! as one read alone.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use super::{
    error::{CallError, RegistryError},
    etcd::{Etcd, Header, Kv, MAX_OPS, Page, Range},
};

/// How many transactions may be under way: enough to have etcd at work while we are.
const IN_FLIGHT: usize = 4;

/// How many bytes of keys and values a page shall have: half of what gRPC takes in one message
/// unless it is told otherwise.
const PAGE_BYTES: usize = 2 << 20;

/// How many keys a first page has at most, when nothing is known of their size: enough for most
/// services, and few enough for the largest values that etcd takes.
pub(super) const FIRST_KEYS: u32 = 100;

/// How much larger than the last one a page may be, in keys: those that follow may be of another
/// size.
const GROWTH: u32 = 4;

/// How much smaller a page is after one that was too large, or did not come in time.
pub(super) const SHRINK: u32 = 8;

/// How many pages' worth of keys one answer may hold, over all its ranges.
const PAGES_AN_ANSWER: u32 = 4;

/// A whole service as read.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) header: Header,
    pub(super) kvs: Vec<Kv>,
    /// How many keys of this size a first page shall have.
    pub(super) first_keys: u32,
}

/// First pages that somebody waits for.
struct Request {
    ranges: Vec<Range>,
    first_keys: u32,
    reply: oneshot::Sender<Result<Vec<Page>, CallError>>,
}

/// Handle to the worker, which ends with the last handle.
#[derive(Clone)]
pub(super) struct Lister {
    etcd: Arc<dyn Etcd>,
    page_size: u32,
    requests: mpsc::UnboundedSender<Request>,
}

impl Lister {
    /// Starts the worker. `page_size`: how many keys to read in one answer.
    pub(super) fn spawn(etcd: Arc<dyn Etcd>, page_size: u32) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(&etcd), page_size, inbox));
        Self { etcd, page_size, requests }
    }

    /// Reads all ranges, in pages, all at the revision of the first page, which has `first_keys`
    /// keys of each at most.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was asked for is dropped when it comes.
    pub(super) async fn list(&self, ranges: &[Range], first_keys: u32) -> Result<Listing, CallError> {
        let (reply, pages) = oneshot::channel();
        // The worker lives as long as this handle.
        let _ = self.requests.send(Request { ranges: ranges.to_vec(), first_keys, reply });
        // A fault of ours in a call that many share is one answer less, and not the end of all who
        // follow a service.
        let lost = || CallError::Failed(RegistryError::Internal { what: "a list of a service's entries".into() });
        let pages = pages.await.map_err(|_| lost())??;
        let header = pages.first().ok_or_else(lost)?.header;
        let mut kvs = Vec::new();
        for (range, mut page) in ranges.iter().zip(pages) {
            let mut rest = range.clone();
            loop {
                let limit = self.next_limit(&page.kvs);
                let last = page.kvs.last().map(|kv| kv.key.clone());
                kvs.append(&mut page.kvs);
                match last {
                    Some(mut next) if page.more => {
                        next.push(0);
                        rest.key = next;
                    }
                    _ => break,
                }
                page = self.page(&rest, header, limit).await?;
            }
        }
        let first_keys = fitting(&kvs).clamp(1, FIRST_KEYS);
        Ok(Listing { header, kvs, first_keys })
    }

    /// How many keys the page after this one has at most.
    fn next_limit(&self, page: &[Kv]) -> u32 {
        let most = (page.len() as u32).saturating_mul(GROWTH);
        fitting(page).min(most).clamp(1, self.page_size.max(1))
    }

    /// A further page. One that is too large, or takes too long for its size, is asked for once
    /// more, smaller.
    async fn page(&self, rest: &Range, header: Header, limit: u32) -> Result<Page, CallError> {
        match self.etcd.range(rest.clone(), Some(header.revision), limit).await {
            Err(error) if limit > 1 && may_be_size(&error) => {
                self.etcd.range(rest.clone(), Some(header.revision), (limit / SHRINK).max(1)).await
            }
            page => page,
        }
    }
}

/// How many keys like these make a page.
fn fitting(kvs: &[Kv]) -> u32 {
    let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let average = bytes / kvs.len().max(1);
    u32::try_from(PAGE_BYTES / average.max(1)).unwrap_or(u32::MAX)
}

/// Whether less might have been answered.
pub(super) fn may_be_size(error: &CallError) -> bool {
    matches!(error, CallError::Failed(RegistryError::TimedOut { .. } | RegistryError::NeverTaken { .. }))
}

/// Makes calls of what is waiting, until nobody is left who could ask.
async fn work(etcd: Arc<dyn Etcd>, page_size: u32, mut inbox: mpsc::UnboundedReceiver<Request>) {
    let mut waiting = VecDeque::new();
    let mut calls = FuturesUnordered::new();
    loop {
        tokio::select! {
            request = inbox.recv() => {
                let Some(request) = request else { break };
                waiting.push_back(request);
                while let Ok(request) = inbox.try_recv() {
                    waiting.push_back(request);
                }
            }
            Some(failed) = calls.next() => {
                let failed: Option<CallError> = failed;
                // They would hear the same, some calls later.
                if let Some(error) = failed {
                    for Request { reply, .. } in waiting.drain(..) {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
        while !waiting.is_empty() && calls.len() < IN_FLIGHT {
            let call = first_pages(&*etcd, page_size, next_batch(&mut waiting));
            // Who waits for it hears that his answer is lost; the others go on.
            calls.push(AssertUnwindSafe(call).catch_unwind().map(|ended| ended.unwrap_or(None)));
        }
    }
}

/// As many as one transaction takes, and at least one.
fn next_batch(waiting: &mut VecDeque<Request>) -> Vec<Request> {
    let mut n_ranges = 0;
    let fits = |request: &&Request| {
        n_ranges += request.ranges.len();
        n_ranges <= MAX_OPS
    };
    let n_requests = waiting.iter().take_while(fits).count().max(1);
    waiting.drain(..n_requests.min(waiting.len())).collect()
}

/// Answers these requests, by one call if that works. Returns what keeps etcd from answering
/// anybody.
async fn first_pages(etcd: &dyn Etcd, page_size: u32, batch: Vec<Request>) -> Option<CallError> {
    let ranges: Vec<Range> = batch.iter().flat_map(|request| request.ranges.iter().cloned()).collect();
    let first_keys = batch.iter().map(|request| request.first_keys).min().unwrap_or(FIRST_KEYS).min(page_size).max(1);
    let limit = (page_size.saturating_mul(PAGES_AN_ANSWER) / ranges.len().max(1) as u32).clamp(1, first_keys);
    match etcd.ranges(ranges, limit).await {
        Ok(pages) => {
            let mut pages = pages.into_iter();
            for Request { ranges, reply, .. } in batch {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(pages.by_ref().take(ranges.len()).collect()));
            }
            None
        }
        // What is refused may be one of the services alone: one that our user may not read, most
        // often.
        Err(CallError::Failed(error)) if !error.may_pass() && batch.len() > 1 => {
            for Request { ranges, reply, .. } in batch {
                let _ = reply.send(etcd.ranges(ranges, first_keys).await);
            }
            None
        }
        Err(error) => {
            for Request { reply, .. } in batch {
                let _ = reply.send(Err(error.clone()));
            }
            matches!(&error, CallError::Failed(error) if error.may_pass()).then_some(error)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::future::join_all;

    use super::*;
    use crate::fake::{CALL_TIMEOUT, Call, Fake};

    fn keys(listing: &Listing) -> Vec<String> {
        listing.kvs.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect()
    }

    async fn list_all(lister: &Lister, count: usize) -> Vec<Result<Listing, CallError>> {
        let ranges: Vec<_> = (0..count).map(|n| [Range::prefix(format!("svc{n:03}/"))]).collect();
        join_all(ranges.iter().map(|ranges| lister.list(ranges, FIRST_KEYS))).await
    }

    #[tokio::test(start_paused = true)]
    async fn services_that_are_read_at_once_share_calls() {
        let fake = Fake::new();
        for n in 0..300 {
            fake.put(&format!("svc{n:03}/a"), "192.0.2.1:1");
        }
        let lister = Lister::spawn(Arc::new(fake.clone()), 1000);
        for (n, listing) in list_all(&lister, 300).await.into_iter().enumerate() {
            let listing = listing.unwrap();
            assert_eq!(keys(&listing), [format!("svc{n:03}/a")]);
            assert_eq!(listing.header.revision, fake.revision());
        }
        assert_eq!(fake.count(|call| *call == Call::Range), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_answer_does_not_hold_is_read_in_pages_at_its_revision() {
        let fake = Fake::new();
        for n in 0..40 {
            fake.put(&format!("svc000/{n:02}"), "192.0.2.1:1");
            fake.put(&format!("svc001/{n:02}"), "192.0.2.1:1");
        }
        let at = fake.revision();
        // Four pages of four keys make one answer: eight keys each, and eight more pages each.
        let lister = Lister::spawn(Arc::new(fake.clone()), 4);
        let writing = async {
            fake.put("svc000/late", "192.0.2.1:1");
        };
        let (listings, ()) = tokio::join!(list_all(&lister, 2), writing);
        for listing in listings {
            let listing = listing.unwrap();
            assert!(listing.kvs.len() >= 40 && listing.header.revision >= at, "{listing:?}");
            assert!(listing.kvs.iter().all(|kv| kv.mod_revision <= listing.header.revision));
            assert!(listing.kvs.is_sorted_by(|a, b| a.key < b.key));
        }
    }

    /// How many bytes each answer had.
    async fn answers(fake: &Fake, first_keys: u32) -> (Listing, Vec<usize>) {
        let lister = Lister::spawn(Arc::new(fake.clone()), 1000);
        let listing = lister.list(&[Range::prefix("svc/")], first_keys).await.unwrap();
        (listing, fake.answer_sizes())
    }

    #[tokio::test(start_paused = true)]
    async fn large_values_are_read_in_pages_of_few_and_small_ones_of_many() {
        let fake = Fake::new();
        let value = "x".repeat(60 << 10);
        for n in 0..1000 {
            fake.put(&format!("svc/{n:04}"), &value);
        }
        let (listing, sizes) = answers(&fake, FIRST_KEYS).await;
        assert_eq!(listing.kvs.len(), 1000);
        assert!(listing.kvs.is_sorted_by(|a, b| a.key < b.key));
        assert!(sizes[1..].iter().all(|size| *size <= PAGE_BYTES), "{sizes:?}");
        // And the next time from the start.
        let before = sizes.len();
        let (_, sizes) = answers(&fake, listing.first_keys).await;
        assert!(sizes[before..].iter().all(|size| *size <= PAGE_BYTES), "{sizes:?}");

        let fake = Fake::new();
        for n in 0..10_000 {
            fake.put(&format!("svc/{n:05}"), "192.0.2.1:1");
        }
        let (listing, sizes) = answers(&fake, FIRST_KEYS).await;
        assert_eq!((listing.kvs.len(), listing.first_keys), (10_000, FIRST_KEYS));
        assert!(sizes.len() <= 13, "{}", sizes.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_turns_out_too_large_is_read_in_smaller_ones() {
        let fake = Fake::new();
        for n in 0..100 {
            fake.put(&format!("svc/a{n:03}"), "192.0.2.1:1");
        }
        let value = "x".repeat(60 << 10);
        for n in 0..400 {
            fake.put(&format!("svc/b{n:03}"), &value);
        }
        fake.answer_at_most(4 << 20);
        let (listing, _) = answers(&fake, FIRST_KEYS).await;
        assert_eq!(listing.kvs.len(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_may_not_be_read_does_not_keep_the_others_from_it() {
        let fake = Fake::new();
        fake.put("svc000/a", "192.0.2.1:1");
        fake.refuse_ranges(Some("svc001/"));
        let lister = Lister::spawn(Arc::new(fake.clone()), 1000);
        let listings = list_all(&lister, 3).await;
        assert_eq!(keys(listings[0].as_ref().unwrap()), ["svc000/a"]);
        let refused = listings[1].as_ref().unwrap_err();
        assert!(matches!(refused, CallError::Failed(RegistryError::PermissionDenied { .. })), "{refused:?}");
        assert!(listings[2].as_ref().unwrap().kvs.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_in_one_call_is_the_end_of_no_other() {
        let fake = Fake::new();
        fake.put("svc000/a", "192.0.2.1:1");
        let lister = Lister::spawn(Arc::new(fake.clone()), 1000);
        fake.break_ranges(Some("svc000/"));
        for listing in list_all(&lister, 3).await {
            let Err(CallError::Failed(error)) = listing else { panic!("{listing:?}") };
            assert!(matches!(error, RegistryError::Internal { .. }) && error.is_transient(), "{error}");
        }
        fake.break_ranges(None);
        for (n, listing) in list_all(&lister, 3).await.into_iter().enumerate() {
            assert_eq!(keys(&listing.unwrap()).len(), usize::from(n == 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_etcd_that_hangs_is_waited_for_once_by_all() {
        let fake = Fake::new();
        fake.hang();
        let lister = Lister::spawn(Arc::new(fake.clone()), 1000);
        let began = tokio::time::Instant::now();
        for listing in list_all(&lister, 2000).await {
            assert!(matches!(listing, Err(CallError::Failed(error)) if error.is_transient()));
        }
        assert!(began.elapsed() < CALL_TIMEOUT * 2, "{:?}", began.elapsed());
        assert_eq!(fake.count(|call| *call == Call::Range), IN_FLIGHT);
    }
}
