//! What the port answers to those who do not speak gRPC: etcd's pages for people and probes, and a
//! sentence for everybody else.

use std::fmt::Write as _;

use etcd_client::AlarmType;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::body::Body;

use super::{
    call_metrics::CallMetrics,
    shared::Shared,
    state_machine::StateMachine,
    version::{STORAGE_VERSION, VERSION},
};

/// What is said to whoever wants something else.
const SPEAKS: &str = "The embedded registry speaks etcd's gRPC API (HTTP/2) here, and answers GET /health, /livez, \
    /readyz, /version and /metrics. It has no JSON gateway (/v3/...): use a gRPC client, or etcd.\n";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page that a request asks for; none when it is a call, or is to be answered like one.
pub(super) fn answer<B>(request: &Request<B>, shared: &Shared, calls: &CallMetrics) -> Option<Response<Body>> {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let old = request.version() < Version::HTTP_2;
    if kind.starts_with(b"application/grpc") && !old {
        return None;
    }
    let wanted = match request.uri().path() {
        "/health" => Page::Health,
        "/livez" | "/livez/serializable_read" => Page::Live,
        "/readyz"
        | "/readyz/data_corruption"
        | "/readyz/serializable_read"
        | "/readyz/linearizable_read"
        | "/readyz/non_learner" => Page::Ready,
        "/version" => Page::Version,
        "/metrics" => Page::Metrics,
        _ if old => return Some(page(StatusCode::NOT_FOUND, TEXT, SPEAKS.to_owned())),
        _ => return None,
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".to_owned());
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Some(refused);
    }
    let excluded = excluded(request.uri().query().unwrap_or_default());
    Some(match wanted {
        Page::Health => shared.with(|machine| health(machine, &excluded)),
        Page::Live => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Page::Ready => shared.with(|machine| ready(machine, &excluded)),
        Page::Version => {
            let versions = serde_json::json!({
                "etcdserver": VERSION, "etcdcluster": STORAGE_VERSION, "storage": STORAGE_VERSION,
            });
            page(StatusCode::OK, JSON, versions.to_string())
        }
        Page::Metrics => {
            let mut text = shared.with(|machine| metrics(machine));
            calls.write(&mut text);
            page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
    })
}

enum Page {
    Health,
    Live,
    Ready,
    Version,
    Metrics,
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The checks that a query leaves out: `exclude=NOSPACE&exclude=CORRUPT`.
fn excluded(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == "exclude").map(|(_, value)| value.to_owned()).collect()
}

fn health(machine: &StateMachine, excluded: &[String]) -> Response<Body> {
    let name = |raised: i32| AlarmType::try_from(raised).map_or("UNKNOWN", |alarm| alarm.as_str_name());
    let raised = machine.alarms(AlarmType::None as i32).into_iter().map(|it| name(it.alarm));
    match raised.into_iter().find(|alarm| !excluded.iter().any(|it| it == alarm)) {
        None => page(StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#.to_owned()),
        Some(alarm) => {
            let said = format!(r#"{{"health":"false","reason":"ALARM {alarm}"}}"#);
            page(StatusCode::SERVICE_UNAVAILABLE, JSON, said + "\n")
        }
    }
}

fn ready(machine: &StateMachine, excluded: &[String]) -> Response<Body> {
    let corrupt = !machine.alarms(AlarmType::Corrupt as i32).is_empty();
    if corrupt && !excluded.iter().any(|it| it == "data_corruption") {
        let said = "[-]data_corruption failed: alarm activated: CORRUPT\n";
        return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, said.to_owned());
    }
    page(StatusCode::OK, TEXT, "ok\n".to_owned())
}

/// Figures under the names that etcd has for them, as far as there is such a thing here.
fn metrics(machine: &StateMachine) -> String {
    let store = machine.store();
    let figures: [(&str, &str, &str, i64); 10] = [
        ("etcd_server_has_leader", "gauge", "Whether or not a leader exists. 1 is existence, 0 is not.", 1),
        ("etcd_server_is_leader", "gauge", "Whether or not this member is a leader. 1 if is, 0 otherwise.", 1),
        ("etcd_server_leader_changes_seen_total", "counter", "The number of leader changes seen.", 1),
        (
            "etcd_server_proposals_applied_total",
            "gauge",
            "The total number of consensus proposals applied.",
            whole(machine.applied()),
        ),
        (
            "etcd_server_quota_backend_bytes",
            "gauge",
            "Current backend storage quota size in bytes.",
            whole(machine.quota()),
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "gauge",
            "Total size of the underlying database in bytes.",
            whole(store.bytes()),
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "gauge",
            "Total size of the underlying database logically in use in bytes.",
            whole(store.bytes()),
        ),
        ("etcd_debugging_mvcc_current_revision", "gauge", "The current revision of store.", store.revision()),
        (
            "etcd_debugging_mvcc_compact_revision",
            "gauge",
            "The revision of the last compaction in store.",
            store.compact_revision(),
        ),
        ("etcd_debugging_lease_active", "gauge", "Leases that have not ended.", whole(machine.lease_ids().len())),
    ];
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, kind, help, figure) in figures {
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {figure}");
    }
    _ = writeln!(
        text,
        "# HELP etcd_server_version Which version is running. 1 for 'server_version' label with current version."
    );
    _ = writeln!(text, "# TYPE etcd_server_version gauge\netcd_server_version{{server_version=\"{VERSION}\"}} 1");
    text
}

fn whole(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_what_is_left_out() {
        assert_eq!(excluded("exclude=NOSPACE&x=1&exclude=CORRUPT"), ["NOSPACE", "CORRUPT"]);
        assert_eq!(excluded(""), [""; 0]);
    }
}
