//! The node's API on a real listener, over services that the test feeds.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use waymark_node::{
    admin::{
        self, Admin, AdminError, ClientError, NodeClient, Readiness,
        client::{PolicySource, Service, SetPolicy},
    },
    balancer::{Candidate, Connectivity, EndpointStatus, Pick, PickRequest, ServiceDefaults, Services, ServicesConfig},
    model::{Endpoint, Revision, ServiceName, Update},
    naming::NamingError,
    plugin::{Engine, EngineConfig, Grants, Kind},
    policy::LoadReport,
    snapshot::{self, Writer},
};

type Writers = Arc<Mutex<HashMap<ServiceName, Writer>>>;

/// A front door, and what stands behind it.
struct Door {
    address: SocketAddr,
    services: Services,
    writers: Writers,
    registry_up: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), AdminError>>,
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn round_robin(engine: &Engine) -> Candidate {
    let plugin = engine.load_bundled(Kind::Policy, "round_robin").unwrap();
    Candidate::new(plugin.into_policy("{}").unwrap(), "test")
}

async fn door() -> Door {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let initial = round_robin(&engine);
    let writers = Writers::default();
    let follow = {
        let writers = Arc::clone(&writers);
        move |service: ServiceName| {
            let followed = if service.as_str().ends_with('/') {
                let (scheme, reason) = ("test".into(), "it ends with a slash".into());
                Err(NamingError::Refused { scheme, subject: service.to_string(), reason })
            } else {
                let (writer, reader) = snapshot::channel(service.clone());
                writers.lock().unwrap().insert(service, writer);
                Ok(reader)
            };
            std::future::ready(followed)
        }
    };
    let defaults = move |_: &ServiceName| ServiceDefaults::new(initial.clone());
    let mut config = ServicesConfig::new(follow, defaults);
    config.first_list_timeout = Duration::from_millis(20);
    config.coalesce = Duration::ZERO;
    let services = Services::new(config);
    let registry_up = Arc::new(AtomicBool::new(true));
    let up = Arc::clone(&registry_up);
    let readiness = Readiness::default().with_services([name("svc")]).with_check("registry", move || {
        if up.load(SeqCst) { Ok("answers".into()) } else { Err("connection refused".into()) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let admin = Admin { readiness, ..Admin::new(services.clone(), engine) };
    let served = tokio::spawn(admin::serve(listener, admin, async {
        let _ = stopped.await;
    }));
    Door { address, services, writers, registry_up, stop: Some(stop), served }
}

impl Door {
    /// A front door with the service `svc`, listed with so many endpoints.
    async fn with_endpoints(count: u8) -> Self {
        let door = door().await;
        door.services.add(&name("svc")).await.unwrap();
        door.list(1, count).await;
        door
    }

    fn update(&self, update: Update) {
        self.writers.lock().unwrap().get_mut("svc").unwrap().apply(update);
    }

    /// Lists `count` endpoints at this revision and waits until they are published.
    async fn list(&self, revision: i64, count: u8) {
        let endpoints = (1..=count).map(endpoint).collect();
        let mut reader = self.services.get("svc").unwrap().subscribe();
        self.update(Update::Reset { revision: Revision(revision), endpoints, skipped: 3 });
        while reader.current().revision != Revision(revision) {
            reader.changed().await.unwrap();
        }
    }

    async fn client(&self) -> NodeClient {
        NodeClient::connect(&self.address.to_string()).await.unwrap()
    }

    async fn channel(&self) -> tonic::transport::Channel {
        tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// HTTP/1.1, as a probe or a browser speaks it: the head and the body of the answer.
    async fn get(&self, path: &str) -> (String, String) {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (head.to_owned(), if is_chunked { unchunked(body) } else { body.to_owned() })
    }

    async fn close(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }
}

/// A body that came in chunks (RFC 9112, section 7.1), and came whole.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body += &after[..size];
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint { weight: u32::from(n), ..Endpoint::at(format!("192.0.2.{n}:80").parse().unwrap()) }
}

fn bundled(policy: &str, config: &str) -> SetPolicy {
    SetPolicy {
        service: name("svc"),
        source: PolicySource::Bundled(policy.into()),
        config: config.into(),
        allow: Grants::NONE,
        by: "anna".into(),
        discover: false,
    }
}

fn component(bytes: Vec<u8>) -> SetPolicy {
    SetPolicy { source: PolicySource::Component { bytes, origin: "mine.wasm".into() }, ..bundled("", "") }
}

fn pick(door: &Door) -> Pick {
    let headers = http::HeaderMap::new();
    let state = door.services.get("svc").unwrap().state();
    let sequence = state.next_sequence();
    state.pick(&PickRequest { path: "/hello.Greeter1/SayHello1", headers: &headers, peer: None, sequence, tried: &[] })
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { reason } => reason,
        other => panic!("not refused by the node: {other:?}"),
    }
}

#[tokio::test]
async fn a_service_is_told_as_it_is() {
    let door = Door::with_endpoints(3).await;
    assert!(matches!(pick(&door), Pick::Endpoint(_)));
    let client = door.client().await;
    let service = client.service(&name("svc"), false).await.unwrap();
    assert_eq!((service.revision, service.listed, service.skipped_entries, service.picks), (1, true, 3, 1));
    assert_eq!((service.policy.name.as_str(), service.policy.version), ("round_robin", 1));
    assert_eq!((service.plan.as_str(), service.endpoint_count), ("rotation", 3));
    assert_eq!(service.endpoints[2].address, "192.0.2.3:80");
    assert_eq!(service.endpoints[2].state, Some(EndpointStatus::Idle));
    door.services.get("svc").unwrap().state().endpoints[2].cell.set_connectivity(Connectivity::BackingOff);
    assert_eq!(client.service(&name("svc"), false).await.unwrap().endpoints[2].state, Some(EndpointStatus::BackingOff));
    let report = LoadReport { application_utilization: 0.5, rps: 12.0, ..LoadReport::default() };
    let call = door.services.get("svc").unwrap().state().endpoints[1].cell.begin().unwrap();
    call.reported(&report, [("queue".to_owned(), 7.0)].into());
    let told = serde_json::to_value(client.service(&name("svc"), false).await.unwrap()).unwrap();
    assert!(told["endpoints"][0]["load"].is_null());
    let load = &told["endpoints"][1]["load"];
    assert_eq!((&load["application_utilization"], &load["cpu_utilization"]), (&json!(0.5), &json!(0.0)));
    assert_eq!((&load["rps"], &load["named"]), (&json!(12.0), &json!({"queue": 7.0})));
    let listed = client.services(false).await.unwrap();
    assert_eq!((listed.len(), listed[0].endpoints.len(), listed[0].endpoint_count), (1, 0, 3));
    door.close().await;
}

#[tokio::test]
async fn a_service_nobody_asked_for_is_watched_only_with_discover() {
    let door = Door::with_endpoints(1).await;
    let client = door.client().await;
    let reason = refused(client.service(&name("sv"), false).await);
    assert!(reason.contains("does not watch sv") && reason.contains("svc"), "{reason}");
    let found = client.service(&name("other"), true).await.unwrap();
    assert!(!found.listed);
    assert_eq!(client.services(true).await.unwrap().len(), 2);
    let reason = refused(client.service(&name("bad/"), true).await);
    assert!(reason.contains("ends with a slash"), "{reason}");
    door.close().await;
}

#[tokio::test]
async fn a_policy_is_set_and_rolled_back_and_the_history_tells() {
    let door = Door::with_endpoints(3).await;
    let client = door.client().await;
    let status = client.set_policy(bundled("weighted", "")).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.version), ("weighted", 2));
    assert_eq!((status.running.by.as_str(), status.running.config.as_str()), ("anna", "{}"));
    assert_eq!(status.running.origin, "bundled");
    assert!(status.swap.is_some() && status.generation == Some(2));

    let file = waymark_node::plugin::bundled::of(Kind::Policy).find(|policy| policy.name == "least_request").unwrap();
    let status = client.set_policy(component(file.bytes.to_vec())).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.origin.as_str()), ("least_request", "mine.wasm"));
    assert_eq!(status.running.plan, "each-request");
    assert!(matches!(pick(&door), Pick::Endpoint(_)));

    let status = client.roll_back(&name("svc"), 0, "ben").await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.by.as_str()), ("weighted", "ben"));
    let status = client.roll_back(&name("svc"), 1, "ben").await.unwrap();
    assert_eq!(status.running.name, "round_robin");
    let reason = refused(client.roll_back(&name("svc"), 99, "ben").await);
    assert!(reason.contains("no policy version 99"), "{reason}");

    let outcomes: Vec<_> = client.policy(&name("svc")).await.unwrap().history.iter().map(|v| v.outcome).collect();
    assert_eq!(outcomes, ["running", "superseded", "superseded", "superseded", "superseded"]);
    door.close().await;
}

