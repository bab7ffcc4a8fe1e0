//! The two kinds of plugins, and the versions of the interface that they may be built for.

/// The versions of `waymark:plugin` that this host runs, the newest last.
pub const SUPPORTED_INTERFACES: &[&str] = &["0.1.0", "0.1.1"];

pub(crate) const NEWEST: &str = SUPPORTED_INTERFACES[SUPPORTED_INTERFACES.len() - 1];

pub(crate) const PACKAGE: &str = "waymark:plugin/";

/// What a plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Which endpoint gets a request.
    Policy,
    /// What keys and values look like.
    KeyScheme,
}

impl Kind {
    /// The kind in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::KeyScheme => "key scheme",
        }
    }

    /// The world that a component of this kind targets in this version of the interface.
    pub fn world(self, interface: &str) -> String {
        format!("{PACKAGE}{}-plugin@{interface}", self.export())
    }

    pub(crate) fn export(self) -> &'static str {
        match self {
            Self::Policy => "balancer",
            Self::KeyScheme => "key-scheme",
        }
    }

    /// The interfaces that a component of this kind may import.
    pub(crate) fn granted(self) -> &'static [&'static str] {
        match self {
            Self::Policy => &["types", "request", "load", "log"],
            Self::KeyScheme => &["types", "log"],
        }
    }
}

/// This version as it stands among those that we run.
pub(crate) fn supported(version: &str) -> Option<&'static str> {
    SUPPORTED_INTERFACES.iter().find(|supported| **supported == version).copied()
}
