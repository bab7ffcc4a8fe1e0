//! The page at `/`: what this node knows, for a person with a browser. One string, no scripts,
//! nothing from elsewhere.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use serde::Deserialize;

use super::readiness::Report;
use crate::{
    balancer::{PolicyOutcome, ServiceHandle, Services},
    text::{WORDS, shown},
};

/// How many services a page shows; the rest are found by name.
const SHOWN_SERVICES: usize = 50;

/// How many endpoints of a service a page shows.
const SHOWN_ENDPOINTS: usize = 200;

/// How many policy versions a page shows.
const SHOWN_VERSIONS: usize = 6;

/// What to show: `/?service=ayang` shows the services with this in their name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    service: String,
}

/// Text as HTML, in an element or a quoted attribute: whoever's words they are, printable and
/// short.
struct Esc<T>(T);

impl<T: fmt::Display> fmt::Display for Esc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escaping(f), "{}", shown(&self.0, WORDS))
    }
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="2"><title>waymark</title><style>
:root { color-scheme: light dark; --line: #8884; --good: #2a8a4a; --bad: #c0392b; --bar: #4a7fd855; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .2rem; } p { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } .n { text-align: right; } code { font-size: 12.5px; }
.good { color: var(--good); } .bad { color: var(--bad); } .dim { opacity: .65; }
.bar { display: inline-block; height: .7em; background: var(--bar); vertical-align: baseline; }
</style></head><body>
"#;

/// The whole page.
pub(super) fn page(services: &Services, report: &Report, filter: &Filter) -> String {
    let mut html = String::from(HEAD);
    // Writing into a String does not fail.
    let _ = write_page(&mut html, services, report, filter);
    html.push_str("</body></html>\n");
    html
}

fn write_page(html: &mut String, services: &Services, report: &Report, filter: &Filter) -> fmt::Result {
    let (class, word) = if report.ready { ("good", "ready") } else { ("bad", "not ready") };
    writeln!(
        html,
        r#"<h1>waymark <span class="dim">{}</span> <span class="{class}">{word}</span></h1>"#,
        env!("CARGO_PKG_VERSION")
    )?;
    for check in report.checks.iter().filter(|check| !check.ok) {
        writeln!(html, r#"<p class="bad">{}: {}</p>"#, Esc(&check.name), Esc(&check.detail))?;
    }
    let all = services.list();
    let matching: Vec<_> = all.iter().filter(|one| one.name().as_str().contains(&filter.service)).collect();
    write!(html, r#"<p class="dim">{} of {} services"#, matching.len().min(SHOWN_SERVICES), all.len())?;
    if !filter.service.is_empty() {
        write!(html, r#" with <code>{}</code> in their name (<a href="/">all</a>)"#, Esc(&filter.service))?;
    } else if matching.len() > SHOWN_SERVICES {
        write!(html, "; find others with <code>/?service=NAME</code>")?;
    }
    writeln!(
        html,
        r#" · <a href="/metrics">metrics</a> · <a href="/readyz">readyz</a> · gRPC: <code>waymark.v1.Node</code></p>"#
    )?;
    if all.is_empty() {
        writeln!(html, "<p>No service is watched yet: a node begins with the first call of a service.</p>")?;
    }
    matching.into_iter().take(SHOWN_SERVICES).try_for_each(|service| write_service(html, service))
}

fn write_service(html: &mut String, service: &ServiceHandle) -> fmt::Result {
    let state = service.state();
    writeln!(html, "<h2>{}</h2>", Esc(&state.service))?;
    write!(html, "<p>")?;
    if !state.listed {
        write!(html, r#"<span class="bad">not listed yet</span> · "#)?;
    }
    if let Some(stale) = &state.stale {
        let age = seconds(stale.since.elapsed());
        write!(html, r#"<span class="bad">registry out of reach for {age}: {}</span> · "#, Esc(&stale.reason))?;
    }
    write!(html, "revision {} · generation {} · {} picks", state.revision, state.generation, state.counters().picks())?;
    let fallback = state.counters().fallback_picks();
    if fallback > 0 {
        write!(html, r#" · <span class="bad">{fallback} by a fallback</span>"#)?;
    }
    if state.skipped > 0 {
        write!(html, r#" · <span class="bad">{} skipped: {}</span>"#, state.skipped, state.skips)?;
    }
    let policy = Esc(&state.policy_name);
    writeln!(html, "</p><p>policy <b>{policy}</b> version {} · {}</p>", state.policy_version, state.plan_kind())?;

    if let Some(degraded) = &state.degraded {
        writeln!(html, r#"<p class="bad">degraded: {}</p>"#, Esc(degraded))?;
    }

    let total: u64 = state.endpoints.iter().map(|endpoint| endpoint.cell.calls()).sum();
    writeln!(
        html,
        r#"<table><tr><th>address</th><th>zone</th><th class="n">weight</th><th>state</th><th class="n">in flight</th><th class="n">latency</th><th class="n">calls</th><th class="n">failed</th><th>share</th></tr>"#
    )?;
    for one in state.endpoints.iter().take(SHOWN_ENDPOINTS) {
        let (endpoint, cell) = (&one.endpoint, &one.cell);
        let share = if total == 0 { 0.0 } else { 100.0 * cell.calls() as f64 / total as f64 };
        let status = cell.status();
        let class = if status.is_usable() { "good" } else { "bad" };
        let latency = match cell.latency_us() {
            0 => "–".to_owned(),
            micros => format!("{:.1} ms", f64::from(micros) / 1000.0),
        };
        writeln!(
            html,
            r#"<tr><td title="{}">{}</td><td>{}</td><td class="n">{}</td><td class="{class}">{status}</td><td class="n">{}</td><td class="n">{latency}</td><td class="n">{}</td><td class="n">{}</td><td><span class="bar" style="width: {:.0}px"></span> {share:.1} %</td></tr>"#,
            Esc(&endpoint.id),
            Esc(&endpoint.address),
            Esc(&endpoint.locality.zone),
            endpoint.weight,
            cell.in_flight(),
            cell.calls(),
            cell.failures(),
            share * 1.5,
        )?;
    }
    writeln!(html, "</table>")?;
    if state.endpoints.len() > SHOWN_ENDPOINTS {
        writeln!(html, r#"<p class="dim">and {} more endpoints</p>"#, state.endpoints.len() - SHOWN_ENDPOINTS)?;
    }
    write_history(html, service)
}

fn write_history(html: &mut String, service: &ServiceHandle) -> fmt::Result {
    let history = service.history();
    if history.len() < 2 {
        return Ok(());
    }
    writeln!(
        html,
        r#"<table><tr><th class="n">version</th><th>policy</th><th>outcome</th><th>set</th><th>by</th><th>from</th><th class="n">failed picks</th><th>remark</th></tr>"#
    )?;
    for version in history.iter().take(SHOWN_VERSIONS) {
        let class = match version.outcome {
            PolicyOutcome::Running => "good",
            PolicyOutcome::Superseded => "dim",
            PolicyOutcome::Refused | PolicyOutcome::Quarantined => "bad",
        };
        writeln!(
            html,
            r#"<tr><td class="n">{}</td><td title="{}">{} {}</td><td class="{class}">{}</td><td>{} ago</td><td>{}</td><td>{}</td><td class="n">{}</td><td>{}</td></tr>"#,
            version.version,
            Esc(&version.info.config),
            Esc(&version.info.name),
            Esc(&version.info.plugin_version),
            version.outcome.as_str(),
            seconds(version.at.elapsed().unwrap_or_default()),
            Esc(&version.info.by),
            Esc(&version.info.origin),
            version.pick_failures,
            Esc(&version.reason),
        )?;
    }
    writeln!(html, "</table>")
}

/// An age in its largest unit.
fn seconds(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_read_as_html() {
        let escaped = Esc("<script>\"it's\" & more</script>").to_string();
        assert_eq!(escaped, "&lt;script&gt;&quot;it&#39;s&quot; &amp; more&lt;/script&gt;");
    }

    #[test]
    fn a_text_of_others_is_short_and_swaps_nothing() {
        assert_eq!(Esc("a\u{202e}<").to_string(), "a\\u{202e}&lt;");
        assert!(Esc("x".repeat(5 << 20)).to_string().len() < 2 * WORDS);
    }
}
