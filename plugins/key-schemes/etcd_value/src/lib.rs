//! The key and value layout of the Go etcd client's naming package
//! (`go.etcd.io/etcd/client/v3/naming/endpoints`), which gRPC clients in Go resolve
//! `etcd:///service` with. Both key schemes beside this crate write and read it.
//!
//! ```text
//! greeter/192.0.2.1:8080 -> {"Op":0,"Addr":"192.0.2.1:8080","Metadata":null}
//! greeter/192.0.2.2:8080 -> {"Op":0,"Addr":"192.0.2.2:8080","Metadata":{"version":"1.4","weight":3,"zone":"eu-1"}}
//! ```
//!
//! Writing gives the bytes that Go's `encoding/json` gives for the same fields. Zone, weight and
//! metadata have no place of their own there, so they stand in `Metadata`, and only when they say
//! something: the zone as `zone`, a weight other than 1 as `weight`, the pairs beside them under
//! their own names.
//!
//! Reading accepts what Go accepts: field names in any case, the last of several, unknown fields,
//! no `Op` (its value is not looked at), and a `Metadata` of any kind:
//!
//! | `Metadata` | becomes |
//! |---|---|
//! | absent or null | nothing |
//! | an object | `zone` if it is a string or a number, `weight` if it is a number (or a string of one), a pair for anything else; values that are not strings as their JSON text |
//! | anything else | one pair `metadata`: a string as it is, the rest as its JSON text |
//!
//! A weight is what its number says, however that is written (`3`, `3.0`, `"3"`, `3e0`). One
//! between two whole numbers is rounded, but never to 0, which would mean "send it nothing"; one
//! over 32 bits is as great as can be. Of both, and of a weight or zone that says nothing, the host
//! is warned; the latter are left among the pairs.

mod weight;

use std::{collections::BTreeMap, fmt::Write as _};

use waymark_plugin::{Entry, Instance, Level, json::Json, log};

use self::weight::Weight;

/// The pair that holds a `Metadata` that is no object.
const WHOLE: &str = "metadata";

/// Refuse a service name whose keys could be confused with those of another service, or not be
/// typed.
///
/// A `/` in front is legal (in Go, the target `etcd:////x` reads the prefix `/x/`), and so is one
/// in the middle.
pub fn check_service(service: &str) -> Result<(), String> {
    if service.is_empty() {
        return Err("the service name is empty: its prefix would cover every key there is".to_owned());
    }
    if service.ends_with('/') {
        return Err(format!(
            "the service name `{service}` ends with `/`: its keys would lie among those of `{}`",
            service.trim_end_matches('/')
        ));
    }
    check_printable("service name", service)
}

/// What to write for one instance: the key `service/id` (an instance without an id has its address
/// for one) and the value.
pub fn encode(service: &str, instance: &Instance) -> Result<Entry, String> {
    check_service(service)?;
    if instance.address.is_empty() {
        return Err(format!("the instance `{}` has no address", instance.id));
    }
    let id = if instance.id.is_empty() { &instance.address } else { &instance.id };
    check_printable("instance id", id)?;
    Ok(Entry { key: format!("{service}/{id}"), value: value(instance)?.into_bytes() })
}

/// The instance that a value registers under this id.
pub fn decode(id: &str, value: &[u8]) -> Result<Instance, String> {
    // Go replaces what is not UTF-8 in a string and refuses it elsewhere; the replacement is
    // refused there, too.
    let text = String::from_utf8_lossy(value);
    let json = Json::parse(&text).map_err(|error| format!("the value is not JSON: {error}"))?;
    let fields = json.entries().ok_or_else(|| format!("the value is no JSON object but {}", shortened(&text)))?;
    let mut instance =
        Instance { id: id.to_owned(), address: String::new(), zone: String::new(), weight: 1, metadata: Vec::new() };
    let mut metadata = None;
    for (name, field) in fields {
        if name.eq_ignore_ascii_case("Addr") {
            if let Some(address) = field.text() {
                instance.address = address.into_owned();
            } else if !field.is_null() {
                return Err(format!("`Addr` must be a string, not {}", shortened(field.as_written())));
            }
        } else if name.eq_ignore_ascii_case("Metadata") {
            metadata = Some(field);
        }
    }
    if instance.address.is_empty() {
        return Err("the value has no `Addr`".to_owned());
    }
    if let Some(metadata) = metadata {
        read_metadata(metadata, &mut instance);
    }
    Ok(instance)
}

