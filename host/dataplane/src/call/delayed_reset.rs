//! A call that is given up before it was answered is reset at its server only when that has had
//! time to look at it.
//!
//! ```text
//!   sent ── given up ── 50 ms after sent ──▶ a later call was answered? ── yes ──▶ reset
//!                              ▲                        │ no
//!                              │                        ▼
//!                              └─── 50 ms more ◀── too many such resets ─ not yet ─▶ reset
//! ```
//!
//! A request and its reset that arrive together are what a rapid reset attack looks like
//! (CVE-2023-44487): servers on `h2` end a connection when 20 such calls are there that they have
//! not looked at, and others have limits of their own. One client that begins some calls and
//! vanishes, or means harm, would so cost all clients the connection that they share.
//!
//! Servers look at calls in the order in which they come. So the answer to a later call on the same
//! connection shows that this one was looked at, however busy the server is. Without that sign few
//! calls are reset, at a pace at which a server that stands still for a second does not count
//! to 20. Until its reset a call keeps its place among the connection's streams, which it has at
//! the server, too.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};

use super::upload::Upload;
use crate::upstream::{exchange::Answer, streams::StreamPermit};

/// How long a server has to look at a call before it may hear that the call was given up.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// How many given-up calls may wait for that at once in this process. What is over it is reset at
/// once.
const MOST: usize = 4096;

static DELAYED: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST)));

/// A call that was sent and is not answered. Dropping it gives the call up.
pub(crate) struct SentCall {
    at: Instant,
    parts: Option<(Answer, Upload, StreamPermit)>,
}

impl SentCall {
    pub(crate) fn new(answer: Answer, upload: Upload, permit: StreamPermit) -> Self {
        Self { at: Instant::now(), parts: Some((answer, upload, permit)) }
    }

    pub(crate) fn parts(&mut self) -> (&mut Answer, &mut Upload) {
        let (answer, upload, _) = self.parts.as_mut().expect("taken only by `ended`, which consumes");
        (answer, upload)
    }

    /// What goes on once the answer has begun, or the call has failed by itself.
    pub(crate) fn ended(mut self, answered: bool) -> (Answer, Upload, StreamPermit) {
        let parts = self.parts.take().expect("taken only here, which consumes");
        if answered {
            parts.2.streams().answered(parts.0.stream());
        }
        parts
    }
}

impl Drop for SentCall {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        let (answer, _, permit) = &parts;
        // Of what has no stream yet the server never hears.
        if answer.withdraw() {
            return;
        }
        let (looked_at, stream) = (self.at + GRACE, answer.stream());
        // However old it is: a server that stands still has looked at nothing.
        if looked_at <= Instant::now() && permit.streams().may_reset(stream) {
            return;
        }
        if let (Ok(runtime), Ok(place)) = (Handle::try_current(), Arc::clone(&DELAYED).try_acquire_owned()) {
            runtime.spawn(async move {
                sleep_until(looked_at).await;
                while !parts.2.streams().may_reset(stream) {
                    sleep(GRACE).await;
                }
                drop((parts, place));
            });
        }
    }
}
