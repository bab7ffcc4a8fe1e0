//! Endpoints go while picks go on: on a real service of the balancer, with its task, its
//! generations and its own pick.
//!
//! ```text
//!   1  one generation, endpoints cannot be reached, one after another      (a connection backs off)
//!   2  one generation, one request fails on endpoint after endpoint        (`tried`)
//!   3  endpoints leave the registry one after another: a build each, picks on the old generation and on the new one
//! ```
//!
//! The balancer answers every one of these picks whatever the policy does. So what is looked at is
//! whether it had to stand in for the policy, and whether the policy keeps a call waiting, or fails
//! it, while an endpoint could serve.

use std::sync::Arc;

use http::HeaderMap;

use super::{
    Run,
    live::{KEY_HEADER, Live},
    made_up,
};
use crate::{
    balancer::{Connectivity, Pick, PickRequest, ServiceState},
    model::{Endpoint, Revision, Update},
};

const SECTION: &str = "removal";

/// The endpoints of the service at first.
const ENDPOINTS: usize = 10;

pub(super) fn check(run: &mut Run<'_>) {
    // Of its own, so that the kit can be run from anywhere that may block.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return run.skip(SECTION, &format!("cannot start an async runtime: {error}")),
    };
    let picks = run.tries(200, 50);
    let service = match runtime.block_on(Service::start(run, picks)) {
        Ok(service) => service,
        Err(error) => {
            run.require(SECTION, "a service with it", Err(error));
            return;
        }
    };
    let result = service.unreachable();
    run.require(SECTION, "endpoints cannot be reached", result);
    let result = service.tried();
    run.require(SECTION, "a request fails on them", result);
    let result = runtime.block_on(service.leave());
    run.require(SECTION, "endpoints leave", result);
}

/// The policy under test, in service.
struct Service {
    live: Live,
    picks: usize,
    /// The policy keeps some requests from every endpoint by intention: it did so when all of them
    /// could be used.
    declines: bool,
}

impl Service {
    async fn start(run: &Run<'_>, picks: usize) -> Result<Self, String> {
        let live = Live::start(Arc::clone(&run.policy), &run.options.config, &run.scope).await?;
        let mut service = Self { live, picks, declines: false };
        let endpoints = made_up::alike(ENDPOINTS, &run.options.zone);
        service.live.apply(Update::Reset { revision: Revision(1), endpoints, skipped: 0 });
        service.live.published(ENDPOINTS).await?;
        let state = service.live.state();
        service.declines = (0..picks).any(|nth| !matches!(Self::pick(&state, nth, &[]), Pick::Endpoint(_)));
        Ok(service)
    }

    fn pick(state: &ServiceState, nth: usize, tried: &[u32]) -> Pick {
        let mut headers = HeaderMap::new();
        headers.insert(KEY_HEADER, http::HeaderValue::from(nth));
        state.pick(&PickRequest {
            path: "/waymark.Check/Pick",
            headers: &headers,
            peer: None,
            sequence: state.next_sequence(),
            tried,
        })
    }

    /// One pick, with `usable` endpoints left.
    fn expect(&self, state: &ServiceState, nth: usize, tried: &[u32], usable: usize) -> Result<(), String> {
        let stood_in = state.counters().fallback_picks();
        let pick = Self::pick(state, nth, tried);
        if state.counters().fallback_picks() > stood_in {
            return Err(format!("its pick failed with {usable} usable endpoints, and the host stood in for it"));
        }
        match &pick {
            Pick::Endpoint(index) => {
                let gone = state.endpoints.get(*index as usize).is_none_or(|endpoint| endpoint.cell.is_backing_off());
                if gone || tried.contains(index) {
                    return Err(format!("a pick took endpoint {index}, which cannot be used"));
                }
                Ok(())
            }
            _ if usable == 0 || self.declines => Ok(()),
            other => Err(format!("it answered {} while {usable} endpoints could serve", name(other))),
        }
    }

    fn unreachable(&self) -> Result<String, String> {
        let state = self.live.state();
        let result = (0..state.endpoints.len()).try_for_each(|gone| {
            state.endpoints[(gone * 3) % ENDPOINTS].cell.set_connectivity(Connectivity::BackingOff);
            (0..self.picks).try_for_each(|nth| self.expect(&state, nth, &[], ENDPOINTS - 1 - gone))
        });
        for endpoint in &*state.endpoints {
            endpoint.cell.set_connectivity(Connectivity::Idle);
        }
        result
            .map(|()| format!("{} picks, each found one that can be, as long as there was one", ENDPOINTS * self.picks))
    }

    fn tried(&self) -> Result<String, String> {
        let state = self.live.state();
        for request in 0..self.picks {
            let mut tried = Vec::new();
            while tried.len() <= ENDPOINTS {
                self.expect(&state, request, &tried, ENDPOINTS - tried.len())?;
                match Self::pick(&state, request, &tried) {
                    Pick::Endpoint(index) => tried.push(index),
                    _ => break,
                }
            }
            if tried.len() < ENDPOINTS && !self.declines {
                return Err(format!("a request was sent to {} of {ENDPOINTS} endpoints and then to none", tried.len()));
            }
        }
        Ok(format!("{} requests went from one to the next until none was left", self.picks))
    }

    async fn leave(&self) -> Result<String, String> {
        let mut revision = 1;
        let mut listed: Vec<Endpoint> =
            self.live.state().endpoints.iter().map(|state| state.endpoint.clone()).collect();
        while !listed.is_empty() {
            let old = self.live.state();
            let gone = listed.remove(listed.len() * 2 / 3);
            revision += 1;
            let removed = vec![gone.id];
            self.live.apply(Update::Changed {
                revision: Revision(revision),
                upserted: Vec::new(),
                removed,
                skipped: 0,
            });
            // Requests in flight keep their generation.
            (0..self.picks).try_for_each(|nth| self.expect(&old, nth, &[], old.endpoints.len()))?;
            self.live.published(listed.len()).await?;
            let new = self.live.state();
            (0..self.picks).try_for_each(|nth| self.expect(&new, nth, &[], listed.len()))?;
        }
        Ok(format!("{ENDPOINTS} builds down to none, {} picks on old and new generations", 2 * ENDPOINTS * self.picks))
    }
}

fn name(pick: &Pick) -> &'static str {
    match pick {
        Pick::Endpoint(_) => "an endpoint",
        Pick::Queue => "queue",
        Pick::NoEndpoints { .. } => "that there are none",
        Pick::NoneUsable { .. } => "that none can be used",
        Pick::Fail(_) => "fail",
        Pick::Drop(_) => "drop",
    }
}
