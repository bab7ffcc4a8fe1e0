//! The check of an endpoint: whether it is fit to serve, found out without a call.
//!
//! ```text
//!               a good word
//!   Unchecked ──────────────▶ Fit ─────────┐
//!    ▲  │  ▲    watch ended    │           │
//!    │  │  └───────────────────┘           │ a bad word
//!    │  │ a bad word, or none in time      │
//!    │  └──────────▶ Unfit ◀───────────────┘
//!    │ connection      │ ▲ asked again after a pause, no answer
//!    └─ lost ──────────┘ └─┘
//! ```
//!
//! gRPC's health service is watched as gRPC's clients do (gRFC A17): on the connection that calls
//! use, from when it stands. A server without that service is fit. Anything but SERVING is a bad
//! word. When a watch that had answered ends, or its connection does, the endpoint is asked again
//! at once and calls wait for the word; one that ends unanswered is begun again after the pauses of
//! a failed connection, and meanwhile the endpoint is not used.
//!
//! The other checks ([`health`]) connect anew each time and know nothing of the connection.

use std::{
    error::Error,
    future::poll_fn,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri, uri};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;
use tracing::{Instrument as _, debug, debug_span, info};
use waymark_balancer::Health;
use waymark_core::backoff::Backoff;
use waymark_http2::Known;
use waymark_net::health::{self, Check, CheckConfig, HealthStatus};

use super::{Connection, Inner, Phase, Sender};
use crate::{
    errors::http2::StreamError,
    upstream::exchange::{Answer, Handle, Head},
    wire::fields,
};

/// How often a watch looks whether its connection is going away: a server that drains would wait
/// for the watch to end.
const LOOK: Duration = Duration::from_secs(1);

type BoxError = Box<dyn Error + Send + Sync>;

/// How a watch ended.
enum Ended {
    /// The server has no health service.
    Unimplemented,
    /// It had answered.
    Answered,
    /// It never answered, and why.
    Unanswered(Arc<str>),
}

