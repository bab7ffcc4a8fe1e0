//! What a lock and an election have in common, as etcd's own client has it
//! (`client/v3/concurrency`).
//!
//! Whoever wants a turn writes a key `NAME/LEASE`. The key that was created first has the turn; the
//! others wait until all created before theirs are gone. A key goes with its lease, or when its
//! owner takes it away.

use std::{future::poll_fn, sync::Arc};

use etcd_client::proto::{PbDeleteRequest, PbKeyValue, PbPutRequest, PbRangeRequest, PbResponseHeader};
use tonic::Status;

use super::{
    error::EtcdError,
    key_range::KeyRange,
    query::{key_value, order, target},
    shared::Shared,
    state_machine::StateMachine,
    watch::{Message, StreamId, WatchSpec},
};

/// The TTL of a lease that is granted for a client who named none, in seconds (`defaultSessionTTL`
/// in etcd).
const SESSION_TTL: i64 = 60;

/// The lease that keys are written under: the one named, or a new one. Nobody but the client keeps
/// it alive.
pub(super) fn session(shared: &Shared, lease: i64) -> Result<i64, EtcdError> {
    if lease != 0 {
        return Ok(lease);
    }
    let granted = shared.with(|machine| machine.grant(0, SESSION_TTL))?;
    shared.deadline_moved.notify_one();
    Ok(granted.id)
}

/// What all keys of a name begin with.
pub(super) fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The key that is written under this lease.
pub(super) fn key(prefix: &[u8], lease: i64) -> Vec<u8> {
    // As Go prints a signed number.
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat()
}

/// Etcd's lock and election are clients of its own, whose errors reach the caller without their
/// code.
pub(super) fn unknown(error: EtcdError) -> Status {
    match error {
        EtcdError::Stopped => error.into(),
        error => Status::unknown(error.to_string()),
    }
}

/// A key in the line, as it was found or written.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) key: Vec<u8>,
    /// Who was created earlier goes first.
    pub(super) create_revision: i64,
    /// What it holds.
    pub(super) value: Vec<u8>,
    /// When it was looked at.
    pub(super) header: PbResponseHeader,
    /// Whether its turn has come.
    pub(super) is_first: bool,
}

/// Gets in line: writes the key of this lease, unless it is there.
pub(super) fn enqueue(shared: &Shared, prefix: &[u8], value: &[u8], lease: i64) -> Result<Waiter, EtcdError> {
    let key = key(prefix, lease);
    shared.with(|machine| {
        if get(machine, &key)?.is_none() {
            let (key, value) = (key.clone(), value.to_vec());
            machine.put(&PbPutRequest { key, value, lease, ..PbPutRequest::default() })?;
        }
        // It is there: the lock has been held since.
        let mine = get(machine, &key)?.ok_or(EtcdError::KeyNotFound)?;
        let first = first(machine, prefix)?.is_none_or(|first| first.create_revision == mine.create_revision);
        Ok(Waiter {
            key,
            create_revision: mine.create_revision,
            value: mine.value,
            header: machine.header(),
            is_first: first,
        })
    })
}

/// Waits until nothing in line is older than this.
///
/// # Cancel safety
///
/// Safe: nothing is changed.
pub(super) async fn wait(shared: &Arc<Shared>, prefix: &[u8], create_revision: i64) -> Result<(), EtcdError> {
    loop {
        let before = PbRangeRequest {
            sort_order: order::DESCEND,
            max_create_revision: create_revision - 1,
            ..of_prefix(prefix)
        };
        // Looked at and watched in one step, so that nothing happens in between.
        let watch = shared.with(|machine| {
            let last = machine.range(&before)?.into_response(true).kvs.pop();
            Ok::<_, EtcdError>(last.map(|last| Watch::open(shared, machine, KeyRange::new(&last.key, &[]), 0)))
        })?;
        let Some(mut watch) = watch else { return Ok(()) };
        watch.deleted().await?;
    }
}

