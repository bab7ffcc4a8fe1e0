//! Reading a plugin's configuration, so that every refusal names the field at fault.

use alloc::borrow::Cow;
use core::ops::RangeInclusive;

use crate::prelude::*;
use crate::{Description, json::Json};

/// A plugin's configuration: a JSON object whose fields are those of the plugin's [`Description`].
///
/// A field that was left out has the default of the description, so a default is written down once.
/// All errors are sentences for people, as the host shows them.
#[derive(Debug)]
pub struct Config<'a> {
    description: &'static Description,
    given: Vec<(Cow<'a, str>, Json<'a>)>,
}

impl<'a> Config<'a> {
    /// Read a configuration for the plugin of that description. A field that it does not describe
    /// is refused, and so is one given twice.
    //
    // Inlined so that for a plugin without fields, whose description is a constant, nothing of what
    // follows is linked.
    #[inline]
    pub fn read(text: &'a str, description: &'static Description) -> Result<Self, String> {
        if description.fields.is_empty() { Self::empty(text, description) } else { Self::fields(text, description) }
    }

    /// The only configuration that a plugin without fields takes.
    fn empty(text: &str, description: &'static Description) -> Result<Self, String> {
        if !text.bytes().filter(|byte| !byte.is_ascii_whitespace()).eq(*b"{}") {
            // Joined and not formatted: the smallest plugins would link the formatting for this
            // alone.
            return Err("`".to_owned() + description.name + "` takes no configuration but {}, and was given " + text);
        }
        Ok(Self { description, given: Vec::new() })
    }

    fn fields(text: &'a str, description: &'static Description) -> Result<Self, String> {
        let json = Json::parse(text).map_err(|error| format!("the configuration is not JSON: {error}"))?;
        let fields = json.entries().ok_or_else(|| format!("the configuration must be a JSON object, not {json}"))?;
        let mut given: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
        for (name, value) in fields {
            if given.iter().any(|(other, _)| *other == name) {
                return Err(format!("the field `{name}` is given twice"));
            }
            given.push((name, value));
        }
        let known = |name: &str| description.fields.iter().any(|field| field.name == name);
        if let Some((name, _)) = given.iter().find(|(name, _)| !known(name)) {
            return Err(format!("unknown field `{name}`; {}", known_fields(description)));
        }
        Ok(Self { description, given })
    }

