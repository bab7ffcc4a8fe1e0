//! Between the types of `etcd_client` and ours, taking the namespace off and putting it on.

use etcd_client::{KeyValue, ResponseHeader, proto};
use waymark_core::model::{LeaseId, Revision};

use crate::etcd::{Event, Header, Kv, Range, prefix_end};

/// What stands before every key of ours; may be empty.
#[derive(Debug, Clone)]
pub(super) struct Namespace(Vec<u8>);

impl Namespace {
    pub(super) fn new(namespace: &str) -> Self {
        Self(namespace.as_bytes().to_vec())
    }

    /// A key of ours as etcd knows it.
    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.0, key].concat()
    }

    /// A range of ours as etcd knows it: its first key, and the end.
    pub(super) fn range(&self, range: &Range) -> (Vec<u8>, Vec<u8>) {
        let end = match range.end.as_slice() {
            [] => Vec::new(),
            // No end: up to the end of the namespace.
            [0] => prefix_end(&self.0),
            end => self.key(end),
        };
        (self.key(&range.key), end)
    }

    /// A pair that etcd answered, by our key.
    pub(super) fn kv(&self, kv: KeyValue) -> Kv {
        let (mod_revision, lease) = (Revision(kv.mod_revision()), kv.lease());
        let (mut key, value) = kv.into_key_value();
        key.drain(..self.0.len().min(key.len()));
        Kv { key, value, mod_revision, lease: (lease != 0).then_some(LeaseId(lease)) }
    }

    /// A change that etcd told, by our key. `None` for what no etcd of today sends.
    pub(super) fn event(&self, event: proto::PbEvent) -> Option<Event> {
        const PUT: i32 = 0;
        const DELETE: i32 = 1;
        // Its own accessor panics on a kind it does not know, hence the number.
        let kind = event.r#type;
        let kv = self.kv(KeyValue(event.kv?));
        match kind {
            PUT => Some(Event::Put(kv)),
            DELETE => Some(Event::Delete { key: kv.key, mod_revision: kv.mod_revision }),
            _ => None,
        }
    }
}

/// The header's two facts that matter here; zeros where there is none.
pub(super) fn header(header: Option<&ResponseHeader>) -> Header {
    Header {
        cluster: header.map_or(0, ResponseHeader::cluster_id),
        revision: Revision(header.map_or(0, ResponseHeader::revision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_covers_its_own_keys_alone() {
        let namespace = Namespace::new("prod/");
        assert_eq!(namespace.range(&Range::prefix("a/")), (b"prod/a/".to_vec(), b"prod/a0".to_vec()));
        assert_eq!(namespace.range(&Range::key("a/1")), (b"prod/a/1".to_vec(), vec![]));
        let all = Range { key: vec![0], end: vec![0] };
        assert_eq!(namespace.range(&all), (b"prod/\0".to_vec(), b"prod0".to_vec()));
        assert_eq!(Namespace::new("").range(&all), (vec![0], vec![0]));
    }

    #[test]
    fn keys_come_back_without_the_namespace() {
        let kv = proto::PbKeyValue { key: b"prod/a/1".to_vec(), lease: 7, mod_revision: 3, ..Default::default() };
        let kv = Namespace::new("prod/").kv(KeyValue(kv));
        assert_eq!((kv.key.as_slice(), kv.lease, kv.mod_revision), (&b"a/1"[..], Some(LeaseId(7)), Revision(3)));
    }

    #[test]
    fn an_event_of_an_unknown_kind_is_left_out() {
        let event = proto::PbEvent { r#type: 9, kv: Some(proto::PbKeyValue::default()), prev_kv: None };
        assert_eq!(Namespace::new("").event(event), None);
    }
}
