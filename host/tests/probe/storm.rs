//! Many writers and watchers at once: there is no order between the writers, so what is said are
//! the promises that hold in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use etcd_client::proto::{PbDeleteResponse, PbEvent, PbPutResponse, PbTxnResponse, PbWatchResponse};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::{
    say::{Known, bytes},
    script::{Create, REST, delete_request, op_delete, op_put, put_request, txn_request},
    wire::Wire,
};

const WRITERS: u64 = 6;
const WRITES: usize = 40;
/// The last write of the storm is to these, so that every watcher hears of it.
const LAST: [&str; 2] = ["s/0/x", "s/end"];

/// Runs it, and says one line a watcher.
pub(crate) async fn run(wire: &Wire, patience: Duration, known: &mut Known) -> Vec<String> {
    match storm(wire, patience, known).await {
        Ok(lines) => lines,
        Err(status) => vec![super::say::refusal(&status)],
    }
}

async fn storm(wire: &Wire, patience: Duration, known: &mut Known) -> Result<Vec<String>, Status> {
    let first = known.now + 1;
    // Name, what it watches, and whether it begins while the writers write.
    let early = [
        ("all", Create { prev_kv: true, ..Create::new("s/", REST) }),
        ("one writer", Create { prev_kv: true, ..Create::new("s/0/", "s/00") }),
        ("one key", Create::new("s/0/x", "")),
        ("deletes", Create { no_put: true, ..Create::new("s/", "s0") }),
        ("from the past", Create { start: first, ..Create::new("s/", "s0") }),
    ];
    let late = [
        ("late", Create { start: first, prev_kv: true, ..Create::new("s/", "s0") }),
        ("late, one key", Create { start: first, ..Create::new("s/0/x", "") }),
    ];
    let mut watching = Vec::new();
    for (name, create) in early {
        watching.push((name, create.no_put, watch(wire, &create, None).await?));
    }
    // This one is not read before all is written, which is more than the windows of HTTP/2 hold.
    let (read, held) = oneshot::channel();
    let slow = Create { prev_kv: true, ..Create::new("s/", "s0") };
    watching.push(("slow", false, watch(wire, &slow, Some(held)).await?));
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(wire.clone(), writer))).collect();
    for (name, create) in late {
        watching.push((name, false, watch(wire, &create, None).await?));
    }
    for writer in writers {
        writer.await.map_err(|error| Status::internal(error.to_string()))??;
    }
    let txn = txn_request([], LAST.map(|key| op_put(key, "last")), []);
    let last: PbTxnResponse = wire.unary("/etcdserverpb.KV/Txn", txn).await?;
    // "deletes" hears of this one instead; for the others it is left out.
    let end: PbDeleteResponse = wire.unary("/etcdserverpb.KV/DeleteRange", delete_request("s/end", "")).await?;
    known.note(end.header.as_ref());
    let last = last.header.map_or(0, |header| header.revision);
    let _ = read.send(());
    let mut lines = vec![format!("{} revisions", known.now + 1 - first)];
    for (name, deletes, mut messages) in watching {
        let line = match timeout(patience, hear(&mut messages, if deletes { last + 1 } else { last })).await {
            Ok(Ok(heard)) => heard.line(),
            Ok(Err(status)) => super::say::refusal(&status),
            Err(_) => "not told of everything".into(),
        };
        lines.push(format!("watcher of {name}: {line}"));
    }
    // Which of the writers was when shows in what they left.
    let left: PbDeleteResponse = wire.unary("/etcdserverpb.KV/DeleteRange", delete_request("s/", "s0")).await?;
    known.note(left.header.as_ref());
    Ok(lines)
}

type Messages = mpsc::UnboundedReceiver<Result<PbWatchResponse, Status>>;

