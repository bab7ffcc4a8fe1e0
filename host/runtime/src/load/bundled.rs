//! Loads what comes with the host.

use super::plugin::Plugin;
use crate::{
    description::{
        Grants, Kind, Limits, LoadError,
        bundled::{ORIGIN, of},
    },
    engine::Engine,
};

impl Engine {
    /// Loads a bundled plugin by its name.
    pub fn load_bundled(&self, kind: Kind, name: &str) -> Result<Plugin, LoadError> {
        self.load_bundled_with(kind, name, self.limits().clone())
    }

    /// Loads a bundled plugin under limits of its own. See [`Engine::load_bundled`].
    pub fn load_bundled_with(&self, kind: Kind, name: &str, limits: Limits) -> Result<Plugin, LoadError> {
        match of(kind).find(|bundled| bundled.name == name) {
            Some(bundled) => self.load_with(bundled.bytes, ORIGIN, limits, Grants::NONE),
            None => Err(LoadError::NoSuchBundled {
                kind: kind.as_str(),
                name: name.into(),
                available: of(kind).map(|bundled| bundled.name).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}
