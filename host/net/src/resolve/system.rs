//! Names as this system is told to look them up: `/etc/hosts`, then the name servers of
//! `/etc/resolv.conf`.
//!
//! As glibc does it: the hosts file comes before any search domain; a name with at least `ndots`
//! dots is asked for as it is before the search domains are tried, any other after them; one that
//! ends in a dot is asked for alone; `search` and `domain` exclude each other; without either there
//! is the domain of the host's own name. Other than there, the two kinds of addresses are asked for
//! beside one another and the slower is waited for only a moment, servers are asked beside one
//! another when one is slow, and both files are read again when they have changed. Other sources of
//! `nsswitch.conf` are not asked.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, future::BoxFuture};
use resolv_conf::Config;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{
    Answer, Failed, NotFound, Source,
    query::{DnsAnswer, Kind, query},
};

/// How often it is looked whether the files have changed; and how long a line of the hosts file is
/// right.
const LOOK: Duration = Duration::from_secs(1);

/// How long the second kind of address is waited for when the first is there: the "resolution
/// delay" of RFC 8305, section 3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How many name servers and search domains are heeded, as in glibc (`MAXNS`, `MAXDNSRCH` before
/// 2.26).
const MOST_SERVERS: usize = 3;
const MOST_DOMAINS: usize = 6;

/// The port of name servers.
const DNS: u16 = 53;

/// The system's configuration, read when it is first needed.
pub(super) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    port: u16,
    read: Mutex<Option<Arc<Read>>>,
}

impl Default for System {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into(), DNS)
    }
}

/// The two files as they were.
struct Read {
    looked: Mutex<Instant>,
    stamps: [Stamp; 2],
    hosts: HashMap<String, Vec<IpAddr>>,
    servers: Vec<SocketAddr>,
    domains: Vec<String>,
    ndots: usize,
    /// How long a server has, and how often all are asked.
    each: Duration,
    attempts: u32,
}

/// What tells whether a file is another one.
type Stamp = Option<(SystemTime, u64)>;

impl System {
    fn new(hosts: PathBuf, resolv_conf: PathBuf, port: u16) -> Self {
        Self { hosts, resolv_conf, port, read: Mutex::default() }
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.hosts, &self.resolv_conf].map(|path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        })
    }

    /// What the files say, looked at now and then.
    fn read(&self) -> Arc<Read> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &*read {
            let mut looked = read.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK || read.stamps == self.stamps() {
                if looked.elapsed() >= LOOK {
                    *looked = Instant::now();
                }
                return Arc::clone(read);
            }
        }
        Arc::clone(read.insert(Arc::new(self.read_anew())))
    }

    fn read_anew(&self) -> Read {
        // Before they are read: what changes meanwhile is seen at the next look.
        let stamps = self.stamps();
        let text = |path: &PathBuf| {
            let text = fs::read(path).inspect_err(|error| debug!(%error, path = %path.display(), "cannot be read"));
            text.unwrap_or_default()
        };
        let hosts = hosts(&String::from_utf8_lossy(&text(&self.hosts)));
        let (config, errors) = Config::parse_with_errors(&text(&self.resolv_conf));
        for error in errors {
            warn!(%error, path = %self.resolv_conf.display(), "a line is not understood");
        }
        let mut servers: Vec<IpAddr> = config.nameservers.iter().map(|ip| ip.clone().into()).collect();
        if servers.is_empty() {
            // As resolv.conf(5) has it.
            servers.push(Ipv4Addr::LOCALHOST.into());
        }
        let mut domains: Vec<_> = config.get_last_search_or_domain().cloned().collect();
        if config.get_search().is_none() && config.get_domain().is_none() {
            domains.extend(own_domain());
        }
        Read {
            looked: Mutex::new(Instant::now()),
            stamps,
            hosts,
            servers: servers.into_iter().take(MOST_SERVERS).map(|ip| (ip, self.port).into()).collect(),
            domains: domains.into_iter().filter(|domain| domain != "--").take(MOST_DOMAINS).collect(),
            ndots: config.ndots as usize,
            each: Duration::from_secs(config.timeout.max(1).into()),
            attempts: config.attempts.max(1),
        }
    }
}

/// The domain of this host's own name.
fn own_domain() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().split_once('.')?.1.to_owned()).filter(|domain| !domain.is_empty())
}

