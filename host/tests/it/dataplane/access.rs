//! The access log of a real node: a line for every call.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use waymark_node::{
    dataplane::{AccessFormat, AccessLog, AccessTarget, Metrics, Options, Routes},
    traffic::{CodeSet, HedgingPolicy, MethodConfig, Methods, Repeat, RetryPolicy, Traffic},
};

use super::support::{Caller, Client, Instance, Node, at, closed_port, soon, text, until};

/// A node that logs its calls.
struct Logged {
    node: Node,
    log: AccessLog,
    path: PathBuf,
    /// How many lines were looked at.
    seen: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl Logged {
    async fn new(repeat: Option<Repeat>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let target = AccessTarget::File(path.clone());
        let log = AccessLog::open(&target, AccessFormat::Json, &Metrics::default()).unwrap();
        let options = Options { access_log: Some(log.clone()), ..Options::default() };
        let method = MethodConfig { repeat: repeat.map(Arc::new), ..MethodConfig::default() };
        let traffic = Traffic { methods: Methods::all(method), ..Traffic::default() };
        let node = Node::of(Routes::default(), options, traffic).await;
        Self { node, log, path, seen: AtomicUsize::new(0), _folder: folder }
    }

    /// What was logged since the last look. A call's line is on its way before its caller has the
    /// end of the answer.
    async fn lines(&self) -> Vec<Value> {
        self.log.flush().await;
        let text = fs::read_to_string(&self.path).unwrap();
        // The last one may not be written to its end yet.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines: Vec<_> =
            whole.skip(self.seen.load(SeqCst)).map(|line| serde_json::from_str(line).unwrap()).collect();
        self.seen.fetch_add(lines.len(), SeqCst);
        lines
    }
}

/// Some of its fields.
fn fields(line: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| line[name].clone()).collect()
}

#[tokio::test]
async fn a_call_is_logged_when_it_has_ended() {
    let (logged, a) = (Logged::new(None).await, Instance::echo("a").await);
    logged.node.serve("svc", &[&a]).await;
    assert_eq!(logged.node.client().await.echo("svc", "x").await.code(), "0");
    let lines = logged.lines().await;
    assert_eq!(lines.len(), 1);
    let mut line = lines[0].clone();
    let time = line["time"].take();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    assert!(line["duration_ms"].take().as_f64().unwrap() > 0.0);
    let expected = json!({
        "time": null, "peer": "127.0.0.1", "service": "svc", "path": "/test.Echo/Unary", "endpoint": a.address,
        "code": "OK", "attempts": 1, "bytes_in": 8, "bytes_out": 10, "duration_ms": null, "reason": null,
    });
    assert_eq!(line, expected);
    // From this process, and with a request of which a part comes after the answer has begun.
    let channel = logged.node.dataplane.dial("svc").unwrap();
    let mut caller = Caller::new(channel, None);
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let mut answers = caller.bidi(tokio_stream::wrappers::ReceiverStream::new(rx)).await.unwrap();
    for word in ["x", "yy"] {
        tx.send(text(word)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().text, format!("a:{word}"));
    }
    drop(tx);
    assert_eq!(answers.message().await.unwrap(), None);
    let names = ["peer", "path", "code", "bytes_in", "bytes_out"];
    let lines = logged.lines().await;
    assert_eq!(fields(&lines[0], &names), json!([null, "/test.Echo/Bidi", "OK", 8 + 9, 10 + 11]));
}

