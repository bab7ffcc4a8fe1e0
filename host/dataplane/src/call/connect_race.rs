//! Races connections to other endpoints while the one that was chosen for a call is not connected
//! to.
//!
//! ```text
//!   chosen, not connected ──▶ its attempt begins (`connection`), whoever waits for it ──▶ connected: the call goes there
//!                                │ for `GRACE` the call waits, as all do that are chosen for it
//!                                ▼
//!                 another is connected? ── yes ──▶ the call goes to that one; the attempt goes on
//!                                │ nobody is
//!                                ▼
//!                 attempts at more of them, twice as many each `PACE`; the first that is connected gets all who wait
//! ```
//!
//! So an endpoint whose packets are dropped, or that takes a connection and says nothing, keeps a
//! call for a moment at most, and only while its first attempt is young. What one call finds out is
//! in the endpoints' cells, where picks read it: others do not wait for it again. Where nobody is
//! connected the endpoints are raced as RFC 8305 races addresses, but faster: they are other
//! machines, and an attempt costs each a packet.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use waymark_balancer::{EndpointState, GRACE, ServiceState};

/// How soon more endpoints are connected to while none is. RFC 8305, section 8, asks for 100 ms
/// between attempts at one host, and for 10 ms at least.
const PACE: Duration = GRACE;

/// How many at first.
const FIRST: usize = 16;

/// How many attempts of one service may run at once for calls that wait. Each is a descriptor.
const AT_ONCE: u32 = 512;

/// Ready when a call that waits for a connection of this endpoint had better go to another one;
/// these were tried. Until then others are connected to, if none is. `patience` is how long it
/// waits where others are connected to, but cannot take it at the moment; or where the endpoint is
/// connected to, and has no stream free.
///
/// # Cancel safety
///
/// Safe: attempts that were begun go on.
pub(crate) async fn elsewhere(
    state: &ServiceState,
    endpoint: &EndpointState,
    tried: &[u32],
    patience: Option<Duration>,
) {
    let began = Instant::now();
    if state.endpoints.len() == 1 {
        return pending().await;
    }
    let cell = &endpoint.cell;
    if cell.is_unconnected() {
        sleep(cell.grace_left(GRACE).unwrap_or_default()).await;
    }
    let mut most = FIRST;
    let mut next = Instant::now();
    let mut more = cell.is_unconnected();
    loop {
        // Before the look, so that nothing is missed after it.
        let readied = state.limiter.readied();
        let nobody = state.limiter.connected() == 0;
        if cell.is_unconnected() && state.has_other_connected(endpoint, tried) {
            return;
        }
        if nobody && more && Instant::now() >= next {
            let room = AT_ONCE.saturating_sub(state.limiter.connecting()) as usize;
            more = room == 0 || state.connect_some(most.min(room)) > 0;
            most = most.saturating_mul(2);
            next = Instant::now() + PACE;
        }
        tokio::select! {
            () = readied => {}
            () = sleep_until(next), if nobody && more => {}
            () = sleep_until(began + patience.unwrap_or_default()), if patience.is_some() && !nobody => return,
        }
    }
}
