//! One question to the name servers: DNS's messages over UDP, and over TCP where an answer does not
//! fit (RFC 1035, RFC 7766).
//!
//! The messages themselves are `simple_dns`'s. A question goes from a port of its own with a number
//! that nobody can guess, and an answer counts only if both come back with the question as it was
//! asked.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE, rdata::RData};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::happy_eyeballs::happy_eyeballs;

/// The longest answer over UDP without EDNS is 512 bytes. Some servers send more, and what is cut
/// off is not read.
const UDP_ANSWER: usize = 4096;

/// How many names may stand for one another before the addresses come.
const MOST_ALIASES: usize = 16;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Four,
    Six,
}

impl Kind {
    fn of_record(self) -> TYPE {
        match self {
            Self::Four => TYPE::A,
            Self::Six => TYPE::AAAA,
        }
    }
}

/// What a name server says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    /// These are its addresses, for so long.
    Addresses(Vec<IpAddr>, Duration),
    /// It has none of the kind, or there is no such name; for so long, if that was said.
    None { exists: bool, lives: Option<Duration> },
}

/// Asks these servers, each with a head start over the next and so long, all of them up to so many
/// times.
///
/// # Errors
///
/// None of them said anything of the name; what the last one did instead.
pub(super) async fn query(
    servers: &[SocketAddr],
    name: &str,
    kind: Kind,
    each: Duration,
    attempts: u32,
) -> Result<DnsAnswer, String> {
    let mut failed = "there is no name server".to_owned();
    for _ in 0..attempts.max(1) {
        let asked = happy_eyeballs(servers.to_vec(), each, |server| ask(server, name, kind));
        match timeout(each, asked).await {
            Ok(Ok(says)) => return Ok(says),
            Ok(Err(error)) => failed = error.unwrap_or(failed),
            Err(_) => failed = format!("no name server answered within {} ms", each.as_millis()),
        }
    }
    Err(failed)
}

async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Result<DnsAnswer, String> {
    let failed = |error: std::io::Error| format!("name server {server}: {error}");
    let id = getrandom::u32().map_err(|error| error.to_string())? as u16;
    let question = question(id, name, kind)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(&question).await.map_err(failed)?;
    let mut bytes = vec![0; UDP_ANSWER];
    loop {
        let len = socket.recv(&mut bytes).await.map_err(failed)?;
        match read(&bytes[..len], id, name, kind) {
            // It is not for us: somebody guesses.
            Read::Other => {}
            Read::Cut => break,
            Read::DnsAnswer(says) => return Ok(says),
            Read::Failed(code) => return Err(format!("name server {server} says {code:?}")),
        }
    }
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    let len = u16::try_from(question.len()).map_err(|error| error.to_string())?;
    stream.write_all(&[&len.to_be_bytes(), &*question].concat()).await.map_err(failed)?;
    let len = stream.read_u16().await.map_err(failed)?;
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).await.map_err(failed)?;
    match read(&bytes, id, name, kind) {
        Read::DnsAnswer(says) => Ok(says),
        Read::Failed(code) => Err(format!("name server {server} says {code:?}")),
        Read::Other | Read::Cut => Err(format!("name server {server} answers what was not asked")),
    }
}

