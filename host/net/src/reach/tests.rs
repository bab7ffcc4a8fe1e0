#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn reach(allow: &[&str]) -> Reach {
    Reach::new(Allow::new(allow.iter().map(|text| text.parse().unwrap()).collect()))
}

fn check(reach: &Reach, address: &str) -> Option<Refusal> {
    reach.check(&address.parse().unwrap()).err()
}

#[test]
fn wildcards_and_addresses_of_many_are_never_called() {
    let open = reach(&["loopback", "link-local", "unix", "0.0.0.0/0", "::/0"]);
    for address in [
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "[::ffff:0.0.0.0]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "255.255.255.255:80",
    ] {
        assert_eq!(check(&open, address), Some(Refusal::Nobody), "{address}");
    }
}

#[test]
fn special_addresses_take_a_word() {
    let cases = [
        ("127.0.0.1:80", Refusal::Loopback, "loopback"),
        ("127.9.9.9:80", Refusal::Loopback, "loopback"),
        ("[::1]:80", Refusal::Loopback, "loopback"),
        ("[::ffff:127.0.0.1]:80", Refusal::Loopback, "loopback"),
        ("localhost:80", Refusal::Loopback, "loopback"),
        ("LocalHost.:80", Refusal::Loopback, "loopback"),
        ("a.localhost:80", Refusal::Loopback, "loopback"),
        ("169.254.169.254:80", Refusal::LinkLocal, "link-local"),
        ("[::ffff:169.254.169.254]:80", Refusal::LinkLocal, "link-local"),
        ("[fe80::1]:80", Refusal::LinkLocal, "link-local"),
        ("unix:/run/docker.sock", Refusal::Unix, "unix"),
    ];
    for (address, refusal, word) in cases {
        assert_eq!(check(&reach(&[]), address), Some(refusal), "{address}");
        assert_eq!(check(&reach(&["0.0.0.0/0", "::/0"]), address), Some(refusal), "{address} in all networks");
        assert_eq!(check(&reach(&[word]), address), None, "{address}");
        let others: Vec<_> = ["loopback", "link-local", "unix"].into_iter().filter(|other| *other != word).collect();
        assert_eq!(check(&reach(&others), address), Some(refusal), "{address}");
    }
}

