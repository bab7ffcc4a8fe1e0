//! Fields of a service config that are known, and stand in the wrong place or are written in
//! another style.

use serde_json::{Map, Value};

use super::field::{Result, wrong};

/// What may stand where. Of each place: how it is called, and its fields.
const TOP: (&str, &[&str]) = (
    "at the top",
    &["loadBalancingConfig", "loadBalancingPolicy", "methodConfig", "retryThrottling", "healthCheckConfig"],
);
const METHOD: (&str, &[&str]) = (
    "in an entry of methodConfig",
    &[
        "name",
        "timeout",
        "waitForReady",
        "retryPolicy",
        "hedgingPolicy",
        "maxRequestMessageBytes",
        "maxResponseMessageBytes",
    ],
);
const NAME: (&str, &[&str]) = ("in a name of methodConfig", &["service", "method"]);
const RETRY: (&str, &[&str]) =
    ("in retryPolicy", &["maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"]);
const HEDGE: (&str, &[&str]) = ("in hedgingPolicy", &["maxAttempts", "hedgingDelay", "nonFatalStatusCodes"]);
const THROTTLING: (&str, &[&str]) = ("in retryThrottling", &["maxTokens", "tokenRatio"]);
const HEALTH: (&str, &[&str]) = ("in healthCheckConfig", &["serviceName"]);
const ALL: [(&str, &[&str]); 7] = [TOP, METHOD, NAME, RETRY, HEDGE, THROTTLING, HEALTH];

/// Words that other places use as well: there they are no mistake.
const COMMON: [&str; 4] = ["name", "service", "method", "timeout"];

/// What no policy has among its own fields.
const NEVER_IN_POLICIES: [&str; 5] =
    ["methodConfig", "retryPolicy", "hedgingPolicy", "retryThrottling", "healthCheckConfig"];

/// Looks at a whole config. What is of another kind than it should be is for its reader to tell,
/// but for what holds others.
pub(super) fn check(config: &Value) -> Result<()> {
    let Value::Object(top) = config else { return Ok(()) };
    if let Some(name) = top.keys().find(|name| plain(name) == plain("serviceConfig")) {
        return wrong(name, "stands around a service config; write what is in it");
    }
    fields("", top, TOP)?;
    for (index, method) in objects("methodConfig", top.get("methodConfig"))?.into_iter().enumerate() {
        let at = format!("methodConfig[{index}]");
        fields(&at, method, METHOD)?;
        for (name, place) in [("retryPolicy", RETRY), ("hedgingPolicy", HEDGE)] {
            object(&at, method.get(name), name, place)?;
        }
        for name in objects(&format!("{at}.name"), method.get("name"))? {
            fields(&format!("{at}.name"), name, NAME)?;
        }
    }
    for (name, place) in [("retryThrottling", THROTTLING), ("healthCheckConfig", HEALTH)] {
        object("", top.get(name), name, place)?;
    }
    top.get("loadBalancingConfig").map_or(Ok(()), |policies| in_policies("loadBalancingConfig", policies))
}

/// How a name is compared: without its style, and whether there is one of it or several.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect::<String>();
    letters.strip_suffix('s').map_or(letters.clone(), str::to_owned)
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn fields(at: &str, object: &Map<String, Value>, (_, allowed): (&str, &[&str])) -> Result<()> {
    for name in object.keys().filter(|name| !allowed.contains(&name.as_str())) {
        if let Some(right) = allowed.iter().find(|right| plain(right) == plain(name)) {
            return wrong(join(at, name), format!("is written {right}"));
        }
        misplaced(at, name, &ALL)?;
    }
    Ok(())
}

/// Refuses a field that belongs elsewhere.
fn misplaced(at: &str, name: &str, places: &[(&str, &[&str])]) -> Result<()> {
    let there = places.iter().find_map(|(place, names)| {
        let right = names.iter().find(|right| !COMMON.contains(right) && plain(right) == plain(name))?;
        Some((right, place))
    });
    match there {
        Some((right, place)) => wrong(join(at, name), format!("does not belong here: {right} stands {place}")),
        None => Ok(()),
    }
}

