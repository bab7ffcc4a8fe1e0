//! The server of the interoperability tests.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::{AsciiMetadataKey, BinaryMetadataKey, BinaryMetadataValue, MetadataMap},
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    ECHO_INITIAL, ECHO_TRAILING, LOAD_REPORT, LoadReport,
    proto::{
        EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse, TestOrcaReport,
        test_service_server::{TestService, TestServiceServer},
    },
};

/// More than any case asks for; an answer is not made as large as a stranger likes.
const LARGEST_ANSWER: i32 = 64 << 20;

/// Serves `grpc.testing.TestService` on this listener until `shutdown` completes and all calls have
/// ended.
///
/// # Errors
///
/// The server failed; see tonic.
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = WithTrailers(TestServiceServer::new(Interop));
    Ok(Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, shutdown).await?)
}

struct Interop;

/// What goes into the trailers of a good answer: tonic has no other place for it.
#[derive(Clone)]
struct Trailing(HeaderMap);

type Answers = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

/// Notes what of the request's metadata goes back with the answer.
fn echo<T>(sent: &MetadataMap, report: Option<TestOrcaReport>, response: &mut Response<T>) {
    if let Some(value) = sent.get(ECHO_INITIAL) {
        response.metadata_mut().insert(AsciiMetadataKey::from_static(ECHO_INITIAL), value.clone());
    }
    let mut trailing = MetadataMap::new();
    if let Some(value) = sent.get_bin(ECHO_TRAILING) {
        trailing.insert_bin(BinaryMetadataKey::from_static(ECHO_TRAILING), value.clone());
    }
    if let Some(report) = report {
        let report = LoadReport {
            cpu_utilization: report.cpu_utilization,
            mem_utilization: report.memory_utilization,
            request_cost: report.request_cost,
            utilization: report.utilization,
        };
        let value = BinaryMetadataValue::from_bytes(&report.encode_to_vec());
        trailing.insert_bin(BinaryMetadataKey::from_static(LOAD_REPORT), value);
    }
    response.extensions_mut().insert(Trailing(trailing.into_headers()));
}

fn payload(size: i32) -> Result<Payload, Status> {
    let len = usize::try_from(size).ok().filter(|_| size <= LARGEST_ANSWER);
    let len = len.ok_or_else(|| Status::invalid_argument(format!("an answer of {size} bytes cannot be made")))?;
    Ok(Payload { r#type: 0, body: vec![0; len] })
}

/// The status that a request asks to be answered with, if that is not success.
fn wanted(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => Err(Status::new(Code::from(code), message)),
        _ => Ok(()),
    }
}

async fn answer(
    parameters: Vec<ResponseParameters>,
    answers: &mpsc::Sender<Result<StreamingOutputCallResponse, Status>>,
) -> Result<(), Status> {
    for ResponseParameters { size, interval_us, .. } in parameters {
        sleep(Duration::from_micros(u64::try_from(interval_us).unwrap_or_default())).await;
        let answer = StreamingOutputCallResponse { payload: Some(payload(size)?) };
        if answers.send(Ok(answer)).await.is_err() {
            return Err(Status::cancelled("the caller is gone"));
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl TestService for Interop {
    type StreamingOutputCallStream = Answers;
    type FullDuplexCallStream = Answers;

    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let mut response = Response::new(Empty {});
        echo(request.metadata(), None, &mut response);
        Ok(response)
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        wanted(request.response_status)?;
        let mut response = Response::new(SimpleResponse { payload: Some(payload(request.response_size)?) });
        echo(&metadata, request.orca_per_query_report, &mut response);
        Ok(response)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = async {
                answer(request.response_parameters, &tx).await?;
                wanted(request.response_status)
            };
            if let Err(status) = ended.await {
                let _ = tx.send(Err(status)).await; // The caller may be gone.
            }
        });
        let mut response = Response::new(Box::pin(ReceiverStream::new(rx)) as Answers);
        echo(&metadata, None, &mut response);
        Ok(response)
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let (metadata, _, mut requests) = request.into_parts();
        let mut sum = 0usize;
        while let Some(request) = requests.next().await {
            sum += request?.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(sum).map_err(|_| Status::out_of_range("more than 2 GiB"))?;
        let mut response = Response::new(StreamingInputCallResponse { aggregated_payload_size });
        echo(&metadata, None, &mut response);
        Ok(response)
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        let (metadata, _, mut requests) = request.into_parts();
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = async {
                while let Some(request) = requests.next().await {
                    let request = request?;
                    wanted(request.response_status)?;
                    answer(request.response_parameters, &tx).await?;
                }
                Ok::<_, Status>(())
            };
            if let Err(status) = ended.await {
                let _ = tx.send(Err(status)).await; // As above.
            }
        });
        let mut response = Response::new(Box::pin(ReceiverStream::new(rx)) as Answers);
        echo(&metadata, None, &mut response);
        Ok(response)
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("as its name says"))
    }
}

/// Adds what a call left in [`Trailing`] to the trailers of its answer.
#[derive(Clone)]
struct WithTrailers<S>(S);

impl<S: NamedService> NamedService for WithTrailers<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> tower_service::Service<http::Request<Body>> for WithTrailers<S>
where
    S: tower_service::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            let trailing = response.extensions_mut().remove::<Trailing>();
            Ok(match trailing {
                Some(Trailing(more)) if !more.is_empty() => response.map(|inner| Body::new(Extended { inner, more })),
                _ => response,
            })
        })
    }
}

struct Extended {
    inner: Body,
    more: HeaderMap,
}

impl http_body::Body for Extended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers.extend(std::mem::take(&mut self.more));
                }
                frame
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
