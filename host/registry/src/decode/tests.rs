#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{Mutex, atomic::AtomicBool, atomic::Ordering::SeqCst},
    thread,
};

use waymark_core::{
    model::{Endpoint, LeaseId, Locality, Revision, Ttl},
    naming::Decoded,
};
use waymark_net::address_filter::{Allow, ForbiddenAddress};

use super::*;
use crate::fake::service;

/// Does what entries say, and keeps the keys in the order in which it was asked.
#[derive(Default)]
struct Scripted {
    asked: Mutex<Vec<String>>,
    well: AtomicBool,
}

impl Scripted {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl KeyScheme for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn prefixes(&self, _: &ServiceName) -> Result<Vec<String>, NamingError> {
        unimplemented!("never asked")
    }

    fn encode(&self, _: &ServiceName, _: &Endpoint, _: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        unimplemented!("never asked")
    }

    fn decode(&self, _: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        self.asked.lock().unwrap().push(entry.key.clone());
        let failed = |overran| {
            let (scheme, reason) = ("scripted".to_owned(), "as the test says".to_owned());
            Err(NamingError::Failed { scheme, call: "decode", reason, overran })
        };
        match &*entry.value {
            b"loops" if !self.well.load(SeqCst) => failed(true),
            b"traps" if !self.well.load(SeqCst) => failed(false),
            b"panics" => panic!("on purpose"),
            b"slow" => {
                // What is slow is measured, so it has to take its time.
                thread::sleep(HELD_UP);
                Ok(Decoded::default())
            }
            _ => Ok(Decoded { endpoints: vec![Endpoint::at("192.0.2.1:80".parse().unwrap())], warnings: Vec::new() }),
        }
    }
}

fn kvs(name: &str, n: usize, value: &str) -> Vec<Kv> {
    let kv =
        |n| Kv { key: format!("{name}/{n:03}").into(), value: value.into(), mod_revision: Revision(1), lease: None };
    (0..n).map(kv).collect()
}

fn setup() -> (Arc<Scripted>, Reader) {
    let scheme = Arc::new(Scripted::default());
    let queues = DecodeQueues { all: WorkQueue::single(), slow: WorkQueue::single() };
    let it = Reader {
        scheme: Arc::clone(&scheme) as Arc<dyn KeyScheme>,
        queues,
        limits: EntryLimits::default(),
        address_filter: AddressFilter::default(),
        metrics: Metrics::default(),
    };
    (scheme, it)
}

fn count(readings: &[Reading], kind: impl Fn(&Reading) -> bool) -> usize {
    readings.iter().filter(|reading| kind(reading)).count()
}

