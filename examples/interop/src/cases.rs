//! The cases, each as the public description words it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status,
    metadata::{AsciiMetadataValue, BinaryMetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    ECHO_INITIAL, ECHO_TRAILING, LOAD_REPORT, LoadReport,
    proto::{
        EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
        StreamingOutputCallRequest, TestOrcaReport, test_service_client::TestServiceClient,
        unimplemented_service_client::UnimplementedServiceClient,
    },
};

/// Far longer than any case takes: one that gets here hangs.
const PATIENCE: Duration = Duration::from_secs(30);

const LARGE_REQUEST: usize = 271_828;
const LARGE_ANSWER: i32 = 314_159;
const REQUESTS: [usize; 4] = [27182, 8, 1828, 45904];
const ANSWERS: [i32; 4] = [31415, 9, 2653, 58979];

/// How often a soak calls.
const SOAK: usize = 50;

/// A case of the public description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are those of the public description")]
pub enum Case {
    EmptyUnary,
    LargeUnary,
    ClientStreaming,
    ServerStreaming,
    PingPong,
    EmptyStream,
    CustomMetadata,
    StatusCodeAndMessage,
    SpecialStatusMessage,
    UnimplementedMethod,
    UnimplementedService,
    CancelAfterBegin,
    CancelAfterFirstResponse,
    TimeoutOnSleepingServer,
    RpcSoak,
    ChannelSoak,
    OrcaPerRpc,
}

/// Whom a case is run against.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port` of the server, or of a proxy before it.
    pub uri: String,
}

impl Target {
    async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(self.uri.clone())?;
        endpoint.connect().await.with_context(|| format!("cannot connect to {}", self.uri))
    }
}

/// Runs one case.
///
/// # Errors
///
/// What was not as the description has it.
pub async fn run(case: Case, target: &Target) -> anyhow::Result<()> {
    let done = async {
        let channel = target.connect().await?;
        let client = TestServiceClient::new(channel.clone());
        match case {
            Case::EmptyUnary => empty_unary(client).await,
            Case::LargeUnary => large_unary(client).await,
            Case::ClientStreaming => client_streaming(client).await,
            Case::ServerStreaming => server_streaming(client).await,
            Case::PingPong => ping_pong(client).await,
            Case::EmptyStream => empty_stream(client).await,
            Case::CustomMetadata => custom_metadata(client).await,
            Case::StatusCodeAndMessage => {
                status(client, EchoStatus { code: 2, message: "test status message".into() }, true).await
            }
            Case::SpecialStatusMessage => {
                let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n".into();
                status(client, EchoStatus { code: 2, message }, false).await
            }
            Case::UnimplementedMethod => unimplemented(client.clone().unimplemented_call(Empty {}).await),
            Case::UnimplementedService => {
                unimplemented(UnimplementedServiceClient::new(channel).unimplemented_call(Empty {}).await)
            }
            Case::CancelAfterBegin => cancel_after_begin(client).await,
            Case::CancelAfterFirstResponse => cancel_after_first_response(client).await,
            Case::TimeoutOnSleepingServer => timeout_on_sleeping_server(client).await,
            Case::RpcSoak => {
                for _ in 0..SOAK {
                    large_unary(client.clone()).await?;
                }
                Ok(())
            }
            Case::ChannelSoak => {
                for _ in 0..SOAK {
                    large_unary(TestServiceClient::new(target.connect().await?)).await?;
                }
                Ok(())
            }
            Case::OrcaPerRpc => orca_per_rpc(client).await,
        }
    };
    timeout(PATIENCE, done).await.context("it hangs")?
}

type Client = TestServiceClient<Channel>;

