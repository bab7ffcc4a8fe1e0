//! my_policy: keys like `services/greeter/192.0.2.1:80`, values of plain lines. A `/` in a
//! service's name or an id is written `%2F`, so that no service's keys lie among those of another.
//!
//! ```text
//! services/ayang%2Fserver1/pod-1  ->  192.0.2.1:80
//!                                     zone=eu-1
//!                                     weight=3
//!                                     meta.version=1.4
//! ```

use waymark_plugin::{Config, Description, Entry, Field, Instance, KeyScheme, Lease, export_key_scheme};

#[derive(Debug)]
struct Lines;

impl KeyScheme for Lines {
    const DESCRIPTION: Description =
        Description::new("my_policy", "0.1.0", "Keys ROOT/SERVICE/ID, values of plain lines.").with_fields(&[Field {
            name: "root",
            default: "\"services\"",
            doc: "what every key begins with, before the first slash",
        }]);

    fn prefixes(config: &Config<'_>, service: &str) -> Result<Vec<String>, String> {
        Ok(vec![prefix(config, service)?])
    }

    fn encode(config: &Config<'_>, service: &str, instance: &Instance, _: Lease<'_>) -> Result<Vec<Entry>, String> {
        let mut value = escaped(&instance.address);
        if !instance.zone.is_empty() {
            value += &format!("\nzone={}", escaped(&instance.zone));
        }
        if instance.weight != 1 {
            value += &format!("\nweight={}", instance.weight);
        }
        for (name, text) in &instance.metadata {
            value += &format!("\nmeta.{}={}", escaped(name), escaped(text));
        }
        let key = prefix(config, service)? + &escaped(&instance.id);
        Ok(vec![Entry { key, value: value.into_bytes() }])
    }

    fn decode(config: &Config<'_>, service: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
        let id = entry.key.strip_prefix(&prefix(config, service)?).ok_or("the key is of another service")?;
        if id.is_empty() || id.contains('/') {
            return Err("the key does not end with an instance".to_owned());
        }
        let text = std::str::from_utf8(&entry.value).map_err(|_| "the value is not UTF-8")?;
        let mut lines = text.split('\n');
        let address = plain(lines.next().unwrap_or_default());
        if address.is_empty() {
            return Err("the first line has no address".to_owned());
        }
        let mut instance = Instance { id: plain(id), address, zone: String::new(), weight: 1, metadata: Vec::new() };
        for line in lines {
            match line.split_once('=').ok_or_else(|| format!("the line {line:?} has no `=`"))? {
                ("zone", zone) => instance.zone = plain(zone),
                ("weight", weight) => {
                    instance.weight = weight.parse().map_err(|_| format!("the weight {weight:?} is no whole number"))?;
                }
                // Lines of a later release are not ours to refuse.
                (name, text) => instance
                    .metadata
                    .extend(name.strip_prefix("meta.").map(|name| (plain(name), plain(text)))),
            }
        }
        Ok(vec![instance])
    }
}

export_key_scheme!(Lines);

fn prefix(config: &Config<'_>, service: &str) -> Result<String, String> {
    let root = config.text("root")?;
    if root.is_empty() || root.contains('/') {
        return Err("`root` must not be empty, and not have a `/`".to_owned());
    }
    Ok(format!("{root}/{}/", escaped(service)))
}

/// What has a meaning of its own in keys and lines.
const SPECIAL: [(char, &str); 4] = [('%', "%25"), ('/', "%2F"), ('\n', "%0A"), ('=', "%3D")];

fn escaped(text: &str) -> String {
    SPECIAL.iter().fold(text.to_owned(), |text, (special, written)| text.replace(*special, written))
}

fn plain(text: &str) -> String {
    SPECIAL.iter().rev().fold(text.to_owned(), |text, (special, written)| text.replace(written, &special.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_plugin::testing::{decode, encode, prefixes};

    fn instance() -> Instance {
        let metadata = vec![("a=b\n".to_owned(), "50 %\n".to_owned())];
        Instance { id: "pod/1".into(), address: "192.0.2.1:80".into(), zone: "eu-1".into(), weight: 3, metadata }
    }

    const LEASE: Lease<'_> = Lease { id: "7", ttl_seconds: 10 };

    #[test]
    fn what_was_written_is_read_back() {
        let entries = encode::<Lines>("{}", "ayang/server1", &instance(), LEASE).unwrap();
        assert_eq!(entries[0].key, "services/ayang%2Fserver1/pod%2F1");
        assert_eq!(decode::<Lines>("{}", "ayang/server1", &entries[0]).unwrap(), [instance()]);
    }

    #[test]
    fn no_service_lies_among_the_keys_of_another() {
        assert_eq!(prefixes::<Lines>(r#"{"root": "r"}"#, "a").unwrap(), ["r/a/"]);
        assert_eq!(prefixes::<Lines>(r#"{"root": "r"}"#, "a/b").unwrap(), ["r/a%2Fb/"]);
        assert!(prefixes::<Lines>(r#"{"root": "a/b"}"#, "a").unwrap_err().contains("`root`"));
    }

    #[test]
    fn what_it_did_not_write_is_refused() {
        for (key, value) in [
            ("services/b/1", "192.0.2.1:80"),
            ("services/a/", "192.0.2.1:80"),
            ("services/a/1", ""),
            ("services/a/1", "192.0.2.1:80\nzone"),
            ("services/a/1", "192.0.2.1:80\nweight=-1"),
        ] {
            let entry = Entry { key: key.into(), value: value.into() };
            assert!(decode::<Lines>("{}", "a", &entry).is_err(), "{key} {value}");
        }
    }
}
