//! Answers as text, the same for every run: revisions count from where the probe began, ids that a
//! server chooses get numbers, times and sizes are left out.

use std::fmt::Write;

use etcd_client::proto::{
    PbDeleteResponse, PbEvent, PbKeyValue, PbRangeResponse, PbResponseHeader, PbTxnOpResponse, PbTxnResponse,
    PbWatchResponse,
};
use tonic::Status;

/// Leases with ids up to here are the script's own choice.
const OWN_LEASES: i64 = 10_000;

/// What is left out of the text, because every server chooses it for itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The revision that the probe found.
    pub(crate) start: i64,
    /// The newest revision that an answer has shown.
    pub(crate) now: i64,
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) leases: Vec<i64>,
}

impl Known {
    pub(crate) fn revision(&self, revision: i64) -> String {
        if revision <= 0 { revision.to_string() } else { format!("{:+}", revision - self.start) }
    }

    /// Takes note of the newest revision.
    pub(crate) fn note(&mut self, header: Option<&PbResponseHeader>) {
        self.now = self.now.max(header.map_or(0, |header| header.revision));
    }

    pub(crate) fn header(&self, header: Option<&PbResponseHeader>) -> String {
        let Some(header) = header else { return "no header".into() };
        let ids = match (header.cluster_id, header.member_id, header.raft_term) {
            (0, 0, 0) => " no ids",
            (cluster, member, 1..) if (cluster, member) == (self.cluster, self.member) => "",
            _ => " other ids",
        };
        format!("@{}{ids}", self.revision(header.revision))
    }

    pub(crate) fn member(&self, member: u64) -> String {
        if member == self.member { "member".into() } else { member.to_string() }
    }

    pub(crate) fn lease(&mut self, id: i64) -> String {
        if id <= OWN_LEASES {
            return id.to_string();
        }
        let at = self.leases.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.leases.push(id);
            self.leases.len() - 1
        });
        format!("chosen-{at}")
    }

    pub(crate) fn kv(&mut self, kv: &PbKeyValue) -> String {
        format!(
            "{}={}(c{} m{} v{} l{})",
            bytes(&kv.key),
            bytes(&kv.value),
            self.revision(kv.create_revision),
            self.revision(kv.mod_revision),
            kv.version,
            self.lease(kv.lease)
        )
    }

    fn kvs(&mut self, kvs: &[PbKeyValue]) -> String {
        let kvs: Vec<_> = kvs.iter().map(|kv| self.kv(kv)).collect();
        format!("[{}]", kvs.join(" "))
    }

    fn prev(&mut self, prev: Option<&PbKeyValue>) -> String {
        prev.map_or(String::new(), |prev| format!(" was {}", self.kv(prev)))
    }

    pub(crate) fn range(&mut self, range: &PbRangeResponse) -> String {
        let more = if range.more { " more" } else { "" };
        format!("{} of {}{more} {}", self.kvs(&range.kvs), range.count, self.header(range.header.as_ref()))
    }

    pub(crate) fn put(&mut self, put: &etcd_client::proto::PbPutResponse) -> String {
        format!("put{} {}", self.prev(put.prev_kv.as_ref()), self.header(put.header.as_ref()))
    }

    pub(crate) fn delete(&mut self, delete: &PbDeleteResponse) -> String {
        format!("deleted {} {} {}", delete.deleted, self.kvs(&delete.prev_kvs), self.header(delete.header.as_ref()))
    }

    pub(crate) fn txn(&mut self, txn: &PbTxnResponse) -> String {
        let ops: Vec<_> = txn
            .responses
            .iter()
            .map(|op| match &op.response {
                Some(PbTxnOpResponse::ResponseRange(range)) => self.range(range),
                Some(PbTxnOpResponse::ResponsePut(put)) => self.put(put),
                Some(PbTxnOpResponse::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(PbTxnOpResponse::ResponseTxn(nested)) => self.txn(nested),
                None => "nothing".into(),
            })
            .collect();
        let branch = if txn.succeeded { "then" } else { "else" };
        format!("{branch} {{{}}} {}", ops.join("; "), self.header(txn.header.as_ref()))
    }

    fn event(&mut self, event: &PbEvent) -> String {
        let kind = match event.r#type {
            0 => "+",
            1 => "-",
            _ => "?",
        };
        let kv = event.kv.as_ref().map_or("no kv".into(), |kv| self.kv(kv));
        format!("{kind}{kv}{}", self.prev(event.prev_kv.as_ref()))
    }

    /// A message of a watch stream, without the stream.
    pub(crate) fn watch(&mut self, message: &PbWatchResponse) -> String {
        let mut text = format!("watcher {}", message.watch_id);
        for (set, word) in
            [(message.created, " created"), (message.canceled, " canceled"), (message.fragment, " fragment")]
        {
            if set {
                text.push_str(word);
            }
        }
        let write = &mut text;
        if message.compact_revision != 0 {
            let _ = write!(write, " compacted{}", self.revision(message.compact_revision));
        }
        if !message.cancel_reason.is_empty() {
            let _ = write!(write, " because {:?}", message.cancel_reason);
        }
        for event in &message.events {
            let _ = write!(write, " {}", self.event(event));
        }
        let _ = write!(write, " {}", self.header(message.header.as_ref()));
        text
    }
}

/// Code and text of a refusal.
pub(crate) fn refusal(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Short ones as they are, long ones by their length and a checksum.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    if bytes.len() > SHOWN {
        return format!("<{} bytes {:016x}>", bytes.len(), xxhash_rust::xxh64::xxh64(bytes, 0));
    }
    bytes.escape_ascii().to_string()
}
