//! What is said of a service's calls, from what is written.

use std::{sync::Arc, time::Duration};

use super::{
    ConfigError, TrafficFile,
    file::{
        FailurePercentageFile, HealthFile, HedgeFile, OutlierFile, RetryBudgetFile, RetryFile, SlowStartFile,
        SuccessRateFile,
    },
};
use crate::{
    health::{CheckConfig, NoSuchCheck},
    traffic::{
        Code, CodeSet, FailurePercentage, HedgingPolicy, OutlierDetection, Repeat, RetryBudget, RetryPolicy, SlowStart,
        SuccessRate, Traffic,
    },
};

impl TrafficFile {
    /// What is written, and what `base` says where nothing is. `table` is for the message: where it
    /// was written.
    pub(super) fn over(&self, base: &Traffic, table: &str) -> Result<Traffic, ConfigError> {
        let mut traffic = base.clone();
        let limits = &mut traffic.limits;
        let count = |value: Option<u64>| value.map(|value| value as u32);
        limits.max_in_flight = count(self.max_in_flight).or(limits.max_in_flight);
        let per_endpoint = count(self.max_in_flight_per_endpoint);
        limits.max_in_flight_per_endpoint = per_endpoint.or(limits.max_in_flight_per_endpoint);
        limits.max_pending = count(self.max_pending).unwrap_or(limits.max_pending);
        traffic.unanswered = count(self.unanswered).unwrap_or(traffic.unanswered);
        let method = traffic.methods.default_mut();
        method.timeout = self.timeout_ms.map(Duration::from_millis).or(method.timeout);
        method.wait_for_ready = self.wait_for_ready.unwrap_or(method.wait_for_ready);
        if let Some(outlier) = &self.outlier {
            traffic.outlier = Some(outlier.read());
        }
        if let Some(slow_start) = &self.slow_start {
            traffic.slow_start = Some(slow_start.read(&format!("{table}.slow-start"))?);
        }
        if let Some(health) = &self.health {
            traffic.health = Some(health.read(&format!("{table}.health"))?);
        }
        let repeat = match (&self.retry, &self.hedge) {
            (Some(_), Some(_)) => return Err(ConfigError::value(format!("{table}.hedge"), "goes without a retry")),
            (Some(retry), None) => Some(Repeat::Retry(retry.read(&format!("{table}.retry"))?)),
            (None, Some(hedge)) => Some(Repeat::Hedge(hedge.read(&format!("{table}.hedge"))?)),
            (None, None) => None,
        };
        let method = traffic.methods.default_mut();
        method.repeat = repeat.map(Arc::new).or(method.repeat.take());
        if let Some(budget) = &self.retry_budget {
            traffic.retry_budget = budget.read(&format!("{table}.retry-budget"))?;
        }
        Ok(traffic)
    }
}

impl HealthFile {
    fn read(&self, table: &str) -> Result<CheckConfig, ConfigError> {
        let at = || format!("{table}.check");
        let Some(check) = &self.check else { return Err(ConfigError::value(at(), "is missing; \"grpc\" fits most")) };
        let check = check.parse().map_err(|error: NoSuchCheck| ConfigError::value(at(), error.to_string()))?;
        let default = CheckConfig::new(check);
        Ok(CheckConfig {
            interval: time(self.interval_ms, default.interval),
            timeout: time(self.timeout_ms, default.timeout),
            rise: count(self.rise, default.rise),
            fall: count(self.fall, default.fall),
            ..default
        })
    }
}

impl SlowStartFile {
    fn read(&self, table: &str) -> Result<SlowStart, ConfigError> {
        let Some(window) = self.window_s else {
            return Err(ConfigError::value(format!("{table}.window-s"), "is missing"));
        };
        let default = SlowStart::new(Duration::from_secs(window));
        let aggression = self.aggression.unwrap_or(default.aggression);
        if !(0.01..=100.0).contains(&aggression) {
            let reason = format!("{aggression} is not within 0.01 to 100");
            return Err(ConfigError::value(format!("{table}.aggression"), reason));
        }
        let min_percent = count(self.min_percent, default.min_percent);
        Ok(SlowStart { aggression, min_percent, ..default })
    }
}

