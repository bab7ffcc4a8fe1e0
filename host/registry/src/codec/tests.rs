#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use waymark_core::{
    model::{Address, LeaseId, Ttl},
    naming::{Decoded, Entry, KeyScheme, NamingError},
    snapshot,
};
use waymark_net::address_filter::AddressFilter;
use waymark_testing::logged;

use super::*;
use crate::{
    EntryLimits, Metrics,
    decode::{self, DecodeQueues, Decoder},
    fake::{TestScheme, service},
};

fn kv(key: &str, value: &str, revision: i64) -> Kv {
    Kv { key: key.into(), value: value.into(), mod_revision: Revision(revision), lease: None }
}

fn decoder(scheme: Arc<dyn KeyScheme>) -> Decoder {
    let (queues, limits) = (DecodeQueues::new(), EntryLimits::default());
    let it = decode::Reader {
        scheme,
        queues,
        limits,
        address_filter: AddressFilter::default(),
        metrics: Metrics::default(),
    };
    Decoder::new(service("svc"), it)
}

struct Fixture {
    decoder: Decoder,
    codec: Codec,
    writer: snapshot::Writer,
    reader: snapshot::Reader,
}

impl Fixture {
    fn new() -> Self {
        Self::of_at_most(100)
    }

    fn of_at_most(limit: usize) -> Self {
        let (writer, reader) = snapshot::channel(service("svc"));
        let codec = Codec::new(service("svc"), limit);
        Self { decoder: decoder(TestScheme::shared()), codec, writer, reader }
    }

    async fn list(&mut self, kvs: Vec<Kv>) {
        self.decoder.begin_list(&kvs);
        let readings = self.decoder.read(&kvs).await;
        let update = self.codec.reset(Revision(1), kvs, readings);
        self.writer.apply(update);
    }

    async fn change(&mut self, events: Vec<Event>) -> (usize, usize) {
        let (revision, deleted, put) = Codec::latest(events);
        self.decoder.forget(&deleted);
        let readings = self.decoder.read(&put).await;
        let update = self.codec.apply(revision, deleted, put, readings);
        let Update::Changed { upserted, removed, .. } = &update else { panic!("{update:?}") };
        let counts = (upserted.len(), removed.len());
        self.writer.apply(update);
        counts
    }

    fn seen(&self) -> Vec<String> {
        let snapshot = self.reader.current();
        snapshot.endpoints.iter().map(|it| format!("{};{}", it.address, it.weight)).collect()
    }
}

fn put(key: &str, value: &str, revision: i64) -> Event {
    Event::Put(kv(key, value, revision))
}

fn delete(key: &str, revision: i64) -> Event {
    Event::Delete { key: key.into(), mod_revision: Revision(revision) }
}

#[test]
fn each_warning_of_the_key_scheme_is_logged_once_a_service_and_its_entries_are_counted() {
    let page = logged(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut it = Fixture::new();
            it.list(vec![kv("svc/1", "192.0.2.1:1!heavy", 1), kv("svc/2", "192.0.2.2:1!heavy", 1)]).await;
            it.change(vec![put("svc/3", "192.0.2.3:1!light", 2), put("svc/1", "192.0.2.1:2!heavy", 2)]).await;
            assert_eq!((it.codec.skipped().warned, it.codec.skipped().total(), it.seen().len()), (3, 0, 3));
            it.change(vec![put("svc/1", "192.0.2.1:1", 3), delete("svc/2", 3)]).await;
            assert_eq!(it.codec.skipped().warned, 1);
        });
    });
    assert_eq!((page.matches("heavy").count(), page.matches("light").count()), (1, 1), "{page}");
    assert!(page.contains("svc/1") && page.contains("may not mean what it says"), "{page}");
}

#[tokio::test]
async fn a_deletion_removes_the_instances_its_key_had() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/a", "192.0.2.1:1,192.0.2.2:1", 1), kv("svc/b", "192.0.2.3:1", 1)]).await;
    assert_eq!(it.seen(), ["192.0.2.1:1;1", "192.0.2.2:1;1", "192.0.2.3:1;1"]);
    assert_eq!(it.change(vec![delete("svc/a", 2)]).await, (0, 2));
    assert_eq!(it.seen(), ["192.0.2.3:1;1"]);
    assert_eq!(it.change(vec![delete("svc/a", 3)]).await, (0, 0), "a key that is not known removes nothing");
}

