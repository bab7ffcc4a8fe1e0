//! The same random calls on the embedded registry and on a real etcd: every answer, and every
//! message of two watchers, must be equal.
//!
//! Revisions are compared relative to the start; ids of clusters and members, and time left, are
//! not compared.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions,
    ResponseHeader, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use tokio::time::timeout;
use waymark_node::embedded::Options;

use super::fixture::Registry;

const KEYS: [&str; 7] = ["a", "a/1", "a/2", "b", "b/1", "c", "d"];
const ENDS: [&str; 8] = ["", "\0", "a", "a0", "b", "b0", "c", "e"];
const CALLS: usize = 600;

/// One side of the comparison: the registry, its two watchers, and the lines it has said.
struct Side {
    r: Registry,
    watches: [WatchStream; 2],
    random: fastrand::Rng,
    lines: Vec<String>,
    /// As far as the watchers have been read.
    read: i64,
}

impl Side {
    async fn new(mut r: Registry, seed: u64) -> Self {
        let all = WatchOptions::new().with_all_keys().with_prev_key();
        let some = WatchOptions::new().with_prefix();
        let watches =
            [r.client.clone().watch("", Some(all)).await.unwrap(), r.client.watch("a", Some(some)).await.unwrap()];
        Self { r, watches, random: fastrand::Rng::with_seed(seed), lines: Vec::new(), read: 0 }
    }

