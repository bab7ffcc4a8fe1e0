//! gRPC's balancing policies by their names and fields, as the bundled ones that do the same.
//!
//! | gRPC | here | fields |
//! |---|---|---|
//! | `pick_first` (A62) | `pick_first` | `shuffleAddressList` |
//! | `round_robin` | `round_robin` | |
//! | `ring_hash_experimental` (A42, A76) | `ring_hash` | `minRingSize`, `maxRingSize` (more than 4,096 is taken for that), `requestHashHeader`: the service's hash key |
//! | `least_request_experimental` (A48) | `least_request` | `choiceCount` (more than 10 is taken for that) |
//! | `weighted_round_robin` (A58) | `reported_load` | `weightExpirationPeriod`, `errorUtilizationPenalty` |
//!
//! Of `weighted_round_robin` the periods of its schedule and of reports beside calls mean nothing
//! here: weights are taken anew all the time, and instances report with their answers. A field of
//! ours may stand there as well; they are in `snake_case`. Whatever else is in `camelCase` is
//! passed over, as gRPC does with fields that it does not know.

use serde_json::{Map, Value};

use super::field::{Result, duration, wrong};

/// What rings may have at most, as gRPC's clients limit them (A42).
const MOST_POINTS: u64 = 4096;

/// How many endpoints may be compared at most (A48).
const MOST_CHOICES: u64 = 10;

/// A policy here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Policy {
    pub(super) name: String,
    /// Its configuration as JSON.
    pub(super) config: String,
    /// The header whose value is a request's key.
    pub(super) hash_header: Option<String>,
}