fn read_metadata(metadata: Json<'_>, instance: &mut Instance) {
    let as_text = |json: Json<'_>| json.text().map_or_else(|| json.as_written().to_owned(), String::from);
    if metadata.is_null() {
        return;
    }
    let Some(entries) = metadata.entries() else {
        instance.metadata.push((WHOLE.to_owned(), as_text(metadata)));
        return;
    };
    // As in a Go map, the last of several entries of one name counts.
    let entries: BTreeMap<_, _> = entries.collect();
    for (name, json) in entries {
        let text = as_text(json);
        let taken = match name.as_ref() {
            // As for `Addr`, null says that nothing was set.
            "zone" | "weight" if json.is_null() => true,
            "zone" => take_zone(json, &text, instance),
            "weight" => take_weight(json, &text, instance),
            _ => false,
        };
        if !taken {
            instance.metadata.push((name.into_owned(), text));
        }
    }
}

/// Whether the zone could be used.
fn take_zone(json: Json<'_>, text: &str, instance: &mut Instance) -> bool {
    let is_one = is_text_or_number(json);
    if is_one {
        text.clone_into(&mut instance.zone);
    } else {
        warn(&format!("the zone {} is no string, and is not used", shortened(json.as_written())));
    }
    is_one
}

/// Whether the weight could be used.
fn take_weight(json: Json<'_>, text: &str, instance: &mut Instance) -> bool {
    let written = shortened(json.as_written());
    match is_text_or_number(json).then(|| weight::read(text)).flatten() {
        Some(Weight::Exact(weight)) => instance.weight = weight,
        Some(Weight::Near(weight)) => {
            instance.weight = weight;
            warn(&format!("the weight {written} is no whole number from 0 to {}; {weight} is used", u32::MAX));
        }
        None => {
            warn(&format!("the weight {written} is no number from 0 to {}; {} is used", u32::MAX, instance.weight));
            return false;
        }
    }
    true
}

fn is_text_or_number(json: Json<'_>) -> bool {
    // JSON has been checked: what begins so is nothing else.
    json.as_written().starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))
}

/// Tells the host of something in the entry in hand that is not taken as it stands.
fn warn(message: &str) {
    log(Level::Warn, message);
}

fn value(instance: &Instance) -> Result<String, String> {
    let mut fields = BTreeMap::new();
    for (name, text) in &instance.metadata {
        if name == "zone" || name == "weight" {
            return Err(format!("the metadata of `{}` may not have the name `{name}`: it has its own", instance.id));
        }
        fields.insert(name.as_str(), quoted(text));
    }
    if !instance.zone.is_empty() {
        fields.insert("zone", quoted(&instance.zone));
    }
    if instance.weight != 1 {
        fields.insert("weight", instance.weight.to_string());
    }

    let mut value = format!(r#"{{"Op":0,"Addr":{},"Metadata":"#, quoted(&instance.address));
    if fields.is_empty() {
        value += "null";
    } else {
        for (nth, (name, json)) in fields.iter().enumerate() {
            value += if nth == 0 { "{" } else { "," };
            value += &quoted(name);
            value += ":";
            value += json;
        }
        value += "}";
    }
    value += "}";
    Ok(value)
}

/// A JSON string as Go's `encoding/json` writes it: with escapes for what could end a script
/// element or a line in JavaScript, too.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            ..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

fn check_printable(what: &str, text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("the {what} {} has the control character U+{:04X}", quoted(text), u32::from(c))),
        None => Ok(()),
    }
}

