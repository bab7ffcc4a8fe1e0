//! Threads that do not serve requests make way for those that do.

/// Puts the calling thread behind those that serve requests: of a processor that one of them fills
/// it gets a quarter. No less, because other processes of a busy machine count as well, and what it
/// does is waited for by somebody. Only where priorities are a thread's own, which is Linux;
/// elsewhere nothing changes.
pub fn yield_to_others() {
    #[cfg(target_os = "linux")]
    {
        // Where it is refused the thread goes on as it is.
        let _ = rustix::process::nice(5);
    }
}

/// This thread gets a tenth of what one gets that serves calls, where both want to run: enough to
/// be done one day.
pub(crate) fn lower_priority() {
    // Where it may not be lowered, it stays as it is.
    let _ = rustix::process::nice(10);
}
