//! What is the embedded registry's own: starting, stopping, limits, and the calls `etcd-client`
//! does not make.

use std::{net::SocketAddr, time::Duration};

use etcd_client::{AlarmAction, AlarmType, Client, GetOptions, WatchOptions};
use tokio::time::{Instant, timeout};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use waymark_node::embedded::{AutoCompaction, EmbeddedError, Options, Server};

use super::fixture::{LOOPBACK, Registry, events, next, on_both, refusal, status};

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_address() {
    let first = Server::bind(LOOPBACK, Options::default()).await.unwrap();
    let address = first.local_addr();
    let error = Server::bind(address, Options::default()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::AddressInUse { address: named } if named == address));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn it_serves_on_loopback_only_unless_told_otherwise() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = Server::bind(everywhere, Options::default()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::NotLoopback { .. }), "{error}");
    let options = Options { allow_non_loopback: true, ..Options::default() };
    assert!(Server::bind(everywhere, options).await.is_ok());
}

#[tokio::test]
async fn meaningless_settings_are_refused_by_name() {
    for options in [
        Options { progress_interval: Duration::ZERO, ..Options::default() },
        Options { start_revision: Some(0), ..Options::default() },
    ] {
        let error = Server::bind(LOOPBACK, options).await.unwrap_err();
        assert!(matches!(error, EmbeddedError::Setting { .. }), "{error}");
    }
}

#[tokio::test]
async fn shutdown_ends_open_streams_at_once_and_lets_the_address_go() {
    let server = Server::start(LOOPBACK, Options::default()).await.unwrap();
    let address = server.local_addr();
    let mut client = Client::connect([server.url()], None).await.unwrap();
    let mut watch = client.watch("a", None).await.unwrap();
    next(&mut watch).await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (_keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
    let begun = Instant::now();
    server.shutdown().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(900), "took {:?}", begun.elapsed());
    assert_eq!(refusal(watch.message().await), "Unavailable: etcdserver: server stopped");
    assert_eq!(status(answers.message().await).code(), tonic::Code::Unavailable);
    Server::bind(address, Options::default()).await.unwrap();
}

#[tokio::test]
async fn shutdown_cuts_a_connection_that_does_not_end_in_time() {
    let options = Options { shutdown_grace: Duration::from_millis(100), ..Options::default() };
    let server = Server::start(LOOPBACK, options).await.unwrap();
    // A client that sent half a preface and waits.
    let mut idle = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut idle, b"PRI * HTTP/2.0\r\n").await.unwrap();
    // So that the server has taken the connection.
    Client::connect([server.url()], None).await.unwrap().get("a", None).await.unwrap();
    timeout(Duration::from_secs(5), server.shutdown()).await.expect("a bounded shutdown").unwrap();
}

#[tokio::test]
async fn a_client_of_an_earlier_life_is_told_that_its_history_is_gone() {
    let first = Server::start(LOOPBACK, Options::default()).await.unwrap();
    let address = first.local_addr();
    let mut client = Client::connect([first.url()], None).await.unwrap();
    let put = client.put("a", "1", None).await.unwrap();
    let seen = put.header().unwrap().clone();
    first.shutdown().await.unwrap();
    let _second = Server::start(address, Options::default()).await.unwrap();
    let resume = Some(WatchOptions::new().with_start_revision(seen.revision() + 1));
    let mut watch = loop {
        // The client notices the lost connection with its first call on it.
        if let Ok(watch) = client.watch("a", resume.clone()).await {
            break watch;
        }
    };
    let created = next(&mut watch).await;
    assert!(created.created());
    assert_ne!(created.header().unwrap().cluster_id(), seen.cluster_id());
    let canceled = next(&mut watch).await;
    assert!(canceled.canceled() && canceled.compact_revision() > seen.revision());
}

#[tokio::test]
async fn a_fixed_start_revision_is_that_of_a_fresh_etcd() {
    let options = Options { start_revision: Some(1), ..Options::default() };
    let mut r = Registry::embedded_with(options).await;
    assert_eq!(r.revision(0), 1);
    r.client.get("a", Some(GetOptions::new().with_revision(1))).await.unwrap();
    r.client.compact(1, None).await.unwrap();
}

