//! Compiled components that are kept in memory for their next use, bounded in bytes: the one that
//! was used longest ago goes first.

use std::collections::HashMap;

use wasmtime::component::Component;

use super::Digest;

pub(super) struct MemoryCache {
    limit: usize,
    bytes: usize,
    /// Counts uses.
    now: u64,
    entries: HashMap<Digest, Cached>,
}

struct Cached {
    component: Component,
    bytes: usize,
    used: u64,
}

impl MemoryCache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, now: 0, entries: HashMap::new() }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Component> {
        self.now += 1;
        let entry = self.entries.get_mut(digest)?;
        entry.used = self.now;
        Some(entry.component.clone())
    }

    /// Keeps it, and lets go of others for it. What is over the limit alone is not kept: whoever
    /// uses it has it.
    pub(super) fn insert(&mut self, digest: Digest, component: Component) {
        let image = component.image_range();
        let bytes = image.end as usize - image.start as usize;
        if bytes > self.limit {
            return;
        }
        self.now += 1;
        let entry = Cached { component, bytes, used: self.now };
        self.bytes += bytes;
        if let Some(former) = self.entries.insert(digest, entry) {
            self.bytes -= former.bytes;
        }
        while self.bytes > self.limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(digest, _)| *digest);
            let Some(oldest) = oldest.and_then(|digest| self.entries.remove(&digest)) else { return };
            self.bytes -= oldest.bytes;
        }
    }

    /// How much is kept, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_bound_is_in_bytes() {
        let engine = wasmtime::Engine::default();
        let component = |text: &str| Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let (small, other) = (component("(component)"), component("(component (core module))"));
        let of = |component: &Component| component.image_range().end as usize - component.image_range().start as usize;
        let mut cache = MemoryCache::new(of(&small) + of(&other));
        cache.insert([1; 32], small.clone());
        cache.insert([2; 32], other.clone());
        assert!(cache.get(&[1; 32]).is_some());
        // The same again is no more than before.
        cache.insert([1; 32], small.clone());
        assert_eq!(cache.bytes(), of(&small) + of(&other));
        assert!(cache.get(&[1; 32]).is_some());
        cache.insert([3; 32], small.clone());
        assert!(cache.get(&[2; 32]).is_none(), "the one that was used longest ago is kept");
        assert!(cache.get(&[1; 32]).is_some() && cache.get(&[3; 32]).is_some());
        let mut tiny = MemoryCache::new(1);
        tiny.insert([1; 32], small);
        assert!(tiny.get(&[1; 32]).is_none());
        assert_eq!(tiny.bytes(), 0);
    }
}
