//! `--time-limit`: how long a command that tries a plugin out may take in all, compiling included.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use crate::cli::output::CommandError;

/// The value of the flag: whole seconds, from 1 to a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeLimit(u32);

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 1..=86_400) => Ok(Self(seconds)),
            _ => Err("a number of seconds from 1 to 86400 is wanted".into()),
        }
    }
}

impl TimeLimit {
    /// It counts from now on.
    pub(super) fn begin(self) -> Running {
        Running { limit: self, until: Instant::now() + Duration::from_secs(self.0.into()) }
    }
}

/// A time limit that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    limit: TimeLimit,
    /// When it is over.
    pub(super) until: Instant,
}

impl Running {
    /// What this comes to if it is done in time. `what` says what it does, for the error; it goes
    /// on behind the scenes, until the process ends.
    pub(super) async fn bounded<T>(self, what: &str, work: impl Future<Output = T>) -> Result<T, CommandError> {
        tokio::time::timeout_at(self.until.into(), work).await.map_err(|_| CommandError::failed(self.said(what)))
    }

    /// The word on what was cut.
    pub(super) fn said(self, cut: &str) -> String {
        format!("cut by the time limit of {} s: {cut}; --time-limit SECONDS gives it more", self.limit.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_cut_with_a_word_on_what_it_was() {
        let limit = "7".parse::<TimeLimit>().unwrap().begin();
        assert_eq!(limit.bounded("counting", async { 3 }).await.unwrap(), 3);
        let cut = limit.bounded("counting", std::future::pending::<()>()).await.unwrap_err().to_string();
        assert!(cut.contains("limit of 7 s: counting") && cut.contains("--time-limit"), "{cut}");
        for wrong in ["0", "-1", "1.5", "86401", ""] {
            assert!(wrong.parse::<TimeLimit>().is_err(), "{wrong}");
        }
    }
}