#[tokio::test]
async fn history_is_compacted_by_itself() {
    let options = Options { compaction: AutoCompaction::Revisions(8), ..Options::default() };
    let mut r = Registry::embedded_with(options).await;
    r.put_all("a", &["v"; 40]).await;
    r.client.get("a", Some(GetOptions::new().with_revision(r.revision(35)))).await.unwrap();
    let old = r.client.get("a", Some(GetOptions::new().with_revision(r.revision(20)))).await;
    assert_eq!(refusal(old), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_every_event_later() {
    let options = Options { watch_queue: 4, ..Options::default() };
    let mut r = Registry::embedded_with(options).await;
    let mut watch = r.client.watch("a", None).await.unwrap();
    let value = "v".repeat(16 * 1024);
    for _ in 0..400 {
        // 6 MiB in all: more than the windows of HTTP/2 take.
        r.client.put("a", value.clone(), None).await.unwrap();
    }
    let (mut seen, mut messages) = (Vec::new(), 0);
    while seen.len() < 400 {
        let message = next(&mut watch).await;
        messages += 1;
        seen.extend(message.events().iter().map(|event| event.kv().unwrap().mod_revision()));
    }
    assert_eq!(seen, (1..=400).map(|n| r.revision(n)).collect::<Vec<_>>());
    assert!(messages < 400, "caught up from history, in fewer messages than events");
}

#[tokio::test]
async fn progress_is_notified_to_an_idle_watcher_that_asked_for_it() {
    let options = Options { progress_interval: Duration::from_millis(50), ..Options::default() };
    let mut r = Registry::embedded_with(options).await;
    let mut watch = r.client.watch("a", Some(WatchOptions::new().with_progress_notify())).await.unwrap();
    next(&mut watch).await;
    r.put_all("b", &["1"]).await;
    loop {
        let message = next(&mut watch).await;
        assert!(message.events().is_empty());
        assert_eq!(message.watch_id(), 0);
        if message.header().unwrap().revision() == r.revision(1) {
            break;
        }
    }
}

async fn one_member_is_listed_and_others_are_unknown(mut r: Registry) {
    let listed = r.client.member_list().await.unwrap();
    let [member] = listed.members() else { panic!("{} members", listed.members().len()) };
    assert_eq!(member.client_urls(), std::slice::from_ref(&r.url));
    let status = r.client.status().await.unwrap();
    assert_eq!(status.leader(), member.id());
    assert!(status.version().starts_with("3."));
    let not_found = "NotFound: etcdserver: member not found";
    assert_eq!(refusal(r.client.member_remove(99).await), not_found);
    assert_eq!(refusal(r.client.member_promote(99).await), not_found);
    assert_eq!(refusal(r.client.move_leader(99).await), "FailedPrecondition: etcdserver: bad leader transferee");
}

async fn an_alarm_stops_puts_until_it_is_cleared(mut r: Registry) {
    let alarm = |client: &Client, action, member| {
        let mut client = client.clone();
        let mut options = etcd_client::AlarmOptions::new();
        options.with_member(member);
        async move { client.alarm(action, AlarmType::Nospace, Some(options)).await.unwrap() }
    };
    let member = r.client.status().await.unwrap().leader();
    assert_eq!(alarm(&r.client, AlarmAction::Activate, member).await.alarms().len(), 1);
    let put = r.client.put("a", "1", None).await;
    assert_eq!(refusal(put), "ResourceExhausted: etcdserver: mvcc: database space exceeded");
    r.client.delete("a", None).await.unwrap();
    assert_eq!(alarm(&r.client, AlarmAction::Get, 0).await.alarms()[0].member_id(), member);
    assert_eq!(alarm(&r.client, AlarmAction::Deactivate, member).await.alarms().len(), 1);
    assert!(alarm(&r.client, AlarmAction::Get, 0).await.alarms().is_empty());
    r.put_all("a", &["1"]).await;
}

async fn the_status_names_the_member_of_an_alarm_if_it_has_one(mut r: Registry) {
    let member = r.client.status().await.unwrap().leader();
    for (of, expected) in [(0, "alarm:NOSPACE ".to_owned()), (member, format!("memberID:{member} alarm:NOSPACE "))] {
        let mut options = etcd_client::AlarmOptions::new();
        options.with_member(of);
        r.client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options.clone())).await.unwrap();
        assert_eq!(r.client.status().await.unwrap().errors(), [expected]);
        r.client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await.unwrap();
    }
}