    /// Whether a field was given, so that its value is no default.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    /// A whole number within `range`.
    pub fn integer(&self, name: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
        self.typed(
            name,
            |json| json.integer().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n)),
            || format!("a whole number from {} to {}", range.start(), range.end()),
        )
    }

    /// A number within `range`, whose bounds are whole: to write floats out would be a third of a
    /// small plugin.
    pub fn number(&self, name: &str, range: RangeInclusive<u32>) -> Result<f64, String> {
        let bounds = f64::from(*range.start())..=f64::from(*range.end());
        self.typed(
            name,
            |json| json.number().filter(|n| bounds.contains(n)),
            || format!("a number from {} to {}", range.start(), range.end()),
        )
    }

    /// Yes or no.
    pub fn boolean(&self, name: &str) -> Result<bool, String> {
        // A closure, because the method's own type is for one lifetime and not for all.
        #[allow(clippy::redundant_closure_for_method_calls, reason = "the method alone does not compile")]
        self.typed(name, |json| json.boolean(), || "true or false".to_owned())
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<String, String> {
        self.typed(name, |json| json.text().map(Cow::into_owned), || "a string".to_owned())
    }

    /// A list of strings.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        self.typed(
            name,
            |json| json.items()?.map(|item| item.text().map(Cow::into_owned)).collect(),
            || "a list of strings".to_owned(),
        )
    }

    /// The name of a header, in lower case as the host wants it.
    pub fn header_name(&self, name: &str) -> Result<String, String> {
        let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        self.typed(
            name,
            |json| {
                json.text()
                    .map(|text| text.to_ascii_lowercase())
                    .filter(|text| !text.is_empty() && text.bytes().all(may_stand))
            },
            || "the name of a header".to_owned(),
        )
    }

    /// One of these words.
    pub fn one_of(&self, name: &str, words: &[&'static str]) -> Result<&'static str, String> {
        self.typed(
            name,
            |json| {
                let text = json.text()?;
                words.iter().copied().find(|word| *word == text)
            },
            || format!(r#""{}""#, words.join(r#"" or ""#)),
        )
    }

    /// An object whose values are strings, as pairs. A name that is given twice is refused.
    pub fn texts_by_name(&self, name: &str) -> Result<Vec<(String, String)>, String> {
        let value = |json: Json<'_>| json.text().map(Cow::into_owned);
        self.typed(name, |json| by_name(json, value), || "an object of strings, each name once".to_owned())
    }

    /// An object whose values are whole numbers within `range`, as pairs. A name that is given
    /// twice is refused.
    pub fn integers_by_name(&self, name: &str, range: RangeInclusive<u32>) -> Result<Vec<(String, u32)>, String> {
        let value = |json: Json<'_>| json.integer().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        self.typed(
            name,
            |json| by_name(json, value),
            || format!("an object of whole numbers from {} to {}, each name once", range.start(), range.end()),
        )
    }

    /// Read a field with `read`, which answers none for a value it cannot take; `expected` finishes
    /// the sentence "must be". What the methods above are made of.
    pub fn typed<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Json<'_>) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> Result<T, String> {
        let refuse = |value: &dyn core::fmt::Display| format!("`{name}` must be {}, not {value}", expected());
        if let Some((_, json)) = self.given.iter().find(|(given, _)| given == name) {
            return read(json).ok_or_else(|| refuse(json));
        }
        let Some(field) = self.description.fields.iter().find(|field| field.name == name) else {
            return Err(format!("the plugin asks for a field `{name}` that it does not describe"));
        };
        if field.default.is_empty() {
            return Err(format!("the field `{name}` must be given: {}", field.doc));
        }
        let default = Json::parse(field.default);
        default.ok().and_then(|json| read(&json)).ok_or_else(|| refuse(&field.default))
    }
}

/// The entries of an object; none when a value is not as wanted or a name comes twice.
fn by_name<T>(json: &Json<'_>, value: impl Fn(Json<'_>) -> Option<T>) -> Option<Vec<(String, T)>> {
    let mut pairs: Vec<(String, T)> = Vec::new();
    for (name, json) in json.entries()? {
        if pairs.iter().any(|(other, _)| *other == name) {
            return None;
        }
        pairs.push((name.into_owned(), value(json)?));
    }
    Some(pairs)
}

