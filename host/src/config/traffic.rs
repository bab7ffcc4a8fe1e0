//! What is said of a service's calls, from what is written: each number with its range.

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
        Code, CodeSet, FailurePercentage, HedgingPolicy, MOST_ATTEMPTS, OutlierDetection, Repeat, RetryBudget,
        RetryPolicy, SlowStart, SuccessRate, Traffic,
    },
};

/// A day: a longer time is a mistake in the unit.
const LONGEST_MS: u64 = 86_400_000;

impl TrafficFile {
    /// What is written, and what `base` says where nothing is. `table` is for the message: where it was written.
    pub(super) fn over(&self, base: &Traffic, table: &str) -> Result<Traffic, ConfigError> {
        let mut traffic = base.clone();
        let limits = &mut traffic.limits;
        let count = |setting: &str, value, least| number(table, setting, value, least, 1_000_000).map(as_count);
        limits.max_in_flight = count("max-in-flight", self.max_in_flight, 1)?.or(limits.max_in_flight);
        let per_endpoint = count("max-in-flight-per-endpoint", self.max_in_flight_per_endpoint, 1)?;
        limits.max_in_flight_per_endpoint = per_endpoint.or(limits.max_in_flight_per_endpoint);
        limits.max_pending = count("max-pending", self.max_pending, 0)?.unwrap_or(limits.max_pending);
        let method = traffic.methods.default_mut();
        let timeout = number(table, "timeout-ms", self.timeout_ms, 1, LONGEST_MS)?;
        method.timeout = timeout.map(Duration::from_millis).or(method.timeout);
        method.wait_for_ready = self.wait_for_ready.unwrap_or(method.wait_for_ready);
        if let Some(outlier) = &self.outlier {
            traffic.outlier = Some(outlier.read(&format!("{table}.outlier"))?);
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
            interval: time(table, "interval-ms", self.interval_ms, default.interval)?,
            timeout: time(table, "timeout-ms", self.timeout_ms, default.timeout)?,
            rise: count(table, "rise", self.rise, default.rise)?,
            fall: count(table, "fall", self.fall, default.fall)?,
            ..default
        })
    }
}

impl SlowStartFile {
    fn read(&self, table: &str) -> Result<SlowStart, ConfigError> {
        let Some(window) = number(table, "window-s", self.window_s, 1, 86_400)? else {
            return Err(ConfigError::value(format!("{table}.window-s"), "is missing"));
        };
        let default = SlowStart::new(Duration::from_secs(window));
        let aggression = self.aggression.unwrap_or(default.aggression);
        if !(0.01..=100.0).contains(&aggression) {
            let reason = format!("{aggression} is not within 0.01 to 100");
            return Err(ConfigError::value(format!("{table}.aggression"), reason));
        }
        let min_percent = share(table, "min-percent", self.min_percent, 0, default.min_percent)?;
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
            max_attempts: attempts(table, self.max_attempts)?.unwrap_or(default.max_attempts),
            initial_backoff: time(table, "initial-backoff-ms", self.initial_backoff_ms, default.initial_backoff)?,
            max_backoff: time(table, "max-backoff-ms", self.max_backoff_ms, default.max_backoff)?,
            multiplier,
            codes,
        })
    }
}

impl HedgeFile {
    fn read(&self, table: &str) -> Result<HedgingPolicy, ConfigError> {
        let Some(delay) = number(table, "delay-ms", self.delay_ms, 0, LONGEST_MS)? else {
            return Err(ConfigError::value(format!("{table}.delay-ms"), "is missing; 0 sends all attempts at once"));
        };
        Ok(HedgingPolicy {
            max_attempts: attempts(table, self.max_attempts)?.unwrap_or(2),
            delay: Duration::from_millis(delay),
            non_fatal: codes(table, "non-fatal-codes", self.non_fatal_codes.as_deref().unwrap_or_default())?,
        })
    }
}

impl RetryBudgetFile {
    fn read(&self, table: &str) -> Result<RetryBudget, ConfigError> {
        let default = RetryBudget::default();
        let tokens = number(table, "tokens", self.tokens, 1, 1000)?;
        let thousandths = match self.ratio {
            Some(ratio) if (0.001..=1000.0).contains(&ratio) => (ratio * 1000.0) as u32,
            Some(ratio) => {
                let reason = format!("{ratio} is not within 0.001 to 1000");
                return Err(ConfigError::value(format!("{table}.ratio"), reason));
            }
            None => default.ratio_thousandths,
        };
        let max_tokens = tokens.map_or(default.max_tokens, |tokens| tokens as u32);
        Ok(RetryBudget { max_tokens, ratio_thousandths: thousandths })
    }
}

