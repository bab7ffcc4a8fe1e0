//! Who may do what at the node's API.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION};

use super::{rejection::Rejection, roles::Role, tokens::Tokens};
use crate::dataplane::{ClientRule, Identity};

/// Who may change something, and by which names the node is called. By default whoever reaches the
/// API may do everything, which is why it listens on loopback: a web page in a browser there
/// cannot, and whoever runs programs there can do so anyway.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Whoever shows one of these may change something.
    pub tokens: Tokens,
    /// Clients with such a certificate may.
    pub clients: Vec<ClientRule>,
    /// Processes of these users may, over the Unix socket; the node's own user and root may anyway.
    pub uids: Vec<u32>,
    /// Nobody may without one of the above, also if none is configured. Default false: then the
    /// first of them that is configured makes it so.
    pub require_auth: bool,
    /// Nor may anybody see more than a probe does without it. Default false.
    pub protect_reads: bool,
    /// The names by which the node is called, beside addresses and `localhost`: `node.example`, or
    /// `.example` for all below it.
    pub hosts: Vec<String>,
}

/// Which way a caller came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The port, which has all of the API.
    Control {
        /// It speaks TLS.
        tls: bool,
    },
    /// The Unix socket.
    Unix,
    /// The port for probes.
    Probe,
}

/// Who is on the other side of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) way: Way,
    pub(super) address: Option<IpAddr>,
    pub(super) identity: Identity,
}

/// Who makes a call, and what he may do. Calls find it among the extensions of their request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) role: Role,
    /// Who he has proven to be.
    pub(super) name: Option<Arc<str>>,
}

impl Caller {
    /// What the history says of who made a change: what he says of himself, and what is proven.
    pub(super) fn sign(&self, by: String) -> String {
        match &self.name {
            Some(name) if by.is_empty() => name.to_string(),
            Some(name) if **name != *by => format!("{by} ({name})"),
            _ => by,
        }
    }
}

impl Access {
    /// Whether it is said who may change something.
    pub fn is_configured(&self) -> bool {
        !(self.tokens.is_empty() && self.clients.is_empty() && self.uids.is_empty())
    }

    /// What the caller of a request may do.
    pub(super) fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Rejection> {
        if peer.way == Way::Probe {
            return Ok(Caller { role: Role::Probe, name: None });
        }
        if let Some(name) = self.proven(peer, headers)? {
            return Ok(Caller { role: Role::Write, name: Some(name) });
        }
        // Over the socket everybody is known, and who has not got through is none of ours.
        let asks = self.require_auth || self.is_configured() || peer.way == Way::Unix;
        // A certificate of these authorities that may not write is still one.
        let known = peer.identity.certificate.is_some();
        let role = match (asks, self.protect_reads && !known) {
            (true, true) => Role::Probe,
            (true, false) => Role::Read,
            (false, _) => Role::Write,
        };
        Ok(Caller { role, name: peer.identity.name().map(Into::into) })
    }

    /// The name of somebody who may change something.
    fn proven(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<Arc<str>>, Rejection> {
        // Without tokens one that is shown is meant for another node: it is not asked for.
        if !self.tokens.is_empty()
            && let Some(shown) = headers.get(AUTHORIZATION)
        {
            let token = bearer(shown.as_bytes()).ok_or(Rejection::NoBearer)?;
            return self.tokens.owner(token).map(Some).ok_or(Rejection::WrongToken);
        }
        let identity = &peer.identity;
        let own = |uid: u32| uid == 0 || uid == rustix::process::geteuid().as_raw() || self.uids.contains(&uid);
        let may = identity.is_one_of(&self.clients) || (peer.way == Way::Unix && identity.uid.is_some_and(own));
        Ok(may.then(|| identity.name().unwrap_or_else(|| "a certificate without a name".into()).into()))
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const LOCAL: Way = Way::Control { tls: false };
    const GOOD: &str = "0123456789abcdef";

    fn peer(way: Way, uid: Option<u32>) -> Peer {
        Peer { way, address: None, identity: Identity { certificate: None, uid } }
    }

    fn tokens() -> Access {
        Access { tokens: Tokens::parse(format!("anna:{GOOD}").as_bytes()).unwrap(), ..Access::default() }
    }

    fn role(access: &Access, peer: &Peer, authorization: Option<&str>) -> Result<(Role, Option<String>), Rejection> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        access.caller(peer, &headers).map(|caller| (caller.role, caller.name.map(|name| name.to_string())))
    }

    #[test]
    fn on_loopback_everybody_may_until_somebody_is_named() {
        let local = peer(LOCAL, None);
        assert_eq!(role(&Access::default(), &local, None), Ok((Role::Write, None)));
        assert_eq!(role(&Access::default(), &local, Some("Bearer of another node")), Ok((Role::Write, None)));
        assert_eq!(role(&Access { require_auth: true, ..Access::default() }, &local, None), Ok((Role::Read, None)));
        assert_eq!(role(&tokens(), &local, None), Ok((Role::Read, None)));
        assert_eq!(role(&Access { uids: vec![7], ..Access::default() }, &local, None), Ok((Role::Read, None)));
        assert_eq!(role(&Access { protect_reads: true, ..tokens() }, &local, None), Ok((Role::Probe, None)));
    }

    #[test]
    fn a_token_lets_its_owner_write_and_a_wrong_one_lets_nobody_do_anything() {
        let (access, local) = (tokens(), peer(LOCAL, None));
        for scheme in ["Bearer", "bearer"] {
            assert_eq!(
                role(&access, &local, Some(&format!("{scheme} {GOOD}"))),
                Ok((Role::Write, Some("anna".into())))
            );
        }
        assert_eq!(role(&access, &local, Some("Bearer 0123456789abcdeg")), Err(Rejection::WrongToken));
        assert_eq!(role(&access, &local, Some(&format!("Basic {GOOD}"))), Err(Rejection::NoBearer));
        assert_eq!(role(&access, &local, Some("")), Err(Rejection::NoBearer));
        assert_eq!(role(&access, &peer(Way::Probe, None), Some(&format!("Bearer {GOOD}"))), Ok((Role::Probe, None)));
    }

    #[test]
    fn over_the_socket_the_nodes_own_user_root_and_who_is_listed_may_write() {
        let own = rustix::process::geteuid().as_raw();
        let access = Access { uids: vec![4711], ..Access::default() };
        for uid in [0, own, 4711] {
            let (role, name) = role(&access, &peer(Way::Unix, Some(uid)), None).unwrap();
            assert_eq!((role, name.unwrap()), (Role::Write, format!("uid:{uid}")));
        }
        assert_eq!(role(&access, &peer(Way::Unix, Some(4712)), None).unwrap().0, Role::Read);
        assert_eq!(role(&access, &peer(Way::Unix, None), None).unwrap().0, Role::Read);
    }

    #[test]
    fn a_change_is_signed_with_what_is_proven() {
        let caller = |name: Option<&str>| Caller { role: Role::Write, name: name.map(Into::into) };
        assert_eq!(caller(None).sign("ben".into()), "ben");
        assert_eq!(caller(Some("anna")).sign(String::new()), "anna");
        assert_eq!(caller(Some("anna")).sign("anna".into()), "anna");
        assert_eq!(caller(Some("anna")).sign("ben".into()), "ben (anna)");
    }
}
