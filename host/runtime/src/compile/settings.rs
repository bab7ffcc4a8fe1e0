//! The settings of the compiler and of what it compiled.

use std::path::Path;

use wasmtime::{Cache, CacheConfig, Config};

/// How much address space a linear memory has when it begins, and when it outgrows that, in bytes:
/// growth within it moves nothing. The usual 4 GiB with guards before and behind save a bounds
/// check an access, and take four mappings an instance; ten thousand services could not have one
/// each.
const RESERVED: u64 = 1 << 20;
const RESERVED_FOR_GROWTH: u64 = 4 << 20;

/// The settings of the compiler and of what it compiled: the process that compiles has the same.
pub(crate) fn settings(cache: Option<Cache>) -> Config {
    let mut settings = Config::new();
    settings
        .wasm_component_model(true)
        // Left on, component-model concurrency makes every call more than three times as dear.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .memory_reservation(RESERVED)
        .memory_reservation_for_growth(RESERVED_FOR_GROWTH)
        .memory_guard_size(0)
        .guard_before_linear_memory(false)
        // A mapping of the image would split the memory into a third one; what is copied instead is
        // some KB.
        .memory_init_cow(false)
        .cache(cache);
    settings
}

/// wasmtime's cache in this folder.
pub(crate) fn cache(folder: &Path) -> Result<Cache, String> {
    let mut config = CacheConfig::new();
    // What is packed anew would have to be signed anew.
    config.with_directory(folder).with_optimized_compression_usage_counter_threshold(u64::MAX);
    Cache::new(config).map_err(|error| format!("no cache of compiled plugins in {}: {error:#}", folder.display()))
}
