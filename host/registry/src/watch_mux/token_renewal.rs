//! A watch that is refused, and why that may be no refusal: a stream watches by the right of the
//! token it was opened with.
//!
//! ```text
//!              refused on a stream of some age                     taken: all watches go over, the old stream ends
//!   (none) ──────────────────────────────▶ Opening ──▶ Trying ──────────────────────────────────────────────▶ (none)
//!                                              │          │ all refused, or lost
//!                                              └──────────┴─────────▶ they are refused, the old stream stays
//! ```
//!
//! A token ends after some minutes, and when its user's rights or password change; etcd tells the
//! watches that stand nothing of it, and refuses new ones, in older versions with the words of a
//! missing permission. So what is refused is tried once more on a stream of its own, opened with a
//! token of that moment. Where that is refused as well, nothing has happened to the others.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{
    stream::WatchStream,
    watches::{RangeId, TokenAge, Wanted},
};
use crate::{
    error::RegistryError,
    etcd::{WatchAnswer, WatchHalves},
};

/// Those that were refused, and what is done about it.
#[derive(Default)]
pub(super) struct TokenRenewal {
    /// Which, and with which words.
    pub(super) refused: Vec<(RangeId, String)>,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    None,
    Opening {
        opening: BoxFuture<'static, Result<WatchHalves, RegistryError>>,
        /// The watch that it is opened with.
        first: Wanted,
    },
    Trying(Box<WatchStream>),
}

/// What came of a turn.
pub(super) enum RenewalEvent {
    /// The stream is open. The others that were refused are to be asked for on it.
    Opened,
    /// It answers.
    Answer(WatchAnswer),
    /// It cannot be opened, or was lost.
    Lost(RegistryError),
}

impl TokenRenewal {
    /// Whether a stream has yet to be opened for what was refused.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::None)
    }

    pub(super) fn open(&mut self, first: Wanted, opening: BoxFuture<'static, Result<WatchHalves, RegistryError>>) {
        self.stage = Stage::Opening { opening, first };
    }

    /// The stream, while it is tried.
    pub(super) fn stream(&mut self) -> Option<&mut WatchStream> {
        match &mut self.stage {
            Stage::Trying(stream) => Some(stream),
            Stage::None | Stage::Opening { .. } => None,
        }
    }

    /// Goes on, for ever where there is nothing to be done.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn next_event(&mut self, idle_timeout: Duration) -> RenewalEvent {
        match &mut self.stage {
            Stage::None => std::future::pending().await,
            Stage::Opening { opening, first } => match opening.await {
                Ok(halves) => {
                    let token = TokenAge::Since(Instant::now());
                    let stream = WatchStream::new(halves, first.clone(), token, idle_timeout);
                    self.stage = Stage::Trying(Box::new(stream));
                    RenewalEvent::Opened
                }
                Err(error) => RenewalEvent::Lost(error),
            },
            Stage::Trying(stream) => loop {
                match stream.drive().await {
                    Ok(Some(answer)) => return RenewalEvent::Answer(answer),
                    Ok(None) => {}
                    Err(error) => return RenewalEvent::Lost(error),
                }
            },
        }
    }

    /// Ends it: the stream that was tried, if there is one, and who was refused.
    pub(super) fn end(&mut self) -> (Option<Box<WatchStream>>, Vec<(RangeId, String)>) {
        let Self { refused, stage } = std::mem::take(self);
        match stage {
            Stage::Trying(stream) => (Some(stream), refused),
            Stage::None | Stage::Opening { .. } => (None, refused),
        }
    }

    /// Takes one of those that were refused out.
    pub(super) fn settle(&mut self, id: RangeId) {
        self.refused.retain(|(refused, _)| *refused != id);
    }
}
