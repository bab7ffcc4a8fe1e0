//! What a key scheme takes: which names, and which instances.

use std::sync::Arc;

use super::{LEASE, service};
use crate::{
    conformance::made_up,
    model::{Endpoint, InstanceId, LeaseId, Locality, ServiceName},
    naming::{KeyScheme, NamingError},
};

/// A service that the scheme can name, with its prefixes: one with a slash in it if it takes that,
/// else a flat one. The first error if it takes neither.
pub(super) fn name_a_service(scheme: &dyn KeyScheme) -> (ServiceName, Result<Vec<String>, NamingError>) {
    let mut first = None;
    for name in [made_up::SERVICE, "waymark-check", "waymark.Check", "waymarkcheck", "/waymark/check"].map(service) {
        match scheme.prefixes(&name) {
            Err(error @ NamingError::Refused { .. }) => _ = first.get_or_insert(error),
            answer => return (name, answer),
        }
    }
    (service(made_up::SERVICE), first.map_or_else(|| Ok(Vec::new()), Err))
}

/// What instances the scheme writes. Each registration has a lease of its own, so that may be part
/// of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Of any name.
    Named,
    /// Known by their address.
    ByAddress,
    /// With a number for an id.
    Numbered,
    /// With a UUID for an id.
    Uuid,
    /// The same with a zone and some metadata, without which it refuses them.
    Described(&'static Form),
    /// None: it reads what others write.
    ReadOnly,
}

impl Form {
    pub(super) const ALL: [Self; 8] = [
        Self::Named,
        Self::ByAddress,
        Self::Numbered,
        Self::Uuid,
        Self::Described(&Self::Named),
        Self::Described(&Self::ByAddress),
        Self::Described(&Self::Numbered),
        Self::Described(&Self::Uuid),
    ];

    /// The n-th instance of this form.
    pub(super) fn instance(self, n: usize) -> Endpoint {
        let by_address = Endpoint::at(made_up::address(n));
        match self {
            Self::Named => made_up::endpoint(n),
            Self::ByAddress | Self::ReadOnly => by_address,
            Self::Numbered => Endpoint { id: InstanceId::new(format!("{}", n + 1)), ..by_address },
            Self::Uuid => Endpoint { id: InstanceId::new(format!("5f0c2d1e-7a3b-4c4d-8e9f-{n:012x}")), ..by_address },
            Self::Described(form) => {
                let pairs = [("version", "1.0"), ("env", "test"), ("name", "check"), ("protocol", "grpc")];
                let mut pairs = pairs.map(|(name, text)| (name.to_owned(), text.to_owned()));
                pairs.sort();
                Endpoint { locality: Locality::zone("zone-a"), metadata: Arc::from(pairs), ..form.instance(n) }
            }
        }
    }
}

/// The lease of the n-th instance.
pub(super) fn lease(n: usize) -> LeaseId {
    LeaseId(LEASE.0 + i64::try_from(n).unwrap_or_default())
}
