//! How the cost of following and registering grows.

use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions};

use super::{
    Args,
    harness::{
        Samples,
        child::Child,
        report::{Table, Unit},
    },
    layout::Layout,
    processes::runtime,
    roles::Cost,
    server::Server,
};

fn ask(child: &mut Child, line: &str) -> anyhow::Result<Cost> {
    Ok(serde_json::from_str(&child.ask(line)?)?)
}

/// The first look at everything, beside reading the same keys by hand.
pub(crate) fn sync(args: &Args) -> anyhow::Result<Table> {
    let runtime = runtime()?;
    let layouts = if args.options.quick {
        vec![Layout { services: 50, each: 10 }]
    } else {
        vec![Layout { services: 10_000, each: 10 }, Layout { services: 100, each: 1_000 }]
    };
    let mut table = Table::new(
        "Initial sync: from nothing to everything known",
        [
            ("time", Unit::Milliseconds),
            ("time, to raw", Unit::Ratio),
            ("processor time", Unit::Milliseconds),
            ("memory an endpoint", Unit::Bytes),
        ],
    );
    for layout in layouts {
        let server = Server::start(args, &runtime)?;
        runtime.block_on(layout.fill(&server.url))?;
        let contestants = [
            ("raw: an etcd client reads them in pages of 1000", None),
            ("followed: every service has its snapshot", Some("follow")),
            ("balanced: every service has its plan", Some("balance")),
        ];
        let mut figures = contestants.map(|_| [Samples::default(), Samples::default(), Samples::default()]);
        for _ in 0..args.options.rounds(5, 1) {
            for ((_, how), [time, cpu, memory]) in contestants.iter().zip(&mut figures) {
                // A fresh process each time, so that memory is counted from nothing.
                let (role, line) = match how {
                    None => ("raw", "list".to_owned()),
                    Some(how) => ("view", format!("sync {how} {} {}", layout.services, layout.endpoints())),
                };
                let (mut child, _) = Child::start(&[role, &server.url])?;
                let cost = ask(&mut child, &line)?;
                time.push(cost.seconds * 1e3);
                cpu.push(cost.cpu_seconds * 1e3);
                memory.push(cost.memory / layout.endpoints() as f64);
            }
        }
        let baseline = figures[0][0].clone();
        for ((name, _), [time, cpu, memory]) in contestants.iter().zip(figures) {
            let ratio = time.ratio(&baseline);
            table.row(format!("{layout}, {name}"), vec![time, ratio, cpu, memory]);
        }
    }
    Ok(table)
}

/// What one change of one service costs while more and more others are followed.
pub(crate) fn change(args: &Args) -> anyhow::Result<Table> {
    let runtime = runtime()?;
    let (sizes, changes): (&[usize], usize) =
        if args.options.quick { (&[10, 50], 20) } else { (&[100, 1_000, 10_000], 1_000) };
    let mut table = Table::new(
        "One change of one service, by what else is followed",
        [("processor time of the view", Unit::Microseconds), ("to the smallest", Unit::Ratio)],
    );
    let mut smallest = None;
    for services in sizes {
        let layout = Layout { services: *services, each: 10 };
        let server = Server::start(args, &runtime)?;
        runtime.block_on(layout.fill(&server.url))?;
        let (mut view, _) = Child::start(&["view", &server.url])?;
        ask(&mut view, &format!("sync follow {} {}", layout.services, layout.endpoints()))?;
        let mut samples = Samples::default();
        let mut client = runtime.block_on(Client::connect([&server.url], None))?;
        for round in 0..=args.options.rounds(11, 2) {
            let before = view.cpu()?;
            let revision = runtime.block_on(async {
                let mut revision = 0;
                for n in 0..changes {
                    // Another weight each time, so that each is a change.
                    let (key, value) = Layout::entry(0, n % 10);
                    let value = value.replace("\"zone\":\"", &format!("\"zone\":\"{round}-{n}-"));
                    let put = client.put(key, value, None).await?;
                    revision = put.header().map_or(0, etcd_client::ResponseHeader::revision);
                }
                anyhow::Ok(revision)
            })?;
            view.ask(&format!("until {revision}"))?;
            let used = view.cpu()?.saturating_sub(before);
            // The first round warms up.
            if round > 0 {
                samples.push(used.as_secs_f64() * 1e6 / changes as f64);
            }
        }
        let ratio = samples.ratio(smallest.get_or_insert_with(|| samples.clone()));
        table.row(layout.to_string(), vec![samples, ratio]);
    }
    Ok(table)
}

/// Many registrations from one process, and all of them again after the registry lost everything.
pub(crate) fn register(args: &Args) -> anyhow::Result<Table> {
    let runtime = runtime()?;
    let count = if args.options.quick { 20 } else { 1_000 };
    let mut table = Table::new(
        format!("{count} registrations of one process"),
        [("time", Unit::Milliseconds), ("processor time", Unit::Milliseconds)],
    );
    let mut figures = [(); 4].map(|()| (Samples::default(), Samples::default()));
    let push = |(time, cpu): &mut (Samples, Samples), cost: Cost| {
        time.push(cost.seconds * 1e3);
        cpu.push(cost.cpu_seconds * 1e3);
    };
    for _ in 0..args.options.rounds(5, 1) {
        let mut server = Server::start(args, &runtime)?;
        push(&mut figures[0], raw_registrations(&runtime, &server.url, count)?);
        let (mut registrar, _) = Child::start(&["registrar", &server.url])?;
        push(&mut figures[1], ask(&mut registrar, &format!("register {count}"))?);
        let idle = Duration::from_secs(if args.options.quick { 1 } else { 5 });
        let before = registrar.cpu()?;
        std::thread::sleep(idle);
        let used = registrar.cpu()?.saturating_sub(before);
        figures[2].1.push(used.as_secs_f64() * 1e3 / idle.as_secs_f64());
        server.kill();
        server.wipe()?;
        std::thread::sleep(Duration::from_secs(2));
        server.resume(&runtime)?;
        push(&mut figures[3], ask(&mut registrar, "again")?);
    }
    let names = [
        "raw: grant a lease and put a key under it, one after the other",
        "registered: from the first call to the last one registered",
        "kept: a second of keeping them alive",
        "registered again: from the registry's first answer on",
    ];
    for (name, (time, cpu)) in names.iter().zip(figures) {
        table.row(*name, vec![time, cpu]);
    }
    Ok(table)
}

fn raw_registrations(runtime: &tokio::runtime::Runtime, url: &str, count: usize) -> anyhow::Result<Cost> {
    runtime.block_on(async {
        let mut client = Client::connect([url], None).await?;
        let (began, cpu) = (Instant::now(), super::harness::process_cpu());
        for n in 0..count {
            let (key, value) = Layout::entry(n % 10, n);
            let lease = client.lease_grant(10, None).await?;
            client.put(format!("raw/{key}/{n}"), value, Some(PutOptions::new().with_lease(lease.id()))).await?;
        }
        let used = super::harness::process_cpu().saturating_sub(cpu);
        Ok(Cost { seconds: began.elapsed().as_secs_f64(), cpu_seconds: used.as_secs_f64(), memory: 0.0 })
    })
}
