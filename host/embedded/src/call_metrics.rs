//! How many calls began, and how each ended: what etcd's `/metrics` says of its gRPC server, by
//! service, method and code.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};

/// A method, as `package.Service` and its name.
type Method = (String, String);

/// Counts of all calls since the start. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct CallMetrics(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    started: BTreeMap<Method, u64>,
    handled: BTreeMap<(Method, &'static str), u64>,
}

impl CallMetrics {
    /// A call has begun; it counts as ended when the answer's body has, or is dropped. Only for
    /// methods that exist: whoever makes names up would make the page grow.
    pub(super) fn count(&self, method: Method, response: http::Response<Body>) -> http::Response<Body> {
        *self.counts().started.entry(method.clone()).or_default() += 1;
        let pending = Pending { calls: self.clone(), method: Some(method) };
        let (parts, body) = response.into_parts();
        // An answer that is a head alone.
        if let Some(code) = code_of(&parts.headers) {
            pending.ended(code);
            return http::Response::from_parts(parts, body);
        }
        http::Response::from_parts(parts, Body::new(Counted { body, pending: Some(pending) }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Numbers are whole after each step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In Prometheus' text format, with the names that etcd has.
    pub(super) fn write(&self, page: &mut String) {
        let counts = self.counts();
        // Writing to a string cannot fail.
        _ = writeln!(page, "# HELP grpc_server_started_total Total number of RPCs started on the server.");
        _ = writeln!(page, "# TYPE grpc_server_started_total counter");
        for (method, n) in &counts.started {
            _ = writeln!(page, "grpc_server_started_total{{{}}} {n}", labels(method));
        }
        _ = writeln!(page, "# HELP grpc_server_handled_total Total number of RPCs completed on the server.");
        _ = writeln!(page, "# TYPE grpc_server_handled_total counter");
        for ((method, code), n) in &counts.handled {
            _ = writeln!(page, "grpc_server_handled_total{{grpc_code=\"{code}\",{}}} {n}", labels(method));
        }
    }
}

/// The methods that exist need no escapes.
fn labels((service, method): &Method) -> String {
    let kind = match method.as_str() {
        "Watch" | "LeaseKeepAlive" => "bidi_stream",
        "Snapshot" | "Observe" => "server_stream",
        _ => "unary",
    };
    format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes()))
}

/// A code as Go prints it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A call that has not ended.
#[derive(Debug)]
struct Pending {
    calls: CallMetrics,
    method: Option<Method>,
}

impl Pending {
    fn ended(mut self, code: Code) {
        self.count(code);
    }

    fn count(&mut self, code: Code) {
        if let Some(method) = self.method.take() {
            *self.calls.counts().handled.entry((method, name(code))).or_default() += 1;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody waited for its end.
        self.count(Code::Cancelled);
    }
}

pin_project! {
    /// An answer's body that says how the call ended.
    struct Counted {
        #[pin]
        body: Body,
        pending: Option<Pending>,
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code_of)
            && let Some(pending) = this.pending.take()
        {
            pending.ended(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
