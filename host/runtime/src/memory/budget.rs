//! What all plugins of a node may hold together: memory, and places in the kernel's table of
//! mappings.
//!
//! ```text
//!            begin         grow past 4 MiB               keep (refused when full)
//!   nothing ──────▶ built ───────────────▶ built, large ────────────▶ kept
//!                     │     (waits for room)   │                       │ drop
//!                     ▼                        ▼                       ▼
//!                  given back              given back              given back
//! ```
//!
//! An instance that is being built is told apart from one that is kept, so that a service whose
//! policy makes a plan is always served: its instance lives for a moment, and a node full of kept
//! instances still has the room for that. A build that takes more than 4 MiB reserves the most that
//! it may take, and waits for others like it to be done when all would be more than a quarter of
//! the whole; small ones wait for nobody. Who is kept pays what it has.
//!
//! A service that changes its endpoints has its next instance beside the last one for a moment. It
//! may always have one that is no larger than what it gives up, however full the node is: nobody
//! who runs is taken out because others came.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Linear memories, tables, and what wasmtime keeps for an instance, in bytes.
    pub(crate) bytes: usize,
    /// Mappings of the process: see [`MAPPINGS_A_MEMORY`].
    pub(crate) mappings: usize,
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.mappings += other.mappings;
    }

    fn take(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.mappings = self.mappings.saturating_sub(other.mappings);
    }

    fn plus(mut self, other: Self) -> Self {
        self.add(other);
        self
    }

    fn fits(self, limit: Self) -> bool {
        self.bytes <= limit.bytes && self.mappings <= limit.mappings
    }

    /// A share of it, rounded down.
    fn share(self, times: usize, of: usize) -> Self {
        Self { bytes: self.bytes / of * times, mappings: self.mappings / of * times }
    }
}

/// A linear memory is one mapping that can be used and one that is reserved behind it.
pub(crate) const MAPPINGS_A_MEMORY: usize = 2;

/// Up to so many bytes a build waits for nobody.
const SMALL: usize = 4 << 20;

/// How long a large build waits for room before it is refused. Builds end within their deadline, a
/// second unless configured.
const PATIENCE: Duration = Duration::from_secs(10);

/// An instance over this part of the memory is a big one.
const BIG: usize = 64;

/// What the node's plugins hold, and may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What instances hold, in bytes: linear memories, tables, and what is kept for each.
    pub memory: u64,
    /// What they may hold.
    pub memory_limit: u64,
    /// Mappings of the process that instances take.
    pub mappings: u64,
    /// How many they may take.
    pub mappings_limit: u64,
    /// Instances that are kept for picks and for key schemes.
    pub instances: u64,
    /// Instances that were refused because all was used up, and growths likewise.
    pub refused: u64,
}

impl Usage {
    /// Whether newcomers are about to be refused.
    pub fn nearly_full(&self) -> bool {
        self.memory > self.memory_limit / 10 * 9 || self.mappings > self.mappings_limit / 10 * 9
    }
}

/// The budget of a node. Every instance holds a [`Charge`] on it.
pub(crate) struct Budget {
    limit: Amount,
    held: Mutex<Held>,
    room: Condvar,
    refused: AtomicU64,
}

#[derive(Default)]
struct Held {
    kept: Amount,
    instances: u64,
    /// Reserved by the large ones among those that are being built.
    building: usize,
    /// What each owner's kept instances hold.
    owners: HashMap<Arc<str>, Amount>,
}