    fn key(&mut self) -> &'static str {
        self.random.choice(KEYS).unwrap_or("a")
    }

    fn end(&mut self) -> &'static str {
        self.random.choice(ENDS).unwrap_or("")
    }

    fn relative(&self, revision: i64) -> i64 {
        if revision == 0 { -1000 } else { revision - self.r.revision(0) }
    }

    fn header(&self, header: Option<&ResponseHeader>) -> String {
        header.map_or("-".into(), |header| format!("@{}", self.relative(header.revision())))
    }

    fn kv(&self, kv: &etcd_client::KeyValue) -> String {
        format!(
            "{}={}({},{},{},{})",
            kv.key_str().unwrap(),
            kv.value_str().unwrap(),
            self.relative(kv.create_revision()),
            self.relative(kv.mod_revision()),
            kv.version(),
            kv.lease()
        )
    }

    fn kvs(&self, kvs: &[etcd_client::KeyValue]) -> String {
        kvs.iter().map(|kv| self.kv(kv)).collect::<Vec<_>>().join(" ")
    }

    fn get_options(&mut self) -> GetOptions {
        let mut options = GetOptions::new().with_range(self.end());
        if self.random.u8(0..4) == 0 {
            let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
            let targets =
                [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
            let (target, order) = (self.random.choice(targets).unwrap(), self.random.choice(orders).unwrap());
            options = options.with_sort(target, order);
        }
        if self.random.u8(0..3) == 0 {
            options = options.with_limit(self.random.i64(0..4));
        }
        if self.random.u8(0..8) == 0 {
            options = options.with_keys_only();
        }
        if self.random.u8(0..8) == 0 {
            options = options.with_count_only();
        }
        if self.random.u8(0..4) == 0 {
            options = options.with_revision(self.some_revision());
        }
        let bound = self.some_revision();
        match self.random.u8(0..16) {
            0 => options.with_min_mod_revision(bound),
            1 => options.with_max_mod_revision(bound),
            2 => options.with_min_create_revision(bound),
            3 => options.with_max_create_revision(bound),
            _ => options,
        }
    }

    /// Mostly one that is held, sometimes compacted, 0, or in the future.
    fn some_revision(&mut self) -> i64 {
        match self.random.u8(0..8) {
            0 => 0,
            1 => self.r.revision(self.read + self.random.i64(0..3)),
            _ => self.r.revision(self.random.i64(0..=self.read)),
        }
    }

    fn put_options(&mut self) -> PutOptions {
        let options = PutOptions::new();
        match self.random.u8(0..8) {
            0 | 1 => options.with_lease(self.random.i64(1..5)),
            2 => options.with_prev_key(),
            3 => options.with_ignore_value(),
            4 => options.with_ignore_lease(),
            _ => options,
        }
    }

    fn value(&mut self) -> String {
        self.random.u8(0..5).checked_sub(1).map_or(String::new(), |value| value.to_string())
    }

    fn compare(&mut self) -> Compare {
        let ops = [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less];
        let (key, op) = (self.key(), self.random.choice(ops).unwrap());
        let compare = match self.random.u8(0..5) {
            0 => Compare::version(key, op, self.random.i64(0..3)),
            1 => Compare::create_revision(key, op, self.some_revision()),
            2 => Compare::mod_revision(key, op, self.some_revision()),
            3 => Compare::lease(key, op, self.random.i64(0..4)),
            _ => Compare::value(key, op, self.value()),
        };
        if self.random.u8(0..4) == 0 { compare.with_range(self.end()) } else { compare }
    }

    fn txn(&mut self, depth: u8) -> Txn {
        let compares: Vec<_> = (0..self.random.u8(0..3)).map(|_| self.compare()).collect();
        let branches = [0, 1].map(|_| (0..self.random.u8(0..4)).map(|_| self.txn_op(depth)).collect::<Vec<_>>());
        let [success, failure] = branches;
        Txn::new().when(compares).and_then(success).or_else(failure)
    }

    fn txn_op(&mut self, depth: u8) -> TxnOp {
        let key = self.key();
        match self.random.u8(0..8) {
            0 | 1 => TxnOp::get(key, Some(self.get_options())),
            2 if depth < 2 => TxnOp::txn(self.txn(depth + 1)),
            2 | 3 => {
                // Deletes "from here on" escape etcd's overlap check, and a put with ignore_value
                // after one brings a real etcd down.
                let end = Some(self.end()).filter(|end| *end != "\0").unwrap_or("");
                TxnOp::delete(key, Some(DeleteOptions::new().with_range(end).with_prev_key()))
            }
            _ => {
                let (value, options) = (self.value(), self.put_options());
                TxnOp::put(key, value, Some(options))
            }
        }
    }

    fn txn_line(&self, response: &etcd_client::TxnResponse) -> String {
        let ops: Vec<_> = response
            .op_responses()
            .iter()
            .map(|op| match op {
                TxnOpResponse::Get(get) => {
                    format!(
                        "get {} n={} more={} {}",
                        self.kvs(get.kvs()),
                        get.count(),
                        get.more(),
                        self.header(get.header())
                    )
                }
                TxnOpResponse::Put(put) => {
                    let prev = put.prev_key().map(|kv| self.kv(kv));
                    format!("put {prev:?} {}", self.header(put.header()))
                }
                TxnOpResponse::Delete(delete) => {
                    format!("del {} {} {}", delete.deleted(), self.kvs(delete.prev_kvs()), self.header(delete.header()))
                }
                TxnOpResponse::Txn(nested) => self.txn_line(nested),
            })
            .collect();
        format!("txn {} [{}] {}", response.succeeded(), ops.join("; "), self.header(response.header()))
    }

    /// One call, chosen and filled in from the seed, and what came back.
    async fn call(&mut self) -> Result<String, Error> {
        let mut client = self.r.client.clone();
        let key = self.key();
        Ok(match self.random.u8(0..20) {
            0..=4 => {
                let (value, options) = (self.value(), self.put_options());
                let put = client.put(key, value, Some(options)).await?;
                format!("put {:?} {}", put.prev_key().map(|kv| self.kv(kv)), self.header(put.header()))
            }
            5..=8 => {
                let options = self.get_options();
                let get = client.get(key, Some(options)).await?;
                format!(
                    "get {} n={} more={} {}",
                    self.kvs(get.kvs()),
                    get.count(),
                    get.more(),
                    self.header(get.header())
                )
            }
            9 | 10 => {
                let options = DeleteOptions::new().with_range(self.end()).with_prev_key();
                let del = client.delete(key, Some(options)).await?;
                format!("del {} {} {}", del.deleted(), self.kvs(del.prev_kvs()), self.header(del.header()))
            }
            11..=14 => {
                let txn = self.txn(0);
                self.txn_line(&client.txn(txn).await?)
            }
            15 | 16 => {
                let id = self.random.i64(1..5);
                let granted = client.lease_grant(1000, Some(LeaseGrantOptions::new().with_id(id))).await?;
                format!("grant {} {} {}", granted.id(), granted.ttl(), self.header(granted.header()))
            }
            17 => {
                let revoked = client.lease_revoke(self.random.i64(1..5)).await?;
                format!("revoke {}", self.header(revoked.header()))
            }
            18 => {
                let options = LeaseTimeToLiveOptions::new().with_keys();
                let left = client.lease_time_to_live(self.random.i64(1..5), Some(options)).await?;
                let mut keys = left.keys().to_vec();
                keys.sort();
                format!("ttl {} {} {keys:?} {}", left.id(), left.granted_ttl(), self.header(left.header()))
            }
            _ => {
                let revision = self.some_revision();
                let compacted = client.compact(revision, None).await?;
                format!("compact {} {}", self.relative(revision), self.header(compacted.header()))
            }
        })
    }

    async fn step(&mut self) {
        let line = match self.call().await {
            Ok(line) => line,
            Err(Error::GRpcStatus(status)) => format!("{:?} {}", status.code(), status.message()),
            Err(other) => panic!("{other} after {:#?}", self.lines),
        };
        self.lines.push(line);
        self.read_watches().await;
    }

    /// Reads both watchers up to now. Every revision has an event for the first one, and none is
    /// read for the second before the first has it.
    async fn read_watches(&mut self) {
        let now = self.r.client.get("none", None).await.unwrap().header().unwrap().revision();
        for watch in 0..2 {
            self.watches[watch].request_progress().await.unwrap();
            loop {
                let message = timeout(Duration::from_secs(10), self.watches[watch].message());
                let message = message.await.expect("a message").unwrap().unwrap();
                if message.created() {
                    continue;
                }
                if message.events().is_empty() {
                    assert_eq!(message.watch_id(), -1);
                    if message.header().unwrap().revision() >= now {
                        break;
                    }
                    continue;
                }
                let events: Vec<_> = message
                    .events()
                    .iter()
                    .map(|event| {
                        let prev = event.prev_kv().map(|kv| self.kv(kv));
                        format!("{:?} {} {prev:?}", event.event_type(), self.kv(event.kv().unwrap()))
                    })
                    .collect();
                let header = self.header(message.header());
                self.lines.push(format!("watch {watch} [{}] {header}", events.join("; ")));
            }
        }
        self.read = now - self.r.revision(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hundred_random_calls_are_answered_like_by_etcd() {
    let Some(etcd) = Registry::etcd("the differential test").await else { return };
    let seed = std::env::var("WAYMARK_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let options = Options { start_revision: Some(1), ..Options::default() };
    let mut ours = Side::new(Registry::embedded_with(options).await, seed).await;
    let mut theirs = Side::new(etcd, seed).await;
    let mut compared = 0;
    for call in 0..CALLS {
        ours.step().await;
        theirs.step().await;
        let (our_lines, their_lines) = (&ours.lines[compared..], &theirs.lines[compared..]);
        assert_eq!(our_lines, their_lines, "seed {seed}, call {call}: ours left, etcd's right");
        compared = ours.lines.len();
    }
}