/// Opens a stream with one watcher, and reads it at once or when told to.
async fn watch(wire: &Wire, create: &Create, held: Option<oneshot::Receiver<()>>) -> Result<Messages, Status> {
    let (requests, receiver) = mpsc::unbounded_channel();
    let _ = requests.send(create.request());
    let opened = wire.duplex("/etcdserverpb.Watch/Watch", UnboundedReceiverStream::new(receiver)).await;
    let mut answers: Streaming<PbWatchResponse> = opened?;
    // The answer to its creation comes first.
    answers.message().await?;
    let (sender, messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Some(held) = held {
            let _ = held.await;
        }
        while let Some(message) = answers.message().await.transpose() {
            let last = message.is_err();
            if sender.send(message).is_err() || last {
                break;
            }
        }
        drop(requests);
    });
    Ok(messages)
}

/// Puts, deletes and txns on the writer's own two keys, always the same ones.
async fn write(wire: Wire, writer: u64) -> Result<(), Status> {
    let mut random = fastrand::Rng::with_seed(writer);
    let (x, y) = (format!("s/{writer}/x"), format!("s/{writer}/y"));
    for n in 0..WRITES {
        let value = format!("{n}:{}", "v".repeat(8 * 1024));
        match random.u8(0..5) {
            0 => {
                let _: PbDeleteResponse = wire.unary("/etcdserverpb.KV/DeleteRange", delete_request(&x, "")).await?;
            }
            1 => {
                let txn = txn_request([], [op_put(&x, &value), op_put(&y, &value)], []);
                let _: PbTxnResponse = wire.unary("/etcdserverpb.KV/Txn", txn).await?;
            }
            2 => {
                let txn = txn_request([], [op_delete(&x, ""), op_put(&y, &value)], []);
                let _: PbTxnResponse = wire.unary("/etcdserverpb.KV/Txn", txn).await?;
            }
            _ => {
                let _: PbPutResponse = wire.unary("/etcdserverpb.KV/Put", put_request(&x, &value)).await?;
            }
        }
    }
    Ok(())
}

/// What a watcher was told.
#[derive(Default)]
struct Heard {
    /// The revisions of each message, in order.
    messages: Vec<Vec<i64>>,
    /// The events of each key, in order, without what depends on the other writers.
    keys: BTreeMap<String, Vec<String>>,
    /// Events that carried a previous value which is not what the key had before.
    wrong_prev: usize,
    values: BTreeMap<String, Vec<u8>>,
    prev_kvs: usize,
}

async fn hear(messages: &mut Messages, last: i64) -> Result<Heard, Status> {
    let mut heard = Heard::default();
    while heard.messages.last().and_then(|revisions| revisions.last()).is_none_or(|revision| *revision < last) {
        let mut message = messages.recv().await.unwrap_or_else(|| Err(Status::ok("the stream ended")))?;
        message.events.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision <= last));
        heard.messages.push(message.events.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision).collect());
        message.events.iter().for_each(|event| heard.take(event));
    }
    Ok(heard)
}

impl Heard {
    fn take(&mut self, event: &PbEvent) {
        let Some(kv) = &event.kv else { return };
        let key = bytes(&kv.key);
        if let Some(prev) = &event.prev_kv {
            self.prev_kvs += 1;
            self.wrong_prev += usize::from(self.values.get(&key) != Some(&prev.value));
        }
        let number = kv.value.split(|byte| *byte == b':').next().unwrap_or_default();
        let number = String::from_utf8_lossy(number);
        self.keys.entry(key.clone()).or_default().push(format!("{}{number}v{}", event.r#type, kv.version));
        self.values.insert(key, kv.value.clone());
    }

    fn line(&self) -> String {
        let revisions: Vec<_> = self.messages.iter().flatten().copied().collect();
        let rising = revisions.is_sorted();
        let distinct = |revisions: &[i64]| revisions.iter().collect::<BTreeSet<_>>().len();
        let whole = self.messages.iter().map(|message| distinct(message)).sum::<usize>() == distinct(&revisions);
        let keys = self.keys.iter().map(|(key, events)| format!("{key} {}", bytes(events.join(" ").as_bytes())));
        let keys: Vec<_> = keys.collect();
        format!(
            "{} revisions{}{}, {} previous values, {} of them wrong: {}",
            distinct(&revisions),
            if rising { "" } else { ", out of order" },
            if whole { "" } else { ", a txn split" },
            self.prev_kvs,
            self.wrong_prev,
            keys.join(", ")
        )
    }
}
