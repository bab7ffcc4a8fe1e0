//! The Watch service: one stream of requests and one of messages for each client, both driven by
//! polling the second.
//!
//! Nothing runs beside that poll. HTTP/2 flow control thus reaches the dispatcher: who does not
//! read is not polled, and its watchers fall back to reading history.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use etcd_client::{
    EventType, WatchFilterType,
    proto::{PbEvent, PbKeyValue, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService},
};
use futures::Stream;
use prost::Message as _;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Request, Response, Status, Streaming};

use super::{
    key_range::KeyRange,
    kv::MAX_MESSAGE_BYTES,
    query::key_value,
    shared::Shared,
    state_machine::Identity,
    store::Event,
    watch::{Message, StreamId, WatchSpec},
};

/// Requests are not read while this many messages wait for the client.
const MAX_BACKLOG: usize = 4096;

#[derive(Debug)]
pub(super) struct WatchApi(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbWatchService for WatchApi {
    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let shared = Arc::clone(&self.0);
        let (stream, identity) = shared.with(|machine| (machine.open_stream(), machine.identity()));
        let period = shared.progress_interval;
        let mut progress = interval_at(Instant::now() + period, period);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Response::new(WatchStream {
            shared,
            stream,
            identity,
            requests: Some(request.into_inner()),
            progress,
            fragments: VecDeque::new(),
            ended: false,
        }))
    }
}

/// The messages to one client. Dropping it closes its watchers.
#[derive(Debug)]
pub(super) struct WatchStream {
    shared: Arc<Shared>,
    stream: StreamId,
    identity: Identity,
    /// None after the client closed its half, which does not end the stream.
    requests: Option<Streaming<PbWatchRequest>>,
    progress: Interval,
    /// The rest of a message that was cut in pieces.
    fragments: VecDeque<PbWatchResponse>,
    ended: bool,
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.shared.with(|machine| machine.close_stream(self.stream));
    }
}

impl Stream for WatchStream {
    type Item = Result<PbWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(fragment) = this.fragments.pop_front() {
            return Poll::Ready(Some(Ok(fragment)));
        }
        this.poll_requests(cx);
        while this.progress.poll_tick(cx).is_ready() {
            this.shared.with(|machine| machine.tick_progress(this.stream));
        }
        match ready!(this.shared.with(|machine| machine.poll_watch(this.stream, cx))) {
            Ok(message) => {
                this.fragments = responses(message, this.identity);
                Poll::Ready(this.fragments.pop_front().map(Ok))
            }
            Err(error) => {
                this.ended = true;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl WatchStream {
    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        while let Some(requests) = &mut self.requests {
            if self.shared.with(|machine| machine.watch_backlog(self.stream)) >= MAX_BACKLOG {
                // The poll goes on to a message, so we come back here.
                return;
            }
            match Pin::new(requests).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => self.handle(request),
                Poll::Ready(Some(Err(_)) | None) => self.requests = None,
            }
        }
    }

    fn handle(&self, request: PbWatchRequest) {
        let stream = self.stream;
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let filtered = |filter: WatchFilterType| create.filters.contains(&(filter as i32));
                // An empty key is the smallest there is.
                let key = if create.key.is_empty() { &[0][..] } else { &create.key };
                let spec = WatchSpec {
                    range: KeyRange::new(key, &create.range_end),
                    start_revision: create.start_revision,
                    watch_id: create.watch_id,
                    no_put: filtered(WatchFilterType::NoPut),
                    no_delete: filtered(WatchFilterType::NoDelete),
                    prev_kv: create.prev_kv,
                    fragment: create.fragment,
                    progress_notify: create.progress_notify,
                };
                self.shared.with(|machine| machine.watch(stream, spec));
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                self.shared.with(|machine| machine.cancel_watch(stream, cancel.watch_id));
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.shared.with(|machine| machine.request_progress(stream));
            }
            // As etcd: a request of a kind we do not know is no reason to end the others' stream.
            None => {}
        }
    }
}

