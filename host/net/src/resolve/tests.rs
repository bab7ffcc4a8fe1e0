#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures::{FutureExt as _, future::join_all};
use tokio::time::{advance, sleep};

use super::*;

/// What a name server says of a name, and after how long.
type Says = dyn Fn(&str, usize) -> (Duration, Result<Answer, Failed>) + Send + Sync;

/// A name server that counts what it is asked.
struct Fake {
    says: Box<Says>,
    asked: Arc<AtomicUsize>,
    at_once: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Source for Fake {
    fn look_up(&self, name: Arc<str>) -> BoxFuture<'_, Result<Answer, Failed>> {
        let n = self.asked.fetch_add(1, SeqCst);
        let (wait, says) = (self.says)(&name, n);
        let at_once = Arc::clone(&self.at_once);
        async move {
            at_once.1.fetch_max(at_once.0.fetch_add(1, SeqCst) + 1, SeqCst);
            let _leaves = Leaves(Arc::clone(&at_once));
            sleep(wait).await;
            says
        }
        .boxed()
    }
}

struct Leaves(Arc<(AtomicUsize, AtomicUsize)>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

struct Bench {
    resolver: Resolver,
    asked: Arc<AtomicUsize>,
    most_at_once: Arc<(AtomicUsize, AtomicUsize)>,
}

fn bench(says: impl Fn(&str, usize) -> (Duration, Result<Answer, Failed>) + Send + Sync + 'static) -> Bench {
    let (asked, most_at_once) = (Arc::default(), Arc::default());
    let fake = Fake { says: Box::new(says), asked: Arc::clone(&asked), at_once: Arc::clone(&most_at_once) };
    Bench { resolver: Resolver::new(fake), asked, most_at_once }
}

impl Bench {
    async fn ask(&self, name: &str) -> Outcome {
        self.resolver.addresses(name).await
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

const TTL: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(1);
const NEVER: Duration = Duration::from_secs(1_000_000);

fn ip(n: usize) -> IpAddr {
    [192, 0, 2, n as u8].into()
}

#[allow(clippy::unnecessary_wraps, reason = "it stands beside answers that are none")]
fn is(n: usize) -> Result<Answer, Failed> {
    Ok(Answer { addresses: vec![ip(n)], lives: TTL })
}

fn no_answer() -> Result<Answer, Failed> {
    Err(Failed { why: NotFound::NoAnswer("silence".into()), lives: None })
}

fn no_such_name(lives: Duration) -> Result<Answer, Failed> {
    Err(Failed { why: NotFound::NoSuchName("no such name".into()), lives: Some(lives) })
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_for_a_name_at_once_wait_for_one_look_up() {
    let it = bench(|_, _| (SOON, is(1)));
    let outcomes = join_all((0..100).map(|n| it.ask(if n % 2 == 0 { "a.test" } else { "A.Test" }))).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Ok(&[ip(1)])), "{outcomes:?}");
    assert_eq!(it.asked(), 1);
    // Who gives up takes the look-up with it for nobody.
    let it = bench(|_, _| (TTL / 100, is(1)));
    assert!(it.ask("a.test").now_or_never().is_none());
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(1)][..]));
    assert_eq!((it.asked(), it.resolver.running()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_right_for_as_long_as_its_server_said() {
    let it = bench(|_, n| (SOON, is(n)));
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(0)][..]));
    advance(TTL.saturating_sub(SOON * 2)).await;
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(0)][..]));
    advance(SOON * 3).await;
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(1)][..]));
    assert_eq!(it.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_says_nothing_holds_nobody_for_ever_and_few_at_once() {
    let it = bench(|_, _| (NEVER, is(1)));
    let began = Instant::now();
    let names: Vec<_> = (0..AT_ONCE * 2).map(|n| format!("h{n}.test")).collect();
    let outcomes = join_all(names.iter().map(|name| it.ask(name))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(NotFound::NoAnswer(_)))), "{outcomes:?}");
    assert_eq!(began.elapsed(), LIMIT * 2);
    assert_eq!(it.most_at_once.1.load(SeqCst), AT_ONCE);
    // For a moment nobody asks again.
    assert!(it.ask("h600.test").now_or_never().is_none());
    assert!(it.ask("h511.test").now_or_never().unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_known_is_used_when_the_name_server_says_nothing_more() {
    let it = bench(|_, n| match n {
        0 => (SOON, is(1)),
        1 => (NEVER, is(2)),
        2 => (SOON, no_answer()),
        _ => (SOON, is(3)),
    });
    it.ask("a.test").await.unwrap();
    advance(TTL).await;
    let began = Instant::now();
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(1)][..]));
    assert_eq!(began.elapsed(), STALE_AFTER);
    advance(LIMIT).await;
    // The look-up has failed, and that is remembered: nobody waits.
    sleep(SOON).await;
    assert_eq!(it.ask("a.test").now_or_never().unwrap().as_deref(), Ok(&[ip(1)][..]));
    advance(FAILED).await;
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(1)][..]), "a failure takes nothing away");
    advance(FAILED).await;
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(3)][..]));
    // But not for ever.
    let it = bench(|_, n| (SOON, if n == 0 { is(1) } else { no_answer() }));
    it.ask("a.test").await.unwrap();
    advance(TTL + STALE).await;
    assert!(it.ask("a.test").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_is_gone_and_soon_asked_for_again() {
    let it = bench(|_, n| (SOON, if n == 1 { no_such_name(NEVER) } else { is(n) }));
    it.ask("a.test").await.unwrap();
    advance(TTL).await;
    assert!(matches!(it.ask("a.test").await, Err(NotFound::NoSuchName(_))));
    advance(NEGATIVE_MOST.saturating_sub(SOON * 2)).await;
    assert!(it.ask("a.test").now_or_never().unwrap().is_err());
    advance(SOON * 2).await;
    assert_eq!(it.ask("a.test").await.as_deref(), Ok(&[ip(2)][..]));
}

#[tokio::test(start_paused = true)]
async fn addresses_are_asked_of_nobody() {
    let it = bench(|_, _| (NEVER, is(1)));
    for host in ["192.0.2.7", "2001:db8::7", "127.1"] {
        assert_eq!(it.ask(host).now_or_never().unwrap().unwrap().len(), 1, "{host}");
    }
    assert_eq!(it.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let it = bench(|name, _| (SOON, if name.starts_with("no") { no_such_name(SOON) } else { is(1) }));
    for n in 0..NAMES + 10 {
        let _ = it.ask(&format!("no{n}.test")).await;
        advance(SOON).await;
    }
    assert!(it.resolver.inner.names().len() <= NAMES);
}

#[tokio::test]
async fn the_hosts_file_comes_before_any_name_server() {
    // Every system has this one; that it is answered at all without a name server is what this is
    // about.
    let found = Resolver::default().addresses("localhost").await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}
