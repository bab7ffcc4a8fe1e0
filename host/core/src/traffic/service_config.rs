//! gRPC's service config: the JSON that owners of a service publish for its clients.
//!
//! Understood are `methodConfig` (names, `timeout`, `waitForReady`, `retryPolicy`,
//! `hedgingPolicy`), `retryThrottling` and `loadBalancingConfig`, in it
//! `outlier_detection_experimental` around its `childPolicy` (A50), and `healthCheckConfig` (A17).
//! As gRPC has it, a field that is not known is passed over, and one that is known and makes no
//! sense refuses the whole config. So does one that is known and stands in another place, or is
//! written in another style (`method_config`): gRPC passes over it, and nobody is told that nothing
//! of it holds.

mod field;
mod lb;
mod spelling;

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

pub use self::field::ServiceConfigError;
use self::field::{Result, duration, wrong};
use super::{
    Code, CodeSet, FailurePercentage, HedgingPolicy, MOST_ATTEMPTS, MethodConfig, OutlierDetection, Repeat,
    RetryBudget, RetryPolicy, SuccessRate, Traffic, check_grpc_service,
};
use crate::{
    check::{Check, CheckConfig},
    text,
};

/// What a service config says.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceConfig {
    /// The first known policy of `loadBalancingConfig`, and its configuration as JSON.
    pub policy: Option<(String, String)>,
    /// The header whose value is a request's key, if that policy names one.
    pub hash_header: Option<String>,
    /// What it says of calls, over what was said before.
    pub traffic: Traffic,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Top {
    load_balancing_config: Option<Vec<HashMap<String, Value>>>,
    load_balancing_policy: Option<String>,
    #[serde(default)]
    method_config: Vec<Method>,
    retry_throttling: Option<Throttling>,
    health_check_config: Option<HealthCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HealthCheck {
    service_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    max_tokens: f64,
    token_ratio: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Method {
    #[serde(default)]
    name: Vec<Name>,
    timeout: Option<String>,
    wait_for_ready: Option<bool>,
    retry_policy: Option<Retry>,
    hedging_policy: Option<HedgingFields>,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Retry {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<CodeName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HedgingFields {
    max_attempts: u32,
    #[serde(rename = "hedgingDelay")]
    delay: Option<String>,
    #[serde(default)]
    non_fatal_status_codes: Vec<CodeName>,
}

/// Codes are written as names or as numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum CodeName {
    Name(String),
    Number(u32),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outliers {
    interval: Option<String>,
    base_ejection_time: Option<String>,
    max_ejection_time: Option<String>,
    max_ejection_percent: Option<u32>,
    success_rate_ejection: Option<ByRate>,
    failure_percentage_ejection: Option<ByPercentage>,
    #[serde(default)]
    child_policy: Vec<HashMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ByRate {
    stdev_factor: Option<u32>,
    enforcement_percentage: Option<u32>,
    minimum_hosts: Option<u32>,
    request_volume: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ByPercentage {
    threshold: Option<u32>,
    #[serde(rename = "enforcementPercentage")]
    enforced: Option<u32>,
    minimum_hosts: Option<u32>,
    request_volume: Option<u32>,
}

/// Reads a service config. What it says nothing of is as in `base`; `known` tells which policies
/// there are.
pub fn parse(json: &str, base: &Traffic, known: &dyn Fn(&str) -> bool) -> Result<ServiceConfig> {
    let no_config =
        |error: serde_json::Error| ServiceConfigError::Json(text::printable(&error.to_string(), text::WORDS));
    let top: Value = serde_json::from_str(json).map_err(no_config)?;
    spelling::check(&top)?;
    let top: Top = serde_json::from_value(top).map_err(no_config)?;
    let mut traffic = base.clone();
    let mut names = Vec::new();
    for (index, method) in top.method_config.into_iter().enumerate() {
        let at = format!("methodConfig[{index}]");
        let config = method_config(&at, &method)?;
        if method.name.is_empty() {
            return wrong(format!("{at}.name"), "is empty, so that it holds for no method; write [{}] for all of them");
        }
        for Name { service, method } in method.name {
            if service.is_empty() && !method.is_empty() {
                return wrong(format!("{at}.name"), format!("method {method:?} has no service"));
            }
            if !service.is_empty() {
                check_grpc_service(&service).or_else(|error| wrong(format!("{at}.name.service"), error.to_string()))?;
            }
            if method.contains(['/', '*']) {
                return wrong(format!("{at}.name.method"), "is no name of a method, which stands alone");
            }
            let name = (service, method);
            if names.contains(&name) {
                return wrong(
                    format!("{at}.name"),
                    format!("service {:?} with method {:?} comes twice", name.0, name.1),
                );
            }
            match (name.0.as_str(), name.1.as_str()) {
                ("", _) => *traffic.methods.default_mut() = config.clone(),
                (service, method) => {
                    traffic.methods.insert(service, Some(method).filter(|method| !method.is_empty()), config.clone());
                }
            }
            names.push(name);
        }
    }
    if let Some(Throttling { max_tokens, token_ratio }) = top.retry_throttling {
        if !(max_tokens > 0.0 && max_tokens <= 1000.0) {
            return wrong("retryThrottling.maxTokens", format!("{max_tokens} is not over 0 and at most 1000"));
        }
        if !(0.001..=1000.0).contains(&token_ratio) {
            return wrong("retryThrottling.tokenRatio", format!("{token_ratio} is not a thousandth or more"));
        }
        traffic.retry_budget =
            RetryBudget { max_tokens: max_tokens.ceil() as u32, ratio_thousandths: (token_ratio * 1000.0) as u32 };
    }
    let policy = match (top.load_balancing_config, top.load_balancing_policy) {
        (Some(list), _) => Some(policy("loadBalancingConfig", list, known, &mut traffic)?),
        // The older field, in capitals.
        (None, Some(name)) => {
            let list = vec![HashMap::from([(name.to_ascii_lowercase(), Value::Object(serde_json::Map::new()))])];
            Some(policy("loadBalancingPolicy", list, known, &mut traffic)?)
        }
        (None, None) => None,
    };
    // No name is no check; an empty one means the whole server.
    if let Some(service) = top.health_check_config.and_then(|check| check.service_name) {
        let check = Check::Grpc(service);
        traffic.health = Some(match traffic.health.take() {
            Some(base) => CheckConfig { check, ..base },
            None => CheckConfig::new(check),
        });
    }
    let (policy, hash_header) = match policy {
        Some(lb::Policy { name, config, hash_header }) => (Some((name, config)), hash_header),
        None => (None, None),
    };
    Ok(ServiceConfig { policy, hash_header, traffic })
}

fn method_config(at: &str, method: &Method) -> Result<MethodConfig> {
    let repeat = match (&method.retry_policy, &method.hedging_policy) {
        (Some(_), Some(_)) => return wrong(at, "has both a retryPolicy and a hedgingPolicy"),
        (Some(retry), None) => Some(Repeat::Retry(retry_policy(&format!("{at}.retryPolicy"), retry)?)),
        (None, Some(hedging)) => Some(Repeat::Hedge(hedging_policy(&format!("{at}.hedgingPolicy"), hedging)?)),
        (None, None) => None,
    };
    Ok(MethodConfig {
        timeout: method.timeout.as_deref().map(|text| duration(format!("{at}.timeout"), text)).transpose()?,
        wait_for_ready: method.wait_for_ready.unwrap_or_default(),
        repeat: repeat.map(Into::into),
    })
}

fn retry_policy(at: &str, retry: &Retry) -> Result<RetryPolicy> {
    let positive = |field: &str, text: &str| match duration(format!("{at}.{field}"), text)? {
        Duration::ZERO => wrong(format!("{at}.{field}"), "is not over 0"),
        wait => Ok(wait),
    };
    if !(retry.backoff_multiplier > 0.0 && retry.backoff_multiplier.is_finite()) {
        return wrong(format!("{at}.backoffMultiplier"), "is not over 0");
    }
    let codes = codes(&format!("{at}.retryableStatusCodes"), &retry.retryable_status_codes)?;
    if codes.is_empty() {
        return wrong(format!("{at}.retryableStatusCodes"), "is empty");
    }
    Ok(RetryPolicy {
        max_attempts: attempts(at, retry.max_attempts)?,
        initial_backoff: positive("initialBackoff", &retry.initial_backoff)?,
        max_backoff: positive("maxBackoff", &retry.max_backoff)?,
        multiplier: retry.backoff_multiplier,
        codes,
    })
}

fn hedging_policy(at: &str, hedging: &HedgingFields) -> Result<HedgingPolicy> {
    let delay = hedging.delay.as_deref().map(|text| duration(format!("{at}.hedgingDelay"), text)).transpose()?;
    Ok(HedgingPolicy {
        max_attempts: attempts(at, hedging.max_attempts)?,
        delay: delay.unwrap_or_default(),
        non_fatal: codes(&format!("{at}.nonFatalStatusCodes"), &hedging.non_fatal_status_codes)?,
    })
}

fn attempts(at: &str, attempts: u32) -> Result<u32> {
    if attempts < 2 {
        return wrong(format!("{at}.maxAttempts"), format!("{attempts} is less than 2"));
    }
    Ok(attempts.min(MOST_ATTEMPTS))
}

fn codes(field: &str, names: &[CodeName]) -> Result<CodeSet> {
    let code = |name: &CodeName| {
        let text = match name {
            CodeName::Name(name) => name.clone(),
            CodeName::Number(number) => number.to_string(),
            CodeName::Other(_) => String::new(),
        };
        text.parse::<Code>()
            .map_err(|error| ServiceConfigError::Field { field: field.into(), reason: error.to_string() })
    };
    names.iter().map(code).collect()
}

/// The first policy that is known. An outlier detection around it is taken off and kept.
fn policy(
    at: &str,
    list: Vec<HashMap<String, Value>>,
    known: &dyn Fn(&str) -> bool,
    traffic: &mut Traffic,
) -> Result<lb::Policy> {
    let mut unknown = Vec::new();
    for (index, entry) in list.into_iter().enumerate() {
        let mut entry = entry.into_iter();
        let (Some((name, config)), None) = (entry.next(), entry.next()) else {
            return wrong(format!("{at}[{index}]"), "is not one policy with its configuration");
        };
        let plain = name.strip_suffix("_experimental").unwrap_or(&name);
        if plain == "outlier_detection" {
            let at = format!("{at}[{index}].{name}");
            let outliers: Outliers = serde_json::from_value(config)
                .map_err(|error| ServiceConfigError::Field { field: at.clone(), reason: error.to_string() })?;
            traffic.outlier = Some(outlier_detection(&at, &outliers)?);
            return policy(&format!("{at}.childPolicy"), outliers.child_policy, known, traffic);
        }
        if let Some(policy) = lb::translate(&format!("{at}[{index}]"), &name, config, known)? {
            return Ok(policy);
        }
        unknown.push(name);
    }
    let unknown = text::printable(&unknown.join(", "), text::NAME);
    wrong(at, format!("names no policy that is known here: {unknown}"))
}

fn outlier_detection(at: &str, outliers: &Outliers) -> Result<OutlierDetection> {
    let default = OutlierDetection::default();
    let time = |field: &str, text: &Option<String>, default| match text {
        Some(text) => duration(format!("{at}.{field}"), text),
        None => Ok(default),
    };
    let percent = |field: &str, value: Option<u32>, default: u32| match value.unwrap_or(default) {
        value if value <= 100 => Ok(value),
        value => wrong(format!("{at}.{field}"), format!("{value} is over 100 percent")),
    };
    let interval = time("interval", &outliers.interval, default.interval)?;
    if interval.is_zero() {
        return wrong(format!("{at}.interval"), "is not over 0");
    }
    let by_rate = |by: &ByRate| {
        let default = SuccessRate::default();
        Ok(SuccessRate {
            stdev_factor: by.stdev_factor.unwrap_or(default.stdev_factor),
            enforcement_percentage: percent(
                "successRateEjection.enforcementPercentage",
                by.enforcement_percentage,
                default.enforcement_percentage,
            )?,
            minimum_hosts: by.minimum_hosts.unwrap_or(default.minimum_hosts),
            request_volume: by.request_volume.unwrap_or(default.request_volume),
        })
    };
    let by_percentage = |by: &ByPercentage| {
        let default = FailurePercentage::default();
        let field = |name: &str| format!("failurePercentageEjection.{name}");
        Ok(FailurePercentage {
            threshold: percent(&field("threshold"), by.threshold, default.threshold)?,
            enforcement_percentage: percent(
                &field("enforcementPercentage"),
                by.enforced,
                default.enforcement_percentage,
            )?,
            minimum_hosts: by.minimum_hosts.unwrap_or(default.minimum_hosts),
            request_volume: by.request_volume.unwrap_or(default.request_volume),
        })
    };
    Ok(OutlierDetection {
        interval,
        base_ejection_time: time("baseEjectionTime", &outliers.base_ejection_time, default.base_ejection_time)?,
        max_ejection_time: time("maxEjectionTime", &outliers.max_ejection_time, default.max_ejection_time)?,
        max_ejection_percent: percent(
            "maxEjectionPercent",
            outliers.max_ejection_percent,
            default.max_ejection_percent,
        )?,
        panic_threshold: default.panic_threshold,
        success_rate: outliers.success_rate_ejection.as_ref().map(by_rate).transpose()?,
        failure_percentage: outliers.failure_percentage_ejection.as_ref().map(by_percentage).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(text: &str) -> Result<ServiceConfig> {
        parse(text, &Traffic::default(), &|name| matches!(name, "round_robin" | "ring_hash"))
    }

    #[test]
    fn a_whole_config_is_understood() {
        let config = read(
            r#"{
                "loadBalancingConfig": [{"grpclb": {}}, {"outlier_detection_experimental": {
                    "interval": "2s", "maxEjectionPercent": 30, "failurePercentageEjection": {"threshold": 50},
                    "childPolicy": [{"rls": {}}, {"ring_hash_experimental": {"entries": 5}}]
                }}, {"round_robin": {}}],
                "healthCheckConfig": {"serviceName": "hello.Greeter1"},
                "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1234},
                "methodConfig": [
                    {"name": [{}], "timeout": "1.5s", "waitForReady": true},
                    {"name": [{"service": "a.B", "method": "C"}, {"service": "a.D"}], "retryPolicy": {
                        "maxAttempts": 9, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", 10]
                    }},
                    {"name": [{"service": "a.E"}], "hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["aborted"]}}
                ],
                "someday": {"x": 1}
            }"#,
        )
        .unwrap();
        assert_eq!(config.policy, Some(("ring_hash".into(), r#"{"entries":5}"#.into())));
        assert_eq!(config.traffic.health, Some(CheckConfig::new(Check::Grpc("hello.Greeter1".into()))));
        let outlier = config.traffic.outlier.unwrap();
        assert_eq!((outlier.interval, outlier.max_ejection_percent), (Duration::from_secs(2), 30));
        assert_eq!(outlier.failure_percentage.unwrap().threshold, 50);
        assert_eq!(outlier.success_rate, None);
        assert_eq!(config.traffic.retry_budget, RetryBudget { max_tokens: 10, ratio_thousandths: 123 });
        let methods = config.traffic.methods;
        let default = methods.of("/x.Y/Z");
        assert_eq!((default.timeout, default.wait_for_ready), (Some(Duration::from_millis(1500)), true));
        let wanted = RetryPolicy {
            max_attempts: 5,
            codes: [Code::Unavailable, Code::Aborted].into_iter().collect(),
            ..RetryPolicy::default()
        };
        assert_eq!(methods.of("/a.B/C").repeat.as_deref(), Some(&Repeat::Retry(wanted)));
        assert_eq!(methods.of("/a.D/X"), methods.of("/a.B/C"));
        // An entry wins whole: nothing of the default shows through.
        assert_eq!(methods.of("/a.B/C").timeout, None);
        let hedging =
            HedgingPolicy { max_attempts: 2, delay: Duration::ZERO, non_fatal: [Code::Aborted].into_iter().collect() };
        assert_eq!(methods.of("/a.E/X").repeat.as_deref(), Some(&Repeat::Hedge(hedging)));
    }

    #[test]
    fn an_empty_config_changes_nothing() {
        let config = read("{}").unwrap();
        assert_eq!(config, ServiceConfig { policy: None, hash_header: None, traffic: Traffic::default() });
        assert_eq!(read(r#"{"loadBalancingPolicy": "ROUND_ROBIN"}"#).unwrap().policy.unwrap().0, "round_robin");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let method = |fields: &str| format!(r#"{{"methodConfig": [{{"name": [{{}}], {fields}}}]}}"#);
        let retry = |change: &str, to: &str| {
            let policy = r#""retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s",
                "backoffMultiplier": 1, "retryableStatusCodes": [14]}"#;
            assert!(policy.contains(change));
            method(&policy.replace(change, to))
        };
        for (text, names) in [
            ("[]".to_owned(), "no service config"),
            ("{".to_owned(), "no service config"),
            (method(r#""timeout": "5""#), "methodConfig[0].timeout: \"5\" is no duration"),
            (method(r#""timeout": "-5s""#), "methodConfig[0].timeout"),
            (method(r#""timeout": "1e999s""#), "methodConfig[0].timeout"),
            (method(r#""timeout": 5"#), "no service config"),
            (retry("\"maxAttempts\": 2", "\"maxAttempts\": 1"), "retryPolicy.maxAttempts: 1 is less than 2"),
            (retry("\"initialBackoff\": \"1s\"", "\"initialBackoff\": \"0s\""), "retryPolicy.initialBackoff"),
            (retry("\"backoffMultiplier\": 1", "\"backoffMultiplier\": 0"), "retryPolicy.backoffMultiplier"),
            (retry("[14]", "[]"), "retryableStatusCodes: is empty"),
            (retry("[14]", "[99]"), "retryableStatusCodes: \"99\" is no gRPC status code"),
            (retry("[14]", "[true]"), "retryableStatusCodes"),
            (
                retry("[14]}", "[14]}, \"hedgingPolicy\": {\"maxAttempts\": 2}"),
                "both a retryPolicy and a hedgingPolicy",
            ),
            (r#"{"methodConfig": [{"name": [{"method": "C"}]}]}"#.into(), "has no service"),
            (r#"{"methodConfig": [{"name": []}]}"#.into(), "methodConfig[0].name: is empty"),
            (r#"{"methodConfig": [{"timeout": "1s"}]}"#.into(), "methodConfig[0].name: is empty"),
            (
                r#"{"methodConfig": [{"name": [{"service": "/a.B"}]}]}"#.into(),
                "methodConfig[0].name.service: a gRPC service has no slash",
            ),
            (
                r#"{"methodConfig": [{"name": [{"service": "a.*"}]}]}"#.into(),
                "methodConfig[0].name.service: there are no patterns",
            ),
            (
                r#"{"methodConfig": [{"name": [{"service": "a.B", "method": "/C"}]}]}"#.into(),
                "methodConfig[0].name.method",
            ),
            (r#"{"method_config": []}"#.into(), "method_config: is written methodConfig"),
            (r#"{"MethodConfig": []}"#.into(), "MethodConfig: is written methodConfig"),
            (r#"{"methodConfigs": []}"#.into(), "methodConfigs: is written methodConfig"),
            (r#"{"methodConfig": [{"name": [{}]}, {"name": [{}]}]}"#.into(), "methodConfig[1].name"),
            (r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#.into(), "retryThrottling.maxTokens"),
            (r#"{"retryThrottling": {"maxTokens": 1, "tokenRatio": 0}}"#.into(), "retryThrottling.tokenRatio"),
            (r#"{"loadBalancingConfig": [{"xds": {}}]}"#.into(), "names no policy that is known here: xds"),
            (r#"{"loadBalancingConfig": [{"a": {}, "b": {}}]}"#.into(), "is not one policy"),
            (
                r#"{"loadBalancingConfig": [{"outlier_detection": {"maxEjectionPercent": 101, "childPolicy": []}}]}"#
                    .into(),
                "maxEjectionPercent: 101 is over 100",
            ),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(names), "{text}: {error}");
        }
    }
}
