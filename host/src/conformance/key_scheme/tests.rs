//! Layouts that others use, and that keep every promise of the interface.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{conformance::report::Line, naming::Decoded};

/// How a layout differs from `service/id -> address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `service/lease -> address`, as go-zero has it: an instance is known by its lease.
    LeaseInKey,
    /// `service/address -> address`, whatever the id.
    AddressInKey,
    /// The same, and an instance with another id is refused.
    AddressAlone,
    /// Ids are numbers.
    Numbers,
    /// An instance has to have a version.
    Versions,
    /// Services have plain names.
    FlatNames,
    /// Each instance stands under two keys.
    TwoKeys,
    /// Others write.
    ReadOnly,
    /// Others write, and it fails on what they wrote.
    ReadOnlyFails,
    /// Not fit: two instances are told to be one.
    Mixes,
}

struct Scheme(Layout);

impl Scheme {
    fn refuse<T>(subject: &str) -> Result<T, NamingError> {
        let (scheme, subject, reason) = ("layout".into(), subject.to_owned(), "not of this layout".into());
        Err(NamingError::Refused { scheme, subject, reason })
    }
}

impl KeyScheme for Scheme {
    fn name(&self) -> &'static str {
        "layout"
    }

    fn prefixes(&self, service: &ServiceName) -> Result<Vec<String>, NamingError> {
        if self.0 == Layout::FlatNames && service.as_str().contains('/') {
            return Self::refuse(service.as_str());
        }
        Ok(vec![format!("{service}/")])
    }

    fn encode(&self, service: &ServiceName, e: &Endpoint, lease: LeaseId, _: Ttl) -> Result<Vec<Entry>, NamingError> {
        self.prefixes(service)?;
        let id = e.id.as_str();
        let keys = match self.0 {
            Layout::LeaseInKey => vec![lease.to_string()],
            Layout::AddressInKey | Layout::FlatNames => vec![e.address.to_string()],
            Layout::AddressAlone if id == e.address.as_str() => vec![id.to_owned()],
            Layout::Numbers if id.bytes().all(|digit| digit.is_ascii_digit()) => vec![id.to_owned()],
            Layout::Versions if e.metadata.iter().any(|(name, _)| name == "version") => vec![id.to_owned()],
            Layout::TwoKeys => vec![format!("a:{id}"), format!("b:{id}")],
            Layout::Mixes => vec![id.to_owned()],
            // The others take instances of one form alone.
            _ => return Self::refuse(id),
        };
        let entry = |key| Entry { key: format!("{service}/{key}"), value: e.address.to_string().into_bytes() };
        Ok(keys.into_iter().map(entry).collect())
    }

    fn decode(&self, service: &ServiceName, entry: &Entry) -> Result<Decoded, NamingError> {
        if self.0 == Layout::ReadOnlyFails {
            let (scheme, reason) = ("layout".into(), "as the test says".into());
            return Err(NamingError::Failed { scheme, call: "decode", reason, overran: false });
        }
        let unreadable =
            || NamingError::Unreadable { scheme: "layout".into(), key: entry.key.clone(), reason: "not ours".into() };
        let rest = entry.key.strip_prefix(service.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let mut id = rest.filter(|rest| !rest.contains('/')).ok_or_else(unreadable)?;
        if self.0 == Layout::TwoKeys {
            id = id.split_once(':').ok_or_else(unreadable)?.1;
        } else if self.0 == Layout::Mixes {
            id = "one";
        }
        let address = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        let address = address.ok_or_else(unreadable)?;
        let endpoint = Endpoint { id: InstanceId::new(id), ..Endpoint::at(address) };
        Ok(Decoded { endpoints: vec![endpoint], warnings: Vec::new() })
    }
}

fn report(layout: Layout) -> Report {
    let (scheme, again) = (Scheme(layout), Scheme(layout));
    let subject = SchemeUnderTest { scheme: &scheme, again: &again, warned: false, memory: Box::new(|| 0) };
    let options = Options { quick: true, ..Options::default() };
    let mut report = Report::empty("layout", &options);
    check(&subject, &options, &mut report);
    report
}

fn line<'a>(report: &'a Report, section: &str, check: &str) -> Option<&'a Line> {
    report.lines.iter().find(|line| line.section == section && line.check == check)
}

#[test]
fn layouts_that_keep_the_promises_pass_whatever_they_are_like() {
    let layouts = [
        Layout::LeaseInKey,
        Layout::AddressInKey,
        Layout::AddressAlone,
        Layout::Numbers,
        Layout::Versions,
        Layout::FlatNames,
        Layout::TwoKeys,
        Layout::ReadOnly,
    ];
    for layout in layouts {
        let report = report(layout);
        let failed: Vec<_> = report.lines.iter().filter(|line| line.outcome == Outcome::Failed).collect();
        assert!(failed.is_empty(), "{layout:?}: {failed:?}");
        let calls: Vec<_> = report.cost.iter().map(|cost| cost.call).collect();
        let expected: &[_] =
            if layout == Layout::ReadOnly { &["prefixes", "decode"] } else { &["prefixes", "encode", "decode"] };
        assert_eq!(calls, expected, "{layout:?}");
    }
}

#[test]
fn what_is_of_note_in_them_is_said() {
    let detail = |layout, section, check| line(&report(layout), section, check).map(|line| line.detail.clone());
    assert!(detail(Layout::LeaseInKey, "keys", "lease").unwrap().contains("stands in the key"));
    assert_eq!(
        detail(Layout::LeaseInKey, "round trip", "ids").unwrap(),
        "an instance's id is read back as one of its own"
    );
    assert_eq!(
        detail(Layout::AddressInKey, "round trip", "ids").unwrap(),
        "an instance's id is read back as the address"
    );
    assert_eq!(detail(Layout::Numbers, "round trip", "ids"), None);
    assert!(detail(Layout::AddressAlone, "round trip", "instances").unwrap().contains("refused"));
    assert!(detail(Layout::ReadOnly, "keys", "writing").unwrap().contains("only reads"));
    assert_eq!(line(&report(Layout::ReadOnly), "round trip", "all of it").unwrap().outcome, Outcome::Skipped);
}

#[test]
fn what_is_not_fit_is_found_all_the_same() {
    let mixes = report(Layout::Mixes);
    let told = line(&mixes, "round trip", "instances").unwrap();
    assert!(told.outcome == Outcome::Failed && told.detail.contains("both read back with the id one"), "{told:?}");
    let fails = report(Layout::ReadOnlyFails);
    assert_eq!(line(&fails, "foreign entries", "garbage values").unwrap().outcome, Outcome::Failed);
}