fn question(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, String> {
    let name = Name::new(name).map_err(|error| format!("it is no name of DNS: {error}"))?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(name, kind.of_record().into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

enum Read {
    /// No answer to this question.
    Other,
    /// It did not fit.
    Cut,
    DnsAnswer(DnsAnswer),
    /// The server could not say.
    Failed(RCODE),
}

fn read(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Read {
    let Ok(packet) = Packet::parse(bytes) else { return Read::Other };
    let is_asked =
        |question: &Question<'_>| question.qtype == QTYPE::TYPE(kind.of_record()) && is_name(&question.qname, name);
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(is_asked) {
        return Read::Other;
    }
    match packet.rcode() {
        // A refusal need not repeat the question.
        RCODE::NoError | RCODE::NameError if packet.questions.is_empty() => Read::Other,
        RCODE::NoError if packet.has_flags(PacketFlag::TRUNCATION) => Read::Cut,
        RCODE::NoError => Read::DnsAnswer(addresses(&packet, name)),
        RCODE::NameError => Read::DnsAnswer(DnsAnswer::None { exists: false, lives: negative(&packet) }),
        code => Read::Failed(code),
    }
}

/// Names are the same in any case (RFC 4343).
fn is_name(name: &Name<'_>, text: &str) -> bool {
    name.to_string().eq_ignore_ascii_case(text.trim_end_matches('.'))
}

/// The addresses at the end of the aliases that begin at the name.
fn addresses(packet: &Packet<'_>, name: &str) -> DnsAnswer {
    let (mut owner, mut lives) = (name.to_owned(), u32::MAX);
    for _ in 0..=MOST_ALIASES {
        let (mut found, mut alias) = (Vec::new(), None);
        for record in packet.answers.iter().filter(|record| is_name(&record.name, &owner)) {
            match &record.rdata {
                RData::A(a) => found.push(Ipv4Addr::from(a.address).into()),
                RData::AAAA(aaaa) => found.push(Ipv6Addr::from(aaaa.address).into()),
                RData::CNAME(target) => alias = Some(target.0.to_string()),
                _ => continue,
            }
            lives = lives.min(record.ttl);
        }
        match alias {
            _ if !found.is_empty() => return DnsAnswer::Addresses(found, Duration::from_secs(lives.into())),
            Some(alias) => owner = alias,
            None => break,
        }
    }
    DnsAnswer::None { exists: true, lives: negative(packet) }
}

/// For how long there is none (RFC 2308, section 5).
fn negative(packet: &Packet<'_>) -> Option<Duration> {
    packet.name_servers.iter().find_map(|record| match &record.rdata {
        RData::SOA(soa) => Some(Duration::from_secs(soa.minimum.min(record.ttl).into())),
        _ => None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use simple_dns::{
        ResourceRecord,
        rdata::{A, AAAA, CNAME, SOA},
    };
    use tokio::net::TcpListener;

    use super::*;

    /// A name server on loopback.
    pub(in super::super) struct Server {
        pub(in super::super) at: SocketAddr,
        /// How many questions came.
        pub(in super::super) asked: Arc<AtomicUsize>,
        tasks: [tokio::task::JoinHandle<()>; 2],
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        }
    }

    type Answers = dyn Fn(&str, Kind) -> Option<Reply> + Send + Sync;

    /// What it says.
    pub(in super::super) enum Reply {
        Records(Vec<(&'static str, u32, RData<'static>)>),
        NoSuchName(u32),
        Fails,
        /// Over UDP, that it does not fit; else this.
        Long(&'static str),
    }

    pub(in super::super) fn four(name: &'static str, n: u8) -> (&'static str, u32, RData<'static>) {
        (name, 60, RData::A(A { address: Ipv4Addr::new(192, 0, 2, n).into() }))
    }

    pub(in super::super) fn six(name: &'static str, n: u128) -> (&'static str, u32, RData<'static>) {
        (name, 60, RData::AAAA(AAAA { address: 0x2001_0db8 << 96 | n }))
    }

    fn reply(bytes: &[u8], says: &Answers, tcp: bool) -> Option<Vec<u8>> {
        let packet = Packet::parse(bytes).unwrap();
        let asked = packet.questions[0].clone();
        let kind = if asked.qtype == QTYPE::TYPE(TYPE::A) { Kind::Four } else { Kind::Six };
        let mut answer = Packet::new_reply(packet.id());
        let record = |(name, ttl, data)| ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data);
        match says(&asked.qname.to_string(), kind)? {
            Reply::Records(records) => answer.answers = records.into_iter().map(record).collect(),
            Reply::NoSuchName(minimum) => {
                *answer.rcode_mut() = RCODE::NameError;
                let name = Name::new_unchecked("test");
                let (mname, rname) = (name.clone(), name);
                let soa = SOA { mname, rname, serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
                answer.name_servers.push(record(("test", 3600, RData::SOA(soa))));
            }
            Reply::Fails => *answer.rcode_mut() = RCODE::ServerFailure,
            Reply::Long(_) if !tcp => answer.set_flags(PacketFlag::TRUNCATION),
            Reply::Long(name) => answer.answers = (0..100).map(|n| record(four(name, n))).collect(),
        }
        answer.questions.push(asked);
        Some(answer.build_bytes_vec().unwrap())
    }

    /// One that answers so; none is silence.
    pub(in super::super) async fn server(says: impl Fn(&str, Kind) -> Option<Reply> + Send + Sync + 'static) -> Server {
        let says: Arc<Answers> = Arc::new(says);
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port is most often free.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let (at, asked) = (tcp.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let over_tcp = tokio::spawn({
            let says = Arc::clone(&says);
            async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let Some(answer) = reply(&bytes, &*says, true) else { continue };
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        let over_udp = tokio::spawn({
            let asked = Arc::clone(&asked);
            async move {
                let mut bytes = [0; 512];
                loop {
                    let (len, from) = udp.recv_from(&mut bytes).await.unwrap();
                    asked.fetch_add(1, SeqCst);
                    let Some(answer) = reply(&bytes[..len], &*says, false) else { continue };
                    // Somebody guesses, and says something else.
                    let mut guess = Packet::parse(&answer).unwrap();
                    guess.set_id(guess.id().wrapping_add(1));
                    *guess.rcode_mut() = RCODE::NameError;
                    udp.send_to(&guess.build_bytes_vec().unwrap(), from).await.unwrap();
                    udp.send_to(b"no message of DNS", from).await.unwrap();
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Server { at, asked, tasks: [over_tcp, over_udp] }
    }

    const LONG: Duration = Duration::from_secs(30);

    async fn ask_of(server: &Server, name: &str, kind: Kind) -> Result<DnsAnswer, String> {
        query(&[server.at], name, kind, LONG, 1).await
    }

    #[tokio::test]
    async fn addresses_come_with_the_shortest_time_of_what_led_to_them() {
        let server = server(|_, kind| {
            let alias = |from, to, ttl| (from, ttl, RData::CNAME(CNAME(Name::new_unchecked(to))));
            let address = if kind == Kind::Four { four("C.test", 1) } else { six("c.test", 1) };
            Some(Reply::Records(vec![alias("A.test", "b.test", 20), alias("b.TEST", "c.test", 300), address]))
        });
        let server = server.await;
        let is = |ip: &str| Ok(DnsAnswer::Addresses(vec![ip.parse().unwrap()], Duration::from_secs(20)));
        assert_eq!(ask_of(&server, "a.test", Kind::Four).await, is("192.0.2.1"));
        assert_eq!(ask_of(&server, "a.test.", Kind::Six).await, is("2001:db8::1"));
        // What belongs to another name is nobody's address here.
        let none = DnsAnswer::None { exists: true, lives: None };
        assert_eq!(ask_of(&server, "other.test", Kind::Four).await, Ok(none));
    }

    #[tokio::test]
    async fn what_does_not_fit_comes_over_tcp_and_what_is_not_there_says_for_how_long() {
        let server = server(|name, _| match name {
            "long.test" => Some(Reply::Long("long.test")),
            "fails.test" => Some(Reply::Fails),
            _ => Some(Reply::NoSuchName(7)),
        });
        let server = server.await;
        let Ok(DnsAnswer::Addresses(found, _)) = ask_of(&server, "long.test", Kind::Four).await else { panic!("none") };
        assert_eq!(found.len(), 100);
        let none = DnsAnswer::None { exists: false, lives: Some(Duration::from_secs(7)) };
        assert_eq!(ask_of(&server, "no.test", Kind::Four).await, Ok(none));
        let failed = ask_of(&server, "fails.test", Kind::Four).await.unwrap_err();
        assert!(failed.contains("ServerFailure"), "{failed}");
        assert!(ask_of(&server, &"x".repeat(64), Kind::Four).await.unwrap_err().contains("no name of DNS"));
    }

    #[tokio::test]
    async fn a_server_that_is_silent_or_fails_is_no_reason_not_to_ask_the_next() {
        let silent = server(|_, _| None).await;
        let fails = server(|_, _| Some(Reply::Fails)).await;
        let good = server(|_, _| Some(Reply::Records(vec![four("a.test", 1)]))).await;
        for first in [&silent, &fails] {
            let says = query(&[first.at, good.at], "a.test", Kind::Four, LONG, 1).await;
            assert!(matches!(says, Ok(DnsAnswer::Addresses(..))), "{says:?}");
        }
        let each = Duration::from_millis(20);
        let failed = query(&[silent.at], "a.test", Kind::Four, each, 3).await.unwrap_err();
        assert!(failed.contains("20 ms"), "{failed}");
        assert_eq!(silent.asked.load(SeqCst), 4);
    }
}