async fn authentication_is_answered_as_by_an_etcd_that_never_enabled_it(mut r: Registry) {
    let off = |result: Result<_, etcd_client::Error>| refusal::<()>(result);
    let mut auth = r.client.auth_client();
    let user = Client::connect([&r.url], Some(etcd_client::ConnectOptions::new().with_user("user", "password"))).await;
    assert_eq!(off(user.map(drop)), "FailedPrecondition: etcdserver: authentication is not enabled");
    assert_eq!(off(auth.auth_enable().await.map(drop)), "FailedPrecondition: etcdserver: root user does not exist");
    assert_eq!(off(auth.user_get("nobody").await.map(drop)), "FailedPrecondition: etcdserver: user name not found");
    assert_eq!(off(auth.role_get("none").await.map(drop)), "FailedPrecondition: etcdserver: role name not found");
    assert!(auth.user_list().await.unwrap().users().is_empty());
    assert!(auth.role_list().await.unwrap().roles().is_empty());
    auth.auth_disable().await.unwrap();
    assert_eq!(r.client.put("a", "1", None).await.unwrap().header().unwrap().revision(), r.revision(1));
}

#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatus {
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A call with an empty request, to any path.
async fn call<T: prost::Message + Default + 'static>(r: &Registry, path: &'static str) -> Result<T, Status> {
    let channel: Channel = Endpoint::from_shared(r.url.clone()).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<(), T>::default();
    let response = grpc.unary(Request::new(()), PathAndQuery::from_static(path), codec).await?;
    Ok(response.into_inner())
}

/// Not on both: an etcd 3.4 does not have the call.
#[tokio::test]
async fn the_auth_status_is_that_of_a_fresh_etcd_3_5() {
    let r = Registry::embedded().await;
    let auth: AuthStatus = call(&r, "/etcdserverpb.Auth/AuthStatus").await.unwrap();
    assert_eq!(auth, AuthStatus { enabled: false, auth_revision: 1 });
}

async fn calls_outside_the_stubs_are_answered_like_by_etcd(r: Registry) {
    for (path, message) in [
        ("/no.such.Service/Method", "unknown service no.such.Service"),
        ("/etcdserverpb.KV/NoSuchMethod", "unknown method NoSuchMethod for service etcdserverpb.KV"),
        ("/etcdserverpb.Auth/NoSuchMethod", "unknown method NoSuchMethod for service etcdserverpb.Auth"),
    ] {
        let status = call::<()>(&r, path).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Unimplemented, message));
    }
    let health: Health = call(&r, "/grpc.health.v1.Health/Check").await.unwrap();
    assert_eq!(health.status, 1, "serving");
}

async fn an_unchanged_store_hashes_the_same_and_a_changed_one_does_not(mut r: Registry) {
    r.put_all("a", &["1"]).await;
    let first = r.client.hash_kv(0).await.unwrap().hash();
    assert_eq!(r.client.hash_kv(0).await.unwrap().hash(), first);
    let at = r.revision(1);
    r.put_all("a", &["2"]).await;
    assert_ne!(r.client.hash_kv(0).await.unwrap().hash(), first);
    assert_eq!(r.client.hash_kv(at).await.unwrap().hash(), first);
    let future = r.client.hash_kv(r.revision(9)).await;
    assert_eq!(refusal(future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
}

async fn many_clients_at_once_lose_nothing(r: Registry) {
    let mut watcher = r.client.clone();
    let mut watch = watcher.watch("k/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    next(&mut watch).await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let mut client = r.client.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    client.put(format!("k/{writer}"), n.to_string(), None).await.unwrap();
                }
            })
        })
        .collect();
    let mut revisions = Vec::new();
    let mut last = std::collections::HashMap::new();
    while revisions.len() < 400 {
        let message = next(&mut watch).await;
        for (event, text) in message.events().iter().zip(events(&message)) {
            revisions.push(event.kv().unwrap().mod_revision());
            let (key, value) = text.split_once('=').unwrap();
            let value: i32 = value.parse().unwrap();
            let before = last.insert(key.to_owned(), value).unwrap_or(-1);
            assert_eq!(value, before + 1, "{key} in order");
        }
    }
    assert_eq!(revisions, (1..=400).map(|n| r.revision(n)).collect::<Vec<_>>());
    for writer in writers {
        writer.await.unwrap();
    }
}

on_both!(
    one_member_is_listed_and_others_are_unknown,
    an_alarm_stops_puts_until_it_is_cleared,
    the_status_names_the_member_of_an_alarm_if_it_has_one,
    authentication_is_answered_as_by_an_etcd_that_never_enabled_it,
    calls_outside_the_stubs_are_answered_like_by_etcd,
    an_unchanged_store_hashes_the_same_and_a_changed_one_does_not,
    many_clients_at_once_lose_nothing,
);