#[tokio::test]
async fn an_instance_lives_as_long_as_one_of_its_keys() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/old", "192.0.2.1:1;1", 1), kv("svc/new", "192.0.2.1:1;7", 2)]).await;
    assert_eq!(it.seen(), ["192.0.2.1:1;7"], "the entry written last says what it is");
    assert_eq!(it.change(vec![delete("svc/old", 3)]).await, (0, 0));
    assert_eq!(it.seen(), ["192.0.2.1:1;7"]);
    it.change(vec![put("svc/other", "192.0.2.1:1;9", 4)]).await;
    assert_eq!(it.seen(), ["192.0.2.1:1;9"]);
    assert_eq!(it.change(vec![delete("svc/other", 5)]).await, (1, 0), "what the remaining entry says holds again");
    assert_eq!(it.seen(), ["192.0.2.1:1;7"]);
    assert_eq!(it.change(vec![delete("svc/new", 6)]).await, (0, 1));
    assert!(it.seen().is_empty());
}

#[tokio::test]
async fn a_key_that_changes_its_instances_drops_those_it_no_longer_has() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/a", "192.0.2.1:1,192.0.2.2:1", 1)]).await;
    assert_eq!(it.change(vec![put("svc/a", "192.0.2.2:1,192.0.2.3:1", 2)]).await, (1, 1));
    assert_eq!(it.seen(), ["192.0.2.2:1;1", "192.0.2.3:1;1"]);
}

#[tokio::test]
async fn an_entry_written_again_with_the_same_content_changes_nothing() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/a", "192.0.2.1:1", 1)]).await;
    assert_eq!(it.change(vec![put("svc/a", "192.0.2.1:1", 2)]).await, (0, 0));
}

#[tokio::test]
async fn of_several_changes_of_one_key_the_last_counts() {
    let mut it = Fixture::new();
    it.list(vec![]).await;
    let changes = vec![put("svc/a", "192.0.2.1:1", 2), delete("svc/a", 3), put("svc/a", "192.0.2.2:1", 4)];
    assert_eq!(it.change(changes).await, (1, 0));
    assert_eq!(it.seen(), ["192.0.2.2:1;1"]);
    assert_eq!(it.change(vec![put("svc/a", "192.0.2.5:1", 5), delete("svc/a", 6)]).await, (0, 1));
    assert!(it.seen().is_empty());
}

#[tokio::test]
async fn markers_register_nothing_and_are_not_counted_as_skipped() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/", "", 1)]).await;
    assert!(it.seen().is_empty());
    assert_eq!(it.codec.skipped().total(), 0);
}

#[tokio::test]
async fn unreadable_entries_are_skipped_counted_and_logged_once() {
    let mut it = Fixture::new();
    let bad = kv("svc/bad", "not an address", 1);
    it.list(vec![bad.clone(), kv("svc/a", "192.0.2.1:1", 1)]).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total()), (1, 1));
    assert_eq!(it.codec.logged.len(), 1);
    it.list(vec![bad, kv("svc/a", "192.0.2.1:1", 1)]).await;
    assert_eq!((it.codec.skipped().total(), it.codec.logged.len()), (1, 1), "the same entry is not logged again");
    it.change(vec![put("svc/bad", "still none", 2)]).await;
    assert_eq!((it.codec.skipped().total(), it.codec.logged.len()), (1, 2));
    it.change(vec![put("svc/bad", "192.0.2.2:1", 3)]).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total()), (2, 0), "what was mended counts no longer");
    it.change(vec![put("svc/bad", "worse", 4)]).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total()), (1, 1), "what it said before no longer holds");
    it.change(vec![delete("svc/bad", 5)]).await;
    assert_eq!(it.codec.skipped().total(), 0);
}

#[tokio::test]
async fn a_key_that_is_not_text_is_skipped() {
    let mut it = Fixture::new();
    let odd = Kv { key: b"svc/\xff".to_vec(), ..kv("", "192.0.2.1:1", 1) };
    it.list(vec![odd, kv("svc/a", "192.0.2.2:1", 1)]).await;
    assert_eq!(it.seen(), ["192.0.2.2:1;1"]);
    assert_eq!(it.codec.skipped().total(), 1);
}

#[tokio::test]
async fn a_failed_key_scheme_takes_no_instance_away() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/a", "192.0.2.1:1", 1)]).await;
    it.change(vec![put("svc/a", "trap", 2)]).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total()), (1, 1));
    it.list(vec![kv("svc/a", "trap", 2)]).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total()), (1, 1), "nor does listing again");
}

struct Panics;

