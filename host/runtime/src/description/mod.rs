//! What a plugin is, in words: its kind, what it says of itself, what it may take and be given, and
//! why it is none. Nothing here runs one, or knows what runs it.

pub mod bundled;
mod digest;
mod error;
mod grants;
mod kind;
mod limits;

use waymark_core::text;

pub use self::{
    digest::digest,
    error::{EngineError, LoadError},
    grants::{Access, Grant, Grants, UnknownGrant},
    kind::{Kind, SUPPORTED_INTERFACES},
    limits::Limits,
};
pub(crate) use self::{
    digest::{hex, sha256},
    grants::Interface,
    kind::{NEWEST, PACKAGE, supported},
};

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line for people.
    pub summary: String,
    /// The fields of its configuration.
    pub fields: Vec<ConfigField>,
    /// What whoever chooses it ought to know first; empty when there is nothing.
    pub warning: String,
}

/// One field of a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigField {
    /// Its name.
    pub name: String,
    /// What it means when left out, as JSON; empty when it must be given.
    pub default: String,
    /// One line for people.
    pub doc: String,
}

impl Description {
    /// Names end up in metrics, tables and logs: they are short and plain.
    pub(crate) fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(format!(
                "its name \"{}\" is not 1 to 64 characters of a-z, 0-9, _ and -",
                text::shown(&self.name, 80)
            ));
        }
        if self.fields.len() > 100 {
            return Err(format!("it has {} configuration fields, more than 100", self.fields.len()));
        }
        let unfit = |text: &str, limit| text.len() > limit || !text.chars().all(text::prints);
        if let Some(field) =
            self.fields.iter().find(|f| unfit(&f.name, 64) || unfit(&f.default, 1000) || unfit(&f.doc, 1000))
        {
            let name = text::shown(&field.name, 80);
            return Err(format!(
                "its field \"{name}\" has a name longer than 64 bytes, a default or text longer than 1,000, or characters that do not print"
            ));
        }
        for (what, text, limit) in
            [("version", &self.version, 64), ("summary", &self.summary, 400), ("warning", &self.warning, 2000)]
        {
            if unfit(text, limit) {
                return Err(format!("its {what} is longer than {limit} bytes or has characters that do not print"));
            }
        }
        Ok(())
    }
}
