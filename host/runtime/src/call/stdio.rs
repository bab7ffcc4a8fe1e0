//! What an instance has of WASI: the line of standard output and error that it has begun, and how
//! many handles it holds.

use std::sync::Arc;

use wasmtime::{Result, bail};

use super::{bindings::balancer::waymark::plugin::log::Level, log::PluginLog};

/// How many handles a plugin may hold at a time: they are memory of the host.
const MAX_HANDLES: u32 = 1024;

/// Where a handle to a stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What an instance has of WASI.
pub(crate) struct Wasi {
    log: Arc<PluginLog>,
    handles: u32,
    out: Line,
    err: Line,
}

/// The part of a line that was written so far.
#[derive(Default)]
struct Line {
    text: Vec<u8>,
}

impl Line {
    fn write(&mut self, bytes: &[u8], log: &PluginLog, level: Level) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        self.extend(lines.next().unwrap_or_default(), log);
        for next in lines {
            self.end(log, level);
            self.extend(next, log);
        }
    }

    /// What is over the log's bound is cut anyway.
    fn extend(&mut self, bytes: &[u8], log: &PluginLog) {
        let room = log.max_len().saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self, log: &PluginLog, level: Level) {
        if !self.text.is_empty() {
            log.write(level, &String::from_utf8_lossy(&self.text));
            self.text.clear();
        }
    }
}

impl Wasi {
    pub(crate) fn new(log: Arc<PluginLog>) -> Self {
        Self { log, handles: 0, out: Line::default(), err: Line::default() }
    }

    /// Takes bytes for a stream. They come to the log line by line.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Out => self.out.write(bytes, &self.log, Level::Info),
            Stream::Err => self.err.write(bytes, &self.log, Level::Warn),
        }
    }

    /// It gets one more handle, if it may.
    pub(crate) fn hold(&mut self) -> Result<()> {
        if self.handles >= MAX_HANDLES {
            bail!("it holds {MAX_HANDLES} handles of WASI, the most that it may");
        }
        self.handles += 1;
        Ok(())
    }

    /// It has given a handle back.
    pub(crate) fn release(&mut self) {
        self.handles = self.handles.saturating_sub(1);
    }
}

impl Drop for Wasi {
    /// The last line may have no end, above all that of a panic.
    fn drop(&mut self) {
        self.out.end(&self.log, Level::Info);
        self.err.end(&self.log, Level::Warn);
    }
}
