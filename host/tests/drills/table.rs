//! What a drill found, and whether that is as it must be.

use std::time::Duration;

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{belief::Checked, world::World};

/// How large the drills are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// How long all members are down.
    pub(crate) outage: Duration,
}

/// How soon the view must be right, and what a busy machine is allowed on top of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// A second after etcd answers.
    Second,
    /// A connection that is silent is taken for dead after
    /// [`waymark_node::registry::RegistryConfig::idle_timeout`] at the latest.
    Silence,
    /// Several round trips of 600 ms.
    RoundTrips,
}

/// A drill fails for lost calls at once, and for time only past this: on two busy cores a second
/// may take longer, and the table says so.
const TOLERANCE: Duration = Duration::from_secs(8);

impl Limit {
    fn wanted(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Silence => waymark_node::registry::RegistryConfig::new([""; 0]).idle_timeout + Duration::from_secs(1),
            Self::RoundTrips => Duration::from_secs(5),
        }
    }
}

/// What one drill found.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) calls: usize,
    /// Each of them could have been served: in every drill there are live instances all the time.
    pub(crate) failed: usize,
    /// What the first of them was told, and how long after the heal was counted from.
    pub(crate) why: Option<String>,
    pub(crate) to_gone: usize,
    pub(crate) slowest: Duration,
    /// From etcd answering again until the view was etcd's and every live instance was in it.
    pub(crate) healed: Duration,
    /// The same, until nobody else was: what left without a word goes with its lease.
    pub(crate) exact: Duration,
    pub(crate) limit: Limit,
    /// What leases live at most, and etcd's own tick.
    pub(crate) lease: Duration,
    /// The steps of the node's view, each held against etcd's history.
    pub(crate) believed: Result<Checked, String>,
}

impl Row {
    /// What is not as it must be.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.failed > 0 {
            let why = self.why.as_deref().unwrap_or_default();
            faults
                .push(format!("{} calls failed that a live endpoint could have served; the first: {why}", self.failed));
        }
        match &self.believed {
            Err(why) => faults.push(format!("the node believed what etcd did not hold: {why}")),
            // The recording itself has to have seen the joining and the leaving.
            Ok(Checked { exact: ..2, .. }) => faults.push("hardly a step of the node's view was seen".into()),
            Ok(_) => {}
        }
        let (wanted, lease) = (self.limit.wanted(), self.lease + Duration::from_secs(1));
        if self.healed > wanted + TOLERANCE {
            faults.push(format!("right again after {:.2?}, and not within {wanted:.2?}", self.healed));
        }
        if self.exact > wanted.max(lease) + TOLERANCE {
            faults.push(format!(
                "what left was gone after {:.2?}, and not within {:.2?}",
                self.exact,
                wanted.max(lease)
            ));
        }
        faults
    }

    fn verdict(&self) -> &'static str {
        if !self.faults().is_empty() {
            "FAILED"
        } else if self.healed > self.limit.wanted() {
            "SLOW"
        } else {
            "ok"
        }
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        json!({
            "drill": name,
            "calls": self.calls,
            "failed_calls": self.failed,
            "calls_to_gone_endpoints": self.to_gone,
            "slowest_call_ms": self.slowest.as_millis() as u64,
            "healed_ms": self.healed.as_millis() as u64,
            "wanted_ms": self.limit.wanted().as_millis() as u64,
            "exact_ms": self.exact.as_millis() as u64,
            "believed": self.believed.as_ref().ok().map(|it| json!({"exact": it.exact, "held": it.held, "stale": it.stale})),
            "verdict": self.verdict(),
            "faults": self.faults(),
        })
    }
}

/// Waits until all is right, and stays so, and ends the drill.
pub(crate) async fn conclude(world: World, since: Instant, limit: Limit) -> Result<Row, String> {
    let healed = world.until(since, World::is_right).await?;
    let exact = world.until(since, World::is_exact).await?;
    sleep(Duration::from_millis(500)).await;
    world.until(since, World::is_exact).await?;
    let lease = world.ttl();
    let outcome = world.end().await;
    let failed = outcome.calls.iter().filter(|call| call.result.is_err()).collect::<Vec<_>>();
    let why = failed.first().map(|call| {
        let told = call.result.as_ref().err().map_or("", String::as_str);
        if call.at < since {
            format!("{told} ({:.2?} before)", since - call.at)
        } else {
            format!("{told} ({:.2?} after)", call.at - since)
        }
    });
    Ok(Row {
        calls: outcome.calls.len(),
        failed: failed.len(),
        why,
        to_gone: outcome.to_gone,
        slowest: outcome.calls.iter().map(|call| call.took).max().unwrap_or_default(),
        healed,
        exact,
        limit,
        lease,
        believed: outcome.believed,
    })
}

/// The rows as people read them.
pub(crate) fn table(rows: &[(&str, Result<Row, String>)]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "drill",
        "calls",
        "lost",
        "to gone",
        "slowest call",
        "right again",
        "wanted",
        "gone ones out",
        "steps exact/held/stale",
        "",
    ]);
    for (name, result) in rows {
        let name = name.replace('_', " ");
        match result {
            Ok(row) => table.add_row([
                name,
                row.calls.to_string(),
                row.failed.to_string(),
                row.to_gone.to_string(),
                format!("{} ms", row.slowest.as_millis()),
                format!("{:.2} s", row.healed.as_secs_f64()),
                format!("{:.0} s", row.limit.wanted().as_secs_f64()),
                format!("{:.2} s", row.exact.as_secs_f64()),
                row.believed.as_ref().map_or("wrong".into(), |it| format!("{}/{}/{}", it.exact, it.held, it.stale)),
                row.verdict().to_owned(),
            ]),
            Err(_) => {
                table.add_row([name, String::new(), String::new(), String::new(), String::new(), "never".to_owned()])
            }
        };
    }
    table
}
