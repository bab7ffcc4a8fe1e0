//! `waymark policy`: read and change the policies of a running node, over its API.

use std::{fs, io::ErrorKind, path::Path, process::ExitCode, time::Duration};

use clap::Subcommand;

use super::{
    node_args::{self, NodeArgs},
    output::{self, Cell, CommandError, Tone, ago, name, print_line, span, toned},
};
use crate::{
    admin::client::{PolicySource, PolicyStatus, PolicyVersion, Service, SetPolicy},
    model::ServiceName,
    plugin::Grants,
};

/// Flags of `waymark policy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage, or a file that cannot be read; 3 the node refused, and \
the running policy is untouched; 4 the node cannot be reached.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Swap the policy of a service while calls run.
    #[command(after_help = format!("\
Examples:
  waymark policy set ayang/server1 weighted
  waymark policy set ayang/server1 ./my_policy.wasm
  waymark policy set ayang/server1 zone_aware --config '{{\"min_endpoints\": 2}}'
  waymark policy set ayang/server1 ./python_policy.wasm --allow wasi
  waymark policy set ayang/server1 ./my_policy.wasm --config @my_policy.json --by release-42
  waymark policy set ayang/server1 weighted --node https://node1.example:7001 --token-file my.token
  waymark policy set ayang/server1 weighted --node unix:/run/waymark/admin.sock

The new policy is compiled and tried on the service's endpoints first. It takes over at once when it passes; calls in \
flight end with the policy they began with. When it does not pass, the reason is printed and nothing changes.

{EXIT_CODES}"))]
    Set(SetArgs),
    /// Print the policy of a service, or of every service.
    #[command(after_help = format!("\
Examples:
  waymark policy get                        every service of the node
  waymark policy get ayang/server1
  waymark policy get ayang/server1 --json | jq -r .running.sha256

{EXIT_CODES}"))]
    Get(GetArgs),
    /// Print the last 32 policies a service was given, newest first: who, when, which bytes and
    /// configuration, and what became of each.
    #[command(after_help = format!("\
Examples:
  waymark policy history ayang/server1
  waymark policy history ayang/server1 --json | jq '.history[] | select(.outcome == \"refused\")'

{EXIT_CODES}"))]
    History(HistoryArgs),
    /// Go back to an earlier policy of the service's history, at once: the node has kept it,
    /// whatever became of its file.
    #[command(after_help = format!("\
Examples:
  waymark policy rollback ayang/server1              the one before
  waymark policy rollback ayang/server1 --to 3       version 3 of `waymark policy history`

{EXIT_CODES}"))]
    Rollback(RollbackArgs),
}

/// How the answer is printed.
#[derive(Debug, clap::Args)]
struct JsonArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// A .wasm file, or the name of a bundled policy. What has a `/` in it or ends with `.wasm` is
    /// a file.
    #[arg(value_name = "FILE.wasm|NAME")]
    policy: String,
    /// The policy's configuration, a JSON object; or `@` and a file that holds it.
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// What it is given beyond its world: wasi (with nothing behind it), clocks, random.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "WHAT,..")]
    allow: Grants,
    /// Begin to watch the service if the node does not watch it yet.
    #[arg(long)]
    discover: bool,
    #[command(flatten)]
    by: ByArgs,
    #[command(flatten)]
    output: JsonArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// Who changes it.
#[derive(Debug, clap::Args)]
struct ByArgs {
    /// Who does it, for the history [default: your user name].
    #[arg(long, env = "WAYMARK_BY", value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    /// The service; all of the node's when left out.
    service: Option<ServiceName>,
    #[command(flatten)]
    output: JsonArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, clap::Args)]
struct HistoryArgs {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    #[command(flatten)]
    output: JsonArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, clap::Args)]