#[tokio::test]
async fn what_is_no_policy_is_refused_by_its_name_and_changes_nothing() {
    let door = Door::with_endpoints(2).await;
    let client = door.client().await;
    let key_scheme = waymark_node::plugin::bundled::of(Kind::KeyScheme).next().unwrap().bytes.to_vec();
    for (bytes, said) in [
        (b"hello".to_vec(), "mine.wasm is not WebAssembly: it is text"),
        (Vec::new(), "mine.wasm is not WebAssembly: it is empty"),
        (wat::parse_str("(module)").unwrap(), "is a core WebAssembly module, not a component"),
        (wat::parse_str("(component)").unwrap(), "is a component of another world"),
        (b"\0asm\x0d\0\x01\0 damaged".to_vec(), "is not a valid component"),
        (key_scheme, "mine.wasm is a key scheme, not a policy"),
        (vec![0; (32 << 20) + 1], "over the limit of 33554432"),
        (vec![0; 40 << 20], "mine.wasm has 41943040 bytes, more than the node takes"),
    ] {
        let reason = refused(client.set_policy(component(bytes)).await);
        assert!(reason.contains(said), "{reason}");
    }
    let reason = refused(client.set_policy(bundled("wieghted", "")).await);
    assert!(reason.contains("\"wieghted\"") && reason.contains("weighted"), "{reason}");
    let reason = refused(client.set_policy(bundled("weighted", "[1]")).await);
    assert!(reason.contains("not a JSON object"), "{reason}");
    let reason = refused(client.set_policy(SetPolicy { service: name("other"), ..bundled("weighted", "") }).await);
    assert!(reason.contains("does not watch other"), "{reason}");

    // What reached the service's own limits is remembered with who wanted it; a message that is too
    // large never got there.
    let status = client.policy(&name("svc")).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.version), ("round_robin", 1));
    let (running, refused): (Vec<_>, Vec<_>) = status.history.iter().partition(|version| version.outcome == "running");
    assert_eq!((running.len(), refused.len()), (1, 9));
    assert!(refused.iter().all(|version| version.outcome == "refused" && version.by == "anna"), "{refused:?}");
    assert!(refused[0].reason.contains("not a JSON object") && refused[0].config == "[1]", "{:?}", refused[0]);
    assert!(refused[1].reason.contains("\"wieghted\"") && refused[1].name == "wieghted", "{:?}", refused[1]);
    assert_eq!((refused[8].name.as_str(), refused[8].origin.as_str()), ("mine", "mine.wasm"));
    assert_eq!(refused[8].sha256, waymark_node::plugin::digest(b"hello"));
    assert!(door.get("/metrics").await.1.contains(r#"waymark_policies_refused_total{service="svc"} 9"#));
    door.close().await;
}

#[tokio::test]
async fn a_configuration_that_the_policy_refuses_leaves_the_running_one_and_is_remembered() {
    let door = Door::with_endpoints(2).await;
    let client = door.client().await;
    let reason = refused(client.set_policy(bundled("zone_aware", r#"{"min_endpoints": "many"}"#)).await);
    assert!(reason.contains("svc keeps its policy") && reason.contains("min_endpoints"), "{reason}");
    let status = client.policy(&name("svc")).await.unwrap();
    assert_eq!((status.running.name.as_str(), status.running.version), ("round_robin", 1));
    assert_eq!((status.history[0].name.as_str(), status.history[0].outcome), ("zone_aware", "refused"));
    assert!(status.history[0].reason.contains("min_endpoints"));
    door.close().await;
}

#[tokio::test]
async fn a_watcher_sees_changes_and_the_last_one_however_slow_it_is() {
    let door = Door::with_endpoints(1).await;
    let client = door.client().await;
    let mut watch = client.watch(&name("svc"), false).await.unwrap();
    assert_eq!(watch.next().await.unwrap().endpoint_count, 1);
    client.set_policy(bundled("weighted", "")).await.unwrap();
    assert_eq!(until(&mut watch, |service| service.policy.version == 2).await.policy.name, "weighted");
    for revision in 2..200 {
        door.list(revision, (revision % 7) as u8).await;
    }
    door.list(200, 9).await;
    assert_eq!(until(&mut watch, |service| service.revision == 200).await.endpoint_count, 9);
    door.update(Update::Stale { reason: "connection refused".into() });
    let stale = until(&mut watch, |service| service.stale_seconds.is_some()).await;
    assert_eq!((stale.endpoint_count, stale.stale_reason.as_str()), (9, "connection refused"));
    door.close().await;
}

async fn until(watch: &mut admin::client::ServiceWatch, wanted: impl Fn(&Service) -> bool) -> Service {
    loop {
        let service = watch.next().await.unwrap();
        if wanted(&service) {
            return service;
        }
    }
}

#[tokio::test]
async fn watchers_learn_that_a_service_is_gone_or_the_node_shuts_down() {
    let door = Door::with_endpoints(1).await;
    let client = door.client().await;
    client.service(&name("other"), true).await.unwrap();
    let mut gone = client.watch(&name("other"), false).await.unwrap();
    gone.next().await.unwrap();
    assert!(door.services.remove(&name("other")));
    let error = gone.next().await.unwrap_err().to_string();
    assert!(error.contains("not balanced on this node any more"), "{error}");

    let mut watch = client.watch(&name("svc"), false).await.unwrap();
    watch.next().await.unwrap();
    let mut health = HealthClient::new(door.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    door.close().await;
    let error = watch.next().await.unwrap_err().to_string();
    assert!(error.contains("shutting down"), "{error}");
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watched.message().await.unwrap().is_none());
}

#[tokio::test]
async fn health_is_that_of_the_node_and_of_each_service() {
    let door = Door::with_endpoints(1).await;
    let mut health = HealthClient::new(door.channel().await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        health.check(request).await.map(|answer| answer.into_inner().status())
    };
    for service in ["", "waymark.v1.Node", "svc"] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(check("nobody").await.unwrap_err().code(), tonic::Code::NotFound);
    door.services.get("svc").unwrap().state().endpoints[0].cell.set_connectivity(Connectivity::BackingOff);
    assert_eq!(check("svc").await.unwrap(), ServingStatus::NotServing);
    door.registry_up.store(false, SeqCst);
    assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);
    door.close().await;
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let door = Door::with_endpoints(1).await;
    macro_rules! list {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
            let requests = tokio_stream::iter([
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("waymark.v1.Node.SetPolicy".into())),
            ]);
            let mut client = ServerReflectionClient::new(door.channel().await);
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            let Some(MessageResponse::ListServicesResponse(list)) =
                answers.message().await.unwrap().unwrap().message_response
            else {
                panic!("no list");
            };
            let file = answers.message().await.unwrap().unwrap().message_response;
            assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    for names in [list!(v1), list!(v1alpha)] {
        for wanted in ["waymark.v1.Node", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|name| name == wanted), "{names:?}");
        }
    }
    door.close().await;
}

#[tokio::test]
async fn metrics_are_well_formed_and_have_their_families() {
    let door = Door::with_endpoints(4).await;
    pick(&door);
    let (head, body) = door.get("/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    for line in [
        "waymark_services 1",
        r#"waymark_snapshot_revision{service="svc"} 1"#,
        r#"waymark_snapshot_endpoints{service="svc"} 4"#,
        r#"waymark_snapshot_skipped_entries{service="svc"} 3"#,
        r#"waymark_snapshot_stale_seconds{service="svc"} 0.0"#,
        r#"waymark_picks_total{service="svc"} 1"#,
        r#"waymark_fallback_picks_total{service="svc"} 0"#,
        r#"waymark_endpoints_in_flight{service="svc"} 0"#,
        r#"waymark_policy_version{service="svc"} 1"#,
        r#"waymark_plugin_failures_total{service="svc",policy="round_robin",version="1"} 0"#,
    ] {
        assert!(body.lines().any(|other| other == line), "{line} is missing in:\n{body}");
    }
    assert!(body.contains(r#"waymark_policy_info{service="svc",policy="round_robin","#), "{body}");
    assert!(body.contains("\nprocess_start_time_seconds "), "{body}");
    assert!(body.ends_with("# EOF\n"));
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (metric, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && !metric.contains("{}"), "{line}");
    }
    door.close().await;
}

#[tokio::test]
async fn readiness_follows_the_first_list_and_the_checks_and_survives_a_lost_registry() {
    let door = door().await;
    let (head, body) = door.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("is not watched"), "{head}\n{body}");
    door.services.add(&name("svc")).await.unwrap();
    let (_, body) = door.get("/readyz").await;
    assert!(body.contains("waits for its first list"), "{body}");
    door.list(1, 2).await;
    let (head, body) = door.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["ready"], true);
    assert_eq!(report["checks"][2]["detail"], "2 endpoints at revision 1");

    let mut reader = door.services.get("svc").unwrap().subscribe();
    door.update(Update::Stale { reason: "connection refused".into() });
    while reader.current().stale.is_none() {
        reader.changed().await.unwrap();
    }
    let (head, body) = door.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("last known"), "{head}\n{body}");
    door.registry_up.store(false, SeqCst);
    let (head, body) = door.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("connection refused"), "{head}\n{body}");
    assert!(door.get("/healthz").await.0.starts_with("HTTP/1.1 200"));
    door.close().await;
}

