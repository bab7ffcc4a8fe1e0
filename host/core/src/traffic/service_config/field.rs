//! A field of a service config: what is wrong with one, and the values that several have.

use std::time::Duration;

use thiserror::Error;

use crate::text;

/// What is wrong with a service config. It was not taken over, not even in part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ServiceConfigError {
    /// It is no JSON, or a field has a value of another kind.
    #[error("no service config: {0}")]
    Json(String),
    /// A field's value makes no sense.
    #[error("{field}: {reason}")]
    Field {
        /// The field, from the top.
        field: String,
        /// What is wrong.
        reason: String,
    },
}

pub(super) type Result<T> = std::result::Result<T, ServiceConfigError>;

pub(super) fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
    Err(ServiceConfigError::Field { field: field.into(), reason: reason.into() })
}

/// The JSON form of protobuf's `Duration`: decimal seconds with an `s`.
pub(super) fn duration(field: impl Into<String>, text: &str) -> Result<Duration> {
    let seconds = text.strip_suffix('s').filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    // Protobuf's longest: 10,000 years.
    let seconds = seconds.and_then(|number| number.parse::<f64>().ok()).filter(|seconds| *seconds <= 315_576_000_000.0);
    let Some(seconds) = seconds else {
        let shown = text::printable(text, text::NAME);
        return wrong(field, format!("{shown:?} is no duration; write seconds, for example \"1.5s\""));
    };
    Ok(Duration::from_secs_f64(seconds))
}