#[tokio::test]
async fn a_failed_call_is_logged_with_its_reason() {
    let logged = Logged::new(None).await;
    let mut client = logged.node.client().await;
    let names = ["service", "path", "endpoint", "code", "attempts", "reason"];
    let closed = closed_port().await;
    logged.node.set("svc", vec![at(closed)]).await;
    let answer = client.echo("svc", "x").await;
    let lines = logged.lines().await;
    let expected = json!(["svc", "/test.Echo/Unary", closed, "UNAVAILABLE", 1, answer.kind()]);
    assert_eq!(fields(&lines[0], &names), expected, "{}", answer.message());
    assert_eq!(answer.kind(), "all-tried");
    // What reaches no service.
    let body = tonic::body::Body::empty();
    let request = Client::request("none", "/a.B/C").header("grpc-timeout", "soon").body(body).unwrap();
    assert_eq!(client.answer(request).await.kind(), "bad-timeout");
    let lines = logged.lines().await;
    assert_eq!(fields(&lines[0], &names), json!(["none", "/a.B/C", null, "INTERNAL", 0, "bad-timeout"]));
    // What is no call at all.
    let get = http::Request::get("http://127.0.0.1/healthz").body(tonic::body::Body::empty()).unwrap();
    assert_eq!(client.answer(get).await.status, 405);
    let lines = logged.lines().await;
    assert_eq!(fields(&lines[0], &names), json!(["", "/healthz", null, "UNKNOWN", 0, "not-grpc"]));
    // An instance's own failure has none.
    let fails = Instance::new(|_| async { tonic::Status::not_found("no such thing").into_http() }).await;
    logged.node.serve("svc", &[&fails]).await;
    assert_eq!(client.echo("svc", "x").await.code(), "5");
    let lines = logged.lines().await;
    assert_eq!(fields(&lines[0], &names[2..]), json!([fails.address, "NOT_FOUND", 1, null]));
}

#[tokio::test]
async fn a_call_that_its_caller_gave_up_is_logged_as_cancelled() {
    let (logged, never) = (Logged::new(None).await, Instance::new(|_| std::future::pending()).await);
    logged.node.serve("svc", &[&never]).await;
    let mut client = logged.node.client().await;
    let call = tokio::spawn(async move { client.echo("svc", "x").await });
    until(|| never.n_calls() == 1).await;
    call.abort();
    let lines = soon(async {
        loop {
            let lines = logged.lines().await;
            if !lines.is_empty() {
                return lines;
            }
        }
    });
    assert_eq!(fields(&lines.await[0], &["code", "attempts", "reason"]), json!(["CANCELLED", 1, null]));
}

#[tokio::test]
async fn a_call_that_was_sent_again_is_one_line_with_its_last_endpoint() {
    let policy = RetryPolicy { initial_backoff: Duration::from_millis(1), ..RetryPolicy::default() };
    let logged = Logged::new(Some(Repeat::Retry(policy))).await;
    let fails = Instance::new(|_| async { tonic::Status::unavailable("not now").into_http() }).await;
    let serves = Instance::echo("a").await;
    logged.node.serve("svc", &[&fails, &serves]).await;
    let mut client = logged.node.client().await;
    for _ in 0..2 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    let names = ["endpoint", "code", "bytes_in", "bytes_out"];
    let lines = logged.lines().await;
    for line in &lines {
        // What is sent again was received once.
        assert_eq!(fields(line, &names), json!([serves.address, "OK", 8, 10]));
    }
    let attempts = lines.iter().map(|line| line["attempts"].as_u64().unwrap());
    assert_eq!(attempts.sum::<u64>(), 3, "every second call begins at the one that fails: {lines:?}");
}

#[tokio::test]
async fn of_hedges_the_endpoint_that_answered_is_logged() {
    let policy = HedgingPolicy { delay: Duration::from_millis(1), max_attempts: 2, non_fatal: CodeSet::default() };
    let logged = Logged::new(Some(Repeat::Hedge(policy))).await;
    let never = Instance::new(|_| std::future::pending()).await;
    let serves = Instance::echo("a").await;
    logged.node.serve("svc", &[&never, &serves]).await;
    let mut client = logged.node.client().await;
    for _ in 0..2 {
        assert_eq!(client.echo("svc", "x").await.code(), "0");
    }
    for line in logged.lines().await {
        assert_eq!(fields(&line, &["endpoint", "code"]), json!([serves.address, "OK"]));
    }
}
