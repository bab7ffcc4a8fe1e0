//! Tries a policy out on made-up endpoints, with the host's own code: what `waymark plugin check` prints.

use std::{sync::Arc, time::Instant};

use super::{
    error::LoadError,
    loader::{Kind, Plugin},
};
use crate::{
    model::{Endpoint, InstanceId, LeaseId, Locality, ServiceName, Ttl},
    naming::{KeyScheme as _, NamingError},
    policy::{PickContext, Plan, Policy as _, RequestFacts, Scope},
};

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub what: String,
    /// What came of it: `Ok` says it in figures, `Err` says what is wrong.
    pub outcome: Result<String, String>,
}

/// How many picks a per-request policy is asked for in each round.
const PICKS: u32 = 1000;

impl Plugin {
    /// Tries the plugin out. It may take some seconds: call it on a blocking thread.
    ///
    /// # Errors
    ///
    /// The configuration is not a JSON object. What the plugin does wrong is among the findings.
    pub fn check(self, config: &str) -> Result<Vec<Finding>, LoadError> {
        match self.kind {
            Kind::Policy => self.check_policy(config),
            Kind::KeyScheme => self.check_key_scheme(config),
        }
    }

    fn check_policy(self, config: &str) -> Result<Vec<Finding>, LoadError> {
        let policy = self.into_policy(config)?;
        let scope = Scope { service: service(), zone: "zone-a".into() };
        let mut findings = Vec::new();
        for (what, n) in [("no endpoints", 0), ("1 endpoint", 1), ("10 endpoints", 10), ("1000 endpoints", 1000)] {
            let endpoints = endpoints(n);
            let began = Instant::now();
            let outcome = policy.build(&scope, &endpoints).map_err(|error| error.to_string());
            let took = began.elapsed();
            let outcome = outcome.and_then(|plan| {
                let picked = try_plan(&plan, n)?;
                Ok(format!("{} in {took:.1?}{picked}", describe(&plan)))
            });
            findings.push(Finding { what: format!("build for {what}"), outcome });
        }
        let twice = [(); 2].map(|()| policy.build(&scope, &endpoints(10)).map(|plan| indexes(&plan)));
        let outcome = match twice {
            [Ok(first), Ok(second)] if first == second => Ok("the same plan twice".into()),
            [Ok(_), Ok(_)] => {
                Err("two builds of the same input differ; a policy is a pure function of its input".into())
            }
            [Err(error), _] | [_, Err(error)] => Err(error.to_string()),
        };
        findings.push(Finding { what: "determinism".into(), outcome });
        let mut idle = endpoints(3);
        for endpoint in &mut idle {
            endpoint.weight = 0;
        }
        // An empty plan is a fair answer to "send nothing"; a trap is not.
        let outcome = policy.build(&scope, &idle).map(|plan| describe(&plan)).map_err(|error| error.to_string());
        findings.push(Finding { what: "all weights 0".into(), outcome });
        Ok(findings)
    }

