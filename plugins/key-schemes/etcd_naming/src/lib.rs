//! The layout of the Go etcd client's naming package: the key `service/anything`, read by the
//! prefix `service/`. What stands in a value is in the crate `etcd_value`.
//!
//! As in Go, anything may follow the prefix, so a service `ayang` also sees the keys of a service
//! `ayang/server1`. Where services are nested like that, set `nested_ids` to false: then a key with
//! one more `/` belongs to somebody else. Until it is said which of the two is meant, each such
//! entry is warned of.

use etcd_value::check_service;
use waymark_plugin::{Config, Description, Entry, Field, Instance, KeyScheme, Lease, Level, export_key_scheme, log};

/// The field that says what a key with one more `/` is.
const NESTED: &str = "nested_ids";

/// What the host is told of such a key, while nobody has said. The same words for all, so that a
/// host which tells each warning once tells this one once a service.
const MIXED: &str = "its id has a `/` in it, as the keys of a service that is named below this one have: calls may go to another service's \
                     instances, as in Go. Say what is meant in the key scheme's configuration (`key-scheme-config` of [registry], \
                     --key-scheme-config): {\"nested_ids\": false} keeps such entries out, true takes them without this warning";

/// The key scheme.
pub struct EtcdNaming;

impl KeyScheme for EtcdNaming {
    const DESCRIPTION: Description = Description::new(
        "etcd_naming",
        env!("CARGO_PKG_VERSION"),
        "service/id -> {\"Op\":0,\"Addr\":...,\"Metadata\":...}, as the Go etcd client's naming package.",
    )
    .with_fields(&[Field {
        name: NESTED,
        default: "true",
        doc: "whether an instance's id may have a `/` in it; false keeps a service apart from those named below it",
    }]);

    fn prefixes(_: &Config<'_>, service: &str) -> Result<Vec<String>, String> {
        check_service(service)?;
        Ok(vec![format!("{service}/")])
    }

    fn encode(config: &Config<'_>, service: &str, instance: &Instance, _: Lease<'_>) -> Result<Vec<Entry>, String> {
        if instance.id.contains('/') && !config.boolean(NESTED)? {
            return Err(format!("the instance id `{}` has a `/` in it, and `nested_ids` is false", instance.id));
        }
        Ok(vec![etcd_value::encode(service, instance)?])
    }

    fn decode(config: &Config<'_>, service: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
        let id = entry.key.strip_prefix(service).and_then(|rest| rest.strip_prefix('/'));
        let id = id.ok_or_else(|| format!("the key `{}` is not one of `{service}`", entry.key))?;
        if id.contains('/') && !config.boolean(NESTED)? {
            return Ok(Vec::new());
        }
        let instance = etcd_value::decode(id, &entry.value)?;
        // A Unix socket's address is one with slashes, and many an instance is known by its
        // address.
        if id.contains('/') && id != instance.address && !config.is_given(NESTED) {
            log(Level::Warn, MIXED);
        }
        Ok(vec![instance])
    }
}

export_key_scheme!(EtcdNaming);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use waymark_plugin::testing::{decode, encode, logged, prefixes};

    use super::*;

    const LEASE: Lease<'_> = Lease { id: "7587", ttl_seconds: 10 };
    const FLAT: &str = r#"{"nested_ids": false}"#;

    fn instance(id: &str) -> Instance {
        let (id, address) = (id.to_owned(), "127.0.0.1:8080".to_owned());
        Instance { id, address, zone: String::new(), weight: 1, metadata: Vec::new() }
    }

    #[test]
    fn the_study_note_s_key_and_value_are_written_and_read() {
        let service = "ayang/server1";
        assert_eq!(prefixes::<EtcdNaming>("{}", service).unwrap(), ["ayang/server1/"]);
        let entries = encode::<EtcdNaming>("{}", service, &instance("127.0.0.1:8080"), LEASE).unwrap();
        assert_eq!(entries[0].key, "ayang/server1/127.0.0.1:8080");
        assert_eq!(entries[0].value, br#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#);
        assert_eq!(decode::<EtcdNaming>("{}", service, &entries[0]).unwrap(), [instance("127.0.0.1:8080")]);
    }

    #[test]
    fn a_key_of_another_service_is_refused() {
        let entry = Entry { key: "ayang/server12/x".to_owned(), value: br#"{"Addr":"a"}"#.to_vec() };
        let refused = decode::<EtcdNaming>("{}", "ayang/server1", &entry).unwrap_err();
        assert_eq!(refused, "the key `ayang/server12/x` is not one of `ayang/server1`");
    }

    #[test]
    fn ids_with_a_slash_are_read_unless_told_otherwise() {
        let entries = encode::<EtcdNaming>("{}", "ayang", &instance("server1/a"), LEASE).unwrap();
        assert_eq!(decode::<EtcdNaming>("{}", "ayang", &entries[0]).unwrap(), [instance("server1/a")]);
        assert_eq!(decode::<EtcdNaming>(FLAT, "ayang", &entries[0]).unwrap(), []);
        let refused = encode::<EtcdNaming>(FLAT, "ayang", &instance("server1/a"), LEASE).unwrap_err();
        assert_eq!(refused, "the instance id `server1/a` has a `/` in it, and `nested_ids` is false");
    }

    #[test]
    fn what_may_be_of_a_service_below_is_warned_of_until_it_is_said_what_it_is() {
        let warnings = |config: &str, key: &str, address: &str| {
            let entry = Entry { key: key.to_owned(), value: format!(r#"{{"Addr":"{address}"}}"#).into_bytes() };
            decode::<EtcdNaming>(config, "ayang", &entry).unwrap();
            logged().into_iter().map(|(_, message)| message).collect::<Vec<_>>()
        };
        let below = "ayang/server1/127.0.0.1:8080";
        assert_eq!(warnings("{}", below, "127.0.0.1:8080"), [MIXED]);
        assert_eq!(warnings("{}", "ayang/server1/unix:/a/b", "unix:/a/b"), [MIXED]);
        assert_eq!(warnings("{}", "ayang/127.0.0.1:8080", "127.0.0.1:8080"), [""; 0]);
        assert_eq!(warnings("{}", "ayang/unix:/a/b", "unix:/a/b"), [""; 0], "its own socket");
        assert_eq!(warnings(FLAT, below, "127.0.0.1:8080"), [""; 0]);
        assert_eq!(warnings(r#"{"nested_ids": true}"#, below, "127.0.0.1:8080"), [""; 0]);
    }

    #[test]
    fn a_service_it_cannot_name_is_refused() {
        assert!(prefixes::<EtcdNaming>("{}", "a/").is_err());
        assert!(encode::<EtcdNaming>("{}", "", &instance("x"), LEASE).is_err());
    }
}
