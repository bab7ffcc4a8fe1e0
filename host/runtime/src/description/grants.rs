//! What a plugin may be given beyond its world, and what each import comes to.
//!
//! The imports of its world are every plugin's. WASI preview 2 is linked on request only, and then
//! with nothing behind it: see `call::wasi`.

use std::{fmt, str::FromStr};

use super::kind::{Kind, PACKAGE, SUPPORTED_INTERFACES};

/// Something beyond its world that a plugin may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// WASI preview 2, hollow: no files, no network, no environment, no arguments; what is written
    /// to standard output and error goes to the log.
    Wasi,
    /// The time of day and a clock that only goes forward. Never a way to wait.
    Clocks,
    /// Random numbers of the system.
    Random,
}

impl Grant {
    /// Every grant, in the order they are told in.
    pub const ALL: [Self; 3] = [Self::Wasi, Self::Clocks, Self::Random];

    /// Its name in `allow` and `--allow`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wasi => "wasi",
            Self::Clocks => "clocks",
            Self::Random => "random",
        }
    }
}

/// What one plugin is given beyond its world. Default: nothing.
///
/// Written as names with commas between them: `wasi,clocks`. Clocks and random numbers are
/// interfaces of WASI, and bring it along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grants {
    wasi: bool,
    clocks: bool,
    random: bool,
}

impl Grants {
    /// Nothing beyond the world.
    pub const NONE: Self = Self { wasi: false, clocks: false, random: false };

    /// The same and this one.
    #[must_use]
    pub fn with(mut self, grant: Grant) -> Self {
        self.wasi = true;
        match grant {
            Grant::Wasi => {}
            Grant::Clocks => self.clocks = true,
            Grant::Random => self.random = true,
        }
        self
    }

    /// Whether this is given.
    pub fn has(self, grant: Grant) -> bool {
        match grant {
            Grant::Wasi => self.wasi,
            Grant::Clocks => self.clocks,
            Grant::Random => self.random,
        }
    }

    /// What is given, by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Grant::ALL.into_iter().filter(move |grant| self.has(*grant)).map(Grant::as_str)
    }

    /// Reads a list of names.
    ///
    /// # Errors
    ///
    /// A name is unknown.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownGrant> {
        names.into_iter().map(str::trim).filter(|name| !name.is_empty()).try_fold(Self::NONE, |grants, name| {
            let known = Grant::ALL.into_iter().find(|grant| grant.as_str() == name);
            known.map(|grant| grants.with(grant)).ok_or_else(|| UnknownGrant(name.chars().take(40).collect()))
        })
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Grants {
    type Err = UnknownGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.split(','))
    }
}

/// There is no such thing to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be allowed; what can be is wasi, clocks and random")]
pub struct UnknownGrant(String);

/// What becomes of one import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Of its world: every plugin of its kind gets it.
    World,
    /// It is given, because it was allowed.
    Allowed(Grant),
    /// It would be given if this were allowed.
    Needs(Grant),
    /// No plugin gets it.
    Refused,
}

impl Access {
    /// What a plugin of this kind with these grants gets when it imports `import`.
    pub(crate) fn of(import: &str, kind: Kind, grants: Grants) -> Self {
        if let Some((name, version)) = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) {
            let known = kind.granted().contains(&name) && SUPPORTED_INTERFACES.contains(&version);
            return if known { Self::World } else { Self::Refused };
        }
        match Interface::parse(import).map(Interface::grant) {
            Some(grant) if grants.has(grant) => Self::Allowed(grant),
            Some(grant) => Self::Needs(grant),
            None => Self::Refused,
        }
    }

    /// Whether a component that imports it can be loaded. With WASI the clocks and random numbers
    /// are linked too, for a toolchain's code that never uses them; without their own grant they
    /// fail when they are called.
    pub(crate) fn links(self, grants: Grants) -> bool {
        match self {
            Self::World | Self::Allowed(_) => true,
            Self::Needs(_) => grants.has(Grant::Wasi),
            Self::Refused => false,
        }
    }
}

/// A package of WASI 0.2 that can be linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Io,
    Cli,
    Clocks,
    Random,
    Filesystem,
    Sockets,
}

impl Interface {
    /// Which package `wasi:PACKAGE/INTERFACE@0.2.x` is of; none for anything else, `wasi:http` and
    /// other releases included.
    pub(crate) fn parse(import: &str) -> Option<Self> {
        let (package, rest) = import.strip_prefix("wasi:")?.split_once('/')?;
        let (_, version) = rest.split_once('@')?;
        version.strip_prefix("0.2.")?.parse::<u32>().ok()?;
        Some(match package {
            "io" => Self::Io,
            "cli" => Self::Cli,
            "clocks" => Self::Clocks,
            "random" => Self::Random,
            "filesystem" => Self::Filesystem,
            "sockets" => Self::Sockets,
            _ => return None,
        })
    }

    pub(crate) fn grant(self) -> Grant {
        match self {
            Self::Io | Self::Cli | Self::Filesystem | Self::Sockets => Grant::Wasi,
            Self::Clocks => Grant::Clocks,
            Self::Random => Grant::Random,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn grants_are_read_back_as_they_are_written_and_bring_wasi_along() {
        for (text, written) in [
            ("", ""),
            ("wasi", "wasi"),
            ("clocks", "wasi,clocks"),
            (" random , wasi ", "wasi,random"),
            ("random,clocks", "wasi,clocks,random"),
        ] {
            let grants: Grants = text.parse().unwrap();
            assert_eq!(grants.to_string(), written);
            assert_eq!(written.parse::<Grants>().unwrap(), grants);
        }
        let error = "wasi,files".parse::<Grants>().unwrap_err().to_string();
        assert!(error.contains("\"files\"") && error.contains("wasi, clocks and random"), "{error}");
    }

    #[test]
    fn what_an_import_comes_to_depends_on_kind_version_and_grants() {
        let none = Grants::NONE;
        let clocks = none.with(Grant::Clocks);
        for (import, grants, access, links) in [
            ("waymark:plugin/load@0.1.0", none, Access::World, true),
            ("waymark:plugin/load@0.1.1", none, Access::World, true),
            ("waymark:plugin/load@0.1.2", none, Access::Refused, false),
            ("waymark:plugin/load@0.2.0", none, Access::Refused, false),
            ("wasi:cli/environment@0.2.0", none, Access::Needs(Grant::Wasi), false),
            ("wasi:cli/environment@0.2.11", clocks, Access::Allowed(Grant::Wasi), true),
            ("wasi:clocks/wall-clock@0.2.3", clocks, Access::Allowed(Grant::Clocks), true),
            ("wasi:random/random@0.2.3", clocks, Access::Needs(Grant::Random), true),
            ("wasi:random/random@0.2.3", none, Access::Needs(Grant::Random), false),
            ("wasi:random/random@0.3.0", clocks, Access::Refused, false),
            ("wasi:random/random", clocks, Access::Refused, false),
            ("wasi:http/outgoing-handler@0.2.3", clocks, Access::Refused, false),
            ("my:own/thing@0.2.0", clocks, Access::Refused, false),
        ] {
            let found = Access::of(import, Kind::Policy, grants);
            assert_eq!((found, found.links(grants)), (access, links), "{import} with {grants}");
        }
        assert_eq!(Access::of("waymark:plugin/load@0.1.0", Kind::KeyScheme, none), Access::Refused);
    }
}
