//! What instances say of their own load.

use http::HeaderValue;
use http_body::Frame;

use super::support::{Instance, Node, message, reply, trailers};

const TRAILER: &str = "endpoint-load-metrics-bin";

#[tokio::test]
async fn a_load_report_is_kept_for_its_endpoint_and_goes_on_to_the_caller() {
    // Each says that it is half used (field 9), one after a message and one in an answer that is a head alone.
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
