//! What plugins hold of what they may, and what was compiled, for a scrape.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use waymark_core::exposition::{Families, Writer};
use waymark_runtime::Engine;

/// Adds the figures of this engine to what is scraped.
pub(crate) fn register_plugins(families: &mut Families, engine: &Engine) {
    families.top().register_collector(Plugins { engine: engine.clone() });
}

struct Plugins {
    engine: Engine,
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

impl Collector for Plugins {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (usage, compiles) = (self.engine.usage(), self.engine.compiles());
        let mut out = Writer { encoder };
        let limit = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("plugin_instances", "Instances of plugins that are kept", usage.instances),
            ("plugin_memory_bytes", "What instances of plugins hold, bytes", usage.memory),
            ("plugin_memory_limit_bytes", "What instances of plugins may hold, bytes", usage.memory_limit),
            ("plugin_mappings", "Mappings of the process that instances of plugins take", usage.mappings),
            ("plugin_mappings_limit", "How many mappings instances of plugins may take", usage.mappings_limit),
            ("plugin_compiled_bytes", "Compiled code that is kept in memory, bytes", compiles.cached_bytes),
        ] {
            out.gauge(name, help, &limit(value))?;
        }
        out.counter(
            "plugin_instances_refused",
            "Instances of plugins, and growths of theirs, that were refused because all was held",
            usage.refused,
        )?;
        let of = |result: &str, value| (vec![("result", result.to_owned())], value);
        out.counters(
            "plugin_compiles",
            "Components that were compiled, refused because they take too much, or not waited for",
            [of("done", compiles.done), of("refused", compiles.refused), of("abandoned", compiles.abandoned)],
        )
    }
}
