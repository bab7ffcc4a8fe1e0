//! Sends `/metrics`: written by a thread of low priority and handed on in pieces, so that a page of
//! ten thousand services holds up no request and is never in memory as a whole.

use std::{
    fmt, io, mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::{
    Semaphore,
    mpsc::{self, OwnedPermit, error::TrySendError},
};
use waymark_stages::metrics::{CONTENT_TYPE, Metrics};

use crate::plugin::yield_to_others;

/// How many pages are written at once. Scrapers come one after another; two of them, and a person
/// beside.
const AT_ONCE: usize = 3;

/// How large a piece is; the last one is smaller.
const PIECE: usize = 64 << 10;

/// How many pieces wait for the reader.
const AHEAD: usize = 16;

/// How soon it is looked again for room.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long the reader may take for a piece. One that has stopped reading must not keep its place.
const PATIENCE: Duration = Duration::from_secs(10);

/// The page, and how often it may be written at once. Cheap to clone.
#[derive(Clone)]
pub(super) struct Scrapes {
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Scrapes {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics: Arc::new(metrics), places: Arc::new(Semaphore::new(AT_ONCE)), patience: PATIENCE }
    }

    /// The page as it becomes; 503 when as many are being written as may be.
    pub(super) fn answer(&self) -> Response {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return later(&format!("{AT_ONCE} scrapes are being answered; ask again when one is done\n"));
        };
        let (send, receive) = mpsc::channel(AHEAD + 1);
        // Of its own, so that there is room for it however still the reader stands.
        let Ok(cut) = send.clone().try_reserve_owned() else { unreachable!("an empty channel has room") };
        let (metrics, patience) = (Arc::clone(&self.metrics), self.patience);
        let work = move || {
            let _place = place;
            write(&metrics, Pieces { piece: Vec::new(), send, patience }, cut);
        };
        if let Err(error) = thread::Builder::new().name("metrics".into()).spawn(work) {
            return later(&format!("no thread to write the metrics: {error}\n"));
        }
        let pieces = stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
        let mut response = Response::new(Body::from_stream(pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

fn later(why: &str) -> Response {
    let mut response = Response::new(Body::from(why.to_owned()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

fn write(metrics: &Metrics, mut pieces: Pieces, cut: OwnedPermit<io::Result<Bytes>>) {
    yield_to_others();
    if metrics.write(&mut pieces).and_then(|()| pieces.hand_on()).is_err() {
        // What was sent must not look whole. Whoever went away does not hear it.
        cut.send(Err(io::Error::other("the metrics were not written to their end")));
    }
}

/// Text on its way to the reader.
struct Pieces {
    piece: Vec<u8>,
    send: mpsc::Sender<io::Result<Bytes>>,
    patience: Duration,
}

impl Pieces {
    /// Waits for room. Fails when the reader has gone, or takes too long.
    fn hand_on(&mut self) -> fmt::Result {
        let until = Instant::now() + self.patience;
        let mut waiting = Ok(mem::take(&mut self.piece).into());
        loop {
            match self.send.try_send(waiting) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(piece)) if Instant::now() < until => waiting = piece,
                Err(_) => return Err(fmt::Error),
            }
            // A thread that nobody waits for, and no runtime that could be on its way out.
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while self.piece.len() + rest.len() >= PIECE {
            let (now, later) = rest.split_at(PIECE - self.piece.len());
            self.piece.extend_from_slice(now);
            self.hand_on()?;
            rest = later;
        }
        self.piece.extend_from_slice(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http_body_util::BodyExt as _;
    use prometheus_client::metrics::counter::Counter;
    use waymark_core::exposition::Families;

    use super::*;
    use crate::balancer::{Services, ServicesConfig};

    /// Scrapes of a page with so many further lines.
    fn scrapes(lines: usize) -> Scrapes {
        let mut families = Families::default();
        let none = Services::new(ServicesConfig::new(|_| std::future::pending(), |_| unreachable!("nobody asks")));
        let mut top = families.top();
        (0..lines).for_each(|n| top.register(format!("line_{n:06}"), "A line", Counter::<u64>::default()));
        Scrapes::new(Metrics::new(families, none))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_comes_in_pieces_and_ends_with_its_end() {
        let mut body = scrapes(10_000).answer().into_body();
        let (mut page, mut pieces, mut largest) = (Vec::new(), 0, 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            (pieces, largest) = (pieces + 1, largest.max(data.len()));
            page.extend_from_slice(&data);
        }
        let page = String::from_utf8(page).unwrap();
        assert!(page.ends_with("line_009999_total 0\n# EOF\n"), "{}", &page[page.len() - 80..]);
        assert_eq!((pieces, largest), (page.len().div_ceil(PIECE), PIECE));
    }

    #[tokio::test]
    async fn readers_that_stand_still_keep_their_places_for_a_moment_only() {
        let scrapes = Scrapes { patience: Duration::from_millis(100), ..scrapes(40_000) };
        let still: Vec<_> = (0..AT_ONCE).map(|_| scrapes.answer()).collect();
        assert_eq!(scrapes.answer().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(scrapes.places.acquire_many(AT_ONCE as u32).await.unwrap());
        assert_eq!(scrapes.answer().status(), StatusCode::OK);
        for answer in still {
            assert!(answer.into_body().collect().await.is_err(), "a page that was cut must not look whole");
        }
    }
}