impl Connection {
    /// Checks the endpoint from now on, if it is not checked yet.
    pub(super) fn check(&self, config: &CheckConfig) {
        if self.checked.swap(true, Relaxed) {
            return;
        }
        let (inner, config) = (Arc::clone(&self.inner), config.clone());
        let span = debug_span!(parent: None, "check", address = %inner.target.address);
        let check = async move {
            let stop = inner.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = inner.check(config) => {}
            }
        };
        tokio::spawn(check.instrument(span));
    }

    /// Why the check found the endpoint unfit, the last time it did.
    pub(crate) fn unfit(&self) -> Option<Arc<str>> {
        // A panic while it is held leaves it as it was.
        self.inner.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    async fn check(self: Arc<Self>, config: CheckConfig) {
        match &config.check {
            Check::Grpc(service) => self.watch(service, config.timeout).await,
            Check::Tcp | Check::Http(_) => self.probe(config).await,
        }
    }

    async fn probe(&self, config: CheckConfig) {
        let mut told = health::watch(config, &self.target.address, Some(self.options.address_filter.clone()));
        while told.changed().await.is_ok() {
            let verdict = told.borrow_and_update().clone();
            self.heed(&verdict);
        }
    }

    async fn watch(self: &Arc<Self>, service: &str, patience: Duration) {
        let mut backoff = Backoff::new(self.options.backoff_base, self.options.backoff_max);
        let mut phase = self.phase.subscribe();
        loop {
            let Ok(sender) = self.connected(None).await else {
                self.judge(Health::Unknown);
                // The sender of this channel lives in `self`: it does not end before.
                let _ = phase.wait_for(|phase| !matches!(phase, Phase::BackingOff { .. })).await;
                continue;
            };
            let (began, number) = (Instant::now(), sender.permit.number());
            match self.watch_on(sender, service, patience).await {
                Ended::Unimplemented => {
                    debug!("it has no health service, and counts as healthy");
                    self.judge(Health::Healthy);
                    // What answers on the next connection may be another server. It is told by its
                    // number: a connection that is lost and made again at once would pass between
                    // two looks at the phase.
                    while self.is_live(number) {
                        let _ = timeout(LOOK, phase.changed()).await;
                    }
                    // The sender of this channel lives in `self`: it does not end before.
                    let _ = phase.wait_for(|phase| matches!(phase, Phase::Ready)).await;
                }
                // Whoever answers only to hang up is not asked as fast as it does so.
                Ended::Answered if began.elapsed() >= backoff.current() => {
                    backoff.reset();
                    self.judge(Health::Unknown);
                }
                Ended::Answered => {
                    self.judge(Health::Unknown);
                    sleep(backoff.next(fastrand::f64())).await;
                }
                Ended::Unanswered(reason) => {
                    self.judge_unfit(&reason);
                    sleep(backoff.next(fastrand::f64())).await;
                }
            }
        }
    }

    /// One watch, from its beginning to its end.
    async fn watch_on(&self, sender: Sender, service: &str, patience: Duration) -> Ended {
        let Sender { handle, permit } = sender;
        let mut origin = uri::Parts::default();
        (origin.scheme, origin.authority) = (Some(self.scheme()), Some(self.authority.clone()));
        origin.path_and_query = Some(uri::PathAndQuery::from_static("/"));
        let origin = Uri::from_parts(origin).expect("scheme, authority and path make a URI");
        let begun = timeout(patience, health::HealthWatch::begin(Wire(Arc::clone(&handle)), origin, service)).await;
        let (mut stream, mut verdict) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(health::WatchEnded::Unimplemented)) => return Ended::Unimplemented,
            Ok(Err(health::WatchEnded::Failed(reason))) => return Ended::Unanswered(reason.into()),
            Err(_) => {
                let whose = if service.is_empty() { "its server" } else { service };
                let millis = patience.as_millis();
                return Ended::Unanswered(format!("no answer about the health of {whose} within {millis} ms").into());
            }
        };
        loop {
            self.heed(&verdict);
            let gone = async {
                while !self.is_going_away(&handle, permit.number()) {
                    sleep(LOOK).await;
                }
            };
            verdict = tokio::select! {
                verdict = stream.next() => match verdict {
                    Ok(verdict) => verdict,
                    Err(ended) => {
                        debug!(?ended, "the watch of its health ended");
                        return Ended::Answered;
                    }
                },
                () = gone => return Ended::Answered,
            };
        }
    }

    fn is_live(&self, number: u64) -> bool {
        self.live.load().iter().any(|live| live.streams.number() == number)
    }

    /// Whether this connection takes no more calls; if so, it takes none from here on.
    fn is_going_away(&self, handle: &Handle, number: u64) -> bool {
        let retired = !self.is_live(number);
        let closing = handle.closing().is_some();
        if closing {
            self.remove(number, Phase::Idle);
        }
        retired || closing
    }

    fn heed(&self, verdict: &HealthStatus) {
        match verdict {
            HealthStatus::Healthy => self.judge(Health::Healthy),
            HealthStatus::Unhealthy(reason) => self.judge_unfit(reason),
        }
    }

    fn judge_unfit(&self, reason: &Arc<str>) {
        // As in `unfit`.
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(reason));
        self.judge(Health::Unhealthy);
    }

    fn judge(&self, health: Health) {
        let Some(cell) = self.cell.upgrade() else { return };
        let before = cell.health();
        cell.set_health(health);
        match (before, health) {
            (before, Health::Unhealthy) if before != health => {
                let reason = self.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone();
                info!(address = %self.target.address, reason = reason.as_deref(), "endpoint is unhealthy");
            }
            (Health::Unhealthy, Health::Healthy) => info!(address = %self.target.address, "endpoint is healthy again"),
            _ => {}
        }
    }
}

/// What tonic's client sends on: a connection as it is.
struct Wire(Arc<Handle>);

impl Service<Request<tonic::body::Body>> for Wire {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(self.0.closing().map_or(Ok(()), |cause| Err(StreamError::Unseen(cause).into())))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let handle = Arc::clone(&self.0);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let mut block = handle.block();
            let scheme = head.uri.scheme().unwrap_or(&uri::Scheme::HTTP);
            let authority = head.uri.authority().map_or("", uri::Authority::as_str);
            fields::begin_request(&mut block, &head.method, scheme, authority, head.uri.path())?;
            fields::add(&mut block, &head.headers)?;
            fields::put(&mut block, Known::Te, b"trailers")?;
            let (sending, mut answer) = handle.open(block, false);
            // One small message: what the window does not take yet waits in HTTP/2.
            sending.send(body, true);
            let Head { status, headers, .. } = poll_fn(|cx| answer.poll_head(cx)).await?;
            let mut response = Response::new(answer);
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok(response)
        })
    }
}
