//! The study note's part: its two servers, their keys, its replies, and the mistake it warns of.

use std::net::SocketAddr;

use greeter::{
    Serving,
    hello::{HelloRequest, greeter1_client::Greeter1Client, greeter2_client::Greeter2Client},
};
use tokio::time::Duration;
use tonic::{Code, Request, Status, transport::Channel};

use super::{
    DemoError,
    load::{SERVICE_HEADER, dial, header},
    processes::{Process, Spec},
    scene::Scene,
    stage::{is_free, loopback},
    summary::{NoteCalls, NoteReport, UNAVAILABLE, UNIMPLEMENTED},
};

/// The note's two services, with their ports.
pub(super) const SERVICES: [(&str, Serving, u16); 2] =
    [("ayang/server1", Serving::One, 8080), ("ayang/server2", Serving::Two, 8081)];

/// What a client asks for that forgets the end of the name.
const BARE: &str = "ayang/server";

/// How many calls of each kind.
const CALLS: u32 = 20;

/// No call of the note takes this long.
const DEADLINE: Duration = Duration::from_secs(5);

/// Plays the part.
pub(super) async fn play(scene: &mut Scene) -> Result<(), DemoError> {
    let ui = scene.ui.clone();
    ui.say(
        "Two Greeter servers start as processes of their own. Each serves one of two gRPC services, and puts its address into \
         the registry under a lease that it keeps alive.",
    );
    let mut ports_as_in_the_note = true;
    for (service, greeter, port) in SERVICES {
        let spec = |listen| Spec {
            service: service.into(),
            greeter,
            listen,
            zone: "",
            weight: 1,
            delay: Duration::ZERO,
            ttl: scene.pace.ttl,
        };
        let registry = scene.stage.registry();
        let start = async |port| Process::start(&scene.program, &spec(loopback(port)), &registry).await;
        let process = match if is_free(port) { start(port).await } else { start(0).await } {
            // Somebody was faster.
            Err(_) if !is_free(port) => start(0).await?,
            started => started?,
        };
        if process.address().port() != port {
            ports_as_in_the_note = false;
            ui.say(format!(
                "Port {port} of the note is in use on this machine, so {service} listens on {} instead, and its key differs \
                 in that.",
                process.address()
            ));
        }
        scene.note_servers.push(process);
    }
    let mut entries = Vec::new();
    for (service, ..) in SERVICES {
        for entry in scene.stage.entries(&format!("{service}/")).await? {
            entries.push((entry.key, String::from_utf8_lossy(&entry.value).into_owned()));
        }
    }
    ui.say("What stands in the registry now, as `etcdctl get --prefix ayang/` prints it:");
    let lines: Vec<String> = entries.iter().map(|(key, value)| format!("  {key}\n  {value}")).collect();
    ui.print(lines.join("\n"));
    scene.pause().await;

    ui.say(format!(
        "A client calls through the node and names the service in a header. Asked for the whole name, it gets the server it \
         means. Asked for {BARE:?}, Waymark's etcd_naming finds nothing, because it reads keys by \"{BARE}/\":"
    ));
    let proxy = dial(scene.stage.proxy()).await?;
    let (mut calls, mut words) = (Vec::new(), None);
    for (method, service) in [(1, SERVICES[0].0), (2, SERVICES[1].0), (1, BARE), (2, BARE)] {
        let made = call(&proxy, method, service, "etcd_naming").await?;
        ui.print(line(&made));
        words = made.words.clone().or(words);
        calls.push(made);
    }
    if let Some(words) = words {
        ui.say(format!("The node says why: {words}."));
    }
    scene.pause().await;

    ui.say(format!(
        "The mistake: read by the bare prefix {BARE:?}, as some releases of the Go client did, both services look like one. \
         A second node does that on request (key scheme bare_prefix), and every other call meets a server that does not know \
         the method:"
    ));
    let node = scene.stage.bare_prefix_node().await?;
    let made = bare(node.proxy_addr()).await;
    node.shutdown().await;
    for made in made? {
        ui.print(line(&made));
        calls.push(made);
    }
    scene.pause().await;
    scene.report.note = Some(NoteReport { entries, ports_as_in_the_note, calls });
    Ok(())
}

async fn bare(proxy: SocketAddr) -> Result<[NoteCalls; 2], DemoError> {
    let channel = dial(proxy).await?;
    Ok([call(&channel, 1, BARE, "bare_prefix").await?, call(&channel, 2, BARE, "bare_prefix").await?])
}

fn line(calls: &NoteCalls) -> String {
    format!("  {} on {:14} {}", calls.method, calls.service, calls.text())
}

/// Makes the calls of one kind and counts the answers.
async fn call(
    channel: &Channel,
    method: u8,
    service: &'static str,
    key_scheme: &'static str,
) -> Result<NoteCalls, DemoError> {
    let header = header(service)?;
    let (mut answers, mut words) = (Vec::<(String, u32)>::new(), None);
    for _ in 0..CALLS {
        let mut request = Request::new(HelloRequest { name: "hello".into() });
        request.set_timeout(DEADLINE);
        request.metadata_mut().insert(SERVICE_HEADER, header.clone());
        let answer = match method {
            1 => Greeter1Client::new(channel.clone()).say_hello1(request).await,
            _ => Greeter2Client::new(channel.clone()).say_hello2(request).await,
        };
        let text = match answer {
            Ok(response) => response.into_inner().reply,
            Err(status) => {
                words.get_or_insert_with(|| status.message().to_owned());
                code(&status)
            }
        };
        match answers.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => answers.push((text, 1)),
        }
    }
    answers.sort();
    answers.reverse();
    let method = if method == 1 { "SayHello1" } else { "SayHello2" };
    Ok(NoteCalls { method, service, key_scheme, answers, words })
}

/// A status code as gRPC writes it, with its message where that is not the one expected here.
fn code(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => UNIMPLEMENTED.into(),
        Code::Unavailable => UNAVAILABLE.into(),
        code => format!("{code:?}: {}", status.message()),
    }
}
