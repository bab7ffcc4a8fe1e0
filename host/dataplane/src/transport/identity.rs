//! Who a client is, and which services it may call.
//!
//! A client is known by its certificate's names, or by the user that its process runs as where it
//! comes over a Unix socket. What it may call is decided for all its calls when it connects: a call
//! then looks up which list its service has, and a bit.

use std::{collections::HashMap, fmt, str::FromStr};

use waymark_core::model::ServiceName;

use super::{certificate::Certificate, socket::Socket};

/// Clients by name, as they are written in `waymark.toml`:
///
/// | written | who |
/// |---|---|
/// | `spiffe://example.org/ns/shop` | a certificate with this URI; any scheme |
/// | `spiffe://example.org/ns/*` | one with a URI that begins with what is before the `*` |
/// | `DNS:a.example`, `DNS:*.example` | one with this host name; `*` stands for one label |
/// | `CN:anna` | one with this common name and no alternative names |
/// | `uid:1000` | a process of this user, over a Unix socket |
/// | `*` | any certificate |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule(Rule);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Uri(String),
    /// With the slash at its end.
    UriUnder(String),
    Dns(String),
    /// With the dot at its beginning.
    DnsUnder(String),
    CommonName(String),
    Uid(u32),
    AnyCertificate,
}

impl FromStr for ClientRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str = "is none of: a URI (spiffe://example.org/ns/shop, or spiffe://example.org/ns/* for all below it), DNS:a.example, \
             DNS:*.example, CN:name, uid:1000, *";
        let rule = match text.split_once(':') {
            None if text == "*" => Rule::AnyCertificate,
            Some(("DNS", name)) => match name.strip_prefix('*') {
                Some(rest) if rest.starts_with('.') && rest.len() > 1 => Rule::DnsUnder(rest.to_ascii_lowercase()),
                None if !name.is_empty() => Rule::Dns(name.to_ascii_lowercase()),
                _ => return Err(FORMS),
            },
            Some(("CN", name)) if !name.is_empty() => Rule::CommonName(name.to_owned()),
            Some(("uid", uid)) => Rule::Uid(uid.parse().map_err(|_| FORMS)?),
            Some((scheme, rest)) if !scheme.is_empty() && rest.starts_with("//") && rest.len() > 2 => {
                match text.strip_suffix('*') {
                    // Of the authority nothing may be left open: spiffe://example.org* would be
                    // example.org.evil.example, too.
                    Some(before) if before.ends_with('/') && rest.len() > 4 => Rule::UriUnder(before.to_owned()),
                    Some(_) => {
                        return Err(
                            "has a * that does not stand for all below a slash, as in spiffe://example.org/ns/*",
                        );
                    }
                    None => Rule::Uri(text.to_owned()),
                }
            }
            _ => return Err(FORMS),
        };
        match &rule {
            Rule::Uri(text) | Rule::UriUnder(text) | Rule::Dns(text) | Rule::DnsUnder(text) if text.contains('*') => {
                Err(
                    "has a * that stands for nothing: only a URI's end after a slash, and a host name's first label, may be left open",
                )
            }
            _ => Ok(Self(rule)),
        }
    }
}

impl fmt::Display for ClientRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Uri(uri) => f.write_str(uri),
            Rule::UriUnder(before) => write!(f, "{before}*"),
            Rule::Dns(name) => write!(f, "DNS:{name}"),
            Rule::DnsUnder(rest) => write!(f, "DNS:*{rest}"),
            Rule::CommonName(name) => write!(f, "CN:{name}"),
            Rule::Uid(uid) => write!(f, "uid:{uid}"),
            Rule::AnyCertificate => f.write_str("*"),
        }
    }
}

impl ClientRule {
    /// Whether only a certificate can fulfil it.
    pub fn is_of_certificates(&self) -> bool {
        !matches!(self.0, Rule::Uid(_))
    }
}

/// Who is on the other side of a connection, as far as that is proven.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Its certificate, which the handshake has checked.
    pub certificate: Option<Certificate>,
    /// The user that it runs as, on a Unix socket.
    pub uid: Option<u32>,
}

impl Identity {
    /// After the handshake, if there is one.
    pub fn of(socket: &Socket) -> Self {
        // A certificate that cannot be read counts as none.
        Self { certificate: socket.peer_certificate().and_then(Certificate::parse), uid: socket.peer_uid() }
    }

    /// Whether this client is meant.
    pub fn is(&self, ClientRule(rule): &ClientRule) -> bool {
        let Some(certificate) = &self.certificate else {
            return matches!((rule, self.uid), (Rule::Uid(uid), Some(own)) if *uid == own);
        };
        match rule {
            Rule::AnyCertificate => true,
            Rule::Uri(uri) => certificate.uris.contains(uri),
            Rule::UriUnder(before) => certificate
                .uris
                .iter()
                .any(|uri| uri.len() > before.len() && uri.starts_with(before.as_str()) && is_plain(uri)),
            Rule::Dns(name) => certificate.dns.contains(name),
            Rule::DnsUnder(rest) => certificate.dns.iter().any(|name| {
                name.strip_suffix(rest.as_str()).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }),
            Rule::CommonName(name) => certificate.common_name.as_ref() == Some(name),
            Rule::Uid(uid) => self.uid == Some(*uid),
        }
    }

    /// Whether one of these means it.
    pub fn is_one_of(&self, rules: &[ClientRule]) -> bool {
        rules.iter().any(|rule| self.is(rule))
    }

    /// What it is called, in the form that a rule has. None: nothing is proven.
    pub fn name(&self) -> Option<String> {
        let uid = || self.uid.map(|uid| format!("uid:{uid}"));
        self.certificate.as_ref().and_then(Certificate::name).or_else(uid)
    }
}

