//! A key scheme that reads one prefix and writes a key outside of it.

use test_guests::plain;
use waymark_plugin::{Config, Description, Entry, Instance, KeyScheme, Lease, export_key_scheme};

struct Guest;

impl KeyScheme for Guest {
    const DESCRIPTION: Description = plain("writes_elsewhere", "Writes a key outside of the service's prefix.");

    fn prefixes(_: &Config<'_>, service: &str) -> Result<Vec<String>, String> {
        Ok(vec![format!("{service}/")])
    }

    fn encode(_: &Config<'_>, service: &str, instance: &Instance, _: Lease<'_>) -> Result<Vec<Entry>, String> {
        let value = instance.address.clone().into_bytes();
        Ok(vec![Entry { key: format!("elsewhere/{service}/{}", instance.id), value }])
    }

    fn decode(_: &Config<'_>, _: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
        Err(format!("`{}` is not read by the test guest", entry.key))
    }
}

export_key_scheme!(Guest);
