//! What plugins hold of what they may, for whoever asks whether the node is well.

use super::Check;
use crate::plugin::{Engine, Usage};

/// What `/readyz` says of the memory of plugins. A node whose plugins have used theirs up serves
/// every call, so this fails never.
pub fn memory_of_plugins(engine: &Engine) -> Check {
    let engine = engine.clone();
    Box::new(move || Ok(words(&engine.usage())))
}

fn words(usage: &Usage) -> String {
    let Usage { memory, memory_limit, mappings, mappings_limit, instances, refused } = *usage;
    let held = format!(
        "{instances} instances hold {} of {} MiB and {mappings} of {mappings_limit} mappings",
        memory >> 20,
        memory_limit >> 20
    );
    match (usage.nearly_full(), refused) {
        (false, _) => held,
        (true, 0) => format!("nearly used up: {held}"),
        (true, refused) => format!("degraded: {held}; {refused} more were refused so far"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_said() {
        let mut usage =
            Usage { memory: 1 << 20, memory_limit: 64 << 20, mappings: 2, mappings_limit: 100, ..Usage::default() };
        assert_eq!(words(&usage), "0 instances hold 1 of 64 MiB and 2 of 100 mappings");
        usage.mappings = 95;
        assert!(words(&usage).starts_with("nearly used up: "));
        usage.refused = 3;
        assert!(words(&usage).starts_with("degraded: ") && words(&usage).ends_with("3 more were refused so far"));
    }
}
