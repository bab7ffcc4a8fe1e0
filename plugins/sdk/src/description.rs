//! What a plugin says of itself, as a constant: it costs no start-up work, and a plugin without
//! configuration fields links no JSON reader.

use crate::generated::balancer::waymark::plugin::types as wire;
use crate::prelude::*;

/// What a plugin says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// A short name in snake case, for example `round_robin`.
    pub name: &'static str,
    /// The plugin's own version, usually `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// The fields its configuration may have. [`crate::Config`] reads this list: a field that is
    /// not in it is refused, and a field left out has the default written here.
    pub fields: &'static [Field],
    /// What whoever chooses this plugin ought to know first; empty when there is nothing to warn
    /// of.
    pub warning: &'static str,
}

/// One field of a plugin's configuration, which is a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the object.
    pub name: &'static str,
    /// What it means when left out, as JSON; empty when it must be given.
    pub default: &'static str,
    /// One line for people, with the unit.
    pub doc: &'static str,
}

impl Description {
    /// A plugin without configuration and without a warning.
    pub const fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self { name, version, summary, fields: &[], warning: "" }
    }

    /// The same with these fields.
    #[must_use]
    pub const fn with_fields(self, fields: &'static [Field]) -> Self {
        Self { fields, ..self }
    }

    /// The same with a warning.
    #[must_use]
    pub const fn with_warning(self, warning: &'static str) -> Self {
        Self { warning, ..self }
    }
}

impl From<Description> for wire::Description {
    fn from(description: Description) -> Self {
        let Description { name, version, summary, fields, warning } = description;
        let fields = fields.iter().map(|Field { name, default, doc }| wire::ConfigField {
            name: (*name).to_owned(),
            default: (*default).to_owned(),
            doc: (*doc).to_owned(),
        });
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            fields: fields.collect(),
            warning: warning.to_owned(),
        }
    }
}
