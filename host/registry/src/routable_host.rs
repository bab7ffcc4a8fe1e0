//! Which address of this machine others can reach.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
};

/// The address by which this machine reaches a registry endpoint (`http://host:port` or
/// `host:port`): whoever else reaches that registry most likely reaches us there too. Nothing is
/// sent: the system is only asked which way it would go. It blocks while a host name is looked up.
///
/// # Errors
///
/// The endpoint's host is not known, or there is no way to it.
pub(super) fn routable_host(endpoint: &str) -> io::Result<IpAddr> {
    let (_, authority) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = authority.split('/').next().unwrap_or_default();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address is known for {authority:?}"));
    for remote in authority.to_socket_addrs()? {
        match local_towards(remote) {
            Ok(ip) if !ip.is_unspecified() => return Ok(ip),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn local_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let any = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_registry_on_this_machine_is_reached_from_loopback() {
        for endpoint in ["http://127.0.0.1:2379", "127.0.0.1:2379", "https://127.0.0.1:2379/"] {
            assert_eq!(routable_host(endpoint).unwrap(), Ipv4Addr::LOCALHOST, "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_without_a_port_is_an_error() {
        assert!(routable_host("http://127.0.0.1").is_err());
    }
}
