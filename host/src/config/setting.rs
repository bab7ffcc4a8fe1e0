//! The table of settings: every key of `waymark.toml` with its kind, range, default and words.
//!
//! ```text
//!   settings! { struct ClientsFile { /// words
//!       key: type [range = default] } } ──▶ the struct that serde reads
//!                                     ├──▶ its ranges, checked before anything is made of it
//!                                     └──▶ ClientsFile::SETTINGS ──▶ config reference, config show
//! ```
//!
//! A key is written once, in the structs of `file`; what the program reads, checks
//! and prints of it follows from there.

use std::path::PathBuf;

use super::ConfigError;
use crate::secret::Secret;

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// As Rust has it; see [`Setting::key`].
    pub(super) field: &'static str,
    /// What it does, a line a piece.
    pub(super) words: &'static [&'static str],
    /// What may be written.
    pub kind: Kind,
    /// Its least and its greatest value, both included.
    pub range: Option<(u64, u64)>,
    /// What holds where nothing is written.
    pub default: Option<Default>,
}

/// What holds where nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// As it would be written; a text without its quotes.
    Value(&'static str),
    /// In words.
    Words(&'static str),
}

impl Setting {
    /// The key, as it is written.
    pub fn key(&self) -> String {
        self.field.replace('_', "-")
    }

    /// Where it stands in a table: `clients.max-streams`, and `service a: limits` of a service.
    pub fn below(&self, table: &str) -> String {
        match table {
            "" => self.key(),
            table if table.ends_with(' ') => format!("{table}{}", self.key()),
            table => format!("{table}.{}", self.key()),
        }
    }

    /// What it does, in one line.
    pub fn words(&self) -> String {
        self.words.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// What a number counts, from the end of the key's name.
    pub fn unit(&self) -> Option<&'static str> {
        let units = [
            ("_ms", "milliseconds"),
            ("_s", "seconds"),
            ("_mib", "MiB"),
            ("_kib", "KiB"),
            ("_bytes", "bytes"),
            ("_percent", "percent"),
            ("_percentage", "percent"),
        ];
        units.into_iter().find(|(end, _)| self.field.ends_with(end)).map(|(_, unit)| unit)
    }
}

/// What may be written for a key.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number without a fraction.
    Whole,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A text that is a path.
    Path,
    /// A list of texts.
    Texts,
    /// A list of numbers without a fraction.
    Wholes,
    /// A table whose keys a plugin knows.
    Free,
    /// A table.
    Table(&'static [Setting]),
    /// A list of tables, as `[[service]]`.
    Tables(&'static [Setting]),
}

impl Kind {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Whole => "whole number",
            Self::Number => "number",
            Self::Text => "text",
            Self::Path => "path",
            Self::Texts => "list of texts",
            Self::Wholes => "list of whole numbers",
            Self::Free | Self::Table(_) => "table",
            Self::Tables(_) => "list of tables",
        }
    }
}

/// What a key's type says of it.
pub(super) trait Value {
    const KIND: Kind;
    /// The same for a list of them.
    const LIST: Kind = Kind::Texts;

    /// The number that a range is of, if it was written.
    fn number(&self) -> Option<u64> {
        None
    }

    /// Holds what is in it to its ranges. `at`: where it was written.
    fn check(&self, _at: &str) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Where it was written, if it is a part of a list that was written `at`.
    fn place(&self, at: &str) -> String {
        at.to_owned()
    }
}

macro_rules! plain {
    ($($type:ty => $kind:ident, $list:ident;)*) => {
        $(impl Value for $type {
            const KIND: Kind = Kind::$kind;
            const LIST: Kind = Kind::$list;
        })*
    };
}

plain! {
    bool => Bool, Texts;
    f64 => Number, Texts;
    u32 => Whole, Wholes;
    String => Text, Texts;
    Secret => Text, Texts;
    PathBuf => Path, Texts;
    toml::Table => Free, Texts;
}