/// What does the same as gRPC's policy of this name. None: nothing that is known here. `at` is
/// where it stands.
pub(super) fn translate(at: &str, name: &str, config: Value, known: &dyn Fn(&str) -> bool) -> Result<Option<Policy>> {
    let plain = name.strip_suffix("_experimental").unwrap_or(name);
    let ours = if plain == "weighted_round_robin" { "reported_load" } else { plain };
    let Some(found) = [name, ours].into_iter().find(|name| known(name)) else { return Ok(None) };
    let mut fields = Fields { at: format!("{at}.{name}"), left: object(at, name, config)?, ours: Map::new() };
    let mut hash_header = None;
    match plain {
        "pick_first" => fields.rename("shuffleAddressList", "shuffle", |_, value| {
            value.as_bool().map(Value::Bool).ok_or_else(|| "is neither true nor false".into())
        })?,
        "ring_hash" => {
            let size = |_: &str, value: &Value| match whole(value) {
                Some(size) if size > 0 => Ok(size.min(MOST_POINTS).into()),
                _ => Err("is no whole number over 0".into()),
            };
            fields.rename("minRingSize", "min_ring_size", size)?;
            fields.rename("maxRingSize", "max_ring_size", size)?;
            hash_header = fields
                .take("requestHashHeader")
                .filter(|value| value.as_str() != Some(""))
                .map(|value| fields.header("requestHashHeader", &value))
                .transpose()?;
        }
        "least_request" => fields.rename("choiceCount", "choice_count", |_, value| match whole(value) {
            Some(count) if count >= 2 => Ok(count.min(MOST_CHOICES).into()),
            _ => Err("is no whole number of at least 2".into()),
        })?,
        "weighted_round_robin" => {
            fields.rename("weightExpirationPeriod", "weight_expiration_s", |at, value| {
                let seconds = duration(at, value.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
                // Of one that is not whole, the next that is: a report counts at least as long as
                // it is to.
                Ok((seconds.as_secs_f64().ceil() as u64).clamp(1, 86_400).into())
            })?;
            fields.rename("errorUtilizationPenalty", "error_utilization_penalty", |_, value| match value.as_f64() {
                Some(penalty) if penalty >= 0.0 => Ok(value.clone()),
                _ => Err("is no number of at least 0".into()),
            })?;
        }
        _ => {}
    }
    let config = Value::Object(fields.rest()).to_string();
    Ok(Some(Policy { name: found.to_owned(), config, hash_header }))
}

fn object(at: &str, name: &str, config: Value) -> Result<Map<String, Value>> {
    match config {
        Value::Object(fields) => Ok(fields),
        // What some generators write for "nothing".
        Value::Null => Ok(Map::new()),
        _ => wrong(format!("{at}.{name}"), "is no object of fields"),
    }
}

/// A whole number; protobuf's JSON writes those of 64 bits as texts.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The fields of one policy, and what they are here.
struct Fields {
    at: String,
    left: Map<String, Value>,
    ours: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    fn rename(
        &mut self,
        theirs: &str,
        ours: &str,
        read: impl Fn(&str, &Value) -> std::result::Result<Value, String>,
    ) -> Result<()> {
        let Some(value) = self.take(theirs).filter(|value| !value.is_null()) else { return Ok(()) };
        match read("it", &value) {
            Ok(value) => {
                self.ours.insert(ours.to_owned(), value);
                Ok(())
            }
            Err(reason) => wrong(format!("{}.{theirs}", self.at), reason),
        }
    }

    /// A header whose value may be a key (A76).
    fn header(&self, name: &str, value: &Value) -> Result<String> {
        let at = format!("{}.{name}", self.at);
        let header = value.as_str().unwrap_or_default().to_ascii_lowercase();
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if header.is_empty() || !header.bytes().all(is_name) {
            return wrong(at, "is no name of a header");
        }
        if header.ends_with("-bin") {
            return wrong(at, "names a header of bytes (-bin), which is no key");
        }
        Ok(header)
    }

    /// What is configured here: their fields that mean something, and ours.
    fn rest(self) -> Map<String, Value> {
        let Self { left, mut ours, .. } = self;
        let written_as_ours = |name: &str| !name.bytes().any(|b| b.is_ascii_uppercase());
        ours.extend(left.into_iter().filter(|(name, _)| written_as_ours(name)));
        ours
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn translated(name: &str, config: &str) -> Result<Option<Policy>> {
        let known = |name: &str| {
            matches!(name, "pick_first" | "round_robin" | "ring_hash" | "least_request" | "reported_load" | "maglev")
        };
        translate("lb[0]", name, serde_json::from_str(config).unwrap(), &known)
    }

    #[test]
    fn what_clients_are_given_means_the_same_here() {
        for (name, config, ours, meant) in [
            ("pick_first", r#"{"shuffleAddressList": true}"#, "pick_first", r#"{"shuffle":true}"#),
            ("pick_first", "{}", "pick_first", "{}"),
            ("round_robin", r#"{"someDay": 1}"#, "round_robin", "{}"),
            ("round_robin", "null", "round_robin", "{}"),
            ("least_request_experimental", r#"{"choiceCount": 3}"#, "least_request", r#"{"choice_count":3}"#),
            ("least_request_experimental", r#"{"choiceCount": 99}"#, "least_request", r#"{"choice_count":10}"#),
            ("ring_hash_experimental", r#"{"minRingSize": "512"}"#, "ring_hash", r#"{"min_ring_size":512}"#),
            (
                "ring_hash_experimental",
                r#"{"minRingSize": 9000, "maxRingSize": 8388608}"#,
                "ring_hash",
                r#"{"max_ring_size":4096,"min_ring_size":4096}"#,
            ),
            ("ring_hash", r#"{"hash_key": "zone"}"#, "ring_hash", r#"{"hash_key":"zone"}"#),
            (
                "weighted_round_robin",
                r#"{"blackoutPeriod": "10s", "weightExpirationPeriod": "180.5s", "weightUpdatePeriod": "1s",
                    "enableOobLoadReport": false, "oobReportingPeriod": "10s", "errorUtilizationPenalty": 1.5}"#,
                "reported_load",
                r#"{"error_utilization_penalty":1.5,"weight_expiration_s":181}"#,
            ),
        ] {
            let policy = translated(name, config).unwrap().unwrap();
            assert_eq!((policy.name.as_str(), policy.config.as_str()), (ours, meant), "{name} {config}");
            assert_eq!(policy.hash_header, None);
        }
        let keyed = translated("ring_hash_experimental", r#"{"requestHashHeader": "X-User"}"#).unwrap().unwrap();
        assert_eq!((keyed.config.as_str(), keyed.hash_header.as_deref()), ("{}", Some("x-user")));
        assert_eq!(translated("xds_experimental", "{}").unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (name, config, says) in [
            ("pick_first", r#"{"shuffleAddressList": "yes"}"#, "lb[0].pick_first.shuffleAddressList: is neither"),
            ("pick_first", "[]", "lb[0].pick_first: is no object"),
            ("ring_hash", r#"{"minRingSize": 0}"#, "minRingSize: is no whole number"),
            ("ring_hash", r#"{"requestHashHeader": "a b"}"#, "requestHashHeader: is no name of a header"),
            ("ring_hash", r#"{"requestHashHeader": "x-user-bin"}"#, "requestHashHeader: names a header of bytes"),
            ("least_request", r#"{"choiceCount": 1}"#, "choiceCount: is no whole number of at least 2"),
            ("weighted_round_robin", r#"{"weightExpirationPeriod": 180}"#, "weightExpirationPeriod: "),
        ] {
            let error = translated(name, config).unwrap_err().to_string();
            assert!(error.contains(says), "{name} {config}: {error}");
        }
    }
}