/// Gives a place in line up when it is dropped, unless it is kept: the client has gone while it
/// waited.
#[derive(Debug)]
pub(super) struct WaiterGuard<'a> {
    shared: &'a Shared,
    key: Option<&'a [u8]>,
    create_revision: i64,
}

impl<'a> WaiterGuard<'a> {
    pub(super) fn of(shared: &'a Shared, waiter: &'a Waiter) -> Self {
        Self { shared, key: Some(&waiter.key), create_revision: waiter.create_revision }
    }

    /// Its turn has come.
    pub(super) fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let left = self.shared.with(|machine| remove(machine, key, self.create_revision));
            if let Err(error) = left {
                tracing::debug!(%error, "a place in line is given up when its lease ends");
            }
        }
    }
}

/// Deletes a key if it is still the one that was created then. Answers whether it was.
pub(super) fn remove(machine: &mut StateMachine, key: &[u8], create_revision: i64) -> Result<bool, EtcdError> {
    let is_it = created(machine, key)? == create_revision;
    if is_it {
        machine.delete(&PbDeleteRequest { key: key.to_vec(), ..PbDeleteRequest::default() })?;
    }
    Ok(is_it)
}

/// When a key was created; 0 when it is not there.
pub(super) fn created(machine: &StateMachine, key: &[u8]) -> Result<i64, EtcdError> {
    Ok(get(machine, key)?.map_or(0, |kv| kv.create_revision))
}

pub(super) fn get(machine: &StateMachine, key: &[u8]) -> Result<Option<PbKeyValue>, EtcdError> {
    let one = PbRangeRequest { key: key.to_vec(), ..PbRangeRequest::default() };
    Ok(machine.range(&one)?.into_response(false).kvs.pop())
}

/// Who has the turn.
pub(super) fn first(machine: &StateMachine, prefix: &[u8]) -> Result<Option<PbKeyValue>, EtcdError> {
    Ok(machine.range(&of_prefix(prefix))?.into_response(false).kvs.pop())
}

/// The one that was created first.
fn of_prefix(prefix: &[u8]) -> PbRangeRequest {
    PbRangeRequest {
        key: prefix.to_vec(),
        range_end: range_end(prefix),
        limit: 1,
        sort_order: order::ASCEND,
        sort_target: target::CREATE,
        ..PbRangeRequest::default()
    }
}

/// Where the keys with a prefix end, which itself ends with a slash.
pub(super) fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A watch of the server's own, closed when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    stream: StreamId,
}

/// What happened to a key, at which revision.
#[derive(Debug)]
pub(super) struct Happened {
    pub(super) revision: i64,
    /// What it holds now; none when it was deleted.
    pub(super) put: Option<PbKeyValue>,
}

impl Watch {
    /// Watches from this revision on; 0 for what comes after this step.
    pub(super) fn open(shared: &Arc<Shared>, machine: &mut StateMachine, range: KeyRange, start_revision: i64) -> Self {
        let stream = machine.open_stream();
        machine.watch(stream, WatchSpec::of(range, start_revision));
        Self { shared: Arc::clone(shared), stream }
    }

    /// What has happened next, in order.
    pub(super) async fn next(&mut self) -> Result<Vec<Happened>, EtcdError> {
        loop {
            let message = poll_fn(|cx| self.shared.with(|machine| machine.poll_watch(self.stream, cx))).await?;
            match message {
                Message::Events { events, .. } => {
                    let happened = events.iter().map(|event| Happened {
                        revision: event.kv.mod_revision,
                        put: (!event.is_delete()).then(|| key_value(&event.kv, false)),
                    });
                    return Ok(happened.collect());
                }
                Message::Compacted { .. } => return Err(EtcdError::Compacted),
                _ => {}
            }
        }
    }

    async fn deleted(&mut self) -> Result<(), EtcdError> {
        while !self.next().await?.iter().any(|it| it.put.is_none()) {}
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.with(|machine| machine.close_stream(self.stream));
    }
}
