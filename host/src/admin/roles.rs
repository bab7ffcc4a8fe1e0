//! What a caller of the node's API may do, and which of it each call and page needs.

/// The roles. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Ask whether the node is well, and for its figures.
    Probe,
    /// See what it knows.
    Read,
    /// Change it.
    Write,
}

use Role::{Probe, Read, Write};

/// Every call that is served. A call that asks for more in its message (`discover`) is checked
/// where the message is read.
const RPCS: &[(&str, Role)] = &[
    ("/waymark.v1.Node/ListServices", Read),
    ("/waymark.v1.Node/GetService", Read),
    ("/waymark.v1.Node/WatchService", Read),
    ("/waymark.v1.Node/GetPolicy", Read),
    ("/waymark.v1.Node/SetPolicy", Write),
    ("/waymark.v1.Node/RollbackPolicy", Write),
    ("/grpc.health.v1.Health/Check", Probe),
    ("/grpc.health.v1.Health/Watch", Probe),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Read),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Read),
];

/// Every page.
const PAGES: &[(&str, Role)] =
    &[("/", Read), ("/healthz", Probe), ("/livez", Probe), ("/readyz", Probe), ("/metrics", Probe)];

/// What a call needs. What is in no table needs the most: a new call is closed until somebody has
/// thought about it.
pub(super) fn of_rpc(path: &str) -> Role {
    of(RPCS, path).unwrap_or(Write)
}

/// What a page needs, if there is one.
pub(super) fn of_page(path: &str) -> Option<Role> {
    of(PAGES, path)
}

fn of(table: &[(&str, Role)], path: &str) -> Option<Role> {
    table.iter().find(|(known, _)| *known == path).map(|(_, role)| *role)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::admin::proto;

    #[test]
    fn every_call_that_is_served_has_a_role_and_no_other() {
        let served = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut paths = BTreeSet::new();
        for set in served {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    }
                }
            }
        }
        let known: BTreeSet<_> = RPCS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(paths, known, "on the left what is served, on the right what has a role");
    }

    #[test]
    fn what_changes_something_needs_to_be_allowed_to() {
        for path in ["/waymark.v1.Node/SetPolicy", "/waymark.v1.Node/RollbackPolicy", "/waymark.v1.Node/New", ""] {
            assert_eq!(of_rpc(path), Write, "{path}");
        }
        assert_eq!((of_page("/metrics"), of_page("/"), of_page("/none")), (Some(Probe), Some(Read), None));
        assert!(Probe < Read && Read < Write);
    }
}