impl Value for u64 {
    const KIND: Kind = Kind::Whole;
    const LIST: Kind = Kind::Wholes;

    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;

    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(T::number)
    }

    fn check(&self, at: &str) -> Result<(), ConfigError> {
        self.as_ref().map_or(Ok(()), |value| value.check(at))
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: Kind = T::LIST;

    fn check(&self, at: &str) -> Result<(), ConfigError> {
        self.iter().try_for_each(|value| value.check(&value.place(at)))
    }
}

/// One field of a table, held to its range and its own fields to theirs.
pub(super) fn check_field(value: &impl Value, setting: &Setting, at: &str) -> Result<(), ConfigError> {
    let at = setting.below(at);
    match (value.number(), setting.range) {
        (Some(number), Some((least, most))) if !(least..=most).contains(&number) => {
            Err(ConfigError::value(at, format!("{number} is not within {least} to {most}")))
        }
        _ => value.check(&at),
    }
}

/// The words of one attribute of a field: a line of its documentation, or none.
macro_rules! words_of {
    (doc = $line:literal) => {
        $line
    };
    ($($other:tt)*) => {
        ""
    };
}

/// Defines tables of the file: the struct that is read, and what is known of each key. After a type
/// may stand its range and its default, `[1..=100 = "5"]` or `[1..=100 else "in words"]`, or either
/// alone. `by name`: a table of a list, told from the others by this field.
macro_rules! settings {
    ($(
        $(#[$($of_table:tt)*])*
        pub struct $table:ident $(by $name:ident)? {
            $(
                $(#[$($meta:tt)*])*
                pub $field:ident: $type:ty $([$($about:tt)*])?,
            )*
        }
    )*) => {
        $(
            $(#[$($of_table)*])*
            pub struct $table {
                $($(#[$($meta)*])* pub $field: $type,)*
            }

            impl $table {
                /// What is known of each key.
                pub const SETTINGS: &'static [$crate::config::setting::Setting] = &[$({
                    let (range, default) = $crate::config::setting::about!($($($about)*)?);
                    $crate::config::setting::Setting {
                        field: stringify!($field),
                        words: &[$($crate::config::setting::words_of!($($meta)*)),*],
                        kind: <$type as $crate::config::setting::Value>::KIND,
                        range,
                        default,
                    }
                }),*];
            }

            impl $crate::config::setting::Value for $table {
                const KIND: $crate::config::setting::Kind =
                    $crate::config::setting::Kind::Table(Self::SETTINGS);
                const LIST: $crate::config::setting::Kind =
                    $crate::config::setting::Kind::Tables(Self::SETTINGS);

                fn check(&self, at: &str) -> Result<(), $crate::config::ConfigError> {
                    let Self { $($field),* } = self;
                    let mut settings = Self::SETTINGS.iter();
                    $(
                        let setting = settings.next().expect("a setting a field");
                        $crate::config::setting::check_field($field, setting, at)?;
                    )*
                    Ok(())
                }

                $(fn place(&self, at: &str) -> String {
                    format!("{at} {}: ", self.$name)
                })?
            }
        )*
    };
}

/// A range and a default, as they stand after a type.
macro_rules! about {
    () => {
        (None::<(u64, u64)>, None::<$crate::config::setting::Default>)
    };
    ($least:literal ..= $most:literal) => {
        (Some(($least, $most)), None::<$crate::config::setting::Default>)
    };
    ($least:literal ..= $most:literal $($default:tt)+) => {
        (Some(($least, $most)), $crate::config::setting::about!($($default)+).1)
    };
    (= $value:literal) => {
        (None::<(u64, u64)>, Some($crate::config::setting::Default::Value($value)))
    };
    (else $words:literal) => {
        (None::<(u64, u64)>, Some($crate::config::setting::Default::Words($words)))
    };
}

pub(super) use {about, settings, words_of};