    fn check_key_scheme(self, config: &str) -> Result<Vec<Finding>, LoadError> {
        let scheme = self.into_key_scheme(config)?;
        let mut findings = Vec::new();
        let service = service();
        let prefixes = scheme.prefixes(&service);
        let outcome = prefixes.map(|prefixes| format!("{prefixes:?}")).map_err(|error| error.to_string());
        findings.push(Finding { what: format!("prefixes of {service}"), outcome });
        let mut round_trip = |what: &str, endpoint: &Endpoint| {
            let outcome = || -> Result<String, NamingError> {
                let entries = scheme.encode(&service, endpoint, LeaseId(0x1234), Ttl::DEFAULT)?;
                let mut back = Vec::new();
                for entry in &entries {
                    back.extend(scheme.decode(&service, entry)?.endpoints);
                }
                let same = back.len() == 1
                    && back[0].address == endpoint.address
                    && back[0].weight == endpoint.weight
                    && back[0].locality == endpoint.locality;
                let keys = entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>().join(", ");
                Ok(if same {
                    keys
                } else {
                    format!("{keys} (read back with other attributes: this layout does not hold them)")
                })
            };
            findings.push(Finding { what: what.into(), outcome: outcome().map_err(|error| error.to_string()) });
        };
        let plain = Endpoint::at(address(1));
        round_trip("write and read a plain instance", &plain);
        let rich = Endpoint {
            weight: 7,
            locality: Locality::zone("zone-a"),
            metadata: Arc::from([("team".to_owned(), "a \"quoted\" <b>".to_owned())]),
            ..Endpoint::at(address(2))
        };
        round_trip("write and read zone, weight and metadata", &rich);
        let mut last = Err("the scheme refused to write an instance".to_owned());
        if let Ok(entries) = scheme.encode(&service, &plain, LeaseId(0x1234), Ttl::DEFAULT) {
            let garbage: [&[u8]; 4] = [b"", b"{", b"\xff\xfe", b"[1,2,3]"];
            last = Ok("no trap".into());
            for value in garbage {
                let entry = crate::naming::Entry { key: entries[0].key.clone(), value: value.to_vec() };
                if let Err(error @ NamingError::Failed { .. }) = scheme.decode(&service, &entry) {
                    last = Err(format!("value {value:?}: {error}"));
                }
            }
        }
        findings.push(Finding { what: "read what it did not write".into(), outcome: last });
        Ok(findings)
    }
}

fn service() -> ServiceName {
    ServiceName::new("waymark/check").expect("a plain name")
}

fn address(n: usize) -> crate::model::Address {
    format!("192.0.2.{}:{}", n % 250 + 1, 1000 + n / 250).parse().expect("made of numbers in range")
}

/// Made-up endpoints: three zones, weights 1 to 5.
fn endpoints(n: usize) -> Vec<Endpoint> {
    let endpoint = |i: usize| Endpoint {
        id: InstanceId::new(format!("instance-{i:04}")),
        locality: Locality::zone(["zone-a", "zone-b", "zone-c"][i % 3]),
        weight: (i % 5) as u32 + 1,
        ..Endpoint::at(address(i))
    };
    (0..n).map(endpoint).collect()
}

fn describe(plan: &Plan) -> String {
    match plan {
        Plan::Rotation(list) | Plan::HashTable(list) => format!("{} of {} entries", plan.kind(), list.len()),
        Plan::EachRequest(_) => plan.kind().into(),
    }
}

fn indexes(plan: &Plan) -> Vec<u32> {
    match plan {
        Plan::Rotation(list) | Plan::HashTable(list) => list.to_vec(),
        Plan::EachRequest(_) => Vec::new(),
    }
}

struct Quiet;

impl RequestFacts for Quiet {
    fn path(&self) -> &'static str {
        "/waymark.Check/Pick"
    }
    fn header(&self, _: &str) -> Option<&str> {
        None
    }
    fn tried(&self, _: u32) -> bool {
        false
    }
    fn in_flight(&self, endpoint: u32) -> u32 {
        endpoint % 7
    }
    fn latency_us(&self, endpoint: u32) -> u32 {
        100 + endpoint
    }
}

/// Picks many times when the plan asks for it, and twice for each context: the answers must agree.
fn try_plan(plan: &Plan, n: usize) -> Result<String, String> {
    let Plan::EachRequest(picker) = plan else { return Ok(String::new()) };
    if n == 0 {
        return Ok(String::new());
    }
    let mut random = fastrand::Rng::with_seed(1);
    let began = Instant::now();
    for sequence in 0..PICKS {
        let context =
            PickContext { sequence, random: (random.u32(..), random.u32(..)), hash: Some(random.u32(..)), attempt: 0 };
        let first = picker.pick(context, &Quiet).map_err(|error| format!("pick {sequence} {error}"))?;
        let second = picker.pick(context, &Quiet).map_err(|error| format!("pick {sequence} {error}"))?;
        if first != second {
            return Err(format!("pick {sequence} answered {first:?}, and {second:?} to the same context"));
        }
    }
    Ok(format!(", {:.1?} a pick", began.elapsed() / (2 * PICKS)))
}
