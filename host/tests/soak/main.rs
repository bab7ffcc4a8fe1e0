//! A soak: mixed load on one node whose instances come, go and fail all the while. Memory, calls in
//! flight and descriptors have to stay flat, and no call may fail but those that an instance was
//! answering when it crashed.
//!
//! ```text
//!   cargo test --test soak                         half a minute
//!   cargo test --test soak -- --minutes 60         an hour
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test that prints what it finds")]

mod churn;
mod load;
#[path = "../it/dataplane/process.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile clients")]
mod process;
#[path = "../it/dataplane/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the data plane")]
mod support;

use std::{
    fs,
    process::ExitCode,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use self::{churn::Churn, load::Load, process::Process};

/// How often it is looked at what the node holds.
const SAMPLES: u32 = 12;

/// Those before it warm up: allocator, tables, one connection an instance.
const WARM: usize = 4;

/// What the node may hold more at the end than in the warm part: what an allocator keeps differs so
/// much from run to run.
const MEMORY: u64 = 24 << 20;

/// One descriptor an instance, and those of calls to the admin port and of instances that just
/// went.
const DESCRIPTORS: usize = churn::MOST + 8;

/// What the node holds at one time.
struct Sample {
    at: Duration,
    calls: usize,
    lost: usize,
    failed: usize,
    resident: u64,
    descriptors: usize,
    in_flight: u64,
}

async fn sample(node: &Process, load: &Load, began: Instant) -> Sample {
    let in_flight = in_flight(node).await;
    Sample {
        at: began.elapsed(),
        calls: load.calls.load(SeqCst),
        lost: load.lost.load(SeqCst),
        failed: load.failed.lock().unwrap().len(),
        resident: node.resident("VmRSS"),
        descriptors: fs::read_dir(node.proc("fd")).unwrap().count(),
        in_flight,
    }
}

/// Calls in flight as the node's metrics have them.
async fn in_flight(node: &Process) -> u64 {
    let mut stream = TcpStream::connect(node.admin).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    support::soon(stream.read_to_string(&mut text)).await.unwrap();
    let line = text.lines().find(|line| line.contains("dataplane_requests_in_flight{service=\"svc\"}"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Half a minute, or `--minutes N`. `cargo test` gives other options too, which mean nothing here.
fn duration() -> Duration {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--minutes").skip(1);
    arguments.next().map_or(Duration::from_secs(30), |minutes| {
        Duration::from_secs_f64(60.0 * minutes.parse::<f64>().expect("--minutes takes a number"))
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("soak: test");
        return ExitCode::SUCCESS;
    }
    let (duration, began) = (duration(), Instant::now());
    let node = Process::start().await;
    let churn = Churn::start(&node).await;
    let load = Load::start(node.node).await;
    let mut samples = Vec::new();
    for n in 1..=SAMPLES {
        tokio::time::sleep((duration * n / SAMPLES).saturating_sub(began.elapsed())).await;
        samples.push(sample(&node, &load, began).await);
    }
    let changes = churn.stop().await;
    load.stop().await;
    // With nobody calling, what is left is left for good.
    let settled = tokio::time::timeout(support::LONG, async {
        while in_flight(&node).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let settled = settled.await.is_ok();
    let last = sample(&node, &load, began).await;

    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header([
        "after",
        "calls",
        "lost in a crash",
        "failed",
        "MiB resident",
        "descriptors",
        "in flight",
    ]);
    for Sample { at, calls, lost, failed, resident, descriptors, in_flight } in samples.iter().chain([&last]) {
        table.add_row([
            format!("{:.0} s", at.as_secs_f64()),
            calls.to_string(),
            lost.to_string(),
            failed.to_string(),
            format!("{:.1}", *resident as f64 / f64::from(1 << 20)),
            descriptors.to_string(),
            in_flight.to_string(),
        ]);
    }
    println!("{table}\nsoak: instances changed {changes} times, {} crashes", load::crashes());

    let mut faults = load.failed.lock().unwrap().clone();
    let warm = samples[..WARM].iter().map(|sample| sample.resident).max().unwrap();
    if last.resident > warm + MEMORY {
        faults.push(format!("{} bytes are resident, {warm} were", last.resident));
    }
    let warm = samples[..WARM].iter().map(|sample| sample.descriptors).max().unwrap();
    if last.descriptors > warm.max(DESCRIPTORS) + DESCRIPTORS {
        faults.push(format!("{} descriptors are open, {warm} were", last.descriptors));
    }
    if !settled {
        faults.push(format!("{} calls are in flight, and nobody calls", last.in_flight));
    }
    // An instance that crashes takes at most the call that each client had there.
    if last.lost > load::crashes() * load::CLIENTS {
        faults.push(format!("{} calls were lost in {} crashes", last.lost, load::crashes()));
    }
    if last.calls == 0 {
        faults.push("no call was made".to_owned());
    }
    if node.log().contains("panicked") {
        faults.push(node.log());
    }
    faults.iter().take(10).for_each(|fault| println!("soak: FAILED: {fault}"));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