#[tokio::test(start_paused = true)]
async fn entries_that_loop_cost_others_a_turn_and_their_service_three() {
    let (scheme, it) = setup();
    let (mut bad, mut worse) = (Decoder::new(service("bad"), it.clone()), Decoder::new(service("worse"), it.clone()));
    let mut good = Decoder::new(service("good"), it.clone());
    let (looping, others, entries) = (kvs("bad", 500, "loops"), kvs("worse", 500, "loops"), kvs("good", 3, "fine"));
    let (bad, worse, read) = tokio::join!(bad.read(&looping), worse.read(&others), good.read(&entries));
    assert_eq!(count(&read, |it| matches!(it, Reading::Read(accepted) if accepted.endpoints.len() == 1)), 3);
    for readings in [bad, worse] {
        assert_eq!(count(&readings, |it| matches!(it, Reading::Failed(_))), 3, "then the breaker is open");
        assert_eq!(count(&readings, |it| matches!(it, Reading::Waiting)), 497);
    }
    let asked = scheme.asked();
    let before = asked.iter().position(|key| key.starts_with("good")).unwrap();
    assert!(before <= 2, "asked {before} others before: {asked:?}");
    assert_eq!(asked.len(), 9, "no entry is asked about twice where that takes its deadline again");
    let text = it.metrics.text();
    assert!(text.contains("registry_key_scheme_paused{service=\"bad\"} 1"), "{text}");
    assert!(text.contains("registry_key_scheme_failures_total{reason=\"deadline\"} 6"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_waits_in_another_line() {
    let (scheme, it) = setup();
    let (mut slow, mut good) = (Decoder::new(service("slow"), it.clone()), Decoder::new(service("good"), it));
    let (entries, others) = (kvs("slow", 6, "slow"), kvs("good", 1, "fine"));
    let (readings, read) = tokio::join!(slow.read(&entries), good.read(&others));
    assert_eq!((count(&readings, |it| matches!(it, Reading::Read(_))), read.len()), (6, 1));
    let before = scheme.asked().iter().position(|key| key.starts_with("good")).unwrap();
    assert!(before <= 1, "{:?}", scheme.asked());
    assert!(slow.on_probation());
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_later_and_less_and_less_often() {
    let (scheme, it) = setup();
    let mut decoder = Decoder::new(service("svc"), it.clone());
    let entries = [kvs("a", 2, "traps"), kvs("b", 2, "fine")].concat();
    let readings = decoder.read(&entries).await;
    assert_eq!(count(&readings, |it| matches!(it, Reading::Failed(_))), 2);
    assert_eq!(count(&readings, |it| matches!(it, Reading::Read(_))), 2);
    let asked = scheme.asked().len();
    assert_eq!(asked, 6, "a trap is given a fresh instance");
    assert_eq!(count(&decoder.read(&entries).await, |it| matches!(it, Reading::Failed(_))), 2);
    assert_eq!(scheme.asked().len(), asked + 2, "listing again asks about the others alone");
    tokio::time::sleep_until(decoder.due().unwrap()).await;
    scheme.well.store(true, SeqCst);
    let due = decoder.take_due();
    assert_eq!(due.len(), 2);
    assert_eq!(count(&decoder.read(&due).await, |it| matches!(it, Reading::Read(_))), 2);
    assert_eq!(decoder.due(), None);
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_read_when_the_breaker_lets_them() {
    let (_, it) = setup();
    let mut decoder = Decoder::new(service("svc"), it.clone());
    let entries = [kvs("a", 3, "loops"), kvs("b", 40, "fine")].concat();
    let readings = decoder.read(&entries).await;
    assert_eq!(count(&readings, |it| matches!(it, Reading::Waiting)), 40);
    assert!(it.metrics.text().contains("registry_entries_put_off{service=\"svc\"} 43"), "{}", it.metrics.text());
    let began = Instant::now();
    tokio::time::sleep_until(decoder.due().unwrap()).await;
    assert_eq!(began.elapsed().as_secs(), 1);
    let due = decoder.take_due();
    assert_eq!(count(&decoder.read(&due).await, |it| matches!(it, Reading::Read(_))), 40);
    assert!(!decoder.breaker.is_open());
}

#[tokio::test]
async fn a_scheme_that_panics_fails_on_one_entry() {
    let (_, it) = setup();
    let mut decoder = Decoder::new(service("svc"), it);
    let readings = decoder.read(&[kvs("a", 1, "panics"), kvs("b", 1, "fine")].concat()).await;
    assert!(matches!(&readings[..], [Reading::Failed(reason), Reading::Read(_)] if reason.contains("panicked")));
}

#[test]
fn an_entry_registers_so_many_of_such_a_size_where_they_may_be() {
    let limits = EntryLimits { instances: 3, metadata_pairs: 2, metadata_bytes: 10, text_bytes: 20, endpoints: 100 };
    let at = |n: usize| Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap());
    let address_filter = AddressFilter::new(Allow::elsewhere());
    let fit =
        |endpoints: Vec<Endpoint>| limits::apply(Decoded { endpoints, warnings: Vec::new() }, &limits, &address_filter);
    let many = fit((1..6).map(at).collect());
    assert_eq!((many.endpoints.len(), many.over, many.refused), (3, 2, 0));
    assert!(many.note.unwrap().contains("5 instances, of which 3"));
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let pairs = vec![pair("a", ""), pair("b", ""), pair("c", "")];
    for (large, words) in [
        (Endpoint { id: waymark_core::model::InstanceId::new("x".repeat(21)), ..at(1) }, "id has 21 bytes"),
        (Endpoint { locality: Locality::zone("x".repeat(21)), ..at(1) }, "zone has 21 bytes"),
        (Endpoint { metadata: pairs.into(), ..at(1) }, "3 metadata pairs"),
        (Endpoint { metadata: vec![pair("a", "0123456789")].into(), ..at(1) }, "11 bytes of metadata"),
    ] {
        let left = fit(vec![large, at(2)]);
        assert_eq!((left.endpoints.len(), left.over), (1, 1), "{words}");
        assert!(left.note.as_ref().unwrap().contains(words), "{:?}", left.note);
    }
    let refused = fit(vec![Endpoint::at("127.0.0.1:80".parse().unwrap()), at(2)]);
    assert_eq!((refused.endpoints.len(), refused.refused), (1, 1));
    assert!(refused.note.unwrap().contains(&ForbiddenAddress::Loopback.to_string()));
}
