//! `waymark config`: what may be set, what a file says, and what holds.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::{ArgMatches, parser::ValueSource};

use super::{
    node,
    output::{self, Cell, CommandError, Tone, toned},
};
use crate::config::{ConfigError, FileConfig, Setting, SettingDefault, SettingKind, read_file};

/// Flags of `waymark config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print every setting: what it does, its range, its default, its flag and its variable.
    Reference {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a file, as `waymark node --config FILE` would read it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print what holds, and where each setting comes from. Takes the flags of `waymark node`.
    #[command(after_help = "\
Examples:
  waymark config show --config waymark.toml
  WAYMARK_ZONE=a waymark config show --config waymark.toml --policy zone_aware --set")]
    Show(Box<ShowArgs>),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Only what is not the default.
    #[arg(long)]
    set: bool,
    #[command(flatten)]
    node: node::Args,
}

/// The keys that a flag of `waymark node` says too, by the name that clap knows it by. The flag and
/// the variable go before the file.
const FLAGS: &[(&str, &str)] = &[
    ("listen", "listen"),
    ("listen-service", "listen_service"),
    ("listen-unix", "listen_unix"),
    ("listen-unix-service", "listen_unix_service"),
    ("admin.listen", "admin"),
    ("admin.unix", "admin_unix"),
    ("admin.probe", "probe"),
    ("admin.token-file", "admin_token_file"),
    ("admin.allowed-hosts", "admin_allowed_hosts"),
    ("admin.insecure", "admin_insecure"),
    ("take-over", "take_over"),
    ("zone", "zone"),
    ("workers", "workers"),
    ("access-log", "access_log"),
    ("access-log-format", "access_log_format"),
    ("registry.endpoints", "endpoints"),
    ("registry.embedded-listen", "embedded_listen"),
    ("registry.namespace", "namespace"),
    ("registry.user", "registry_user"),
    ("registry.password", "registry_password"),
    ("registry.password-file", "registry_password_file"),
    ("registry.ca-file", "registry_ca"),
    ("registry.cert-file", "registry_cert"),
    ("registry.key-file", "registry_key"),
    ("registry.hold-share", "hold_share"),
    ("registry.hold-time-s", "hold_time"),
    ("registry.state-dir", "state_dir"),
    ("registry.state-max-age-s", "state_max_age"),
    ("registry.key-scheme", "key_scheme"),
    ("registry.key-scheme-config", "key_scheme_config"),
    ("registry.key-scheme-allow", "key_scheme_allow"),
    ("policy.plugin", "policy"),
    ("policy.config", "policy_config"),
    ("policy.allow", "policy_allow"),
    ("policy.hash-key", "hash_key"),
    ("plugins.cache-dir", "plugin_cache"),
    ("plugins.follow-files", "no_follow_files"),
];

/// The flag of a key, where it has one.
fn flag_of(key: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(of, _)| *of == key).map(|(_, flag)| *flag)
}

