//! What one instance may take: all its linear memories and tables together, out of the node's
//! budget.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use super::budget::{Amount, Charge, Full, MAPPINGS_A_MEMORY};
use crate::description::Limits;

/// How many core instances, memories and tables a component may have.
const INSTANCES: usize = 64;
const MEMORIES: usize = 8;
const TABLES: usize = 64;

/// How many handles of resources there may be at a time, of all components within it together, and
/// how many a table of them may come to hold. Of the host's it may hold 1,024, each of which counts
/// three times while it is lent.
pub(crate) const HANDLES: usize = 4096;

/// An element of a table is a pointer, in a list that may have room for as many again.
const ELEMENT: usize = 2 * size_of::<usize>();

/// A table from this size on has a mapping of its own: from here on the allocator asks the kernel.
const MAPPED_TABLE: usize = 128 << 10;

/// Refuses what is over the limits, and remembers that it did: a guest then usually traps, and the
/// reason should say why.
pub(crate) struct MemoryLimiter {
    counts: StoreLimits,
    most: usize,
    held: usize,
    charge: Charge,
    peak: Arc<AtomicUsize>,
    pub(crate) refused: Option<String>,
}

impl MemoryLimiter {
    /// `fixed` is what every instance of this component takes beside its memories and tables.
    /// `peak` is raised to whatever this instance comes to have.
    pub(crate) fn new(limits: &Limits, fixed: usize, mut charge: Charge, peak: Arc<AtomicUsize>) -> Self {
        let counts = StoreLimitsBuilder::new()
            .table_elements(limits.table_elements)
            .instances(INSTANCES)
            .memories(MEMORIES)
            .tables(TABLES)
            .build();
        // Where there is no room for that, its memory is refused, too.
        let refused = charge.grow(Amount { bytes: fixed, mappings: 0 }).err();
        let refused = refused.map(|full| format!("it was refused more memory: {full}"));
        Self { counts, most: limits.memory, held: 0, charge, peak, refused }
    }

    /// The instance is to be kept, by this owner.
    pub(crate) fn keep(&mut self, owner: &Arc<str>) -> Result<(), Full> {
        self.charge.keep(owner)
    }

    fn grow(&mut self, bytes: usize, mappings: usize) -> bool {
        if self.held.saturating_add(bytes) > self.most {
            self.refused = Some(format!(
                "it was refused more memory than the {} KiB it has, with {} KiB at most",
                self.held >> 10,
                self.most >> 10
            ));
            return false;
        }
        if let Err(full) = self.charge.grow(Amount { bytes, mappings }) {
            self.refused = Some(format!("it was refused more memory: {full}"));
            return false;
        }
        self.held += bytes;
        self.peak.fetch_max(self.held, Relaxed);
        true
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Past its own word it does not come anyway, and then nothing is to be paid. What the
        // system refuses stays paid for: nobody says reliably how much that was.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let mappings = if current == 0 { MAPPINGS_A_MEMORY } else { 0 };
        Ok(self.grow(desired.saturating_sub(current), mappings))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if !self.counts.table_growing(current, desired, maximum)? {
            self.refused = Some(format!("it was refused a table larger than {current} elements"));
            return Ok(false);
        }
        let (before, after) = (current.saturating_mul(ELEMENT), desired.saturating_mul(ELEMENT));
        let mappings = usize::from(before < MAPPED_TABLE && after >= MAPPED_TABLE);
        Ok(self.grow(after.saturating_sub(before), mappings))
    }

    fn instances(&self) -> usize {
        self.counts.instances()
    }

    fn tables(&self) -> usize {
        self.counts.tables()
    }

    fn memories(&self) -> usize {
        self.counts.memories()
    }
}
