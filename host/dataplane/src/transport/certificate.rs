//! What a certificate says: whose it is, and when it is good.

#![allow(clippy::redundant_closure_for_method_calls, reason = "a method's path is not general enough in its lifetimes")]

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use yasna::{
    ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, Tag,
    models::{ObjectIdentifier, TaggedDerValue},
    tags::{TAG_BMPSTRING, TAG_GENERALIZEDTIME, TAG_IA5STRING, TAG_NUMERICSTRING, TAG_PRINTABLESTRING, TAG_UTF8STRING},
};

/// What is read of a certificate (RFC 5280). Whether it is to be believed is the handshake's
/// business, not this module's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its names that are URIs, as SPIFFE's are.
    pub uris: Vec<String>,
    /// Its names that are host names, in lower case.
    pub dns: Vec<String>,
    /// The common name of its subject, if it has no alternative names: where there are some, nobody
    /// reads this one (RFC 6125, section 6.4.4).
    pub common_name: Option<String>,
    /// Its subject, as RFC 2253 writes it.
    pub subject: String,
    /// It is not good before this, Unix time in seconds.
    pub not_before: i64,
    /// It is not good after this, Unix time in seconds.
    pub not_after: i64,
    /// SHA-256 of all of it, hex.
    pub sha256: String,
}

impl Certificate {
    /// None: it is no X.509 certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let parts = yasna::parse_der(der, |reader| {
            reader.read_sequence(|reader| {
                let signed = reader.next().read_sequence(|reader| {
                    // The version is the one part before the serial number, and may be left out.
                    let first = reader.next().read_tagged_der()?;
                    if first.tag() == Tag::context(0) {
                        reader.next().read_der()?;
                    }
                    let (_signature, _issuer) = (reader.next().read_der()?, reader.next().read_der()?);
                    let validity =
                        reader.next().read_sequence(|reader| Ok((time(reader.next())?, time(reader.next())?)))?;
                    let subject = reader.next().read_der()?;
                    let _key = reader.next().read_der()?;
                    let mut extensions = None;
                    while let Some(more) = reader.read_optional(|reader| reader.read_tagged_der())? {
                        if more.tag() == Tag::context(3) {
                            extensions = Some(more);
                        }
                    }
                    Ok((validity, subject, extensions))
                })?;
                let (_algorithm, _signature) = (reader.next().read_der()?, reader.next().read_der()?);
                Ok(signed)
            })
        });
        let ((not_before, not_after), subject, extensions) = parts.ok()?;
        let subject = distinguished_name(&subject).ok()?;
        let names = match extensions {
            Some(extensions) => alternative_names(extensions.value()).ok()?,
            None => None,
        };
        let common_name =
            || subject.iter().flatten().find(|part| part.oid == "2.5.4.3").and_then(|part| part.text.clone());
        let mut sha256 = String::with_capacity(64);
        for byte in Sha256::digest(der) {
            let _ = write!(sha256, "{byte:02x}"); // Writing to a String does not fail.
        }
        Some(Self {
            common_name: if names.is_none() { common_name() } else { None },
            uris: names.iter().flatten().filter_map(|name| text_of(name, URI)).collect(),
            dns: names
                .iter()
                .flatten()
                .filter_map(|name| text_of(name, DNS_NAME))
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            subject: rfc2253(&subject),
            not_before,
            not_after,
            sha256,
        })
    }

    /// The name that says most of its owner: a URI, else a host name, else the common name.
    pub fn name(&self) -> Option<String> {
        let uri = || self.uris.first().cloned();
        let dns = || self.dns.first().map(|name| format!("DNS:{name}"));
        let common_name = || self.common_name.as_ref().map(|name| format!("CN:{name}"));
        uri().or_else(dns).or_else(common_name)
    }
}

/// The kinds of alternative names that are read, by their tags.
const DNS_NAME: u64 = 2;
const URI: u64 = 6;

/// The extension "subject alternative name".
const ALTERNATIVE_NAMES: [u64; 4] = [2, 5, 29, 17];

fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    if reader.lookahead_tag()? == TAG_GENERALIZEDTIME {
        return Ok(reader.read_generalized_time()?.datetime().unix_timestamp());
    }
    Ok(reader.read_utctime()?.datetime().unix_timestamp())
}

