//! `waymark resolve` and `waymark watch`: a service as the registry has it.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{
    output::{self, CommandError},
    registry::RegistryArgs,
    signals::terminated,
};
use crate::{
    model::{Endpoint, InstanceId, ServiceName, Skips},
    snapshot::{Reader, Snapshot},
    text,
};

/// Flags of `waymark resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark resolve ayang/server1 --registry http://127.0.0.1:2379
  waymark resolve ayang/server1 --json | jq -r '.endpoints[].address'

It exits with 1 when the service has no endpoints.")]
pub(super) struct ResolveArgs {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How long to wait for the registry, seconds.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Flags of `waymark watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  waymark watch ayang/server1 --registry http://127.0.0.1:2379
  waymark watch ayang/server1 --json        one object a change

It goes on through outages of the registry, and says when what it shows is old. Stop it with Ctrl-C.")]
pub(super) struct WatchArgs {
    /// The service, for example `ayang/server1`.
    service: ServiceName,
    /// Print one JSON object a change.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) async fn resolve(args: ResolveArgs) -> Result<ExitCode, CommandError> {
    let (registry, scheme) = args.registry.connect().await?;
    warn_of(scheme.warning());
    let mut reader = registry.subscribe(args.service.clone(), scheme).await?;
    let snapshot = tokio::time::timeout(Duration::from_secs(args.timeout), reader.settled())
        .await
        .map_err(|_| CommandError::unreachable(format!("the registry did not answer within {} s", args.timeout)))?
        .map_err(|closed| CommandError::failed(closed.to_string()))?;
    if let (false, Some(stale)) = (snapshot.listed, &snapshot.stale) {
        return Err(CommandError::unreachable(format!("cannot read {}: {}", args.service, stale.reason)));
    }
    if args.json {
        output::print_json(&to_json(&snapshot));
    } else {
        output::print_table(&output::endpoints_table(&snapshot.endpoints));
        output::print_line(format_args!("{} at revision {}", count(snapshot.endpoints.len()), snapshot.revision));
        note_skipped(&snapshot.skips);
    }
    if snapshot.endpoints.is_empty() {
        let left_out = match snapshot.skips.total() {
            0 => String::new(),
            _ => format!(": entries and instances that are there were left out: {}", snapshot.skips),
        };
        return Err(CommandError::failed(format!("{} has no endpoints{left_out}", args.service)));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn watch(args: WatchArgs) -> Result<ExitCode, CommandError> {
    let (registry, scheme) = args.registry.connect().await?;
    warn_of(scheme.warning());
    let mut reader = registry.subscribe(args.service.clone(), scheme).await?;
    tokio::select! {
        done = follow(&mut reader, args.json) => done.map(|()| ExitCode::SUCCESS),
        _ = terminated() => Ok(ExitCode::SUCCESS),
    }
}

async fn follow(reader: &mut Reader, as_json: bool) -> Result<(), CommandError> {
    let mut known: BTreeMap<InstanceId, Endpoint> = BTreeMap::new();
    let (mut first, mut stale, mut skipped) = (true, false, Skips::default());
    loop {
        let snapshot = reader.changed().await.map_err(|closed| CommandError::failed(closed.to_string()))?;
        if as_json {
            output::print_json_line(&to_json(&snapshot));
            continue;
        }
        if let (false, Some(staleness)) = (stale, &snapshot.stale) {
            output::print_line(format_args!(
                "{}  registry unreachable, showing what was last known: {}",
                output::clock(SystemTime::now()),
                text::shown(&staleness.reason, text::WORDS)
            ));
        } else if stale && snapshot.stale.is_none() {
            output::print_line(format_args!("{}  registry is back", output::clock(SystemTime::now())));
        }
        stale = snapshot.stale.is_some();
        if !snapshot.listed {
            continue;
        }
        let now: BTreeMap<_, _> = snapshot.endpoints.iter().map(|e| (e.id.clone(), e.clone())).collect();
        if first {
            output::print_table(&output::endpoints_table(&snapshot.endpoints));
            output::print_line(format_args!("{} at revision {}; watching", count(now.len()), snapshot.revision));
            first = false;
        } else {
            for line in difference(&known, &now) {
                output::print_line(format_args!(
                    "{}  revision {}  {line}",
                    output::clock(SystemTime::now()),
                    snapshot.revision
                ));
            }
        }
        if snapshot.skips != skipped {
            skipped = snapshot.skips.clone();
            note_skipped(&skipped);
        }
        known = now;
    }
}

fn difference(old: &BTreeMap<InstanceId, Endpoint>, new: &BTreeMap<InstanceId, Endpoint>) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, endpoint) in new {
        match old.get(id) {
            None => lines.push(format!("+ {} {}", output::name(endpoint.address.as_str()), attributes(endpoint))),
            Some(before) if before != endpoint => {
                let address = output::name(endpoint.address.as_str());
                lines.push(format!("~ {address} {} (was {})", attributes(endpoint), attributes(before)));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        old.iter()
            .filter(|(id, _)| !new.contains_key(*id))
            .map(|(_, endpoint)| format!("- {}", output::name(endpoint.address.as_str()))),
    );
    lines
}

fn attributes(endpoint: &Endpoint) -> String {
    let zone = if endpoint.locality.zone.is_empty() { "-" } else { &endpoint.locality.zone };
    let space = if endpoint.metadata.is_empty() { "" } else { " " };
    format!("zone {} weight {}{space}{}", output::name(zone), endpoint.weight, output::metadata(endpoint))
}

fn to_json(snapshot: &Snapshot) -> serde_json::Value {
    let endpoints: Vec<_> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| {
            let metadata: BTreeMap<_, _> = endpoint.metadata.iter().cloned().collect();
            json!({
                "id": endpoint.id.as_str(),
                "address": endpoint.address.as_str(),
                "zone": &*endpoint.locality.zone,
                "weight": endpoint.weight,
                "metadata": metadata,
            })
        })
        .collect();
    json!({
        "service": snapshot.service.as_str(),
        "revision": snapshot.revision.0,
        "endpoints": endpoints,
        "skipped_entries": snapshot.skipped,
        "skipped": snapshot.skips.parts().into_iter().map(|(n, reason)| (reason, n)).collect::<BTreeMap<_, _>>(),
        "warned": snapshot.skips.warned,
        "stale": snapshot.stale.as_ref().map(|stale| stale.reason.to_string()),
    })
}

fn count(endpoints: usize) -> String {
    if endpoints == 1 { "1 endpoint".into() } else { format!("{endpoints} endpoints") }
}

fn note_skipped(skipped: &Skips) {
    if skipped.total() > 0 {
        output::say(format_args!(
            "warning: entries and instances under this service's prefix were left out: {skipped}"
        ));
    }
    if skipped.warned > 0 {
        let (n, scheme) = (skipped.warned, text::shown(&skipped.scheme, text::NAME));
        output::say(format_args!(
            "warning: entries that may not mean what they say, as the key scheme {scheme} warns: {n}"
        ));
    }
}

fn warn_of(warning: Option<&str>) {
    if let Some(warning) = warning {
        output::say(format_args!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_difference_names_what_came_changed_and_went() {
        let at = |n: u8, weight| {
            let endpoint = Endpoint { weight, ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap()) };
            (endpoint.id.clone(), endpoint)
        };
        let old = BTreeMap::from([at(1, 1), at(2, 1)]);
        let new = BTreeMap::from([at(2, 5), at(3, 1)]);
        let lines = difference(&old, &new);
        assert_eq!(lines[0], "~ 192.0.2.2:80 zone - weight 5 (was zone - weight 1)");
        assert!(lines[1].starts_with("+ 192.0.2.3:80"));
        assert_eq!(lines[2], "- 192.0.2.1:80");
    }
}
