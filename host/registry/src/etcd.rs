//! What this module needs of etcd, as a trait and plain types: the real client implements it
//! (`client`), and a fake with a handle for tests does so too (`fake`). The state machines above it
//! know nothing of gRPC.

use std::time::Duration;

use futures::future::BoxFuture;
use waymark_core::{
    model::{LeaseId, Revision, Ttl},
    naming::Entry,
    text,
};

use super::error::{CallError, RegistryError};

/// etcd takes no more operations in one transaction by default (its flag `--max-txn-ops`).
pub(super) const MAX_OPS: usize = 128;

/// A key, or a half-open range of keys `[key, end)`, in our own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Range {
    /// The first key.
    pub(super) key: Vec<u8>,
    /// The first key after the range. Empty: the one key alone. A zero byte: no end.
    pub(super) end: Vec<u8>,
}

impl Range {
    /// One key.
    pub(super) fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), end: Vec::new() }
    }

    /// Every key that begins so.
    pub(super) fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let key = prefix.into();
        let end = prefix_end(&key);
        Self { key, end }
    }

    /// As text, for messages.
    pub(super) fn describe(&self) -> String {
        text::printable_bytes(&self.key, text::NAME)
    }
}

/// The first key after all that begin with `prefix`; a zero byte, etcd's word for "no end", where
/// there is none.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => vec![0],
    }
}

/// Who answered, and how far its store was. A revision of 0 means that the answer does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The cluster: another one means other data, whatever the revisions say.
    pub(super) cluster: u64,
    /// The store's revision.
    pub(super) revision: Revision,
}

/// A key with its value and its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kv {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) mod_revision: Revision,
    /// `None`: no lease, the key stays until it is deleted.
    pub(super) lease: Option<LeaseId>,
}

/// A part of a range.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) header: Header,
    pub(super) kvs: Vec<Kv>,
    /// Whether the range goes on after the last key.
    pub(super) more: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// It was written.
    Put(Kv),
    /// It was deleted, or its lease ended; etcd does not tell which.
    Delete {
        key: Vec<u8>,
        /// The revision of the deletion.
        mod_revision: Revision,
    },
}

impl Event {
    pub(super) fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What came of writing a registration's entries.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) header: Header,
    /// What stood under each of the keys before.
    pub(super) previous: Vec<Option<Kv>>,
}

/// What a client says on a watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WatchRequest {
    /// Begin to watch, from this revision on (inclusive).
    Create {
        /// Our number for it, never 0 and never used twice on one stream. A proxy may answer with
        /// another one.
        id: i64,
        range: Range,
        from: Revision,
    },
    /// End the watch that the server knows under this number.
    Cancel { id: i64 },
    /// Say how far the store is; answered under number -1 once all watches are in step.
    Progress,
}

/// What a server says on a watch stream.
#[derive(Debug, Default)]
pub(super) struct WatchAnswer {
    /// The server's number of the watch; -1 for "all" or "none".
    pub(super) id: i64,
    pub(super) cluster: u64,
    pub(super) revision: Revision,
    /// The answer to a [`WatchRequest::Create`].
    pub(super) created: bool,
    /// The watch has ended.
    pub(super) canceled: bool,
    /// Why it ended: the history it wants begins only here.
    pub(super) compacted: Option<Revision>,
    /// Why it ended, in the server's words.
    pub(super) reason: String,
    /// What happened, in order.
    pub(super) events: Vec<Event>,
}

impl WatchAnswer {
    /// Whether this says that a watch was not created because its asker may not.
    pub(super) fn is_refusal(&self) -> bool {
        self.created && self.canceled && self.compacted.is_none()
    }

    /// Why a watch ended, in the server's words or, where it has none, in ours.
    pub(super) fn words(&self) -> String {
        if self.reason.is_empty() { "etcd ended the watch".to_owned() } else { self.reason.clone() }
    }
}

/// The sending half of a watch stream.
pub(super) trait WatchTx: Send {
    /// Sends one request, waiting while the server takes none.
    ///
    /// # Cancel safety
    ///
    /// Nothing was sent when the future is dropped before it is done.
    fn send(&mut self, request: WatchRequest) -> BoxFuture<'_, Result<(), RegistryError>>;
}

/// The receiving half of a watch stream.
pub(super) trait WatchRx: Send {
    /// The next answer. After an error the stream is over.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    fn next(&mut self) -> BoxFuture<'_, Result<WatchAnswer, RegistryError>>;

    /// Who is at the other end.
    fn endpoint(&self) -> &str;
}

/// An open watch stream.
pub(super) type WatchHalves = (Box<dyn WatchTx>, Box<dyn WatchRx>);

/// As whom a stream is opened, where there is a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// With the token that is at hand, or the first one.
    AtHand,
    /// With one that was given just now: the one at hand may have expired, or be of before the
    /// user's rights changed.
    New,
}

/// etcd. Every call is bounded in time, and tries every endpoint before it fails for want of one.
pub(super) trait Etcd: Send + Sync + 'static {
    /// One cheap round trip, with a diagnosis where it fails.
    fn check(&self) -> BoxFuture<'_, Result<(String, Header), RegistryError>>;

    /// Reads up to `limit` keys of a range, in order, at a revision (`None`: the newest).
    fn range(&self, range: Range, at: Option<Revision>, limit: u32) -> BoxFuture<'_, Result<Page, CallError>>;

    /// Reads up to `limit` keys of each of these ranges (at most [`MAX_OPS`]), all at one revision,
    /// the newest.
    fn ranges(&self, ranges: Vec<Range>, limit: u32) -> BoxFuture<'_, Result<Vec<Page>, CallError>>;

    /// Opens a watch stream; a stream begins with a first request. All watches on it are created by
    /// the right of its token.
    fn watch(&self, first: WatchRequest, token: Token) -> BoxFuture<'_, Result<WatchHalves, RegistryError>>;

    /// Asks for a lease; answers what was granted, which may be longer.
    fn grant(&self, ttl: Ttl) -> BoxFuture<'_, Result<(LeaseId, Ttl), CallError>>;

    /// Starts a lease's time anew, sharing the time there is between the endpoints.
    fn keep_alive(&self, lease: LeaseId, within: Duration) -> BoxFuture<'_, Result<(), CallError>>;

    /// Writes all entries under a lease, in one transaction.
    fn put(&self, entries: Vec<Entry>, lease: LeaseId) -> BoxFuture<'_, Result<Written, CallError>>;

    /// Ends a lease and deletes its keys, sharing the time there is between the endpoints. A lease
    /// that is gone already is no error.
    fn revoke(&self, lease: LeaseId, within: Duration) -> BoxFuture<'_, Result<(), CallError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_what_begins_with_it_and_nothing_else() {
        assert_eq!(Range::prefix("a/"), Range { key: b"a/".to_vec(), end: b"a0".to_vec() });
        assert_eq!(prefix_end(&[b'a', 0xff]), b"b");
        assert_eq!(prefix_end(&[0xff, 0xff]), [0]);
        assert_eq!(prefix_end(b""), [0]);
    }
}