#[allow(clippy::unnecessary_wraps, reason = "what a message's field wants")]
fn payload(len: usize) -> Option<Payload> {
    Some(Payload { r#type: 0, body: vec![0; len] })
}

fn asks_for(sizes: &[i32]) -> Vec<ResponseParameters> {
    sizes.iter().map(|size| ResponseParameters { size: *size, ..ResponseParameters::default() }).collect()
}

fn large() -> SimpleRequest {
    SimpleRequest { response_size: LARGE_ANSWER, payload: payload(LARGE_REQUEST), ..SimpleRequest::default() }
}

/// How long an answer is; -1 for one that no case asks for.
fn len(payload: Option<&Payload>) -> i32 {
    payload.map_or(0, |payload| i32::try_from(payload.body.len()).unwrap_or(-1))
}

fn is_large(answer: &SimpleResponse) -> anyhow::Result<()> {
    let len = len(answer.payload.as_ref());
    ensure!(len == LARGE_ANSWER, "an answer of {len} bytes");
    Ok(())
}

async fn empty_unary(mut client: Client) -> anyhow::Result<()> {
    let answer = client.empty_call(Empty {}).await?;
    ensure!(answer.into_inner() == Empty {}, "it is not empty");
    Ok(())
}

async fn large_unary(mut client: Client) -> anyhow::Result<()> {
    is_large(client.unary_call(large()).await?.get_ref())
}

async fn client_streaming(mut client: Client) -> anyhow::Result<()> {
    let requests = REQUESTS.map(|len| StreamingInputCallRequest { payload: payload(len), ..Default::default() });
    let answer = client.streaming_input_call(tokio_stream::iter(requests)).await?.into_inner();
    ensure!(answer.aggregated_payload_size == 74922, "{answer:?}");
    Ok(())
}

async fn server_streaming(mut client: Client) -> anyhow::Result<()> {
    let request = StreamingOutputCallRequest { response_parameters: asks_for(&ANSWERS), ..Default::default() };
    let mut answers = client.streaming_output_call(request).await?.into_inner();
    let mut sizes = Vec::new();
    while let Some(answer) = answers.next().await {
        sizes.push(len(answer?.payload.as_ref()));
    }
    ensure!(sizes == ANSWERS, "answers of {sizes:?} bytes");
    Ok(())
}

async fn ping_pong(mut client: Client) -> anyhow::Result<()> {
    let (tx, rx) = mpsc::channel(1);
    let ping = |n: usize| StreamingOutputCallRequest {
        response_parameters: asks_for(&[ANSWERS[n]]),
        payload: payload(REQUESTS[n]),
        ..Default::default()
    };
    // Servers may say nothing before they have something to answer.
    tx.send(ping(0)).await?;
    let mut answers = client.full_duplex_call(ReceiverStream::new(rx)).await?.into_inner();
    for (n, size) in ANSWERS.into_iter().enumerate() {
        if n > 0 {
            tx.send(ping(n)).await?;
        }
        let answer = answers.message().await?.context("the answers ended")?;
        let got = len(answer.payload.as_ref());
        ensure!(got == size, "{got} bytes, not {size}");
    }
    drop(tx);
    ensure!(answers.message().await?.is_none(), "one answer too many");
    Ok(())
}

async fn empty_stream(mut client: Client) -> anyhow::Result<()> {
    let mut answers = client.full_duplex_call(tokio_stream::empty()).await?.into_inner();
    ensure!(answers.message().await?.is_none(), "an answer to nothing");
    Ok(())
}

async fn custom_metadata(mut client: Client) -> anyhow::Result<()> {
    const INITIAL: &str = "test_initial_metadata_value";
    const TRAILING: &[u8] = b"\xab\xab\xab";
    fn with<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(ECHO_INITIAL, AsciiMetadataValue::from_static(INITIAL));
        request.metadata_mut().insert_bin(ECHO_TRAILING, BinaryMetadataValue::from_bytes(TRAILING));
        request
    }
    let answer = client.unary_call(with(large())).await?;
    ensure!(answer.metadata().get(ECHO_INITIAL).is_some_and(|value| value == INITIAL), "{:?}", answer.metadata());
    let trailing = answer.metadata().get_bin(ECHO_TRAILING).context("no trailing metadata")?;
    ensure!(trailing.to_bytes()? == TRAILING, "{trailing:?}");

    let request = StreamingOutputCallRequest { response_parameters: asks_for(&[LARGE_ANSWER]), ..Default::default() };
    let answer = client.full_duplex_call(with(tokio_stream::once(request))).await?;
    ensure!(answer.metadata().get(ECHO_INITIAL).is_some_and(|value| value == INITIAL), "{:?}", answer.metadata());
    let mut answers = answer.into_inner();
    while answers.message().await?.is_some() {}
    let trailers = answers.trailers().await?.context("no trailers")?;
    let trailing = trailers.get_bin(ECHO_TRAILING).context("no trailing metadata of the stream")?;
    ensure!(trailing.to_bytes()? == TRAILING, "{trailing:?}");
    Ok(())
}

/// A status that comes back as it was asked for, from a unary call and from a stream.
async fn status(mut client: Client, wanted: EchoStatus, of_a_stream_too: bool) -> anyhow::Result<()> {
    let is_wanted = |got: Status| {
        ensure!((got.code() as i32, got.message()) == (wanted.code, &*wanted.message), "{got:?}");
        Ok(())
    };
    let request = SimpleRequest { response_status: Some(wanted.clone()), ..Default::default() };
    is_wanted(client.unary_call(request).await.err().context("it succeeded")?)?;
    if of_a_stream_too {
        let request = StreamingOutputCallRequest { response_status: Some(wanted.clone()), ..Default::default() };
        let ended = match client.full_duplex_call(tokio_stream::once(request)).await {
            Ok(answers) => answers.into_inner().message().await.err(),
            Err(status) => Some(status),
        };
        is_wanted(ended.context("the stream succeeded")?)?;
    }
    Ok(())
}

fn unimplemented(answer: Result<Response<Empty>, Status>) -> anyhow::Result<()> {
    let status = answer.err().context("it is implemented")?;
    ensure!(status.code() == Code::Unimplemented, "{status:?}");
    Ok(())
}

/// tonic's way to cancel is to drop a call; who drops it gets no status.
async fn cancel_after_begin(mut client: Client) -> anyhow::Result<()> {
    let (_tx, rx) = mpsc::channel::<StreamingInputCallRequest>(1);
    let mut begun = client.clone();
    let call = tokio::spawn(async move { begun.streaming_input_call(ReceiverStream::new(rx)).await });
    // Its metadata is on its way before a second call on the same connection is answered.
    client.empty_call(Empty {}).await?;
    call.abort();
    let ended = call.await;
    ensure!(ended.as_ref().is_err_and(tokio::task::JoinError::is_cancelled), "it ended by itself: {ended:?}");
    empty_unary(client).await.context("the connection is of no use after that")
}

async fn cancel_after_first_response(mut client: Client) -> anyhow::Result<()> {
    let (tx, rx) = mpsc::channel(1);
    let request = StreamingOutputCallRequest {
        response_parameters: asks_for(&ANSWERS[..1]),
        payload: payload(REQUESTS[0]),
        ..Default::default()
    };
    tx.send(request).await?;
    let mut answers = client.full_duplex_call(ReceiverStream::new(rx)).await?.into_inner();
    answers.message().await?.context("no answer")?;
    drop(answers);
    empty_unary(client).await.context("the connection is of no use after that")
}

async fn timeout_on_sleeping_server(mut client: Client) -> anyhow::Result<()> {
    let (tx, rx) = mpsc::channel(1);
    tx.send(StreamingOutputCallRequest { payload: payload(REQUESTS[0]), ..Default::default() }).await?;
    let mut request = Request::new(ReceiverStream::new(rx));
    request.set_timeout(Duration::from_millis(1));
    let call = async {
        match client.full_duplex_call(request).await {
            Ok(answers) => answers.into_inner().message().await.err(),
            Err(status) => Some(status),
        }
    };
    // tonic's own timer says CANCELLED where it is first, and ends with the answer's head: then the
    // caller has to mind the time.
    let Ok(status) = timeout(Duration::from_secs(1), call).await else { return Ok(()) };
    let status = status.context("it succeeded")?;
    ensure!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    Ok(())
}

async fn orca_per_rpc(mut client: Client) -> anyhow::Result<()> {
    let report = TestOrcaReport {
        cpu_utilization: 0.8210,
        memory_utilization: 0.5847,
        request_cost: HashMap::from([("cost".into(), 3456.32)]),
        utilization: HashMap::from([("util".into(), 0.30499)]),
    };
    let request = SimpleRequest { orca_per_query_report: Some(report.clone()), ..Default::default() };
    let began = Instant::now();
    let answer = client.unary_call(request).await?;
    let got = answer.metadata().get_bin(LOAD_REPORT);
    let got = got.with_context(|| format!("no report after {:?}: {:?}", began.elapsed(), answer.metadata()))?;
    let got = LoadReport::decode(got.to_bytes()?)?;
    let wanted = LoadReport {
        cpu_utilization: report.cpu_utilization,
        mem_utilization: report.memory_utilization,
        request_cost: report.request_cost,
        utilization: report.utilization,
    };
    ensure!(got == wanted, "{got:?}");
    Ok(())
}
