//! What of an entry's instances is taken: so many, of such a size, where they may be called.

use waymark_core::{
    model::Endpoint,
    naming::Decoded,
    text::{NAME, shown},
};
use waymark_net::address_filter::AddressFilter;

use crate::EntryLimits;

/// What an entry registers, and what of it is left out.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// The instances.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How many have addresses that are not to be called.
    pub(crate) refused: u64,
    /// How many are over a limit.
    pub(crate) over: u64,
    /// Why something was left out, for people.
    pub(crate) note: Option<String>,
    /// What the key scheme warns of in what it read.
    pub(crate) warnings: Vec<String>,
}

pub(super) fn apply(decoded: Decoded, limits: &EntryLimits, address_filter: &AddressFilter) -> Accepted {
    let Decoded { mut endpoints, warnings } = decoded;
    let mut accepted = Accepted { warnings, ..Accepted::default() };
    if let Some(over) = endpoints.len().checked_sub(limits.instances).filter(|over| *over > 0) {
        accepted.over = over as u64;
        accepted.note =
            Some(format!("it registers {} instances, of which {} are taken", endpoints.len(), limits.instances));
        endpoints.truncate(limits.instances);
    }
    endpoints.retain(|endpoint| {
        if let Some(problem) = oversize(endpoint, limits) {
            accepted.over += 1;
            accepted.note.get_or_insert(problem);
            return false;
        }
        if let Err(refusal) = address_filter.check(&endpoint.address) {
            accepted.refused += 1;
            accepted.note.get_or_insert_with(|| format!("{} {refusal}", shown(&endpoint.address, NAME)));
            return false;
        }
        true
    });
    accepted.endpoints = endpoints;
    accepted
}

fn oversize(endpoint: &Endpoint, limits: &EntryLimits) -> Option<String> {
    let named = [("id", endpoint.id.as_str()), ("zone", &endpoint.locality.zone)];
    if let Some((what, text)) = named.into_iter().find(|(_, text)| text.len() > limits.text_bytes) {
        return Some(format!("an instance's {what} has {} bytes, over the limit of {}", text.len(), limits.text_bytes));
    }
    if endpoint.metadata.len() > limits.metadata_pairs {
        let (pairs, limit) = (endpoint.metadata.len(), limits.metadata_pairs);
        return Some(format!("an instance has {pairs} metadata pairs, over the limit of {limit}"));
    }
    let bytes: usize = endpoint.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let over = bytes > limits.metadata_bytes;
    over.then(|| format!("an instance has {bytes} bytes of metadata, over the limit of {}", limits.metadata_bytes))
}
