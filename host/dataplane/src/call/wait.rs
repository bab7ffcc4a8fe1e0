//! What a call waits for before it can be sent: a place, another generation, an endpoint that can
//! be used.
//!
//! How many wait is bounded by the service's [`CallLimiter`], how long by the call's deadline; and
//! by [`Options::queue_timeout`] where nobody asked to wait. A call that waits for readiness was
//! asked to, and waits for as long as its caller does.
//!
//! [`Options::queue_timeout`]: crate::Options::queue_timeout

use std::{future::Future, pin::pin, sync::Arc};

use tokio::time::{Instant, timeout_at};
use waymark_balancer::{CallLimiter, CallPermit, PendingCall, ServiceHandle, ServiceState};
use waymark_core::model::Address;

use crate::{
    errors::failure::{CallStage, Failure, Waiting},
    observe::metrics::Metrics,
    options::Options,
};

/// In the extensions of a request to a [`Channel`](crate::Channel): whether this call waits while
/// no endpoint can be reached, up to its deadline, instead of failing at once. Goes before what the
/// service's configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// The future's output, unless the deadline comes first.
pub(crate) async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(at) => timeout_at(at, future).await.ok(),
        None => Some(future.await),
    }
}

/// Waits until a place in the service is free.
pub(crate) async fn place(
    options: &Options,
    limiter: &CallLimiter,
    has_few: impl FnOnce(u32) -> bool,
    deadline: Option<Instant>,
) -> Result<CallPermit, Failure> {
    let _pending = queue(limiter, Waiting::Place)?;
    bounded(options, deadline, Waiting::Place, limiter.acquire(has_few)).await
}

/// Waits until a place at an endpoint may be free, or a check has said what it says of one, and
/// answers with what is published then.
pub(crate) async fn endpoint(
    options: &Options,
    handle: &ServiceHandle,
    state: &ServiceState,
    why: Waiting,
    deadline: Option<Instant>,
) -> Result<Arc<ServiceState>, Failure> {
    let _pending = queue(&state.limiter, why.clone())?;
    let mut reader = handle.subscribe();
    let mut freed = pin!(state.limiter.freed());
    // What was given back or said from here on is noticed, and what was before is seen now.
    freed.as_mut().enable();
    let readied = state.limiter.readied();
    let weighty = || state.endpoints.iter().filter(|e| e.endpoint.weight > 0).map(|e| &e.cell);
    let some_place = weighty().any(|cell| cell.is_usable() && !cell.is_full());
    let some_hope = weighty().any(|cell| cell.is_pending() || (cell.is_usable() && cell.is_full()));
    if some_place || !some_hope || reader.current().generation != state.generation {
        return Ok(reader.current());
    }
    let changed = async {
        tokio::select! {
            () = freed => Ok(()),
            () = readied => Ok(()),
            changed = reader.changed() => changed.map_err(|_| Failure::Closed),
        }
    };
    bounded(options, deadline, why, changed).await??;
    Ok(reader.current())
}

/// Waits until `free` is ready: a stream of the endpoint at this address; as long as its caller
/// does where it was asked to (`asked`). How long is counted there.
pub(crate) async fn stream<T>(
    options: &Options,
    state: &ServiceState,
    address: &Address,
    metrics: &Metrics,
    deadline: Option<Instant>,
    asked: bool,
    free: impl Future<Output = T>,
) -> Result<T, Failure> {
    let why = Waiting::Stream(address.clone());
    let _waiting = metrics.waits_for_stream(&state.service);
    // Not in the queue: a client that holds all streams could fill that, too, and others would not
    // get to those in reserve.
    let free = if asked {
        within(deadline, free).await.ok_or(Failure::Deadline { stage: CallStage::Waiting(why) })
    } else {
        bounded(options, deadline, why, free).await
    };
    free.inspect_err(|_| metrics.stream_refused(&state.service))
}

/// Waits for another generation than `state`, after its policy said to.
pub(crate) async fn generation(
    options: &Options,
    handle: &ServiceHandle,
    state: &ServiceState,
    deadline: Option<Instant>,
) -> Result<Arc<ServiceState>, Failure> {
    let why = || Waiting::Policy(Arc::clone(&state.policy_name));
    let mut reader = handle.subscribe();
    // What was published between the pick and the subscription does not count as a change.
    if reader.current().generation == state.generation {
        let _pending = queue(&state.limiter, why())?;
        bounded(options, deadline, why(), reader.changed()).await?.map_err(|_| Failure::Closed)?;
    }
    Ok(reader.current())
}

/// Waits until a call that failed with `failure` may fare better. It is whoever calls that decides
/// that it may wait.
///
/// # Errors
///
/// `failure` where waiting for endpoints would not help; that the deadline came first, with
/// `failure` as its cause.
pub(crate) async fn ready(
    handle: &ServiceHandle,
    state: &ServiceState,
    deadline: Option<Instant>,
    failure: Failure,
) -> Result<Arc<ServiceState>, Failure> {
    let by_endpoint = match &failure {
        Failure::NoEndpoints { .. }
        | Failure::NotListed { .. }
        | Failure::RegistryUnreachable { .. }
        | Failure::PolicyFail { .. } => false,
        Failure::NoneReachable { .. } | Failure::NoneHealthy { .. } | Failure::AllTried { .. } => true,
        _ => return Err(failure),
    };
    let _pending = queue(&state.limiter, Waiting::Ready)?;
    let mut reader = handle.subscribe();
    let readied = state.limiter.readied();
    if reader.current().generation != state.generation {
        return Ok(reader.current());
    }
    // Endpoints that can be reached and took no call would be asked again at once, and as often as
    // they refuse.
    if by_endpoint && state.any_usable() {
        return Err(failure);
    }
    let changed = async {
        tokio::select! {
            () = readied, if by_endpoint => Ok(()),
            changed = reader.changed() => changed.map_err(|_| Failure::Closed),
        }
    };
    match within(deadline, changed).await {
        Some(changed) => changed?,
        None => return Err(Failure::NeverReady { cause: Box::new(failure) }),
    }
    Ok(reader.current())
}

fn queue(limiter: &CallLimiter, why: Waiting) -> Result<PendingCall<'_>, Failure> {
    limiter.queue().map_err(|full| Failure::Overloaded { why, max_pending: full.max_pending })
}

/// Waits as long as a call waits that did not ask to.
async fn bounded<F: Future>(
    options: &Options,
    deadline: Option<Instant>,
    why: Waiting,
    future: F,
) -> Result<F::Output, Failure> {
    let began = Instant::now();
    let bound = began + options.queue_timeout;
    let deadline = deadline.filter(|at| *at < bound);
    match timeout_at(deadline.unwrap_or(bound), future).await {
        Ok(output) => Ok(output),
        Err(_) if deadline.is_some() => Err(Failure::Deadline { stage: CallStage::Waiting(why) }),
        Err(_) => Err(Failure::QueueTimeout { why, waited: began.elapsed() }),
    }
}