fn known_fields(description: &Description) -> String {
    let mut list = format!("`{}` takes ", description.name);
    for (nth, field) in description.fields.iter().enumerate() {
        list += if nth == 0 { "`" } else { "`, `" };
        list += field.name;
    }
    list + "`"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::Field;

    static SAMPLE: Description = Description::new("sample", "1.0.0", "A sample.").with_fields(&[
        Field { name: "count", default: "2", doc: "how many" },
        Field { name: "name", default: "", doc: "whose" },
        Field { name: "ratio", default: "0.5", doc: "how much" },
        Field { name: "zones", default: "[]", doc: "where" },
        Field { name: "strict", default: "false", doc: "how" },
        Field { name: "labels", default: "{}", doc: "which" },
        Field { name: "sizes", default: r#"{"a": 1}"#, doc: "how large" },
        Field { name: "mode", default: r#""fast""#, doc: "in which way" },
    ]);

    fn refused(text: &str) -> String {
        Config::read(text, &SAMPLE).unwrap_err()
    }

    #[test]
    fn fields_left_out_have_the_described_default() {
        let config = Config::read("{}", &SAMPLE).unwrap();
        assert_eq!(config.integer("count", 1..=10), Ok(2));
        assert_eq!(config.number("ratio", 0..=1), Ok(0.5));
        assert_eq!(config.texts("zones"), Ok(vec![]));
        assert_eq!(config.boolean("strict"), Ok(false));
        assert_eq!(config.text("name").unwrap_err(), "the field `name` must be given: whose");
    }

    #[test]
    fn given_fields_are_read() {
        let text = r#" {"count": 10, "name": "a\u0062", "ratio": 1e-1, "zones": ["x", "y"], "strict": true} "#;
        let config = Config::read(text, &SAMPLE).unwrap();
        assert_eq!(config.integer("count", 1..=10), Ok(10));
        assert_eq!(config.text("name"), Ok("ab".to_owned()));
        assert_eq!(config.number("ratio", 0..=1), Ok(0.1));
        assert_eq!(config.texts("zones"), Ok(vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!(config.boolean("strict"), Ok(true));
    }

    #[test]
    fn a_wrong_value_is_refused_by_the_name_of_its_field() {
        let config = Config::read(r#"{"count": 11, "name": 3, "ratio": "1", "zones": ["x", 1]}"#, &SAMPLE).unwrap();
        let count = config.integer("count", 1..=10).unwrap_err();
        assert_eq!(count, "`count` must be a whole number from 1 to 10, not 11");
        assert_eq!(config.text("name").unwrap_err(), "`name` must be a string, not 3");
        assert_eq!(config.number("ratio", 0..=1).unwrap_err(), r#"`ratio` must be a number from 0 to 1, not "1""#);
        assert_eq!(config.texts("zones").unwrap_err(), r#"`zones` must be a list of strings, not ["x", 1]"#);
    }

    #[test]
    fn objects_and_words_are_read_and_refused() {
        let config = Config::read(r#"{"labels": {"v": "2", "canary": "yes"}, "mode": "slow"}"#, &SAMPLE).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(config.texts_by_name("labels"), Ok(vec![pair("v", "2"), pair("canary", "yes")]));
        assert_eq!(config.integers_by_name("sizes", 0..=9), Ok(vec![("a".to_owned(), 1)]));
        assert_eq!(config.one_of("mode", &["fast", "slow"]), Ok("slow"));
        assert_eq!(config.header_name("mode"), Ok("slow".to_owned()));
        let upper = Config::read(r#"{"mode": "X-User", "name": "x y"}"#, &SAMPLE).unwrap();
        assert_eq!(upper.header_name("mode"), Ok("x-user".to_owned()));
        assert_eq!(upper.header_name("name").unwrap_err(), r#"`name` must be the name of a header, not "x y""#);
        let config = Config::read(r#"{"labels": {"v": 2}, "sizes": {"a": 1, "a": 2}, "mode": "x"}"#, &SAMPLE).unwrap();
        let refused = config.texts_by_name("labels").unwrap_err();
        assert_eq!(refused, r#"`labels` must be an object of strings, each name once, not {"v": 2}"#);
        let refused = config.integers_by_name("sizes", 0..=9).unwrap_err();
        assert_eq!(
            refused,
            r#"`sizes` must be an object of whole numbers from 0 to 9, each name once, not {"a": 1, "a": 2}"#
        );
        let refused = config.one_of("mode", &["fast", "slow"]).unwrap_err();
        assert_eq!(refused, r#"`mode` must be "fast" or "slow", not "x""#);
    }

    #[test]
    fn unknown_fields_and_other_texts_are_refused() {
        assert_eq!(
            refused(r#"{"cuont": 1}"#),
            "unknown field `cuont`; `sample` takes `count`, `name`, `ratio`, `zones`, `strict`, \
             `labels`, `sizes`, `mode`"
        );
        assert_eq!(refused(r#"{"count": 1, "count": 2}"#), "the field `count` is given twice");
        assert_eq!(refused("[1]"), "the configuration must be a JSON object, not [1]");
        assert!(refused("{count: 1}").starts_with("the configuration is not JSON: "), "{}", refused("{count: 1}"));
    }

    #[test]
    fn a_plugin_without_fields_takes_an_empty_object_and_nothing_else() {
        static BARE: Description = Description::new("bare", "1.0.0", "Takes nothing.");
        assert!(Config::read(" {\n} ", &BARE).is_ok());
        for text in [r#"{"x": 1}"#, "", "null", "{{}}"] {
            let refused = Config::read(text, &BARE).unwrap_err();
            assert_eq!(refused, format!("`bare` takes no configuration but {{}}, and was given {text}"));
        }
    }
}