/// The lines of a hosts file: an address and its names.
fn hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<_, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            let ips = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    // IPv6 first, as from name servers.
    for ips in hosts.values_mut() {
        ips.sort_by_key(IpAddr::is_ipv4);
    }
    hosts
}

impl Read {
    /// What the hosts file says; of `localhost` also where it says nothing (RFC 6761, section 6.3).
    fn listed(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.trim_end_matches('.');
        if let Some(listed) = self.hosts.get(name) {
            return Some(listed.clone());
        }
        let local = name == "localhost" || name.ends_with(".localhost");
        local.then(|| vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])
    }

    /// What is asked for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let searched = self.domains.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.')));
        let mut candidates: Vec<_> = searched.collect();
        let dots = name.matches('.').count();
        candidates.insert(if dots >= self.ndots { 0 } else { candidates.len() }, name.to_owned());
        candidates
    }

    /// Both kinds of addresses of this very name, the second one if it comes soon enough.
    async fn both(&self, name: &str) -> Result<Answer, Failed> {
        let ask = |kind| query(&self.servers, name, kind, self.each, self.attempts);
        let (mut six, mut four) = (pin!(ask(Kind::Six)), pin!(ask(Kind::Four)));
        let patient = |says: &Result<DnsAnswer, String>| !matches!(says, Ok(DnsAnswer::Addresses(..)));
        let (six, four) = tokio::select! {
            says = &mut six => {
                let patient = patient(&says);
                (Some(says), second(four, patient).await)
            }
            says = &mut four => {
                let patient = patient(&says);
                (second(six, patient).await, Some(says))
            }
        };
        let (mut addresses, mut right_for) = (Vec::new(), Duration::MAX);
        // What is to be said if there are none: rather that nobody could say than that there are
        // none.
        let (mut failed, mut there_is, mut none_for) = (None, false, None::<Duration>);
        for says in [six, four].into_iter().flatten() {
            match says {
                Ok(DnsAnswer::Addresses(found, lives)) => {
                    addresses.extend(found);
                    right_for = right_for.min(lives);
                }
                Ok(DnsAnswer::None { exists, lives }) => {
                    there_is |= exists;
                    none_for = none_for.min(lives).or(none_for).or(lives);
                }
                Err(error) => failed = Some(error),
            }
        }
        if !addresses.is_empty() {
            return Ok(Answer { addresses, lives: right_for });
        }
        if let Some(error) = failed {
            return Err(Failed { why: NotFound::NoAnswer(error.into()), lives: None });
        }
        let why = if there_is { "it has no address" } else { "there is no such name" };
        Err(Failed { why: NotFound::NoSuchName(why.into()), lives: none_for })
    }
}

/// The other kind: waited for in full if the first one has no address, else for a moment.
async fn second<F: Future>(future: F, patient: bool) -> Option<F::Output> {
    if patient { Some(future.await) } else { timeout(RESOLUTION_DELAY, future).await.ok() }
}

