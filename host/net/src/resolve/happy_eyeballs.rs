//! Several addresses of one host: connected to as RFC 8305 ("happy eyeballs") says.

use std::{net::SocketAddr, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// How long one address has before the next is tried beside it: the "connection attempt delay" of
/// RFC 8305, section 8.
const DELAY: Duration = Duration::from_millis(250);

/// The shortest that may be (the same section).
const LEAST_DELAY: Duration = Duration::from_millis(10);

/// Tries these addresses one after the other, each with a head start over the next, and answers
/// with the first attempt that ends well. The others are given up then. One that fails lets the
/// next begin at once. All have their turn in the first half of `timeout`.
///
/// # Errors
///
/// What the last attempt that ended failed with; none where there are no addresses.
///
/// # Cancel safety
///
/// Safe: all attempts are given up.
pub async fn happy_eyeballs<T, E, F: Future<Output = Result<T, E>>>(
    addresses: Vec<SocketAddr>,
    timeout: Duration,
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> Result<T, Option<E>> {
    let addresses = interleaved(addresses);
    let turns = u32::try_from(addresses.len().saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    let delay = DELAY.min(timeout / 2 / turns).max(LEAST_DELAY);
    let mut waiting = addresses.into_iter().peekable();
    let (mut running, mut failed) = (FuturesUnordered::new(), None);
    let mut next = Instant::now();
    loop {
        if running.is_empty() || Instant::now() >= next {
            match waiting.next() {
                Some(address) => {
                    running.push(attempt(address));
                    next = Instant::now() + delay;
                }
                None if running.is_empty() => return Err(failed),
                None => {}
            }
        }
        let more = waiting.peek().is_some();
        tokio::select! {
            biased;
            Some(ended) = running.next() => match ended {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failed = Some(error);
                    next = Instant::now();
                }
            },
            () = sleep_until(next), if more => {}
        }
    }
}

/// The two families in turns, beginning with the one that stands first (RFC 8305, section 4);
/// otherwise in their order, each once.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (some, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut some, mut others) = (some.into_iter(), others.into_iter());
    let mut in_turns = Vec::with_capacity(some.len() + others.len());
    loop {
        let pair = [some.next(), others.next()];
        if pair == [None, None] {
            return in_turns;
        }
        for address in pair.into_iter().flatten() {
            if !in_turns.contains(&address) {
                in_turns.push(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let mixed = addresses(&["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::1]:1", "192.0.2.1:1"]);
        let in_turns = addresses(&["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1"]);
        assert_eq!(interleaved(mixed), in_turns);
        let four_first = addresses(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]);
        assert_eq!(interleaved(four_first), addresses(&["192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"]));
        assert_eq!(interleaved(Vec::new()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_its_head_start_and_a_refused_one_nothing() {
        let began = Instant::now();
        let tried = RefCell::new(Vec::new());
        let attempt = |address: SocketAddr| {
            tried.borrow_mut().push(address.port());
            async move {
                match address.port() {
                    1 => pending().await,
                    2 => Err("refused"),
                    port => Ok(port),
                }
            }
        };
        let list = addresses(&["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"]);
        assert_eq!(happy_eyeballs(list, HOUR, attempt).await, Ok(3));
        assert_eq!(*tried.borrow(), [1, 2, 3]);
        assert_eq!(began.elapsed(), DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_still_wins_if_it_is_first() {
        let slow = |address: SocketAddr| async move {
            let wait = if address.port() == 1 { DELAY * 3 } else { HOUR };
            tokio::time::sleep(wait).await;
            Ok::<_, ()>(address.port())
        };
        let began = Instant::now();
        assert_eq!(happy_eyeballs(addresses(&["192.0.2.1:1", "192.0.2.1:2"]), HOUR, slow).await, Ok(1));
        assert_eq!(began.elapsed(), DELAY * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn all_have_their_turn_in_time_however_many() {
        let last = 100;
        let attempt =
            |address: SocketAddr| async move { if address.port() == last { Ok::<_, ()>(()) } else { pending().await } };
        let began = Instant::now();
        let list = (1..=last).map(|port| ([192, 0, 2, 1], port).into()).collect();
        assert_eq!(happy_eyeballs(list, Duration::from_secs(2), attempt).await, Ok(()));
        // Timers are of whole milliseconds.
        assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn where_all_fail_it_says_why_and_where_there_is_none_nothing() {
        let refused = |address: SocketAddr| async move { Err::<(), _>(address.port()) };
        assert_eq!(happy_eyeballs(addresses(&["192.0.2.1:1", "192.0.2.1:2"]), HOUR, refused).await, Err(Some(2)));
        assert_eq!(happy_eyeballs(Vec::new(), HOUR, refused).await, Err(None));
    }
}