fn object(at: &str, value: Option<&Value>, name: &str, place: (&str, &[&str])) -> Result<()> {
    match value {
        Some(Value::Object(object)) => fields(&join(at, name), object, place),
        _ => Ok(()),
    }
}

fn objects<'a>(at: &str, list: Option<&'a Value>) -> Result<Vec<&'a Map<String, Value>>> {
    match list {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .iter()
            .map(|value| value.as_object().map_or_else(|| wrong(at, "has an entry that is no object"), Ok))
            .collect(),
        Some(_) => wrong(at, "is no list"),
    }
}

/// Looks for what is meant for the config's top among the fields of policies, however deep.
fn in_policies(at: &str, value: &Value) -> Result<()> {
    match value {
        Value::Object(object) => object.iter().try_for_each(|(name, value)| {
            if NEVER_IN_POLICIES.iter().any(|never| plain(never) == plain(name)) {
                misplaced(at, name, &ALL)?;
            }
            in_policies(&join(at, name), value)
        }),
        Value::Array(list) => {
            list.iter().enumerate().try_for_each(|(index, value)| in_policies(&format!("{at}[{index}]"), value))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn problem(json: &str) -> Option<String> {
        check(&serde_json::from_str(json).unwrap()).err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_not_where_it_belongs_is_refused_by_its_name() {
        for (json, says) in [
            (r#"{"method_config": []}"#, "method_config: is written methodConfig"),
            (r#"{"method-config": []}"#, "method-config: is written methodConfig"),
            (r#"{"METHODCONFIG": []}"#, "METHODCONFIG: is written methodConfig"),
            (r#"{"methodConfigs": []}"#, "methodConfigs: is written methodConfig"),
            (r#"{"load_balancing_config": []}"#, "is written loadBalancingConfig"),
            (
                r#"{"retryPolicy": {}}"#,
                "retryPolicy: does not belong here: retryPolicy stands in an entry of methodConfig",
            ),
            (r#"{"methodConfig": {}}"#, "methodConfig: is no list"),
            (r#"{"methodConfig": [1]}"#, "methodConfig: has an entry that is no object"),
            (r#"{"methodConfig": [{"name": {}}]}"#, "methodConfig[0].name: is no list"),
            (r#"{"methodConfig": [{"retry_policy": {}}]}"#, "methodConfig[0].retry_policy: is written retryPolicy"),
            (r#"{"methodConfig": [{"methodConfig": []}]}"#, "methodConfig[0].methodConfig: does not belong here"),
            (r#"{"methodConfig": [{"retryThrottling": {}}]}"#, "retryThrottling stands at the top"),
            (
                r#"{"methodConfig": [{"retryPolicy": {"max_attempts": 3}}]}"#,
                "retryPolicy.max_attempts: is written maxAttempts",
            ),
            (r#"{"methodConfig": [{"retryPolicy": {"hedgingDelay": "1s"}}]}"#, "hedgingDelay stands in hedgingPolicy"),
            (r#"{"methodConfig": [{"name": [{"Service": "a"}]}]}"#, "methodConfig[0].name.Service: is written service"),
            (
                r#"{"loadBalancingConfig": [{"round_robin": {"method_config": []}}]}"#,
                "loadBalancingConfig[0].round_robin.method_config: does not belong",
            ),
            (r#"{"serviceConfig": {}}"#, "serviceConfig: stands around a service config"),
        ] {
            let problem = problem(json).unwrap_or_default();
            assert!(problem.contains(says), "{json}: {problem}");
        }
    }

    #[test]
    fn what_nobody_knows_is_passed_over() {
        for json in [
            "[]",
            r#"{"someday": {"name": 1, "timeout": 2}, "version": 1}"#,
            r#"{"methodConfig": [{"name": [{"service": "a", "note": ""}], "maxRequestMessageBytes": 5, "note": {}}]}"#,
            r#"{"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"a": {"name": 1}}]}}]}"#,
        ] {
            assert_eq!(problem(json), None, "{json}");
        }
    }
}
