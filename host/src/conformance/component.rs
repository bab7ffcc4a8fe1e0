//! What can be said of a component without calling it further than its description. Most of it was
//! checked when it was loaded; a line says what that found.

use super::report::{Outcome, Report};
use crate::{
    plugin::{Plugin, SUPPORTED_INTERFACES},
    text,
};

const SECTION: &str = "component";

/// From this size on, a component takes noticeably long to compile.
const LARGE: usize = 1 << 20;

pub(super) fn check(plugin: &Plugin, report: &mut Report) {
    let about = &plugin.description;
    report.note(SECTION, "world", Outcome::Ok, plugin.world());
    let versions = SUPPORTED_INTERFACES.join(", ");
    report.note(SECTION, "interface version", Outcome::Ok, format!("{}, one of {versions}", plugin.interface));
    let short = |import: &String| {
        import.rsplit('/').next().unwrap_or_default().split('@').next().unwrap_or_default().to_owned()
    };
    let imports: Vec<String> = plugin.imports.iter().map(short).collect();
    let imports = if imports.is_empty() { "none".into() } else { format!("{}: all granted", imports.join(", ")) };
    report.note(SECTION, "imports", Outcome::Ok, imports);
    let outcome = if plugin.size < LARGE { Outcome::Ok } else { Outcome::Observed };
    report.note(
        SECTION,
        "size",
        outcome,
        format!("{} KiB, loaded in {:.1?}", plugin.size.div_ceil(1024), plugin.load_time),
    );
    let mut wrong = Vec::new();
    if about.summary.trim().is_empty() {
        wrong.push("it has no summary".to_owned());
    }
    if about.version.trim().is_empty() {
        wrong.push("it has no version".to_owned());
    }
    for (at, field) in about.fields.iter().enumerate() {
        if field.name.is_empty()
            || field.name.len() > 64
            || !field.name.chars().all(|c| text::prints(c) && !c.is_whitespace())
        {
            wrong.push(format!("field {:?} is no name for a field", field.name.chars().take(80).collect::<String>()));
        }
        if about.fields[..at].iter().any(|earlier| earlier.name == field.name) {
            wrong.push(format!("field {:?} is described twice", field.name));
        }
        if !field.default.is_empty() && serde_json::from_str::<serde_json::Value>(&field.default).is_err() {
            wrong.push(format!("the default of field {:?} is not JSON: {}", field.name, field.default));
        }
        if field.doc.trim().is_empty() {
            wrong.push(format!("field {:?} is not explained", field.name));
        }
    }
    let fields = about.fields.len();
    let sane = if wrong.is_empty() {
        Ok(format!(
            "{} {}, {fields} configuration field{}",
            about.name,
            about.version,
            if fields == 1 { "" } else { "s" }
        ))
    } else {
        Err(wrong.join("; "))
    };
    report.require(SECTION, "description", sane);
    if !about.warning.is_empty() {
        report.note(SECTION, "warning", Outcome::Observed, about.warning.clone());
    }
}