#[test]
fn ordinary_addresses_are_called_unless_networks_are_named() {
    for address in ["192.0.2.1:80", "10.1.2.3:80", "[2001:db8::1]:80", "[fd00::1]:80", "instance.example:80"] {
        assert_eq!(check(&reach(&[]), address), None, "{address}");
        assert_eq!(check(&reach(&["loopback", "127.0.0.2/32"]), address), None, "{address}");
    }
    let ten = reach(&["10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(check(&ten, "10.255.0.1:80"), None);
    assert_eq!(check(&ten, "[::ffff:10.0.0.1]:80"), None);
    assert_eq!(check(&ten, "[2001:db8:1::1]:80"), None);
    for address in ["11.0.0.1:80", "[2001:db9::1]:80", "[a00::1]:80"] {
        assert_eq!(check(&ten, address), Some(Refusal::Elsewhere), "{address}");
    }
    let one = reach(&["127.0.0.2"]);
    assert_eq!((check(&one, "127.0.0.2:80"), check(&one, "127.0.0.1:80")), (None, Some(Refusal::Loopback)));
}

#[test]
fn what_the_process_listens_on_is_never_called() {
    let it = reach(&["loopback", "unix"]);
    it.listens("127.0.0.1:7001".parse().unwrap(), "the node's API");
    it.listens("0.0.0.0:7000".parse().unwrap(), "the node's proxy");
    it.listens("[::]:7002".parse().unwrap(), "the node's probes");
    for address in ["127.0.0.1:7001", "[::ffff:127.0.0.1]:7001", "localhost:7001"] {
        assert_eq!(check(&it, address), Some(Refusal::Own("the node's API")), "{address}");
    }
    for address in ["127.0.0.1:7000", "127.8.8.8:7000", "localhost:7000", "127.0.0.1:7002", "[::1]:7002"] {
        assert!(matches!(check(&it, address), Some(Refusal::Own(_))), "{address}");
    }
    // Another machine's.
    assert_eq!(check(&it, "192.0.2.1:7000"), None);
    assert_eq!(check(&it, "127.0.0.1:7003"), None);
    assert_eq!(it.check_socket("127.0.0.1:7001".parse().unwrap()), Err(Refusal::Own("the node's API")));
}

#[test]
fn its_unix_sockets_are_recognised_by_any_path() {
    let folder = tempfile::tempdir().unwrap();
    let (own, link) = (folder.path().join("own.sock"), folder.path().join("link.sock"));
    let _listener = std::os::unix::net::UnixListener::bind(&own).unwrap();
    std::os::unix::fs::symlink(&own, &link).unwrap();
    let it = reach(&["unix"]);
    it.listens_unix(&own, "the node's proxy");
    for path in [own, link, folder.path().join("./own.sock")] {
        assert_eq!(check(&it, &format!("unix:{}", path.display())), Some(Refusal::Own("the node's proxy")));
    }
    assert_eq!(check(&it, &format!("unix:{}/other.sock", folder.path().display())), None);
}

#[test]
fn the_registry_is_never_called() {
    let it = reach(&["loopback"]);
    it.registry("http://127.0.0.1:2379");
    it.registry("https://etcd-0.example:2379/");
    it.registry("192.0.2.9:2379");
    for address in ["127.0.0.1:2379", "127.0.0.2:2379", "etcd-0.example:2379", "ETCD-0.example.:2379", "192.0.2.9:2379"]
    {
        assert_eq!(check(&it, address), Some(Refusal::Registry), "{address}");
    }
    assert_eq!(it.registry_names(2379), ["etcd-0.example"]);
    assert!(it.registry_names(80).is_empty());
    for address in ["127.0.0.1:2380", "etcd-1.example:2379", "192.0.2.8:2379"] {
        assert_eq!(check(&it, address), None, "{address}");
    }
}

#[test]
fn a_network_is_written_without_bits_to_spare() {
    for text in ["loopback", "link-local", "unix", "10.0.0.0/8", "0.0.0.0/0", "::/0", "192.0.2.1/32", "2001:db8::/32"] {
        assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
    }
    assert_eq!("192.0.2.1".parse::<Network>().unwrap().to_string(), "192.0.2.1/32");
    for text in
        ["", "Loopback", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "2001:db8::/129", "::ffff:10.0.0.0/104", "example"]
    {
        let error = text.parse::<Network>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/8"), "{error}");
    }
}

#[tokio::test]
async fn what_a_name_comes_to_is_asked_about_again() {
    let it = reach(&["loopback"]);
    it.listens("127.0.0.1:7001".parse().unwrap(), "the node's API");
    let at = |text: &str| text.parse::<Address>().unwrap();
    // Forms that the system's resolver takes for addresses, and that are names to us.
    for address in ["127.1:7001", "2130706433:7001", "0x7f000001:7001"] {
        assert_eq!(it.check(&at(address)), Ok(()));
        let refused = it.resolve(&at(address)).await.unwrap_err();
        assert!(matches!(&refused, ReachError::Refused { refusal: Refusal::Own(_), .. }), "{address}: {refused}");
        assert!(reach(&[]).resolve(&at(address)).await.unwrap_err().to_string().contains("loopback"));
    }
    assert_eq!(it.resolve(&at("127.1:7002")).await.unwrap(), ["127.0.0.1:7002".parse().unwrap()]);
    it.registry("http://localhost:2379");
    assert!(matches!(it.resolve(&at("127.1:2379")).await, Err(ReachError::Refused { refusal: Refusal::Registry, .. })));
    assert!(matches!(it.resolve(&at("no.such.invalid:80")).await, Err(ReachError::Unknown { .. })));
}