/// There is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full(String);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Budget {
    /// `memory` is in bytes.
    pub(crate) fn new(memory: usize, mappings: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: Amount { bytes: memory, mappings },
            held: Mutex::default(),
            room: Condvar::new(),
            refused: AtomicU64::new(0),
        })
    }

    /// For an instance that may take up to `most` bytes and is about to be built.
    pub(crate) fn begin(self: &Arc<Self>, most: usize) -> Charge {
        let stage = Stage::Building { most, reserved: 0 };
        Charge { budget: Arc::clone(self), held: Amount::default(), stage }
    }

    /// Room for a large build; waits for it. One is always let in, so that no limit of a service is
    /// larger than what there can be.
    fn reserve(&self, most: usize) -> Result<(), Full> {
        let (room, until) = (self.limit.bytes / 4, Instant::now() + PATIENCE);
        let mut held = self.lock();
        while held.building > 0 && held.building.saturating_add(most) > room {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.refused.fetch_add(1, Relaxed);
                return Err(Full(format!(
                    "for {} s other builds have taken the {} MiB that there are for builds; raise plugins.total-memory-mib, or lower memory-mib",
                    PATIENCE.as_secs(),
                    room >> 20,
                )));
            }
            held = self.room.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        held.building = held.building.saturating_add(most);
        Ok(())
    }

    /// Whether there is so much left that a service may have more than the one instance that it
    /// needs.
    pub(crate) fn has_plenty(&self) -> bool {
        self.lock().kept.fits(self.limit.share(1, 2))
    }

    pub(crate) fn usage(&self) -> Usage {
        let held = self.lock();
        Usage {
            memory: held.kept.bytes as u64,
            memory_limit: self.limit.bytes as u64,
            mappings: held.kept.mappings as u64,
            mappings_limit: self.limit.mappings as u64,
            instances: held.instances,
            refused: self.refused.load(Relaxed),
        }
    }

    fn full(&self, held: &Held, wanted: Amount) -> Full {
        self.refused.fetch_add(1, Relaxed);
        if held.kept.mappings + wanted.mappings > self.limit.mappings {
            return Full(format!(
                "the node's plugins hold {} of the {} memory mappings that they may; raise vm.max_map_count (sysctl), or choose a policy that makes a plan",
                held.kept.mappings, self.limit.mappings,
            ));
        }
        Full(format!(
            "the node's plugins hold {} MiB of {} MiB, and this one wants {} KiB more; raise plugins.total-memory-mib, or choose a policy that makes a plan",
            held.kept.bytes >> 20,
            self.limit.bytes >> 20,
            wanted.bytes >> 10,
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // The lock is held for a few instructions that cannot panic half-way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one instance holds of the budget; given back when it is dropped.
pub(crate) struct Charge {
    budget: Arc<Budget>,
    held: Amount,
    stage: Stage,
}

enum Stage {
    Building { most: usize, reserved: usize },
    Kept { owner: Arc<str> },
}

impl Charge {
    /// Takes more. While it is built that may wait for other builds; later it comes out of what all
    /// share, or is refused.
    pub(crate) fn grow(&mut self, more: Amount) -> Result<(), Full> {
        match &mut self.stage {
            Stage::Building { most, reserved } => {
                if *reserved == 0 && self.held.bytes + more.bytes > SMALL {
                    self.budget.reserve(*most)?;
                    *reserved = *most;
                }
            }
            Stage::Kept { owner } => {
                let mut held = self.budget.lock();
                if !held.kept.plus(more).fits(self.budget.limit) {
                    return Err(self.budget.full(&held, more));
                }
                held.kept.add(more);
                held.owners.entry(Arc::clone(owner)).or_default().add(more);
            }
        }
        self.held.add(more);
        Ok(())
    }

    /// What was built is to be kept by this owner.
    pub(crate) fn keep(&mut self, owner: &Arc<str>) -> Result<(), Full> {
        let Stage::Building { reserved, .. } = self.stage else { return Ok(()) };
        let (budget, mine) = (&self.budget, self.held);
        let mut held = budget.lock();
        let owned = held.owners.get(owner).copied().unwrap_or_default();
        // What is replaced lives on for a moment. An owner that has several of its size beside it
        // replaces nothing.
        let replaces = mine.fits(owned) && owned.fits(mine.share(4, 1));
        // Big ones leave a quarter for the many small.
        let limit = if mine.bytes > budget.limit.bytes / BIG { budget.limit.share(3, 4) } else { budget.limit };
        if !replaces && !held.kept.plus(mine).fits(limit) {
            return Err(budget.full(&held, mine));
        }
        held.kept.add(mine);
        held.instances += 1;
        held.owners.entry(Arc::clone(owner)).or_default().add(mine);
        held.building = held.building.saturating_sub(reserved);
        drop(held);
        budget.room.notify_all();
        self.stage = Stage::Kept { owner: Arc::clone(owner) };
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.budget.lock();
        match &self.stage {
            Stage::Building { reserved, .. } => held.building = held.building.saturating_sub(*reserved),
            Stage::Kept { owner } => {
                held.kept.take(self.held);
                held.instances = held.instances.saturating_sub(1);
                if let Some(owned) = held.owners.get_mut(owner) {
                    owned.take(self.held);
                    if *owned == Amount::default() {
                        held.owners.remove(owner);
                    }
                }
            }
        }
        drop(held);
        self.budget.room.notify_all();
    }
}

/// The memory that plugins may hold when nothing was said: a quarter of what this process may have,
/// at least 256 MiB and at most 2 GiB.
pub(crate) fn default_memory() -> usize {
    (available_memory().unwrap_or(usize::MAX) / 4).clamp(256 << 20, 2 << 30)
}

/// The memory of the machine, or of the container if that is less; none where this system does not
/// tell it.
pub(crate) fn available_memory() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.saturating_mul(1024);
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(container.unwrap_or(machine).min(machine))
}

/// The mappings that plugins may take: three quarters of `vm.max_map_count`. The rest is for the
/// process itself: threads, code, the allocator.
pub(crate) fn default_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    text.and_then(|text| text.trim().parse::<usize>().ok()).map_or(usize::MAX, |most| most / 4 * 3)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MIB: usize = 1 << 20;

    fn owner(name: &str) -> Arc<str> {
        name.into()
    }

    fn built(budget: &Arc<Budget>, mib: usize) -> Charge {
        let mut charge = budget.begin(64 * MIB);
        charge.grow(Amount { bytes: mib * MIB, mappings: 2 }).unwrap();
        charge
    }

    fn kept(budget: &Arc<Budget>, name: &str, mib: usize) -> Result<Charge, Full> {
        let mut charge = built(budget, mib);
        charge.keep(&owner(name)).map(|()| charge)
    }

    #[test]
    fn what_is_kept_is_bounded_and_comes_back() {
        let budget = Budget::new(1024 * MIB, 1000);
        let held: Vec<_> = (0..12).map(|n| kept(&budget, &n.to_string(), 64).unwrap()).collect();
        // The thirteenth is a big one, and a quarter is left to the small.
        let refused = kept(&budget, "13", 64).map(drop).unwrap_err().to_string();
        assert!(refused.contains("hold 768 MiB of 1024 MiB") && refused.contains("total-memory-mib"), "{refused}");
        kept(&budget, "small", 1).unwrap();
        assert_eq!(
            budget.usage(),
            Usage {
                memory: 768 << 20,
                memory_limit: 1 << 30,
                mappings: 24,
                mappings_limit: 1000,
                instances: 12,
                refused: 1
            }
        );
        drop(held);
        assert_eq!((budget.usage().memory, budget.usage().mappings, budget.usage().instances), (0, 0, 0));
        assert!(budget.lock().owners.is_empty() && budget.lock().building == 0);
    }

    #[test]
    fn who_runs_may_be_replaced_and_not_outgrow_the_rest() {
        let budget = Budget::new(8 * MIB, 1000);
        let small = Amount { bytes: MIB / 16, mappings: 2 };
        let one = |name: &str| {
            let mut charge = budget.begin(MIB);
            charge.grow(small).unwrap();
            charge.keep(&owner(name)).map(|()| charge)
        };
        let mut running: Vec<_> = (0..128).map(|n| one(&n.to_string()).unwrap()).collect();
        assert!(one("newcomer").is_err());
        running[7] = one("7").unwrap();
        // Growth of one that runs is refused it, and it goes on as it was.
        assert!(running[7].grow(small).is_err());
        assert_eq!(budget.usage().memory, 8 << 20);
        // An owner that never lets go of the former ones is a newcomer, too.
        let hoarded: Vec<_> = std::iter::from_fn(|| one("7").ok()).take(100).collect();
        assert!(hoarded.len() < 5, "{}", hoarded.len());
    }

    #[test]
    fn mappings_are_counted_beside_memory() {
        let budget = Budget::new(1024 * MIB, 10);
        let _held: Vec<_> = (0..5).map(|n| kept(&budget, &n.to_string(), 1).unwrap()).collect();
        let refused = kept(&budget, "6", 1).map(drop).unwrap_err().to_string();
        assert!(refused.contains("10 of the 10 memory mappings") && refused.contains("vm.max_map_count"), "{refused}");
    }

    #[test]
    fn a_large_build_waits_for_room_and_is_always_let_in_alone() {
        let budget = Budget::new(1024 * MIB, 1000);
        let large = Amount { bytes: 5 * MIB, mappings: 2 };
        let mut first = budget.begin(4096 * MIB);
        first.grow(large).unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        let waits = {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || {
                budget.begin(64 * MIB).grow(large).unwrap();
                told.send(()).unwrap();
            })
        };
        // Small ones need not wait.
        budget.begin(64 * MIB).grow(Amount { bytes: SMALL, mappings: 2 }).unwrap();
        assert!(hears.try_recv().is_err(), "a second large build was let in beside one that may take everything");
        drop(first);
        hears.recv().unwrap();
        waits.join().unwrap();
        assert_eq!(budget.lock().building, 0);
    }
}