/// The wire form of a message: one response, or several when it may be and has to be cut.
fn responses(message: Message, identity: Identity) -> VecDeque<PbWatchResponse> {
    let to = |watch_id: i64, revision: i64| PbWatchResponse {
        header: Some(identity.header(revision)),
        watch_id,
        ..PbWatchResponse::default()
    };
    let response = match message {
        Message::Created { watch_id, revision } => PbWatchResponse { created: true, ..to(watch_id, revision) },
        Message::Refused { revision, reason } => {
            PbWatchResponse { created: true, canceled: true, cancel_reason: reason, ..to(-1, revision) }
        }
        Message::Cancelled { watch_id, revision } => PbWatchResponse { canceled: true, ..to(watch_id, revision) },
        Message::Compacted { watch_id, compact_revision } => {
            PbWatchResponse { canceled: true, compact_revision, ..to(watch_id, 0) }
        }
        Message::Progress { watch_id, revision } => to(watch_id, revision),
        Message::Events { watch_id, revision, events, prev_since, fragment } => {
            let events = events.iter().map(|event| wire_event(event, prev_since)).collect();
            let response = PbWatchResponse { events, ..to(watch_id, revision) };
            if fragment {
                return cut(response, MAX_MESSAGE_BYTES);
            }
            response
        }
    };
    VecDeque::from([response])
}

fn wire_event(event: &Event, prev_since: Option<i64>) -> PbEvent {
    let revision = event.kv.mod_revision;
    let created = !event.is_delete() && event.kv.create_revision == revision;
    // What a reader at the revision before could see, if that one is still held.
    let shown = !created && prev_since.is_some_and(|since| revision > since);
    let kv = if event.is_delete() {
        PbKeyValue { key: event.kv.key.to_vec(), mod_revision: revision, ..PbKeyValue::default() }
    } else {
        key_value(&event.kv, false)
    };
    PbEvent {
        r#type: if event.is_delete() { EventType::Delete } else { EventType::Put } as i32,
        kv: Some(kv),
        prev_kv: event.prev.as_ref().filter(|_| shown).map(|prev| key_value(prev, false)),
    }
}

/// Cuts a response so that each piece stays under `limit` bytes, if a single event does; all pieces
/// but the last say that more follow.
fn cut(mut whole: PbWatchResponse, limit: usize) -> VecDeque<PbWatchResponse> {
    if whole.encoded_len() < limit || whole.events.len() < 2 {
        return VecDeque::from([whole]);
    }
    let events = std::mem::take(&mut whole.events);
    let empty = PbWatchResponse { fragment: true, ..whole };
    let mut pieces = VecDeque::from([empty.clone()]);
    let mut size = empty.encoded_len();
    for event in events {
        let body = event.encoded_len();
        // One byte of tag, then the length.
        let added = 1 + prost::length_delimiter_len(body) + body;
        if pieces.back().is_some_and(|piece| !piece.events.is_empty()) && size + added >= limit {
            pieces.push_back(empty.clone());
            size = empty.encoded_len();
        }
        size += added;
        if let Some(piece) = pieces.back_mut() {
            piece.events.push(event);
        }
    }
    if let Some(last) = pieces.back_mut() {
        last.fragment = false;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbResponseHeader;

    use super::*;

    fn response(values: &[usize]) -> PbWatchResponse {
        let event = |size: &usize| PbEvent {
            kv: Some(PbKeyValue { key: b"k".to_vec(), value: vec![b'v'; *size], ..PbKeyValue::default() }),
            ..PbEvent::default()
        };
        PbWatchResponse {
            header: Some(PbResponseHeader { revision: 9, ..PbResponseHeader::default() }),
            watch_id: 3,
            events: values.iter().map(event).collect(),
            ..PbWatchResponse::default()
        }
    }

    #[test]
    fn a_response_under_the_limit_or_of_one_event_stays_whole() {
        assert_eq!(cut(response(&[10, 10]), 1000).len(), 1);
        let one = cut(response(&[2000]), 1000);
        assert!(one.len() == 1 && !one[0].fragment);
    }

    #[test]
    fn pieces_stay_under_the_limit_and_all_but_the_last_say_that_more_follow() {
        let whole = response(&[300, 300, 300, 300, 5000, 10, 10]);
        let pieces = cut(whole.clone(), 1000);
        assert_eq!(pieces.iter().map(|p| p.events.len()).collect::<Vec<_>>(), [3, 1, 1, 2]);
        assert_eq!(pieces.iter().map(|p| p.fragment).collect::<Vec<_>>(), [true, true, true, false]);
        let joined: Vec<_> = pieces.iter().flat_map(|p| p.events.clone()).collect();
        assert_eq!(joined, whole.events);
        assert!(pieces.iter().all(|p| p.encoded_len() < 1000 || p.events.len() == 1));
        assert!(pieces.iter().all(|p| p.watch_id == 3 && p.header == whole.header));
    }
}
