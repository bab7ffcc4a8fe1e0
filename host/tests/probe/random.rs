//! Random calls, always the same ones for a seed.

use etcd_client::proto::{
    PbCompare, PbPutRequest, PbRangeRequest, PbTargetUnion as Of, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

use super::script::{
    Action, Create, Is, NOW, REST, START, Script, compact, compare, delete, get_request, grant, op, op_delete, op_txn,
    put_request,
};

const KEYS: [&str; 7] = ["a", "a/1", "a/2", "b", "b/1", "c", "d"];
const ENDS: [&str; 8] = ["", REST, "a", "a0", "b", "b0", "c", "e"];
const LEASES: std::ops::Range<i64> = 1..5;
const STREAMS: usize = 3;

/// Adds `calls` of them, with watchers on three streams that come and go.
pub(crate) fn add(script: &mut Script, seed: u64, calls: usize) {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    script.rule(format!("random calls, seed {seed}"));
    for stream in 0..STREAMS {
        script.act(Action::Open(stream)).act(Action::Watch(stream, Create::new(REST, REST)));
    }
    for _ in 0..calls {
        let action = random.action();
        script.told(action);
    }
    for stream in 0..STREAMS {
        script.act(Action::Close(stream));
    }
    for lease in LEASES {
        script.act(Action::Revoke(lease));
    }
    script.clear();
}

struct Random(fastrand::Rng);

impl Random {
    fn one_in(&mut self, n: u8) -> bool {
        self.0.u8(0..n) == 0
    }

    fn key(&mut self) -> &'static str {
        self.0.choice(KEYS).unwrap()
    }

    fn end(&mut self) -> &'static str {
        self.0.choice(ENDS).unwrap()
    }

    fn value(&mut self) -> String {
        self.0.u8(0..5).checked_sub(1).map_or(String::new(), |value| value.to_string())
    }

    fn is(&mut self) -> Is {
        self.0.choice([Is::Equal, Is::NotEqual, Is::Greater, Is::Less]).unwrap()
    }

    /// Mostly one that may be held, sometimes 0, compacted or in the future.
    fn revision(&mut self) -> i64 {
        match self.0.u8(0..10) {
            0 => 0,
            1 => NOW + self.0.i64(0..3),
            2 => START + self.0.i64(0..200),
            _ => NOW - self.0.i64(0..40),
        }
    }

    fn action(&mut self) -> Action {
        match self.0.u8(0..26) {
            0..=5 => Action::Put(self.put()),
            6..=9 => Action::Range(self.range()),
            10 | 11 => delete(self.key(), self.end()),
            12..=16 => Action::Txn(self.txn(0)),
            17 | 18 => grant(self.0.i64(LEASES), 1000),
            19 => Action::Revoke(self.0.i64(LEASES)),
            20 => Action::TimeToLive { id: self.0.i64(LEASES), keys: true },
            21 => compact(self.revision()),
            22 => Action::KeepAlive(vec![self.0.i64(LEASES), self.0.i64(LEASES)]),
            23 | 24 => Action::Watch(self.0.usize(0..STREAMS), self.create()),
            _ => Action::Cancel(self.0.usize(0..STREAMS), self.0.usize(0..8)),
        }
    }

    fn create(&mut self) -> Create {
        let mut create = Create::new(self.key(), self.end());
        create.prev_kv = self.0.bool();
        create.no_delete = self.one_in(6);
        match self.0.u8(0..4) {
            // From the past only what reaches the end: the fence shows when all of it was read.
            0 | 1 => {
                create.end = REST.into();
                create.start = NOW - self.0.i64(0..30);
            }
            2 => create.start = NOW + self.0.i64(1..20),
            _ => {}
        }
        create
    }

    fn put(&mut self) -> PbPutRequest {
        let mut put = put_request(self.key(), &self.value());
        match self.0.u8(0..8) {
            0 | 1 => put.lease = self.0.i64(LEASES),
            2 => put.prev_kv = true,
            3 => put.ignore_value = true,
            4 => put.ignore_lease = true,
            _ => {}
        }
        put
    }

    fn range(&mut self) -> PbRangeRequest {
        let mut range = get_request(self.key(), self.end());
        if self.one_in(4) {
            (range.sort_target, range.sort_order) = (self.0.i32(0..5), self.0.i32(0..3));
        }
        if self.one_in(3) {
            range.limit = self.0.i64(0..4);
        }
        range.keys_only = self.one_in(8);
        range.count_only = self.one_in(8);
        if self.one_in(4) {
            range.revision = self.revision();
        }
        let bound = self.revision();
        match self.0.u8(0..16) {
            0 => range.min_mod_revision = bound,
            1 => range.max_mod_revision = bound,
            2 => range.min_create_revision = bound,
            3 => range.max_create_revision = bound,
            _ => {}
        }
        range
    }

    fn txn(&mut self, depth: u8) -> PbTxnRequest {
        let compare = (0..self.0.u8(0..3)).map(|_| self.compare()).collect();
        let success = (0..self.0.u8(0..4)).map(|_| self.op(depth)).collect();
        let failure = (0..self.0.u8(0..4)).map(|_| self.op(depth)).collect();
        PbTxnRequest { compare, success, failure }
    }

    fn op(&mut self, depth: u8) -> PbTxnRequestOp {
        match self.0.u8(0..8) {
            0 | 1 => {
                let mut range = self.range();
                if range.revision != 0 {
                    // One that is never refused: which of two refusals comes first differs between
                    // etcds (`accepted`).
                    range.revision = NOW;
                }
                op(PbTxnOpRequest::RequestRange(range))
            }
            2 if depth < 2 => op_txn(self.txn(depth + 1)),
            2 | 3 => {
                // Deletes "from here on" escape etcd's overlap check, and a put with ignore_value
                // after one brings a real etcd down.
                let end = Some(self.end()).filter(|end| *end != REST).unwrap_or("");
                op_delete(self.key(), end)
            }
            _ => op(PbTxnOpRequest::RequestPut(self.put())),
        }
    }

    fn compare(&mut self) -> PbCompare {
        let of = match self.0.u8(0..5) {
            0 => Of::Version(self.0.i64(0..3)),
            1 => Of::CreateRevision(self.revision()),
            2 => Of::ModRevision(self.revision()),
            3 => Of::Lease(self.0.i64(0..4)),
            _ => Of::Value(self.value().into_bytes()),
        };
        let (key, end, is) = (self.key(), self.end(), self.is());
        compare(key, if self.one_in(4) { end } else { "" }, is, of)
    }
}