/// Whether a URI has no segments that go up again: those would leave what is before them.
fn is_plain(uri: &str) -> bool {
    !uri.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Which clients may call which services. Default: all may call all.
#[derive(Debug, Clone, Default)]
pub struct Authorization {
    /// Each list once, however many services have it.
    lists: Vec<Vec<ClientRule>>,
    default: Option<usize>,
    services: HashMap<Box<str>, usize>,
}

/// What [`Authorization`] says of one client: for each of its lists whether the client is on it.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Box<[bool]>);

impl Authorization {
    /// `default`: who may call services that have no list of their own; none for all. Nobody is on
    /// an empty list.
    pub fn new(
        default: Option<Vec<ClientRule>>,
        services: impl IntoIterator<Item = (ServiceName, Vec<ClientRule>)>,
    ) -> Self {
        let mut all = Self::default();
        all.default = default.map(|list| all.number(list));
        for (service, list) in services {
            let number = all.number(list);
            all.services.insert(service.as_str().into(), number);
        }
        all
    }

    fn number(&mut self, list: Vec<ClientRule>) -> usize {
        self.lists.iter().position(|known| *known == list).unwrap_or_else(|| {
            self.lists.push(list);
            self.lists.len() - 1
        })
    }

    /// Whether anybody is kept from anything.
    pub(crate) fn is_any(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Decides for all calls of a client.
    pub(crate) fn judge(&self, client: &Identity) -> Verdicts {
        Verdicts(self.lists.iter().map(|list| client.is_one_of(list)).collect())
    }

    /// Whether a client of these verdicts may call a service of this name.
    pub(crate) fn allows(&self, verdicts: &Verdicts, service: &str) -> bool {
        if !self.is_any() {
            return true;
        }
        let list = self.services.get(service).copied().or(self.default);
        list.is_none_or(|list| verdicts.0.get(list).copied().unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn rule(text: &str) -> ClientRule {
        text.parse().unwrap()
    }

    fn with(uris: &[&str], dns: &[&str], common_name: Option<&str>) -> Identity {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = Certificate {
            uris: own(uris),
            dns: own(dns),
            common_name: common_name.map(ToOwned::to_owned),
            subject: String::new(),
            not_before: 0,
            not_after: 0,
            sha256: String::new(),
        };
        Identity { certificate: Some(certificate), uid: None }
    }

    #[test]
    fn a_rule_means_the_names_it_says_and_no_others() {
        let shop = with(&["spiffe://example.org/ns/shop"], &["shop.example"], None);
        for (text, meant) in [
            ("*", true),
            ("spiffe://example.org/ns/shop", true),
            ("spiffe://example.org/ns/sho", false),
            ("spiffe://example.org/ns/*", true),
            ("spiffe://example.org/*", true),
            ("spiffe://example.org/ns/shop/*", false),
            ("spiffe://example.or/*", false),
            ("DNS:SHOP.example", true),
            ("DNS:*.example", true),
            ("DNS:*.shop.example", false),
            ("DNS:example", false),
            ("CN:shop", false),
            ("uid:0", false),
        ] {
            assert_eq!(shop.is(&rule(text)), meant, "{text}");
            assert_eq!(rule(text), rule(&rule(text).to_string()), "{text}");
        }
        assert!(!with(&[], &["a.b.example"], None).is(&rule("DNS:*.example")), "one label");
        assert!(!with(&["spiffe://example.org/ns/../root"], &[], None).is(&rule("spiffe://example.org/ns/*")));
        assert!(with(&[], &[], Some("anna")).is(&rule("CN:anna")));
        assert!(with(&[], &[], None).is(&rule("*")) && !Identity::default().is(&rule("*")));
        let local = Identity { certificate: None, uid: Some(1000) };
        assert!(local.is(&rule("uid:1000")) && !local.is(&rule("uid:100")) && !local.is(&rule("*")));
    }

    #[test]
    fn a_rule_that_would_mean_more_than_it_seems_to_is_refused() {
        for bad in [
            "",
            "shop",
            "DNS:",
            "DNS:*",
            "DNS:*.",
            "DNS:a.*.example",
            "DNS:*x.example",
            "CN:",
            "uid:me",
            "spiffe://",
            "spiffe://example.org*",
            "spiffe://*",
            "spiffe://*/ns/shop",
            "spiffe://*/*",
            "example.org",
            "URI:x",
            "**",
        ] {
            assert!(bad.parse::<ClientRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_has_its_own_list_else_the_default_else_none() {
        let list = |names: &[&str]| names.iter().map(|name| rule(name)).collect::<Vec<_>>();
        let name = |text: &str| ServiceName::new(text).unwrap();
        let services = [(name("a"), list(&["CN:anna"])), (name("b"), list(&["CN:anna"])), (name("shut"), Vec::new())];
        let open = Authorization::new(None, services.clone());
        assert_eq!(open.lists.len(), 2, "equal lists are one");
        let (anna, ben) = (with(&[], &[], Some("anna")), with(&[], &[], Some("ben")));
        let may = |all: &Authorization, who: &Identity| {
            let verdicts = all.judge(who);
            ["a", "b", "shut", "other"].map(|service| all.allows(&verdicts, service))
        };
        assert_eq!(may(&open, &anna), [true, true, false, true]);
        assert_eq!(may(&open, &ben), [false, false, false, true]);
        let closed = Authorization::new(Some(list(&["CN:ben"])), services);
        assert_eq!(may(&closed, &anna), [true, true, false, false]);
        assert_eq!(may(&closed, &ben), [false, false, false, true]);
        assert_eq!(may(&closed, &Identity::default()), [false; 4]);
        assert!(!Authorization::default().is_any());
    }
}
