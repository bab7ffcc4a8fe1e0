//! Which endpoints a node calls, by where it takes calls and what it is told.

use std::net::SocketAddr;

use greeter::hello::{HelloRequest, greeter1_client::Greeter1Client};
use tokio::time::{Duration, sleep, timeout};
use tonic::{Code, Status};
use waymark_node::{
    address_filter::Allow,
    app::Node,
    config::{ClientConfig, NodeConfig},
};

use crate::node::{SERVICE, Server, free, service};

async fn node(listen: SocketAddr, allow: Option<&[&str]>) -> Node {
    let allow = allow.map(|list| Allow::new(list.iter().map(|text| text.parse().unwrap()).collect()));
    Node::start(NodeConfig {
        listen,
        admin: free(),
        client: ClientConfig { allow, ..ClientConfig::default() },
        ..NodeConfig::default()
    })
    .await
    .unwrap()
}

async fn call(node: &Node) -> Result<(), Status> {
    let mut client = Greeter1Client::new(node.channel(service(SERVICE)));
    client.say_hello1(HelloRequest { name: "hello".into() }).await.map(drop)
}

/// Calls until the answer is as wanted.
async fn until(node: &Node, wanted: impl Fn(&Result<(), Status>) -> bool) {
    let calls = async {
        while !wanted(&call(node).await) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let came = timeout(Duration::from_secs(20), calls).await.is_ok();
    assert!(came, "not within 20 s; it is {:?}", call(node).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_for_its_own_machine_calls_instances_there_and_one_for_others_does_not() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let cases = [
        (free(), None, true),
        (free(), Some(&["unix", "link-local"][..]), false),
        (everywhere, None, false),
        (everywhere, Some(&["loopback"][..]), true),
        (everywhere, Some(&["127.0.0.0/8", "192.0.2.0/24"][..]), true),
        (everywhere, Some(&["0.0.0.0/0"][..]), false),
    ];
    for (listen, allow, called) in cases {
        let node = node(listen, allow).await;
        let _server = Server::start(&node, SERVICE, "", 1).await;
        if called {
            until(&node, Result::is_ok).await;
        } else {
            let words = "1 at addresses that are not to be called";
            until(&node, |answer| matches!(answer, Err(status) if status.message().contains(words))).await;
            let status = call(&node).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{listen} {allow:?}");
            let text = node.services().get(SERVICE).unwrap().state().skips.to_string();
            assert!(text.contains(words), "{text}");
        }
        node.shutdown().await;
    }
}
