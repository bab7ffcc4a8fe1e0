//! What instances say of their own load.

use http::HeaderValue;
use http_body::Frame;
use prost::Message as _;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use waymark_node::{
    balancer::Candidate,
    plugin::{Engine, EngineConfig, Kind},
};

use super::support::{Instance, Node, message, reply, trailers};

const TRAILER: &str = "endpoint-load-metrics-bin";

#[tokio::test]
async fn a_load_report_is_kept_for_its_endpoint_and_goes_on_to_the_caller() {
    // Each says that it is half used (field 9), one after a message and one in an answer that is a
    // head alone.
    const HALF: &str = "SQAAAAAAAOA/";
    let list = [("grpc-status", "0"), (TRAILER, HALF)];
    let answers =
        Instance::new(move |_| async move { reply([Frame::data(message(b"")), Frame::trailers(trailers(&list))]) })
            .await;
    let refuses = Instance::new(|_| async {
        let mut head = tonic::Status::resource_exhausted("full").into_http();
        head.headers_mut().insert(TRAILER, HeaderValue::from_static(HALF));
        head
    })
    .await;
    let node = Node::new().await;
    let mut client = node.client().await;
    for (service, instance, code) in [("answers", &answers, "0"), ("refuses", &refuses, "8")] {
        node.serve(service, &[instance]).await;
        let handle = node.services.get(service).unwrap();
        assert!(handle.state().endpoints[0].cell.report().is_none());
        let answer = client.echo(service, "x").await;
        assert_eq!(answer.code(), code);
        let told = if answer.only_head { &answer.headers } else { &answer.trailers };
        assert_eq!(told[TRAILER], HALF);
        let report = handle.state().endpoints[0].cell.report().unwrap();
        assert_eq!((report.application_utilization, report.cpu_utilization), (0.5, 0.0));
    }
}

/// What the test's servers say, with the numbers of ORCA's fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Report {
    #[prost(double, tag = "6")]
    rps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

/// Answers every call with this report.
async fn reports(application_utilization: f64, rps: f64) -> Instance {
    let report = Report { rps, application_utilization }.encode_to_vec();
    Instance::new(move |_| {
        let mut ending = MetadataMap::new();
        ending.insert("grpc-status", "0".parse().unwrap());
        ending.insert_bin(TRAILER, BinaryMetadataValue::from_bytes(&report));
        async move { reply([Frame::data(message(b"")), Frame::trailers(ending.into_headers())]) }
    })
    .await
}

#[tokio::test]
async fn calls_go_in_proportion_to_what_instances_report_that_they_can_carry() {
    const CALLS: usize = 1500;
    // By calls a second and utilization these can carry 200, 400 and 600.
    let instances = [reports(0.5, 100.0).await, reports(0.25, 100.0).await, reports(0.5, 300.0).await];
    let node = Node::new().await;
    node.serve("svc", &instances.each_ref()).await;
    let engine = Engine::new(EngineConfig { instances: 1, ..EngineConfig::default() }).unwrap();
    let policy = engine.load_bundled(Kind::Policy, "reported_load").unwrap().into_policy("{}").unwrap();
    node.services.get("svc").unwrap().set_policy(Candidate::new(policy, "test")).await.unwrap();
    let mut client = node.client().await;
    // Two rounds of the policy: in the first it may know nothing yet.
    for _ in 0..128 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    let calls = || instances.each_ref().map(Instance::n_calls);
    let before = calls();
    for _ in 0..CALLS {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    let got = calls();
    for ((got, before), due) in got.iter().zip(before).zip([1.0 / 6.0, 1.0 / 3.0, 1.0 / 2.0]) {
        // Six standard deviations.
        let share = (got - before) as f64 / CALLS as f64;
        assert!((share - due).abs() < 0.078, "{share} instead of {due}");
    }
}
