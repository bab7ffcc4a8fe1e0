//! Where a simulation's endpoints come from: a file, or a running node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::{node_args::CredentialArgs, output::CommandError},
    conformance::Load,
    model::{Endpoint, InstanceId, Locality, ServiceName},
    policy::LoadReport,
};

/// One endpoint as a file has it.
#[derive(Debug, Deserialize)]
struct Row {
    id: Option<String>,
    address: String,
    #[serde(default)]
    zone: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    load: Option<Said>,
}

/// What the instance said of its own load.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    cpu_utilization: f64,
    memory_utilization: f64,
    application_utilization: f64,
    rps: f64,
    eps: f64,
    named: BTreeMap<String, f64>,
}

/// Endpoints, and what is known of their load.
type Found = (Vec<Endpoint>, BTreeMap<InstanceId, Load>);

fn one() -> u32 {
    1
}

/// A JSON array of endpoints, or an object that has one as `endpoints`: what
/// `waymark resolve --json` prints.
pub(super) fn parse(text: &str) -> Result<Found, String> {
    let mut json: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if let Some(endpoints) = json.get_mut("endpoints") {
        json = endpoints.take();
    }
    let Value::Array(rows) = json else {
        return Err("it is neither an array of endpoints nor an object with `endpoints`".into());
    };
    let rows = rows.into_iter().enumerate().map(|(nth, row)| {
        let row = serde_json::from_value(row).map_err(|error| error.to_string());
        row.and_then(endpoint).map_err(|reason| format!("endpoint {nth}: {reason}"))
    });
    distinct(rows.collect::<Result<_, _>>()?)
}

/// The endpoints of a service that a node knows.
pub(super) async fn of_node(
    node: &str,
    credentials: &CredentialArgs,
    service: &ServiceName,
) -> Result<Found, CommandError> {
    let known = credentials.connect(node).await?.service(service, false).await?;
    let rows = known.endpoints.into_iter().map(|known| {
        endpoint(Row {
            id: Some(known.id),
            address: known.address,
            zone: known.zone,
            weight: known.weight,
            metadata: known.metadata,
            load: known.load.map(|load| Said {
                cpu_utilization: load.cpu_utilization,
                memory_utilization: load.memory_utilization,
                application_utilization: load.application_utilization,
                rps: load.rps,
                eps: load.eps,
                named: load.named,
            }),
        })
    });
    let endpoints = rows.collect::<Result<_, _>>().and_then(distinct);
    endpoints
        .map_err(|reason| CommandError::failed(format!("cannot use the endpoints of {service} on {node}: {reason}")))
}

fn endpoint(row: Row) -> Result<(Endpoint, Option<Load>), String> {
    let address = row.address.parse().map_err(|error: crate::model::ModelError| error.to_string())?;
    let endpoint = Endpoint::at(address);
    let endpoint = Endpoint {
        id: row.id.map_or(endpoint.id, InstanceId::new),
        locality: Locality::zone(&*row.zone),
        weight: row.weight,
        metadata: row.metadata.into_iter().collect(),
        ..endpoint
    };
    let load =
        row.load.map(|Said { cpu_utilization, memory_utilization, application_utilization, rps, eps, named }| {
            let age = Duration::ZERO;
            let figures = LoadReport { cpu_utilization, memory_utilization, application_utilization, rps, eps, age };
            Load { figures, named }
        });
    Ok((endpoint, load))
}

/// A snapshot has each instance once.
fn distinct(rows: Vec<(Endpoint, Option<Load>)>) -> Result<Found, String> {
    let mut seen = BTreeSet::new();
    if let Some((twice, _)) = rows.iter().find(|(endpoint, _)| !seen.insert(endpoint.id.as_str())) {
        return Err(format!("the instance {:?} is there twice", twice.id.as_str()));
    }
    let loads = rows.iter().filter_map(|(endpoint, load)| Some((endpoint.id.clone(), load.clone()?))).collect();
    Ok((rows.into_iter().map(|(endpoint, _)| endpoint).collect(), loads))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_the_address_must_be_there() {
        let list = r#"[{"address": "192.0.2.1:80"},
            {"id": "b", "address": "192.0.2.2:80", "zone": "z", "weight": 0, "metadata": {"v": "1"}, "state": "ready"}]"#;
        let (endpoints, loads) = parse(list).unwrap();
        assert!(loads.is_empty());
        assert_eq!((endpoints[0].id.as_str(), endpoints[0].weight), ("192.0.2.1:80", 1));
        assert_eq!((endpoints[1].id.as_str(), endpoints[1].weight, &*endpoints[1].locality.zone), ("b", 0, "z"));
        assert_eq!(parse(&format!(r#"{{"service": "x", "endpoints": {list}}}"#)).unwrap(), (endpoints, loads));
    }

    #[test]
    fn what_an_instance_said_of_its_load_comes_along() {
        // The age, as `waymark resolve --json` has it, is not looked at.
        let list = r#"[{"address": "192.0.2.1:80", "load": {"rps": 2.5, "named": {"queue": 3}, "age_seconds": 7.0}},
            {"address": "192.0.2.2:80", "load": null}]"#;
        let (endpoints, loads) = parse(list).unwrap();
        let named = BTreeMap::from([("queue".to_owned(), 3.0)]);
        let expected = Load { figures: LoadReport { rps: 2.5, ..LoadReport::default() }, named };
        assert_eq!(loads, BTreeMap::from([(endpoints[0].id.clone(), expected)]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, reason) in [
            ("{", "not JSON"),
            ("{}", "neither an array"),
            (r#"[{"zone": "a"}]"#, "endpoint 0: missing field `address`"),
            (r#"[{"address": "192.0.2.1"}]"#, "has no port"),
            (r#"[{"address": "192.0.2.1:80", "weight": -1}]"#, "endpoint 0"),
            (r#"[{"address": "192.0.2.1:80"}, {"address": "192.0.2.1:80"}]"#, "twice"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
