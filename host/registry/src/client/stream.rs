//! The two halves of a watch stream over the network.

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponseStream, WatchStream};
use futures::{FutureExt as _, future::BoxFuture};
use waymark_core::model::Revision;

use super::{
    convert::{Namespace, header},
    status::Blame,
};
use crate::{
    error::{Cause, RegistryError},
    etcd::{WatchAnswer, WatchHalves, WatchRequest, WatchRx, WatchTx},
};

/// Splits a stream that has just been opened.
pub(super) fn halves(stream: WatchStream, blame: Blame, namespace: Namespace) -> WatchHalves {
    let (tx, rx) = stream.split();
    let sender = Sender { tx, blame: blame.clone(), namespace: namespace.clone() };
    (Box::new(sender), Box::new(Receiver { rx, blame, namespace }))
}

/// The key to watch, and the rest of the request. Only a request to create says anything here.
pub(super) fn create_options(namespace: &Namespace, request: WatchRequest) -> (Vec<u8>, WatchOptions) {
    let options = WatchOptions::new().with_progress_notify();
    match request {
        WatchRequest::Create { id, range, from } => {
            let (key, end) = namespace.range(&range);
            (key, options.with_watch_id(id).with_start_revision(from.0).with_range(end))
        }
        WatchRequest::Cancel { .. } | WatchRequest::Progress => (Vec::new(), options),
    }
}

struct Sender {
    tx: WatchRequestSender,
    blame: Blame,
    namespace: Namespace,
}

impl WatchTx for Sender {
    fn send(&mut self, request: WatchRequest) -> BoxFuture<'_, Result<(), RegistryError>> {
        async move {
            let sent = match request {
                WatchRequest::Cancel { id } => self.tx.cancel(id).await,
                WatchRequest::Progress => self.tx.request_progress().await,
                create @ WatchRequest::Create { .. } => {
                    let (key, options) = create_options(&self.namespace, create);
                    self.tx.watch(key, Some(options)).await
                }
            };
            // It fails only where the stream is over; the receiving half knows why.
            sent.map_err(|_| over(&self.blame))
        }
        .boxed()
    }
}

struct Receiver {
    rx: WatchResponseStream,
    blame: Blame,
    namespace: Namespace,
}

impl WatchRx for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchAnswer, RegistryError>> {
        async move {
            let answer = match self.rx.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(over(&self.blame)),
                Err(error) => return Err(self.blame.classify_stream(&error)),
            };
            let head = header(answer.header());
            let answer = answer.0;
            Ok(WatchAnswer {
                id: answer.watch_id,
                cluster: head.cluster,
                revision: head.revision,
                created: answer.created,
                canceled: answer.canceled,
                compacted: (answer.compact_revision > 0).then_some(Revision(answer.compact_revision)),
                reason: answer.cancel_reason,
                events: answer.events.into_iter().filter_map(|event| self.namespace.event(event)).collect(),
            })
        }
        .boxed()
    }

    fn endpoint(&self) -> &str {
        &self.blame.endpoint
    }
}

fn over(blame: &Blame) -> RegistryError {
    let source = Cause::new("it closed the watch stream");
    RegistryError::Unreachable { endpoint: blame.endpoint.clone(), source }
}