/// `matches`: of this command.
pub(super) fn run(args: Args, matches: &ArgMatches) -> Result<ExitCode, CommandError> {
    match args.command {
        Command::Reference { json: true } => output::print_json(&json_reference()),
        Command::Reference { json: false } => output::print_report(reference().trim_end()),
        Command::Check { file } => {
            let read = read_file(&file)?;
            let (services, routes) = (read.service.len(), read.route.len());
            read.into_node()?;
            output::print_line(format_args!("{}: good; {services} services, {routes} routes", file.display()));
        }
        Command::Show(args) => {
            let matches = matches.subcommand_matches("show").expect("it was given");
            show(*args, matches)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Visits every key that is no table, in the order of the file, with its whole name. Lists of
/// tables are left out.
fn visit(table: &'static [Setting], at: &str, leave: &mut impl FnMut(&str, &'static Setting)) {
    for setting in table {
        let key = setting.below(at);
        match setting.kind {
            SettingKind::Table(inner) => visit(inner, &key, leave),
            SettingKind::Tables(_) => {}
            _ => leave(&key, setting),
        }
    }
}

/// A table of the file, with its own keys.
struct Table {
    name: String,
    /// One of a list: `[[name]]`.
    is_list: bool,
    settings: &'static [Setting],
}

/// All tables, outermost first.
fn tables() -> Vec<Table> {
    fn add(name: &str, settings: &'static [Setting], list: &mut Vec<Table>) {
        list.push(Table { name: name.to_owned(), is_list: false, settings });
        for setting in settings {
            let name = setting.below(name);
            match setting.kind {
                SettingKind::Table(inner) => add(&name, inner, list),
                SettingKind::Tables(settings) => list.push(Table { name, is_list: true, settings }),
                _ => {}
            }
        }
    }
    let mut list = Vec::new();
    add("", FileConfig::SETTINGS, &mut list);
    list
}

/// The flag and the variable of a key, as a person writes them.
fn flags(node: &clap::Command, key: &str) -> Option<(String, Option<String>)> {
    let argument = node.get_arguments().find(|argument| Some(argument.get_id().as_str()) == flag_of(key))?;
    let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
    Some((format!("--{}", argument.get_long()?), variable))
}

fn default_words(default: Option<SettingDefault>) -> String {
    match default {
        Some(SettingDefault::Value(value)) => format!("`{value}`"),
        Some(SettingDefault::Words(words)) => words.to_owned(),
        None => String::new(),
    }
}

/// A number with its thousands told apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// All settings, as Markdown.
pub(super) fn reference() -> String {
    let node = node::Args::command_for_reference();
    let mut page = String::new();
    for Table { name, is_list, settings } in tables() {
        let _ = match (name.as_str(), is_list) {
            ("", _) => writeln!(page, "## The file itself\n"),
            (name, false) => writeln!(page, "## `[{name}]`\n"),
            (name, true) => writeln!(page, "## `[[{name}]]`\n"),
        };
        page.push_str("| key | what it does | value | default | flag, variable |\n|---|---|---|---|---|\n");
        for setting in settings {
            let range = match (setting.range, setting.kind) {
                (Some((least, most)), _) => format!("{} to {}", thousands(least), thousands(most)),
                (None, SettingKind::Table(_) | SettingKind::Tables(_)) => "a table, below".to_owned(),
                (None, kind) => kind.word().to_owned(),
            };
            let flags = match flags(&node, &setting.below(&name)) {
                Some((flag, Some(variable))) => format!("`{flag}`, `{variable}`"),
                Some((flag, None)) => format!("`{flag}`"),
                None => String::new(),
            };
            let words = setting.words().replace('|', "\\|");
            let key = setting.key();
            let _ = writeln!(page, "| `{key}` | {words} | {range} | {} | {flags} |", default_words(setting.default));
        }
        page.push('\n');
    }
    page
}

fn json_reference() -> serde_json::Value {
    let node = node::Args::command_for_reference();
    let rows = tables()
        .into_iter()
        .flat_map(|Table { name, settings, .. }| settings.iter().map(move |setting| (setting.below(&name), setting)));
    rows.map(|(key, setting)| {
        let (flag, variable) = flags(&node, &key).unzip();
        serde_json::json!({
            "key": key,
            "kind": setting.kind.word(),
            "unit": setting.unit(),
            "range": setting.range,
            "default": match setting.default {
                Some(SettingDefault::Value(text) | SettingDefault::Words(text)) => Some(text),
                None => None,
            },
            "words": setting.words(),
            "flag": flag,
            "variable": variable.flatten(),
        })
    })
    .collect()
}

/// One setting that holds.
struct Effective {
    key: String,
    value: String,
    from: String,
    is_default: bool,
}

fn show(args: ShowArgs, matches: &ArgMatches) -> Result<(), CommandError> {
    let path = args.node.file_path();
    let document = match &path {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            // What does not parse is refused below, with the words that a node has for it.
            text.parse::<toml::Table>().unwrap_or_default()
        }
        None => toml::Table::new(),
    };
    let place = path.map(|path| path.display().to_string()).unwrap_or_default();
    // Whatever keeps a node from starting is said here, too.
    args.node.into_config()?;
    let mut all = effective(&document, &place, matches);
    if args.set {
        all.retain(|one| !one.is_default);
    }
    if args.json {
        let rows = all.iter().map(|one| serde_json::json!({"key": one.key, "value": one.value, "from": one.from}));
        output::print_json(&rows.collect::<Vec<_>>());
        return Ok(());
    }
    let mut table = output::table(["setting", "value", "from"]);
    for one in all {
        let tone = if one.is_default { Tone::Dim } else { Tone::Good };
        table.add_row([Cell::new(one.key), Cell::new(one.value), toned(one.from, tone)]);
    }
    output::print_table(&table);
    Ok(())
}

fn effective(document: &toml::Table, place: &str, matches: &ArgMatches) -> Vec<Effective> {
    let node = node::Args::command_for_reference();
    let mut all = Vec::new();
    visit(FileConfig::SETTINGS, "", &mut |key, setting| {
        let secret = key == "registry.password";
        let given = flag_of(key).and_then(|id| {
            let source = matches.value_source(id)?;
            let raw = matches.get_raw(id)?.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
            let (flag, variable) = flags(&node, key)?;
            match source {
                ValueSource::CommandLine => Some((raw, flag)),
                ValueSource::EnvVariable => Some((raw, variable?)),
                _ => None,
            }
        });
        // The one flag that says the opposite of its key.
        let given = given
            .map(|(raw, from)| if key == "plugins.follow-files" { ("false".to_owned(), from) } else { (raw, from) });
        let written = || Some((printed(at(document, key)?), place.to_owned()));
        let (value, from, is_default) = match given.or_else(written) {
            Some((value, from)) => (value, from, false),
            None => match setting.default {
                Some(SettingDefault::Value(text) | SettingDefault::Words(text)) => {
                    (text.to_owned(), "default".into(), true)
                }
                None => return,
            },
        };
        let value = if secret { "***".to_owned() } else { value };
        all.push(Effective { key: key.to_owned(), value, from, is_default });
    });
    // What is said of each service and of each route stands in the file alone.
    for (list, name) in [("service", "name"), ("route", "service")] {
        for one in document.get(list).and_then(toml::Value::as_array).into_iter().flatten() {
            let Some(table) = one.as_table() else { continue };
            let whose = table.get(name).and_then(toml::Value::as_str).unwrap_or_default();
            for (key, value) in table.iter().filter(|(key, _)| *key != name) {
                let (key, from) = (format!("{list} {whose}: {key}"), place.to_owned());
                all.push(Effective { key, value: printed(value), from, is_default: false });
            }
        }
    }
    all
}

/// The value that a document has for a key. `admin` may be an address, and means `admin.listen`
/// then.
fn at<'a>(document: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    match (document.get(first)?, rest) {
        (toml::Value::Table(inner), Some(rest)) => at(inner, rest),
        (value @ toml::Value::String(_), Some("listen")) | (value, None) => Some(value),
        _ => None,
    }
}