/// The names of the one such extension; none without it.
fn alternative_names(extensions: &[u8]) -> ASN1Result<Option<Vec<TaggedDerValue>>> {
    let all = yasna::parse_der(extensions, |reader| {
        reader.collect_sequence_of(|reader| {
            reader.read_sequence(|reader| {
                let oid = reader.next().read_oid()?;
                let _critical = reader.read_optional(|reader| reader.read_bool())?;
                Ok((oid, reader.next().read_bytes()?))
            })
        })
    })?;
    let mut ours = all.into_iter().filter(|(oid, _)| oid.components().as_slice() == ALTERNATIVE_NAMES);
    let Some((_, names)) = ours.next() else { return Ok(None) };
    if ours.next().is_some() {
        return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
    }
    yasna::parse_der(&names, |reader| reader.collect_sequence_of(|reader| reader.read_tagged_der())).map(Some)
}

fn text_of(name: &TaggedDerValue, tag: u64) -> Option<String> {
    let text = || String::from_utf8(name.value().to_vec()).ok().filter(|text| text.is_ascii());
    (name.tag() == Tag::context(tag)).then(text).flatten()
}

/// One attribute of a distinguished name.
struct Attribute {
    oid: String,
    /// None: it is no text.
    text: Option<String>,
}

/// The parts of a name, each of one attribute or several. As BER, since not every authority orders
/// them.
fn distinguished_name(bytes: &[u8]) -> ASN1Result<Vec<Vec<Attribute>>> {
    yasna::parse_ber(bytes, |reader| {
        reader.collect_sequence_of(|reader| {
            reader.collect_set_of(|reader| {
                reader.read_sequence(|reader| {
                    let oid = reader.next().read_oid()?;
                    let value = reader.next().read_tagged_der()?;
                    Ok(Attribute { oid: dotted(&oid), text: text(&value) })
                })
            })
        })
    })
}

fn dotted(oid: &ObjectIdentifier) -> String {
    oid.components().iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn text(value: &TaggedDerValue) -> Option<String> {
    match value.tag() {
        TAG_UTF8STRING | TAG_PRINTABLESTRING | TAG_IA5STRING | TAG_NUMERICSTRING => {
            String::from_utf8(value.value().to_vec()).ok()
        }
        TAG_BMPSTRING => {
            let units: Vec<_> = value
                .value()
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
                .collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// The last part first; what is special, and what is not printable ASCII, escaped.
fn rfc2253(name: &[Vec<Attribute>]) -> String {
    let mut text = String::new();
    for (nth, part) in name.iter().rev().enumerate() {
        if nth > 0 {
            text.push(',');
        }
        for (nth, attribute) in part.iter().enumerate() {
            if nth > 0 {
                text.push('+');
            }
            text.push_str(match attribute.oid.as_str() {
                "2.5.4.3" => "CN",
                "2.5.4.6" => "C",
                "2.5.4.7" => "L",
                "2.5.4.8" => "ST",
                "2.5.4.9" => "STREET",
                "2.5.4.10" => "O",
                "2.5.4.11" => "OU",
                "0.9.2342.19200300.100.1.1" => "UID",
                "0.9.2342.19200300.100.1.25" => "DC",
                other => other,
            });
            text.push('=');
            for byte in attribute.text.iter().flat_map(|text| text.bytes()) {
                match byte {
                    b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'#' | b'=' => {
                        text.extend(['\\', char::from(byte)]);
                    }
                    b' '..=b'~' => text.push(char::from(byte)),
                    byte => {
                        let _ = write!(text, "\\{byte:02X}"); // As above.
                    }
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn made(names: Vec<SanType>, common_name: &str) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Ex, Inc");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::parse(made.der()).unwrap()
    }

    #[test]
    fn a_certificate_is_its_alternative_names_and_only_without_any_its_common_name() {
        let uri = SanType::URI("spiffe://example.org/ns/shop".try_into().unwrap());
        let dns = SanType::DnsName("A.example".try_into().unwrap());
        let both = made(vec![dns.clone(), uri], "common");
        assert_eq!((both.uris, both.dns), (vec!["spiffe://example.org/ns/shop".into()], vec!["a.example".into()]));
        assert_eq!(both.common_name, None);
        assert_eq!(made(vec![dns], "common").name().unwrap(), "DNS:a.example");
        // An address is an alternative name, too.
        assert_eq!(made(vec![SanType::IpAddress([192, 0, 2, 1].into())], "common").name(), None);
        let plain = made(Vec::new(), "common");
        assert_eq!(plain.name().unwrap(), "CN:common");
        assert_eq!((plain.not_after, plain.sha256.len()), (1_893_542_400, 64));
    }

    #[test]
    fn a_subject_cannot_pretend_to_have_more_parts_than_it_has() {
        assert_eq!(made(Vec::new(), "a\",O=b;\n\u{e9}").subject, r#"CN=a\"\,O\=b\;\0A\C3\A9,O=Ex\, Inc"#);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(Certificate::parse(&CertificateDer::from(vec![0x30, 1, 2])), None);
    }
}