/// Enough of a text to recognize it by.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use waymark_plugin::testing::logged;

    use super::*;

    fn instance(address: &str, zone: &str, weight: u32, metadata: &[(&str, &str)]) -> Instance {
        let metadata = metadata.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Instance { id: address.to_owned(), address: address.to_owned(), zone: zone.to_owned(), weight, metadata }
    }

    fn written(instance: &Instance) -> String {
        value(instance).unwrap()
    }

    fn read(value: &str) -> Instance {
        decode("id", value.as_bytes()).unwrap()
    }

    fn refused(value: &str) -> String {
        decode("id", value.as_bytes()).unwrap_err()
    }

    // The values on the right were printed by Go 1.26: json.Marshal of a struct with the fields of
    // the naming package's update type.
    #[test]
    fn values_are_the_bytes_that_go_writes() {
        assert_eq!(
            written(&instance("127.0.0.1:8080", "", 1, &[])),
            r#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#
        );
        assert_eq!(
            written(&instance("a<b>&c\u{2028}\u{2029}\"\\/\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}é😀", "", 1, &[])),
            "{\"Op\":0,\"Addr\":\"a\\u003cb\\u003e\\u0026c\\u2028\\u2029\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}é😀\",\
             \"Metadata\":null}"
        );
        let metadata = [("Z", "<1>"), ("a", "x"), ("weight2", "3"), ("é", "")];
        assert_eq!(
            written(&instance("192.0.2.1:80", "eu-1", 3, &metadata)),
            "{\"Op\":0,\"Addr\":\"192.0.2.1:80\",\"Metadata\":{\"Z\":\"\\u003c1\\u003e\",\"a\":\"x\",\"weight\":3,\
             \"weight2\":\"3\",\"zone\":\"eu-1\",\"é\":\"\"}}"
        );
        assert_eq!(
            written(&instance("192.0.2.1:80", "eu-1", 1, &[])),
            r#"{"Op":0,"Addr":"192.0.2.1:80","Metadata":{"zone":"eu-1"}}"#
        );
    }

    #[test]
    fn reading_agrees_with_go() {
        for (value, address) in [
            (r#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#, "127.0.0.1:8080"),
            (r#"{"aDDR":"192.0.2.3:4","METADATA":"x"}"#, "192.0.2.3:4"),
            (r#"{"Addr":"a","addr":"b"}"#, "b"),
            (r#"{"addr":"b","Addr":"a"}"#, "a"),
            (r#"{"Addr":"a","addr":null}"#, "a"),
            (r#"{"Op":1,"Addr":"a"}"#, "a"),
            (r#"{"Addr":"a\ud800b"}"#, "a\u{FFFD}b"),
            (r#" { "Extra" : [1, {"x": 2}], "Addr" : "a" } "#, "a"),
        ] {
            assert_eq!(read(value).address, address, "{value}");
        }
        assert_eq!(decode("id", b"{\"Addr\":\"a\xffb\"}").unwrap().address, "a\u{FFFD}b");
    }

    #[test]
    fn what_go_refuses_is_refused_and_so_is_a_value_without_an_address() {
        assert_eq!(refused(r#" {"Addr":"a"} x"#), "the value is not JSON: expected the end at byte 14");
        assert_eq!(refused(r#"{"Addr":1}"#), "`Addr` must be a string, not 1");
        assert_eq!(refused("[]"), "the value is no JSON object but []");
        assert_eq!(refused("192.0.2.1:8080"), "the value is not JSON: expected the end at byte 5");
        assert_eq!(refused(""), "the value is not JSON: expected a value at byte 0");
        assert_eq!(refused("{\"Addr\":\"a\tb\"}"), "the value is not JSON: expected no control character at byte 10");
        assert!(refused("\u{feff}{}").starts_with("the value is not JSON"));
        for value in ["{}", r#"{"Addr":""}"#, r#"{"Addr":null}"#, r#"{"Address":"a"}"#] {
            assert_eq!(refused(value), "the value has no `Addr`", "{value}");
        }
        assert_eq!(
            refused(&format!("[\"{}\"]", "x".repeat(99))),
            format!("the value is no JSON object but [\"{}…", "x".repeat(58))
        );
    }

    #[test]
    fn metadata_of_any_kind_is_read() {
        let metadata = |json: &str| {
            let Instance { zone, weight, metadata, .. } = read(&format!(r#"{{"Addr":"a","Metadata":{json}}}"#));
            let pairs: Vec<String> = metadata.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
            (zone, weight, pairs.join(" "))
        };
        let is = |zone: &str, weight, pairs: &str| (zone.to_owned(), weight, pairs.to_owned());
        assert_eq!(metadata("null"), is("", 1, ""));
        assert_eq!(metadata(r#""host-1""#), is("", 1, "metadata=host-1"));
        assert_eq!(metadata("5"), is("", 1, "metadata=5"));
        assert_eq!(metadata("[1, 2]"), is("", 1, "metadata=[1, 2]"));
        assert_eq!(metadata(r#"{"zone":"z","weight":7,"v":"1"}"#), is("z", 7, "v=1"));
        assert_eq!(metadata(r#"{"weight":"7"}"#), is("", 7, ""));
        assert_eq!(metadata(r#"{"weight":0}"#), is("", 0, ""));
        assert_eq!(metadata(r#"{"b":{"x": [1]},"a":null,"b":true,"c":1.50}"#), is("", 1, "a=null b=true c=1.50"));
        assert_eq!(logged(), [], "nothing to warn of");
    }

    #[test]
    fn weights_and_zones_are_heeded_or_warned_of() {
        let read = |json: &str| {
            let Instance { zone, weight, metadata, .. } = read(&format!(r#"{{"Addr":"a","Metadata":{json}}}"#));
            let pairs: Vec<String> = metadata.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
            let warnings: Vec<String> = logged().into_iter().map(|(_, message)| message).collect();
            (zone, weight, pairs.join(" "), warnings.join("; "))
        };
        // What it says, however it is written.
        for (json, weight) in [
            ("3.0", 3),
            ("1e1", 10),
            ("30E-1", 3),
            (r#""3""#, 3),
            (r#""3.0""#, 3),
            ("0.0", 0),
            ("-0", 0),
            ("4294967295", u32::MAX),
            ("null", 1),
        ] {
            let expected = (String::new(), weight, String::new(), String::new());
            assert_eq!(read(&format!(r#"{{"weight":{json}}}"#)), expected, "{json}");
        }
        // As near as it can be, and the host is told.
        for (json, weight) in [
            ("2.5", 3),
            ("2.4", 2),
            ("0.25", 1),
            ("1e-9", 1),
            ("4294967296", u32::MAX),
            ("1e400", u32::MAX),
            (r#"" 3""#, 3),
            (r#""99999999999""#, u32::MAX),
        ] {
            let (_, read_as, pairs, warned) = read(&format!(r#"{{"weight":{json}}}"#));
            let warning = format!("the weight {json} is no whole number from 0 to 4294967295; {weight} is used");
            assert_eq!((read_as, pairs.as_str(), warned), (weight, "", warning), "{json}");
        }
        // Nothing that could be heeded.
        for json in [
            "-1",
            "-0.5",
            "true",
            "[3]",
            r#"{"x":1}"#,
            r#""heavy""#,
            r#""""#,
            r#""0x10""#,
            r#""NaN""#,
            r#""inf""#,
            r#""3,5""#,
        ] {
            let (_, weight, pairs, warned) = read(&format!(r#"{{"weight":{json}}}"#));
            let warning = format!("the weight {json} is no number from 0 to 4294967295; 1 is used");
            assert_eq!((weight, warned), (1, warning), "{json}");
            assert!(pairs.starts_with("weight="), "{json}: {pairs}");
        }
        assert_eq!(read(r#"{"zone":1}"#), ("1".to_owned(), 1, String::new(), String::new()));
        assert_eq!(read(r#"{"zone":null}"#), (String::new(), 1, String::new(), String::new()));
        for json in ["true", "[1]", r#"{"name":"eu-1"}"#] {
            let (zone, _, pairs, warned) = read(&format!(r#"{{"zone":{json}}}"#));
            let warning = format!("the zone {json} is no string, and is not used");
            assert_eq!((zone.as_str(), pairs, warned), ("", format!("zone={json}"), warning));
        }
    }

    #[test]
    fn a_warning_does_not_echo_a_long_weight() {
        read(&format!(r#"{{"Addr":"a","Metadata":{{"weight":"{}"}}}}"#, "9".repeat(5000)));
        let (_, message) = logged().pop().unwrap();
        assert!(message.len() < 200, "{message}");
    }

    #[test]
    fn keys_are_the_service_a_slash_and_the_id() {
        let key = |service, id: &str| {
            encode(service, &Instance { id: id.to_owned(), ..instance("192.0.2.1:80", "", 1, &[]) }).map(|e| e.key)
        };
        assert_eq!(key("ayang/server1", "").as_deref(), Ok("ayang/server1/192.0.2.1:80"));
        assert_eq!(key("/x", "pod-1").as_deref(), Ok("/x/pod-1"));
        assert_eq!(key("x", "pod\n1").unwrap_err(), "the instance id \"pod\\n1\" has the control character U+000A");
        assert_eq!(encode("x", &instance("", "", 1, &[])).unwrap_err(), "the instance `` has no address");
        let taken = encode("x", &instance("a:1", "", 1, &[("zone", "z")])).unwrap_err();
        assert_eq!(taken, "the metadata of `a:1` may not have the name `zone`: it has its own");
    }

    #[test]
    fn service_names_that_could_be_confused_are_refused() {
        for service in ["greeter", "ayang/server1", "/x", "a//b", "dienst-ä"] {
            assert_eq!(check_service(service), Ok(()));
        }
        assert!(check_service("").unwrap_err().contains("is empty"));
        assert!(check_service("a/").unwrap_err().contains("would lie among those of `a`"));
        assert!(check_service("/").is_err());
        assert!(check_service("a\0b").unwrap_err().contains("U+0000"));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            id in "[^\\pC]{1,12}", address in ".{1,20}", zone in ".{0,8}", weight: u32,
            metadata in prop::collection::btree_map(".{0,8}", ".{0,12}", 0..5),
        ) {
            let metadata: Vec<_> = metadata.into_iter().filter(|(name, _)| name != "zone" && name != "weight").collect();
            let instance = Instance { id, address, zone, weight, metadata };
            let entry = encode("svc", &instance).unwrap();
            prop_assert_eq!(&entry.key, &format!("svc/{}", instance.id));
            prop_assert_eq!(decode(&instance.id, &entry.value).unwrap(), instance);
        }

        #[test]
        fn no_value_breaks_the_reader(value in prop::collection::vec(any::<u8>(), 0..60)) {
            _ = decode("id", &value);
        }
    }
}
