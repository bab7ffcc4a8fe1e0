//! What plugins are tried on: endpoints of all sorts, and requests that nobody sent.

use std::sync::Arc;

use crate::{
    model::{Address, Endpoint, InstanceId, Locality},
    policy::{Decision, PickContext, RequestFacts},
};

/// The service that all of it is for.
pub(super) const SERVICE: &str = "waymark/check";

/// The n-th address, one of the block for documentation.
pub(super) fn address(n: usize) -> Address {
    format!("192.0.2.{}:{}", n % 250 + 1, 1000 + n / 250).parse().expect("made of numbers in range")
}

/// The n-th endpoint: weight 1, no zone.
pub(super) fn endpoint(n: usize) -> Endpoint {
    Endpoint { id: InstanceId::new(format!("instance-{n:05}")), ..Endpoint::at(address(n)) }
}

/// Endpoints of weight 1 in one zone.
pub(super) fn alike(n: usize, zone: &str) -> Vec<Endpoint> {
    (0..n).map(|n| Endpoint { locality: Locality::zone(zone), ..endpoint(n) }).collect()
}

/// Endpoints of weights 1 to 5 in three zones, with two pairs of metadata each.
pub(super) fn mixed(n: usize) -> Vec<Endpoint> {
    let endpoint = |n: usize| Endpoint {
        locality: Locality::zone(["zone-a", "zone-b", "zone-c"][n % 3]),
        weight: (n % 5) as u32 + 1,
        metadata: Arc::from([("rack".into(), format!("r{}", n % 40)), ("version".into(), format!("1.{}", n % 3))]),
        ..endpoint(n)
    };
    (0..n).map(endpoint).collect()
}

/// Any endpoints: any weights, the greatest included, any zones, ids and metadata. Sorted by
/// instance, as snapshots are.
pub(super) fn any(random: &mut fastrand::Rng, n: usize) -> Vec<Endpoint> {
    let mut list: Vec<_> = (0..n)
        .map(|n| {
            let weight = match random.u8(..10) {
                0 => 0,
                1 => u32::MAX,
                2 => random.u32(..),
                _ => random.u32(1..20),
            };
            let zone = random.choice(["", "zone-a", "zone-b", "zone-c", "zürich"]).unwrap_or_default();
            let pairs: Arc<[_]> = (0..random.usize(..3)).map(|pair| (format!("k{pair}"), text(random, 20))).collect();
            Endpoint {
                id: InstanceId::new(format!("{:08x}-{n}", random.u32(..))),
                locality: Locality::zone(zone),
                weight,
                metadata: pairs,
                ..endpoint(n)
            }
        })
        .collect();
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list
}

/// Any text of up to so many characters, from many alphabets, with quotes and escapes.
pub(super) fn text(random: &mut fastrand::Rng, longest: usize) -> String {
    const ALPHABET: [char; 16] =
        ['a', 'Z', '0', ' ', '"', '\\', '/', '<', '{', '\u{7f}', 'é', 'ß', '日', '本', '🧭', '\u{202e}'];
    (0..=random.usize(..longest)).filter_map(|_| random.choice(ALPHABET)).collect()
}

/// A request that nobody sent, and the load of the endpoints while it is picked for.
pub(super) struct Request {
    /// What stands in every header that a policy may ask for; none, and the request has no header.
    pub(super) key: Option<String>,
    /// Endpoints it was tried on.
    pub(super) tried: Vec<u32>,
    /// Load figures are made of this; 0 means that all endpoints are idle.
    pub(super) load: u32,
}

impl Request {
    /// With this key, on idle endpoints.
    pub(super) fn keyed(key: &str) -> Self {
        Self { key: Some(key.into()), tried: Vec::new(), load: 0 }
    }

    /// Where a decision sends it, as the host does: the less loaded of two, the first when they are
    /// alike.
    pub(super) fn target(&self, decision: &Decision) -> Option<u32> {
        let load = |endpoint| (self.in_flight(endpoint), self.latency_us(endpoint));
        match *decision {
            Decision::Endpoint(endpoint) => Some(endpoint),
            Decision::Either(a, b) => Some(if load(b) < load(a) { b } else { a }),
            _ => None,
        }
    }
}

impl RequestFacts for Request {
    fn path(&self) -> &'static str {
        "/waymark.Check/Pick"
    }

    fn header(&self, _: &str) -> Option<&str> {
        self.key.as_deref()
    }

    fn tried(&self, endpoint: u32) -> bool {
        self.tried.contains(&endpoint)
    }

    fn in_flight(&self, endpoint: u32) -> u32 {
        if self.load == 0 { 0 } else { self.load.wrapping_mul(endpoint | 1).rotate_left(7) % 9 }
    }

    fn latency_us(&self, endpoint: u32) -> u32 {
        if self.load == 0 { 0 } else { self.load.wrapping_mul(endpoint | 1).rotate_left(17) % 50_000 }
    }
}

/// The hash of a key, as the host hashes it.
pub(super) fn hash(key: &str) -> u32 {
    let hash = xxhash_rust::xxh64::xxh64(key.as_bytes(), 0);
    (hash ^ (hash >> 32)) as u32
}

/// Any request to one of `n` endpoints: with and without a key, first and further attempts.
pub(super) fn request(random: &mut fastrand::Rng, n: usize) -> (PickContext, Request) {
    let key = random.bool().then(|| format!("key-{}", random.u16(..)));
    let attempt = if random.u8(..4) == 0 { random.usize(1..4).min(n) } else { 0 };
    let tried: Vec<u32> = (0..attempt).map(|_| random.u32(..n.max(1) as u32)).collect();
    let context = PickContext {
        sequence: random.u32(..),
        random: (random.u32(..), random.u32(..)),
        hash: key.as_deref().map(hash),
        attempt: attempt as u32,
    };
    (context, Request { key, tried, load: random.u32(..) })
}
