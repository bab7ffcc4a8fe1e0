//! What the methods of a service may take, looked up by a call's path.

use std::{collections::HashMap, sync::Arc, time::Duration};

use thiserror::Error;

use super::Repeat;
use crate::text;

/// A text that is the name of no gRPC service: nobody calls one of this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// It has a slash, as paths have.
    #[error("a gRPC service has no slash in its name")]
    Slash {
        /// What stands before the last one, and after one at the beginning.
        service: String,
        /// What stands behind it.
        method: String,
    },
    /// It means more than one name.
    #[error("there are no patterns")]
    Pattern,
    /// A dot stands where no name has one.
    #[error("a full name has no dot at its beginning or end, and no two in a row")]
    Dot,
    /// Something else is in it.
    #[error("{0:?} is in no name of a gRPC service")]
    Character(char),
}

/// Whether a call can be of a gRPC service of this name: letters, digits and what paths have beside
/// them, in parts with dots between.
pub fn check_grpc_service(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.contains(['*', '?', '[', '(', '|', '^', '$', '\\', '{', '+']) {
        return Err(NameError::Pattern);
    }
    if name.contains('/') {
        let path = name.strip_prefix('/').unwrap_or(name);
        let (service, method) = path.rsplit_once('/').unwrap_or((path, ""));
        let short = |part: &str| text::printable(part, text::NAME);
        return Err(NameError::Slash { service: short(service), method: short(method) });
    }
    if let Some(other) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.' | '~')) {
        return Err(NameError::Character(other));
    }
    if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        return Err(NameError::Dot);
    }
    Ok(())
}

/// What is said of the calls of one method. gRPC's service config calls it `methodConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MethodConfig {
    /// The longest a call may take. A caller's own deadline that comes first wins. No limit when
    /// unset.
    pub timeout: Option<Duration>,
    /// Whether a call waits while no endpoint can be reached, up to its deadline, instead of
    /// failing at once. Default false.
    pub wait_for_ready: bool,
    /// What is done about a call that fails, or takes long. Nothing when unset: only calls that no
    /// server has seen are sent again.
    pub repeat: Option<Arc<Repeat>>,
}

/// The methods of a service. The most specific entry wins, and wins whole, as gRPC has it: the
/// method, then its gRPC service, then the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Methods {
    default: MethodConfig,
    /// By path: `/hello.Greeter1/SayHello1` for a method, `/hello.Greeter1/` for all methods of a
    /// gRPC service.
    named: HashMap<Box<str>, MethodConfig>,
}

impl Methods {
    /// The same for all methods.
    pub fn all(default: MethodConfig) -> Self {
        Self { default, named: HashMap::new() }
    }

    /// What is said of all methods for which nothing else is.
    pub fn default_mut(&mut self) -> &mut MethodConfig {
        &mut self.default
    }

    /// Says something of one method, or of a whole gRPC service. Answers what was said of it
    /// before.
    pub fn insert(&mut self, service: &str, method: Option<&str>, config: MethodConfig) -> Option<MethodConfig> {
        self.named.insert(format!("/{service}/{}", method.unwrap_or_default()).into(), config)
    }

    /// What is said of the method with this path.
    pub fn of(&self, path: &str) -> &MethodConfig {
        if self.named.is_empty() {
            return &self.default;
        }
        let service = path.rfind('/').map_or("", |slash| &path[..=slash]);
        self.named.get(path).or_else(|| self.named.get(service)).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_wins() {
        let seconds = |n| MethodConfig { timeout: Some(Duration::from_secs(n)), ..MethodConfig::default() };
        let mut methods = Methods::all(seconds(1));
        assert_eq!(methods.of("/a.B/C"), &seconds(1));
        assert_eq!(methods.insert("a.B", None, seconds(2)), None);
        assert_eq!(methods.insert("a.B", Some("C"), seconds(3)), None);
        for (path, wanted) in
            [("/a.B/C", 3), ("/a.B/D", 2), ("/a.B/", 2), ("/a.X/C", 1), ("a.B/C", 1), ("", 1), ("/é", 1)]
        {
            assert_eq!(methods.of(path), &seconds(wanted), "{path}");
        }
        assert_eq!(methods.insert("a.B", Some("C"), seconds(4)), Some(seconds(3)));
    }
}
