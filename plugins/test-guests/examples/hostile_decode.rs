//! A key scheme that does what an entry's value says: `loop`, `trap`, `spin N` (thousands of
//! rounds), `bomb N` (that many instances), `id N` (an id of that many bytes), `metadata N` (that
//! many pairs). Any other value is an address, or `{"Addr":ADDRESS}`.

use test_guests::{plain, spin_for};
use waymark_plugin::{Config, Description, Entry, Instance, KeyScheme, Lease, export_key_scheme};

struct Guest;

fn at(address: &str) -> Instance {
    let address = address.to_owned();
    Instance { id: address.clone(), address, zone: String::new(), weight: 1, metadata: Vec::new() }
}

impl KeyScheme for Guest {
    const DESCRIPTION: Description = plain("hostile_decode", "Does what an entry's value says, in decode.");

    fn prefixes(_: &Config<'_>, service: &str) -> Result<Vec<String>, String> {
        Ok(vec![format!("{service}/")])
    }

    fn encode(_: &Config<'_>, service: &str, instance: &Instance, _: Lease<'_>) -> Result<Vec<Entry>, String> {
        let value = instance.address.clone().into_bytes();
        Ok(vec![Entry { key: format!("{service}/{}", instance.id), value }])
    }

    fn decode(_: &Config<'_>, _: &str, entry: &Entry) -> Result<Vec<Instance>, String> {
        let text = std::str::from_utf8(&entry.value).map_err(|error| error.to_string())?;
        let (word, number) = text.split_once(' ').unwrap_or((text, ""));
        let number: u32 = number.parse().unwrap_or_default();
        Ok(match word {
            "loop" => loop {
                spin_for(1);
            },
            "trap" => panic!("on purpose"),
            "spin" => {
                spin_for(number);
                vec![at("192.0.2.1:80")]
            }
            "bomb" => (0..number).map(|n| at(&format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255))).collect(),
            "id" => vec![Instance { id: "x".repeat(number as usize), ..at("192.0.2.1:80") }],
            "metadata" => {
                let metadata = (0..number).map(|n| (n.to_string(), String::new())).collect();
                vec![Instance { metadata, ..at("192.0.2.1:80") }]
            }
            _ => vec![at(text.trim_start_matches(r#"{"Addr":""#).trim_end_matches(r#""}"#))],
        })
    }
}

export_key_scheme!(Guest);
