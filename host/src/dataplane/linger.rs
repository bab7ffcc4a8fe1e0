//! A call that is given up right after it was sent is reset at its server a moment later, not at once.
//!
//! A request and its reset that arrive together are what a rapid reset attack looks like (CVE-2023-44487): servers on `h2` end a
//! connection after 20 such calls that they have not looked at, and others have limits of their own. One client that begins some
//! calls and vanishes, or means harm, would so cost all clients the connection that they share.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use h2::client::ResponseFuture;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::upload::Upload;

/// How long a server has to look at a call before it may hear that the call was given up.
const GRACE: Duration = Duration::from_millis(50);

/// How many given-up calls may wait for that at once in this process. What is over it is reset at once.
const MOST: usize = 4096;

static LINGERING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST)));

/// A call that was sent and is not answered. Dropping it gives the call up.
pub(super) struct Sent {
    sent: Instant,
    parts: Option<(ResponseFuture, Upload)>,
}

impl Sent {
    pub(super) fn new(response: ResponseFuture, upload: Upload) -> Self {
        Self { sent: Instant::now(), parts: Some((response, upload)) }
    }

    pub(super) fn parts(&mut self) -> (&mut ResponseFuture, &mut Upload) {
        let (response, upload) = self.parts.as_mut().expect("taken only by `answered`, which consumes");
        (response, upload)
    }

    /// What goes on being sent once the answer has begun, or the call has failed by itself.
    pub(super) fn answered(mut self) -> Upload {
        self.parts.take().expect("taken only here, which consumes").1
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        let left = GRACE.saturating_sub(self.sent.elapsed());
        if left.is_zero() {
            return;
        }
        if let (Ok(runtime), Ok(place)) = (Handle::try_current(), Arc::clone(&LINGERING).try_acquire_owned()) {
            runtime.spawn(async move {
                sleep(left).await;
                drop((parts, place));
            });
        }
    }
}
