//! A mistake, on request: what the Go etcd client's naming package did in 3.4.28 to 3.4.33 and
//! 3.5.0 to 3.5.9 (etcd issue 15022). It reads a service by its bare name, without the slash that
//! ends it, so `ayang/server` also gets everything of `ayang/server1` and `ayang/server2`. It is
//! here to show that, and to stand beside such a client during a migration. Keys and values are
//! those of `etcd_naming`.

use etcd_value::check_service;
use waymark_plugin::{Config, Description, Entry, Instance, KeyScheme, Lease, export_key_scheme};

/// The key scheme.
pub struct BarePrefix;

impl KeyScheme for BarePrefix {
    const DESCRIPTION: Description = Description::new(
        "bare_prefix",
        env!("CARGO_PKG_VERSION"),
        "As etcd_naming, but read by the service's bare name, as some releases of the Go client did.",
    )
    .with_warning(
        "The prefix has no `/` at its end, so a service also gets the instances of every other service whose name begins \
         like its own: `ayang/server` gets those of `ayang/server1`, and calls go to servers that do not serve them. Use \
         etcd_naming unless this is what you want to see.",
    );

    fn prefixes(_: &Config<'_>, service: &str) -> Result<Vec<String>, String> {
        check_service(service)?;
        Ok(vec![service.to_owned()])
    }

    fn encode(_: &Config<'_>, service: &str, instance: &Instance, _: Lease<'_>) -> Result<Vec<Entry>, String> {
        Ok(vec![etcd_value::encode(service, instance)?])
    }

    fn decode(_: &Config<'_>, service: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
        let rest = entry.key.strip_prefix(service);
        let rest = rest.ok_or_else(|| format!("the key `{}` is not one of `{service}`", entry.key))?;
        // Another service's instance keeps its whole key for an id, so that nobody takes it for one
        // of this service.
        let id = rest.strip_prefix('/').unwrap_or(&entry.key);
        Ok(vec![etcd_value::decode(id, &entry.value)?])
    }
}

export_key_scheme!(BarePrefix);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use waymark_plugin::testing::{decode, encode, prefixes};

    use super::*;

    fn entry(key: &str, address: &str) -> Entry {
        let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
        Entry { key: key.to_owned(), value: value.into_bytes() }
    }

    #[test]
    fn it_mixes_the_services_of_the_study_note() {
        assert_eq!(prefixes::<BarePrefix>("{}", "ayang/server").unwrap(), ["ayang/server"]);
        for (key, address) in
            [("ayang/server1/127.0.0.1:8080", "127.0.0.1:8080"), ("ayang/server2/127.0.0.1:8081", "127.0.0.1:8081")]
        {
            let instances = decode::<BarePrefix>("{}", "ayang/server", &entry(key, address)).unwrap();
            assert_eq!((instances[0].id.as_str(), instances[0].address.as_str()), (key, address));
        }
        assert!(BarePrefix::DESCRIPTION.warning.contains("`ayang/server` gets those of `ayang/server1`"));
    }

    #[test]
    fn its_own_instances_are_written_and_read_as_by_etcd_naming() {
        let own = entry("ayang/server1/127.0.0.1:8080", "127.0.0.1:8080");
        let instances = decode::<BarePrefix>("{}", "ayang/server1", &own).unwrap();
        assert_eq!(instances[0].id, "127.0.0.1:8080");
        let lease = Lease { id: "7587", ttl_seconds: 10 };
        assert_eq!(encode::<BarePrefix>("{}", "ayang/server1", &instances[0], lease).unwrap(), [own]);
    }

    #[test]
    fn other_keys_and_configurations_are_refused() {
        let refused = decode::<BarePrefix>("{}", "ayang", &entry("other/x", "a")).unwrap_err();
        assert_eq!(refused, "the key `other/x` is not one of `ayang`");
        assert!(prefixes::<BarePrefix>("{}", "ayang/").is_err());
        assert!(prefixes::<BarePrefix>(r#"{"slash": true}"#, "ayang").is_err());
    }
}
