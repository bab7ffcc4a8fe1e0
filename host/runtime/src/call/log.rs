//! A plugin's way to the node's log.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};
use waymark_core::text;

use super::bindings::balancer::waymark::plugin::log::Level;
use crate::description::Limits;

/// One plugin's way to the node's log, shared by all its instances: bounded in length and in
/// number.
pub(crate) struct PluginLog {
    plugin: Mutex<String>,
    limit: u32,
    max_len: usize,
    window: Mutex<Window>,
    dropped: AtomicU64,
}

struct Window {
    began: Instant,
    count: u32,
}

impl PluginLog {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(crate) fn new(plugin: &str, limits: &Limits) -> Self {
        Self {
            plugin: Mutex::new(plugin.into()),
            limit: limits.log_messages,
            max_len: limits.log_message_len,
            window: Mutex::new(Window { began: Instant::now(), count: 0 }),
            dropped: AtomicU64::new(0),
        }
    }

    /// Once the plugin has told its name, its messages carry it.
    pub(crate) fn rename(&self, name: &str) {
        name.clone_into(&mut self.plugin.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn admit(&self) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= Self::WINDOW {
            *window = Window { began: Instant::now(), count: 0 };
            let dropped = self.dropped.swap(0, Relaxed);
            if dropped > 0 {
                let plugin = self.name();
                warn!(plugin, dropped, "plugin logged too much; messages were dropped");
            }
        }
        window.count += 1;
        window.count <= self.limit
    }

    fn name(&self) -> String {
        self.plugin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest message, in bytes.
    pub(crate) fn max_len(&self) -> usize {
        self.max_len
    }

    pub(crate) fn write(&self, level: Level, message: &str) {
        if !self.admit() {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let message = text::printable(message, self.max_len);
        let plugin = text::printable(&self.name(), text::NAME);
        match level {
            Level::Debug => debug!(target: "waymark::plugin", plugin, "{message}"),
            Level::Info => info!(target: "waymark::plugin", plugin, "{message}"),
            Level::Warn => warn!(target: "waymark::plugin", plugin, "{message}"),
            Level::Error => error!(target: "waymark::plugin", plugin, "{message}"),
        }
    }
}