impl Source for System {
    fn look_up(&self, name: Arc<str>) -> BoxFuture<'_, Result<Answer, Failed>> {
        async move {
            let read = self.read();
            if let Some(addresses) = read.listed(&name) {
                return Ok(Answer { addresses, lives: LOOK });
            }
            let mut failed: Option<Failed> = None;
            for candidate in read.candidates(&name) {
                match read.both(&candidate).await {
                    Ok(answer) => return Ok(answer),
                    // That nobody could say stands over all that others are not.
                    Err(error) => {
                        let graver = matches!(error.why, NotFound::NoAnswer(_));
                        failed = failed.filter(|_| !graver).or(Some(error));
                    }
                }
            }
            Err(failed.expect("there is a candidate"))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::Ordering::SeqCst;

    use tokio::time::advance;

    use super::{
        super::query::tests::{Reply, Server, four, server, six},
        *,
    };

    /// A system whose name server is this one.
    struct Configured {
        system: System,
        folder: tempfile::TempDir,
    }

    impl Configured {
        fn new(server: &Server, hosts: &str, resolv_conf: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let paths = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
            fs::write(&paths.0, hosts).unwrap();
            fs::write(&paths.1, format!("nameserver 127.0.0.1\n{resolv_conf}")).unwrap();
            Self { system: System::new(paths.0, paths.1, server.at.port()), folder }
        }

        async fn look_up(&self, name: &str) -> Result<Vec<String>, NotFound> {
            let found = self.system.look_up(name.into()).await;
            found.map(|answer| answer.addresses.iter().map(ToString::to_string).collect()).map_err(|failed| failed.why)
        }
    }

    #[tokio::test]
    async fn the_hosts_file_comes_before_the_name_server_and_is_read_again() {
        let silent = server(|_, _| None).await;
        let hosts = "127.0.0.2 Two.test # two.invalid\n::2\ttwo.test\n127.0.0.3 two.test two.test\n";
        let it = Configured::new(&silent, hosts, "search a.test b.test\noptions ndots:5\n");
        assert_eq!(it.look_up("two.test").await.unwrap(), ["::2", "127.0.0.2", "127.0.0.3"]);
        assert_eq!(it.look_up("two.test.").await.unwrap().len(), 3);
        assert_eq!(it.look_up("localhost").await.unwrap(), ["::1", "127.0.0.1"]);
        assert_eq!(it.look_up("a.localhost").await.unwrap().len(), 2);
        assert_eq!(silent.asked.load(SeqCst), 0);
        fs::write(it.folder.path().join("hosts"), "127.0.0.77 two.test\n").unwrap();
        tokio::time::pause();
        advance(LOOK).await;
        assert_eq!(it.look_up("two.test").await.unwrap(), ["127.0.0.77"]);
    }

    #[tokio::test]
    async fn both_kinds_of_addresses_are_found_and_one_is_enough() {
        let server = server(|name, kind| match (name, kind) {
            ("both.test", Kind::Six) => Some(Reply::Records(vec![six("both.test", 1)])),
            ("both.test" | "four.test" | "broken.test" | "mute.test", Kind::Four) => {
                let name = ["both.test", "four.test", "broken.test", "mute.test"].into_iter().find(|it| *it == name)?;
                Some(Reply::Records(vec![four(name, 1)]))
            }
            ("mute.test", Kind::Six) => None,
            ("broken.test", Kind::Six) | ("fails.test", _) => Some(Reply::Fails),
            ("four.test", Kind::Six) | ("empty.test", _) => Some(Reply::Records(Vec::new())),
            _ => Some(Reply::NoSuchName(3)),
        });
        let server = server.await;
        let it = Configured::new(&server, "", "");
        assert_eq!(it.look_up("both.test").await.unwrap(), ["2001:db8::1", "192.0.2.1"]);
        for name in ["four.test", "broken.test", "mute.test"] {
            assert_eq!(it.look_up(name).await.unwrap(), ["192.0.2.1"], "{name}");
        }
        let why = |says: &str| NotFound::NoSuchName(says.into());
        assert_eq!(it.look_up("empty.test").await, Err(why("it has no address")));
        assert_eq!(it.look_up("no.test").await, Err(why("there is no such name")));
        assert!(matches!(it.look_up("fails.test").await, Err(NotFound::NoAnswer(_))));
    }

    #[tokio::test]
    async fn search_domains_are_tried_as_ndots_says() {
        let server = server(|name, _| {
            let known = ["db.b.test", "a.b.c.d", "plain.a.test"].into_iter().find(|it| *it == name);
            Some(known.map_or(Reply::NoSuchName(3), |name| Reply::Records(vec![four(name, 1), six(name, 1)])))
        });
        let server = server.await;
        let it = Configured::new(&server, "", "domain c.test\nsearch a.test. b.test\noptions ndots:2\n");
        assert!(it.look_up("db").await.is_ok() && it.look_up("plain").await.is_ok());
        let asked = server.asked.load(SeqCst);
        assert!(it.look_up("a.b.c.d").await.is_ok());
        assert_eq!(server.asked.load(SeqCst) - asked, 2, "as it is, at once");
        let read = it.system.read();
        assert_eq!(read.candidates("x"), ["x.a.test", "x.b.test", "x"]);
        assert_eq!(read.candidates("x.y.z"), ["x.y.z", "x.y.z.a.test", "x.y.z.b.test"]);
        assert_eq!(read.candidates("x."), ["x."]);
        assert!(it.look_up("db.").await.is_err());
        // One domain that cannot be asked for says nothing of the others, but makes it uncertain
        // that there is none.
        let it = Configured::new(&server, "", "domain c.test\n");
        assert_eq!(it.system.read().candidates("x"), ["x.c.test", "x"]);
    }
}