impl KeyScheme for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }
    fn prefixes(&self, _: &ServiceName) -> Result<Vec<String>, NamingError> {
        unimplemented!("never asked")
    }
    fn encode(&self, _: &ServiceName, _: &Endpoint, _: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        unimplemented!("never asked")
    }
    fn decode(&self, _: &ServiceName, _: &Entry) -> Result<Decoded, NamingError> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_key_scheme_that_panics_takes_no_instance_away() {
    let mut it = Fixture::new();
    it.list(vec![kv("svc/a", "192.0.2.1:1", 1)]).await;
    it.decoder = decoder(Arc::new(Panics));
    it.list(vec![kv("svc/a", "192.0.2.1:1", 1)]).await;
    assert_eq!(it.seen().len(), 1);
}

#[tokio::test]
async fn a_service_has_so_many_instances_and_no_more() {
    let mut it = Fixture::of_at_most(10);
    let kvs = (1..=12).map(|n| kv(&format!("svc/{n:02}"), &format!("192.0.2.{n}:1"), 1));
    it.list(kvs.collect()).await;
    assert_eq!((it.seen().len(), it.codec.skipped()), (10, Skipped { over_limit: 2, ..Skipped::default() }));
    it.change(vec![put("svc/01", "192.0.2.1:1;5", 2)]).await;
    assert_eq!((it.seen().len(), it.codec.has_room_again()), (10, false), "those that are known may change");
    it.change(vec![delete("svc/12", 3)]).await;
    assert_eq!(it.codec.skipped().over_limit, 1);
    it.change(vec![delete("svc/01", 4), delete("svc/02", 4)]).await;
    assert!(it.codec.has_room_again(), "to be listed again for those that were left out");
    it.list((3..=11).map(|n| kv(&format!("svc/{n:02}"), &format!("192.0.2.{n}:1"), 1)).collect()).await;
    assert_eq!((it.seen().len(), it.codec.skipped().total(), it.codec.has_room_again()), (9, 0, false));
}

#[tokio::test(start_paused = true)]
async fn unreadable_entries_of_a_service_log_no_flood() {
    let mut it = Fixture::new();
    it.list((0..1000).map(|n| kv(&format!("svc/{n}"), "not an address", 1)).collect()).await;
    assert_eq!((it.codec.log.said, it.codec.log.unsaid), (10, 990));
    tokio::time::advance(Duration::from_secs(10)).await;
    it.change(vec![put("svc/1", "still none", 2)]).await;
    assert_eq!((it.codec.log.said, it.codec.log.unsaid), (1, 0), "the line says how many were not said");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_changes_equals_a_fresh_list(
        steps in proptest::collection::vec(
            proptest::collection::vec((0u8..6, proptest::collection::vec(1u8..5, 0..3), 0u32..3, any::<bool>()), 1..4), 0..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut it = Fixture::new();
            it.list(vec![]).await;
            let mut store = std::collections::BTreeMap::new();
            for (n, step) in steps.into_iter().enumerate() {
                let revision = i64::try_from(n).unwrap() + 2;
                let mut events = Vec::new();
                for (key, hosts, weight, gone) in step {
                    let key = format!("svc/{key}");
                    let value = match hosts.as_slice() {
                        [] => "unreadable".to_owned(),
                        hosts => {
                            let addresses = hosts.iter().map(|host| format!("192.0.2.{host}:1"));
                            format!("{};{weight}", addresses.collect::<Vec<_>>().join(","))
                        }
                    };
                    if gone {
                        store.remove(&key);
                        events.push(delete(&key, revision));
                    } else {
                        store.insert(key.clone(), kv(&key, &value, revision));
                        events.push(put(&key, &value, revision));
                    }
                }
                it.change(events).await;
            }
            let mut fresh = Fixture::new();
            fresh.list(store.into_values().collect()).await;
            assert_eq!(it.seen(), fresh.seen());
            assert_eq!(it.codec.skipped().total(), fresh.codec.skipped().total());
        });
    }
}

#[test]
fn two_words_of_one_transaction_are_judged_the_same_by_all_readers() {
    let address: Address = "192.0.2.1:1".parse().unwrap();
    let claim = |key: &str, weight| Claim {
        key: key.as_bytes().into(),
        mod_revision: Revision(5),
        endpoint: Endpoint { weight, ..Endpoint::at(address.clone()) },
    };
    for claims in [[claim("a", 1), claim("b", 2)], [claim("b", 2), claim("a", 1)]] {
        assert_eq!(winner(&claims).unwrap().weight, 2);
    }
}
