//! Calls a Greeter, directly or through a Waymark node, and prints who answered.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use greeter::{
    INSTANCE_HEADER,
    hello::{HelloRequest, HelloResponse, greeter1_client::Greeter1Client, greeter2_client::Greeter2Client},
};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// The header by which a Waymark node knows which service a call is for.
const SERVICE_HEADER: &str = "waymark-service";

/// Calls SayHello1 or SayHello2 and counts who answered.
#[derive(Debug, Parser)]
#[command(
    name = "greeter-client",
    version,
    after_help = "Examples:\n  greeter-client 127.0.0.1:8080                              one server, directly\n  \
                  greeter-client 127.0.0.1:7700 --service ayang/server1       through a node"
)]
struct Args {
    /// A Greeter server or a Waymark node.
    #[arg(value_name = "HOST:PORT", env = "GREETER_ADDRESS")]
    address: String,
    /// Sent as the header `waymark-service`: which service a node shall balance the calls over.
    #[arg(long, env = "GREETER_SERVICE_NAME", value_name = "NAME")]
    service: Option<String>,
    /// Which method to call: 1 is SayHello1, 2 is SayHello2.
    #[arg(long, value_name = "1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    greeter: u8,
    /// How many calls.
    #[arg(long, value_name = "N", default_value_t = 100)]
    calls: u64,
    /// Calls a second; 0 means one after the other without a pause.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0)]
    rate: f64,
    /// How long a call may take.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    anyhow::ensure!(
        args.rate.is_finite() && args.rate >= 0.0,
        "--rate {} is not a number of calls a second",
        args.rate
    );
    let target = if args.address.contains("://") { args.address.clone() } else { format!("http://{}", args.address) };
    let channel = Endpoint::from_shared(target)
        .with_context(|| format!("{:?} is not an address", args.address))?
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .with_context(|| format!("cannot connect to {}", args.address))?;
    let service = args
        .service
        .as_deref()
        .map(MetadataValue::try_from)
        .transpose()
        .context("--service cannot be sent as a header")?;

    let mut pace = (args.rate > 0.0).then(|| tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate)));
    let began = Instant::now();
    let mut tally = Tally::default();
    for _ in 0..args.calls {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let mut request = Request::new(HelloRequest { name: "hello".into() });
        request.set_timeout(Duration::from_millis(args.timeout_ms));
        if let Some(service) = &service {
            request.metadata_mut().insert(SERVICE_HEADER, service.clone());
        }
        tally.count(call(&channel, args.greeter, request).await);
    }
    // Whoever reads it may have seen enough.
    let _ = io::stdout().write_all(tally.table(began.elapsed()).as_bytes());
    Ok(if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn call(
    channel: &Channel,
    greeter: u8,
    request: Request<HelloRequest>,
) -> Result<Response<HelloResponse>, Status> {
    match greeter {
        1 => Greeter1Client::new(channel.clone()).say_hello1(request).await,
        _ => Greeter2Client::new(channel.clone()).say_hello2(request).await,
    }
}

/// Who answered how often, and what failed.
#[derive(Debug, Default)]
struct Tally {
    answers: BTreeMap<(String, String), u64>,
    failures: BTreeMap<(String, String), u64>,
}

impl Tally {
    fn count(&mut self, answer: Result<Response<HelloResponse>, Status>) {
        let (map, key) = match answer {
            Ok(response) => {
                let instance = response.metadata().get(INSTANCE_HEADER).map(MetadataValue::<Ascii>::to_str);
                let instance = instance.and_then(Result::ok).unwrap_or("(not named)").to_owned();
                (&mut self.answers, (instance, response.into_inner().reply))
            }
            Err(status) => (&mut self.failures, (format!("{:?}", status.code()), status.message().to_owned())),
        };
        *map.entry(key).or_default() += 1;
    }

    fn table(&self, took: Duration) -> String {
        let answered: u64 = self.answers.values().sum();
        let failed: u64 = self.failures.values().sum();
        let mut out = String::new();
        let width = self.answers.keys().map(|(instance, _)| instance.len()).max().unwrap_or(0).max("INSTANCE".len());
        let reply = self.answers.keys().map(|(_, reply)| reply.len()).max().unwrap_or(0).max("REPLY".len());
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        line(format_args!("{:width$}  {:reply$}  {:>8}  {:>6}", "INSTANCE", "REPLY", "CALLS", "SHARE"));
        for ((instance, text), calls) in &self.answers {
            let share = 100.0 * *calls as f64 / answered as f64;
            line(format_args!("{instance:width$}  {text:reply$}  {calls:>8}  {share:>5.1}%"));
        }
        line(format_args!("{answered} answered, {failed} failed, in {:.2} s", took.as_secs_f64()));
        for ((code, message), calls) in &self.failures {
            line(format_args!("{calls} x {code}: {message}"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(instance: &str) -> Response<HelloResponse> {
        let mut response = Response::new(HelloResponse { reply: "server1:hello".into() });
        response.metadata_mut().insert(INSTANCE_HEADER, instance.parse().expect("visible ASCII"));
        response
    }

    #[test]
    fn the_table_has_a_share_for_each_instance_and_a_line_for_each_failure() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.count(Ok(answer("192.0.2.1:80")));
        }
        tally.count(Ok(answer("192.0.2.2:80")));
        tally.count(Err(Status::unavailable("none reachable")));
        let table = tally.table(Duration::from_millis(1500));
        assert_eq!(
            table,
            "INSTANCE      REPLY             CALLS   SHARE\n\
             192.0.2.1:80  server1:hello         3   75.0%\n\
             192.0.2.2:80  server1:hello         1   25.0%\n\
             4 answered, 1 failed, in 1.50 s\n\
             1 x Unavailable: none reachable\n"
        );
    }
}