impl RetryFile {
    fn read(&self, table: &str) -> Result<RetryPolicy, ConfigError> {
        let default = RetryPolicy::default();
        let multiplier = self.multiplier.unwrap_or(default.multiplier);
        if !(1.0..=100.0).contains(&multiplier) {
            let reason = format!("{multiplier} is not within 1 to 100");
            return Err(ConfigError::value(format!("{table}.multiplier"), reason));
        }
        let codes = match &self.codes {
            Some(names) if names.is_empty() => return Err(ConfigError::value(format!("{table}.codes"), "is empty")),
            Some(names) => codes(table, "codes", names)?,
            None => default.codes,
        };
        Ok(RetryPolicy {
            max_attempts: count(self.max_attempts, default.max_attempts),
            initial_backoff: time(self.initial_backoff_ms, default.initial_backoff),
            max_backoff: time(self.max_backoff_ms, default.max_backoff),
            multiplier,
            codes,
        })
    }
}

impl HedgeFile {
    fn read(&self, table: &str) -> Result<HedgingPolicy, ConfigError> {
        let Some(delay) = self.delay_ms else {
            return Err(ConfigError::value(format!("{table}.delay-ms"), "is missing; 0 sends all attempts at once"));
        };
        Ok(HedgingPolicy {
            max_attempts: count(self.max_attempts, 2),
            delay: Duration::from_millis(delay),
            non_fatal: codes(table, "non-fatal-codes", self.non_fatal_codes.as_deref().unwrap_or_default())?,
        })
    }
}

impl RetryBudgetFile {
    fn read(&self, table: &str) -> Result<RetryBudget, ConfigError> {
        let default = RetryBudget::default();
        let thousandths = match self.ratio {
            Some(ratio) if (0.001..=1000.0).contains(&ratio) => (ratio * 1000.0) as u32,
            Some(ratio) => {
                let reason = format!("{ratio} is not within 0.001 to 1000");
                return Err(ConfigError::value(format!("{table}.ratio"), reason));
            }
            None => default.ratio_thousandths,
        };
        Ok(RetryBudget { max_tokens: count(self.tokens, default.max_tokens), ratio_thousandths: thousandths })
    }
}

fn codes(table: &str, setting: &str, names: &[String]) -> Result<CodeSet, ConfigError> {
    let code = |name: &String| {
        name.parse::<Code>().map_err(|error| ConfigError::value(format!("{table}.{setting}"), error.to_string()))
    };
    names.iter().map(code).collect()
}

impl OutlierFile {
    fn read(&self) -> OutlierDetection {
        let default = OutlierDetection::default();
        let both = self.success_rate.is_none() && self.failure_percentage.is_none();
        let (by_rate, by_percentage) = (self.success_rate.as_ref(), self.failure_percentage.as_ref());
        OutlierDetection {
            interval: time(self.interval_ms, default.interval),
            base_ejection_time: time(self.base_ejection_ms, default.base_ejection_time),
            max_ejection_time: time(self.max_ejection_ms, default.max_ejection_time),
            max_ejection_percent: count(self.max_ejection_percent, default.max_ejection_percent),
            panic_threshold: count(self.panic_threshold, default.panic_threshold),
            success_rate: match by_rate {
                Some(by) => Some(by.read()),
                None => both.then(SuccessRate::default),
            },
            failure_percentage: match by_percentage {
                Some(by) => Some(by.read()),
                None => both.then(FailurePercentage::default),
            },
        }
    }
}

impl SuccessRateFile {
    fn read(&self) -> SuccessRate {
        let default = SuccessRate::default();
        let enforced = self.enforcement_percentage;
        SuccessRate {
            stdev_factor: count(self.stdev_factor, default.stdev_factor),
            enforcement_percentage: count(enforced, default.enforcement_percentage),
            minimum_hosts: count(self.minimum_hosts, default.minimum_hosts),
            request_volume: count(self.request_volume, default.request_volume),
        }
    }
}

impl FailurePercentageFile {
    fn read(&self) -> FailurePercentage {
        let default = FailurePercentage::default();
        let enforced = self.enforcement_percentage;
        FailurePercentage {
            threshold: count(self.threshold, default.threshold),
            enforcement_percentage: count(enforced, default.enforcement_percentage),
            minimum_hosts: count(self.minimum_hosts, default.minimum_hosts),
            request_volume: count(self.request_volume, default.request_volume),
        }
    }
}

fn time(value: Option<u64>, default: Duration) -> Duration {
    value.map_or(default, Duration::from_millis)
}

fn count(value: Option<u64>, default: u32) -> u32 {
    value.map_or(default, |value| value as u32)
}