fn attempts(table: &str, value: Option<u64>) -> Result<Option<u32>, ConfigError> {
    number(table, "max-attempts", value, 2, u64::from(MOST_ATTEMPTS)).map(as_count)
}

fn codes(table: &str, setting: &str, names: &[String]) -> Result<CodeSet, ConfigError> {
    let code = |name: &String| {
        name.parse::<Code>().map_err(|error| ConfigError::value(format!("{table}.{setting}"), error.to_string()))
    };
    names.iter().map(code).collect()
}

impl OutlierFile {
    fn read(&self, table: &str) -> Result<OutlierDetection, ConfigError> {
        let default = OutlierDetection::default();
        let time = |setting: &str, value, default| time(table, setting, value, default);
        let both = self.success_rate.is_none() && self.failure_percentage.is_none();
        let (by_rate, by_percentage) = (self.success_rate.as_ref(), self.failure_percentage.as_ref());
        Ok(OutlierDetection {
            interval: time("interval-ms", self.interval_ms, default.interval)?,
            base_ejection_time: time("base-ejection-ms", self.base_ejection_ms, default.base_ejection_time)?,
            max_ejection_time: time("max-ejection-ms", self.max_ejection_ms, default.max_ejection_time)?,
            max_ejection_percent: share(
                table,
                "max-ejection-percent",
                self.max_ejection_percent,
                1,
                default.max_ejection_percent,
            )?,
            panic_threshold: share(table, "panic-threshold", self.panic_threshold, 0, default.panic_threshold)?,
            success_rate: match by_rate {
                Some(by) => Some(by.read(&format!("{table}.success-rate"))?),
                None => both.then(SuccessRate::default),
            },
            failure_percentage: match by_percentage {
                Some(by) => Some(by.read(&format!("{table}.failure-percentage"))?),
                None => both.then(FailurePercentage::default),
            },
        })
    }
}

impl SuccessRateFile {
    fn read(&self, table: &str) -> Result<SuccessRate, ConfigError> {
        let default = SuccessRate::default();
        let enforced = self.enforcement_percentage;
        Ok(SuccessRate {
            stdev_factor: count(table, "stdev-factor", self.stdev_factor, default.stdev_factor)?,
            enforcement_percentage: share(
                table,
                "enforcement-percentage",
                enforced,
                0,
                default.enforcement_percentage,
            )?,
            minimum_hosts: count(table, "minimum-hosts", self.minimum_hosts, default.minimum_hosts)?,
            request_volume: count(table, "request-volume", self.request_volume, default.request_volume)?,
        })
    }
}

impl FailurePercentageFile {
    fn read(&self, table: &str) -> Result<FailurePercentage, ConfigError> {
        let default = FailurePercentage::default();
        let enforced = self.enforcement_percentage;
        Ok(FailurePercentage {
            threshold: share(table, "threshold", self.threshold, 0, default.threshold)?,
            enforcement_percentage: share(
                table,
                "enforcement-percentage",
                enforced,
                0,
                default.enforcement_percentage,
            )?,
            minimum_hosts: count(table, "minimum-hosts", self.minimum_hosts, default.minimum_hosts)?,
            request_volume: count(table, "request-volume", self.request_volume, default.request_volume)?,
        })
    }
}

fn time(table: &str, setting: &str, value: Option<u64>, default: Duration) -> Result<Duration, ConfigError> {
    Ok(number(table, setting, value, 1, LONGEST_MS)?.map_or(default, Duration::from_millis))
}

fn share(table: &str, setting: &str, value: Option<u64>, least: u64, default: u32) -> Result<u32, ConfigError> {
    Ok(number(table, setting, value, least, 100)?.map_or(default, |value| value as u32))
}

fn count(table: &str, setting: &str, value: Option<u64>, default: u32) -> Result<u32, ConfigError> {
    Ok(number(table, setting, value, 1, 1_000_000)?.map_or(default, |value| value as u32))
}

fn as_count(value: Option<u64>) -> Option<u32> {
    value.map(|value| value as u32)
}

fn number(table: &str, setting: &str, value: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ConfigError::value(format!("{table}.{setting}"), format!("{value} is not within {least} to {most}")))
        }
        value => Ok(value),
    }
}