struct RollbackArgs {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// The version to go back to, as `waymark policy history` numbers them [default: the one that
    /// ran before].
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    #[command(flatten)]
    by: ByArgs,
    #[command(flatten)]
    output: JsonArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs `waymark policy`.
pub(super) async fn run(args: Args) -> Result<ExitCode, CommandError> {
    match args.command {
        Command::Set(args) => set(args).await?,
        Command::Get(args) => get(args).await?,
        Command::History(args) => {
            let client = args.node.connect().await?;
            let status = client.policy(&args.service).await?;
            if args.output.json { output::print_json(&status) } else { print_history(&status) }
        }
        Command::Rollback(args) => {
            let client = args.node.connect().await?;
            let status = client.roll_back(&args.service, args.to.unwrap_or(0), &args.by.name()).await?;
            if args.output.json { output::print_json(&status) } else { print_swapped(&status) }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(args: SetArgs) -> Result<(), CommandError> {
    // What is wrong on this side is told before a node is asked.
    let source = source(&args.policy)?;
    let config = args.config.as_deref().map(config).transpose()?.unwrap_or_default();
    let client = args.node.connect().await?;
    let by = args.by.name();
    let set = SetPolicy { service: args.service, source, config, allow: args.allow, by, discover: args.discover };
    let status = client.set_policy(set).await?;
    if args.output.json {
        output::print_json(&status);
    } else {
        print_swapped(&status);
    }
    Ok(())
}

async fn get(args: GetArgs) -> Result<(), CommandError> {
    let client = args.node.connect().await?;
    let Some(service) = args.service else {
        let services = client.services(false).await?;
        if args.output.json {
            output::print_json(&services);
        } else {
            print_services(&services);
        }
        return Ok(());
    };
    let status = client.policy(&service).await?;
    if args.output.json {
        output::print_json(&status);
    } else {
        print_running(&status);
    }
    Ok(())
}

impl ByArgs {
    fn name(&self) -> String {
        self.by.clone().unwrap_or_else(node_args::user)
    }
}

fn source(policy: &str) -> Result<PolicySource, CommandError> {
    let path = Path::new(policy);
    let is_file = policy.contains(['/', '\\']) || path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("wasm"));
    if !is_file {
        return Ok(PolicySource::Bundled(policy.to_owned()));
    }
    match fs::read(path) {
        Ok(bytes) => Ok(PolicySource::Component { bytes, origin: policy.to_owned() }),
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            Err(CommandError::usage(format!("{policy} is a directory, not a .wasm file")))
        }
        Err(error) => Err(CommandError::usage(format!("cannot read {policy}: {error}"))),
    }
}

/// The configuration's text; that it is a JSON object is checked here, what it says by the policy.
fn config(argument: &str) -> Result<String, CommandError> {
    let (text, place) = match argument.strip_prefix('@') {
        Some(file) => {
            let text = fs::read_to_string(file)
                .map_err(|error| CommandError::usage(format!("cannot read the configuration {file}: {error}")))?;
            (text, file)
        }
        None => (argument.to_owned(), "--config"),
    };
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
        .map_err(|error| CommandError::usage(format!("{place} is not a JSON object: {error}")))?;
    Ok(text)
}

fn print_swapped(status: &PolicyStatus) {
    let running = &status.running;
    print_line(format!(
        "{} is now balanced by {} {} (version {}, {})",
        name(&status.service),
        name(&running.name),
        name(&running.plugin_version),
        running.version,
        plan(running),
    ));
    if let Some(swap) = &status.swap {
        let times =
            [("load", swap.load_seconds), ("build and check", swap.build_seconds), ("publish", swap.publish_seconds)];
        let told: Vec<_> = times.iter().map(|(what, seconds)| format!("{what} {}", seconds_span(*seconds))).collect();
        print_line(told.join(", "));
    }
    if !status.warning.is_empty() {
        print_line(format!("warning: {}", status.warning));
    }
}

fn print_running(status: &PolicyStatus) {
    let running = &status.running;
    let mut table = output::table(["", ""]);
    let mut add = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    add("service", status.service.clone());
    add("policy", format!("{} {}", running.name, running.plugin_version));
    add("version", format!("{} of {}", running.version, status.history.first().map_or(0, |newest| newest.version)));
    add("plan", plan(running));
    add("config", running.config.clone());
    if !running.allow.is_empty() {
        add("allowed", running.allow.join(", "));
    }
    add("from", running.origin.clone());
    add("sha256", running.sha256.clone());
    add(
        "set",
        if running.at_unix_ms == 0 { "-".into() } else { format!("{}{}", ago(running.at_unix_ms), by(running)) },
    );
    if !status.degraded.is_empty() {
        add("degraded", status.degraded.clone());
    }
    add("failed picks", running.pick_failures.to_string());
    if !running.reason.is_empty() {
        add("remark", running.reason.clone());
    }
    // Names and values need no header.
    let text = table.to_string();
    print_line(text.lines().skip(1).map(str::trim_end).collect::<Vec<_>>().join("\n"));
}

fn print_history(status: &PolicyStatus) {
    let mut table = output::table([
        "VERSION",
        "POLICY",
        "OUTCOME",
        "SET",
        "BY",
        "FROM",
        "SHA256",
        "CONFIG",
        "ALLOWED",
        "FAILED PICKS",
        "REMARK",
    ]);
    for version in &status.history {
        let tone = match version.outcome {
            "running" => Tone::Good,
            "superseded" => Tone::Dim,
            _ => Tone::Bad,
        };
        table.add_row([
            number(version.version),
            Cell::new(format!("{} {}", version.name, version.plugin_version)),
            toned(version.outcome, tone),
            Cell::new(ago(version.at_unix_ms)),
            Cell::new(or_dash(&version.by)),
            Cell::new(&version.origin),
            Cell::new(version.sha256.chars().take(12).collect::<String>()),
            Cell::new(&version.config),
            Cell::new(or_dash(&version.allow.join(","))),
            number(version.pick_failures),
            Cell::new(&version.reason),
        ]);
    }
    output::print_table(&table);
}

fn print_services(services: &[Service]) {
    if services.is_empty() {
        print_line(
            "This node watches no service yet: it begins with the first call of one, or with `policy set --discover`.",
        );
        return;
    }
    let mut table = output::table(["SERVICE", "POLICY", "VERSION", "PLAN", "ENDPOINTS", "PICKS", "REGISTRY"]);
    for service in services {
        let policy = format!("{} {}", service.policy.name, service.policy.plugin_version);
        let policy = if service.degraded.is_empty() {
            Cell::new(&policy)
        } else {
            toned(format!("{} (degraded)", policy.trim_end()), Tone::Bad)
        };
        let registry = match (service.listed, service.stale_seconds) {
            (true, None) => toned("ok", Tone::Good),
            (_, Some(age)) => toned(format!("out of reach for {}", seconds_span(age)), Tone::Bad),
            (false, None) => toned("not listed yet", Tone::Bad),
        };
        table.add_row([
            Cell::new(&service.name),
            policy,
            number(service.policy.version),
            Cell::new(&service.plan),
            number(service.endpoint_count.into()),
            number(service.picks),
            registry,
        ]);
    }
    output::print_table(&table);
}

fn number(number: u64) -> Cell {
    Cell::new(number).right()
}

fn plan(version: &PolicyVersion) -> String {
    if version.plan.is_empty() { "no plan yet".into() } else { name(&version.plan) }
}

fn by(version: &PolicyVersion) -> String {
    if version.by.is_empty() { String::new() } else { format!(" by {}", version.by) }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn seconds_span(seconds: f64) -> String {
    // What is no span comes from no node of ours.
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "-".into(), span)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::{super::output::ExitKind, *};

    #[test]
    fn a_path_is_a_file_and_a_name_is_bundled() {
        assert_eq!(source("weighted").unwrap(), PolicySource::Bundled("weighted".into()));
        for missing in ["./weighted", "missing.wasm", "no/such/policy.WASM"] {
            let failure = source(missing).unwrap_err();
            assert_eq!(failure.kind(), ExitKind::Usage);
            assert!(failure.to_string().contains(missing), "{failure}");
        }
        let folder = source("./").unwrap_err();
        assert!(folder.to_string().contains("is a directory"), "{folder}");
    }

    #[test]
    fn a_configuration_is_a_json_object_from_the_flag_or_a_file() {
        assert_eq!(config(r#"{"a": 1}"#).unwrap(), r#"{"a": 1}"#);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "{}").unwrap();
        assert_eq!(config(&format!("@{}", file.path().display())).unwrap(), "{}");
        for bad in ["[]", "{", "@/no/such/file", "min_endpoints=2"] {
            assert_eq!(config(bad).unwrap_err().kind(), ExitKind::Usage, "{bad}");
        }
    }
}