/// A text without its quotes, all else as it is written.
fn printed(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::parse_file;

    #[test]
    fn every_variable_of_a_node_stands_for_a_key() {
        let node = node::Args::command_for_reference();
        let ids = node.get_arguments().filter(|argument| argument.get_env().is_some());
        let ids: Vec<_> = ids.map(|argument| argument.get_id().as_str().to_owned()).collect();
        assert!(ids.len() > 30, "{ids:?}");
        for id in ids {
            let known = FLAGS.iter().any(|(_, flag)| **flag == id) || id == "config";
            assert!(known, "--{id} has no key: give it one, and a row in FLAGS");
        }
        let mut keys = Vec::new();
        visit(FileConfig::SETTINGS, "", &mut |key, _| keys.push(key.to_owned()));
        for (key, flag) in FLAGS {
            assert!(keys.iter().any(|known| known == key), "{key} is no key");
            assert!(flags(&node, key).is_some(), "--{flag} is no flag");
        }
    }

    #[test]
    fn a_default_that_is_written_changes_nothing() {
        let plain = format!("{:?}", parse_file("f".as_ref(), "").unwrap().into_node().unwrap());
        let mut written = 0;
        visit(FileConfig::SETTINGS, "", &mut |key, setting| {
            let Some(SettingDefault::Value(value)) = setting.default else { return };
            // Tables that turn something on by being there.
            if ["tls", "traffic.outlier", "traffic.retry.", "traffic.hedge", "traffic.health", "traffic.slow-start"]
                .iter()
                .any(|on| key.starts_with(on))
                || key.contains(".tls.")
                // Goes with another one.
                || key == "registry.hold-time-s"
            {
                return;
            }
            let quoted = match setting.kind {
                SettingKind::Text | SettingKind::Path => format!("{value:?}"),
                _ => value.to_owned(),
            };
            let text = format!("{key} = {quoted}");
            let node = parse_file("f".as_ref(), &text).and_then(FileConfig::into_node);
            let node = node.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(format!("{node:?}"), plain, "{text}");
            written += 1;
        });
        assert!(written > 30, "only {written} defaults");
    }

    #[test]
    fn every_range_is_held_and_told() {
        let mut held = 0;
        visit(FileConfig::SETTINGS, "", &mut |key, setting| {
            let Some((least, most)) = setting.range else { return };
            for beyond in [least.checked_sub(1), most.checked_add(1)].into_iter().flatten() {
                let error = parse_file("f".as_ref(), &format!("{key} = {beyond}")).unwrap().into_node().unwrap_err();
                let text = error.to_string();
                assert_eq!(text, format!("{key}: {beyond} is not within {least} to {most}"));
            }
            held += 1;
        });
        assert!(held > 40, "only {held} ranges");
    }

    #[test]
    fn what_holds_is_told_with_where_it_comes_from() {
        let document: toml::Table = "admin = \"127.0.0.1:9\"\nzone = \"file\"\n[registry]\npassword = \"hunter2\"\n[[service]]\nname = \"a\"\npolicy = \"random\"".parse().unwrap();
        let matches =
            node::Args::command_for_reference().get_matches_from(["node", "--zone", "b", "--no-follow-files"]);
        let all = effective(&document, "w.toml", &matches);
        let find = |key: &str| all.iter().find(|one| one.key == key).map(|one| (one.value.as_str(), one.from.as_str()));
        assert_eq!(find("zone"), Some(("b", "--zone")));
        assert_eq!(find("admin.listen"), Some(("127.0.0.1:9", "w.toml")));
        assert_eq!(find("plugins.follow-files"), Some(("false", "--no-follow-files")));
        assert_eq!(find("registry.password"), Some(("***", "w.toml")));
        assert_eq!(find("clients.max-streams"), Some(("1000", "default")));
        assert_eq!(find("service a: policy"), Some(("random", "w.toml")));
        assert_eq!(find("registry.user"), None, "what is not set and has no default is not there");
    }

    #[test]
    fn the_page_of_all_settings_is_the_one_in_the_documentation() {
        let page = include_str!("../../docs/settings.md");
        let (_, generated) = page.split_once("<!-- generated: waymark config reference -->\n\n").unwrap();
        assert_eq!(generated.trim_end(), reference().trim_end(), "waymark config reference has changed");
    }
}
