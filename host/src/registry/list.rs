//! Reads whole services: those that are to be read at the same moment share one call.
//!
//! ```text
//!   follow ──▶ Lister::list ──first pages──▶ worker ──one transaction of up to 128 ranges──▶ etcd
//!                  │                            (up to 4 at once)
//!                  └──further pages, at the revision of the first──────────────────────────▶ etcd
//! ```
//!
//! A node that starts, and one whose etcd lost its history, reads all its services at once. One call each would cost etcd and us more
//! than the keys do: with ten endpoints a service, five times as much. All reads of a transaction are made at one revision, so a
//! service read so is as whole as one read alone.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use super::{
    error::CallError,
    etcd::{Etcd, Header, Kv, MAX_OPS, Page, Range},
};

/// How many transactions may be under way: enough to have etcd at work while we are.
const IN_FLIGHT: usize = 4;

/// How many pages' worth of keys one answer may hold, over all its ranges.
const PAGES_AN_ANSWER: u32 = 4;

/// A whole service as read.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) header: Header,
    pub(super) kvs: Vec<Kv>,
}

/// First pages that somebody waits for.
struct Request {
    ranges: Vec<Range>,
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

    /// Reads all ranges, in pages, all at the revision of the first page.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was asked for is dropped when it comes.
    pub(super) async fn list(&self, ranges: &[Range]) -> Result<Listing, CallError> {
        let (reply, pages) = oneshot::channel();
        // The worker lives as long as this handle.
        let _ = self.requests.send(Request { ranges: ranges.to_vec(), reply });
        let pages = pages.await.expect("the worker answers every request")?;
        let header = pages.first().expect("a service has a range").header;
        let mut kvs = Vec::new();
        for (range, mut page) in ranges.iter().zip(pages) {
            let mut rest = range.clone();
            loop {
                let last = page.kvs.last().map(|kv| kv.key.clone());
                kvs.append(&mut page.kvs);
                match last {
                    Some(mut next) if page.more => {
                        next.push(0);
                        rest.key = next;
                    }
                    _ => break,
                }
                page = self.etcd.range(rest.clone(), Some(header.revision), self.page_size).await?;
            }
        }
        Ok(Listing { header, kvs })
    }
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
            calls.push(first_pages(&*etcd, page_size, next_batch(&mut waiting)));
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

/// Answers these requests, by one call if that works. Returns what keeps etcd from answering anybody.
async fn first_pages(etcd: &dyn Etcd, page_size: u32, batch: Vec<Request>) -> Option<CallError> {
    let ranges: Vec<Range> = batch.iter().flat_map(|request| request.ranges.iter().cloned()).collect();
    let limit = (page_size.saturating_mul(PAGES_AN_ANSWER) / ranges.len().max(1) as u32).clamp(1, page_size);
    match etcd.ranges(ranges, limit).await {
        Ok(pages) => {
            let mut pages = pages.into_iter();
            for Request { ranges, reply } in batch {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(pages.by_ref().take(ranges.len()).collect()));
            }
            None
        }
        // What is refused may be one of the services alone: one that our user may not read, most often.
        Err(CallError::Failed(error)) if !error.is_transient() && batch.len() > 1 => {
            for Request { ranges, reply } in batch {
                let _ = reply.send(etcd.ranges(ranges, page_size).await);
            }
            None
        }
        Err(error) => {
            for Request { reply, .. } in batch {
                let _ = reply.send(Err(error.clone()));
            }
            matches!(&error, CallError::Failed(error) if error.is_transient()).then_some(error)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::future::join_all;

    use super::*;
    use crate::registry::{
        error::RegistryError,
        fake::{CALL_TIMEOUT, Call, Fake},
    };

    fn keys(listing: &Listing) -> Vec<String> {
        listing.kvs.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect()
    }

    async fn list_all(lister: &Lister, count: usize) -> Vec<Result<Listing, CallError>> {
        let ranges: Vec<_> = (0..count).map(|n| [Range::prefix(format!("svc{n:03}/"))]).collect();
        join_all(ranges.iter().map(|ranges| lister.list(ranges))).await
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