#[tokio::test]
async fn the_dashboard_shows_the_services_and_escapes_their_names() {
    let door = Door::with_endpoints(2).await;
    door.services.add(&name("<script>alert(1)</script>")).await.unwrap();
    door.client().await.set_policy(bundled("weighted", "")).await.unwrap();
    let (head, body) = door.get("/").await;
    assert!(head.contains("text/html") && head.contains("default-src 'none'"), "{head}");
    assert!(body.contains("192.0.2.2:80") && body.contains("<b>weighted</b>") && body.contains("anna"), "{body}");
    assert!(body.contains("&lt;script&gt;") && !body.contains("<script>"), "{body}");
    let (_, body) = door.get("/?service=svc").await;
    assert!(!body.contains("alert(1)"), "{body}");
    let (head, body) = door.get("/nowhere").await;
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("/metrics"), "{head}\n{body}");
    door.close().await;
}

#[tokio::test]
async fn a_client_says_who_could_not_be_reached_and_what_is_no_node() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = NodeClient::connect(&nobody).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unreachable { address, reason }
        if *address == nobody && reason.contains("refused")),
        "{error}"
    );
    for bad in ["nonsense", "ftp://127.0.0.1:7001", "unix:relative", "127.0.0.1:0", ""] {
        let error = NodeClient::connect(bad).await.unwrap_err();
        assert!(matches!(error, ClientError::Address { .. }), "{error}");
    }
    // Speaks, but no HTTP/2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let error = match NodeClient::connect(&address).await {
        Ok(client) => client.services(false).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains(&address), "{error}");
}
