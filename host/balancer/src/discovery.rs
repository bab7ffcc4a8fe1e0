//! Which services callers may bring about by naming them.

use std::fmt;

use waymark_core::model::ServiceName;

/// Which services this node looks for when a caller names them. Those that are configured are
/// balanced in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discoverable {
    /// Any.
    #[default]
    All,
    /// Those that one of these covers.
    Listed(Vec<Pattern>),
    /// None.
    Nothing,
}

impl Discoverable {
    /// Whether a caller may bring this service about.
    pub fn covers(&self, service: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(patterns) => patterns.iter().any(|pattern| pattern.covers(service)),
            Self::Nothing => false,
        }
    }
}

/// A service, or all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Service(ServiceName),
    /// Those whose names begin with this text and a slash, which it ends with.
    Under(String),
}

impl Pattern {
    /// `ayang/server1` is a service, `ayang/` all under it.
    ///
    /// # Errors
    ///
    /// What is neither, with the reason.
    pub fn parse(text: &str) -> Result<Self, waymark_core::model::ModelError> {
        match text.strip_suffix('/') {
            // What stands before the slash has to be a name's beginning.
            Some(folder) => ServiceName::new(folder).map(|_| Self::Under(text.to_owned())),
            None => ServiceName::new(text).map(Self::Service),
        }
    }

    fn covers(&self, service: &str) -> bool {
        match self {
            Self::Service(name) => name.as_str() == service,
            Self::Under(folder) => service.starts_with(folder.as_str()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => f.write_str(name.as_str()),
            Self::Under(folder) => f.write_str(folder),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_pattern_covers_one_service_or_all_under_a_folder() {
        let listed = Discoverable::Listed(vec![Pattern::parse("ayang/").unwrap(), Pattern::parse("billing").unwrap()]);
        for (service, covered) in [
            ("ayang/server1", true),
            ("ayang/a/b", true),
            ("ayangs/server1", false),
            ("ayang", false),
            ("billing", true),
            ("billing/2", false),
        ] {
            assert_eq!(listed.covers(service), covered, "{service}");
        }
        assert!(Discoverable::All.covers("x") && !Discoverable::Nothing.covers("x"));
        assert!(Pattern::parse("/").is_err() && Pattern::parse("").is_err());
    }
}
