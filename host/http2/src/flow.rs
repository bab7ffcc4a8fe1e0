//! Flow control (RFC 9113, sections 5.2 and 6.9), of streams and of the connection alike.

use crate::fault::Fault;

/// The largest window there is.
pub(crate) const MOST: u32 = (1 << 31) - 1;
/// Every window at first, until SETTINGS say something else.
pub(crate) const INITIAL: u32 = 65_535;

/// How much the peer lets us send. Negative when its settings made it smaller than what is on its
/// way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// How much may be sent now.
    pub(crate) fn room(self) -> usize {
        self.0.max(0) as usize
    }

    /// Counts what was sent, which is no more than there was room for.
    pub(crate) fn sent(&mut self, count: usize) {
        self.0 -= i64::from(count as u32);
    }

    /// Takes in a WINDOW_UPDATE. Returns false where the window gets too large.
    pub(crate) fn grow(&mut self, count: u32) -> bool {
        self.shift(i64::from(count))
    }

    /// Takes in another initial window (section 6.9.2). Returns false where it gets too large.
    pub(crate) fn shift(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= i64::from(MOST)
    }
}

/// How much we let the peer send, and what of it has been consumed and not given back yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceiveWindow {
    left: i64,
    /// What it is when all is given back.
    target: u32,
    consumed: u32,
}

impl ReceiveWindow {
    /// A window of this size, as the peer knows it.
    pub(crate) fn new(size: u32) -> Self {
        Self { left: i64::from(size), target: size, consumed: 0 }
    }

    /// Counts what came. `fault` is what it is if that was too much.
    pub(crate) fn received(&mut self, count: u32, fault: Fault) -> Result<(), Fault> {
        self.left -= i64::from(count);
        if self.left < 0 { Err(fault) } else { Ok(()) }
    }

    /// Counts what was consumed. Returns by how much the peer's window shall grow, once it is half
    /// of the window or more, so that there are few such frames.
    #[must_use]
    pub(crate) fn consumed(&mut self, count: u32) -> Option<u32> {
        self.consumed = self.consumed.saturating_add(count);
        if self.consumed == 0 || self.consumed < self.target / 2 {
            return None;
        }
        let back = std::mem::take(&mut self.consumed);
        self.left += i64::from(back);
        Some(back)
    }

    #[cfg(test)]
    pub(crate) fn left_for_peer(&self) -> usize {
        self.left as usize
    }

    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.left + i64::from(self.consumed) == i64::from(self.target)
    }

    /// Makes the window another size. Returns by how much the peer's window shall grow, if it does;
    /// it becomes smaller without saying.
    #[must_use]
    pub(crate) fn resize(&mut self, size: u32) -> Option<u32> {
        let by = i64::from(size) - i64::from(self.target);
        self.target = size;
        self.left += by;
        u32::try_from(by).ok().filter(|&by| by > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_can_be_negative_and_not_too_large() {
        let mut window = SendWindow::new(100);
        window.sent(80);
        assert!(window.shift(-100));
        assert_eq!(window.room(), 0);
        assert!(window.grow(79));
        assert_eq!(window.room(), 0);
        assert!(window.grow(2));
        assert_eq!(window.room(), 1);
        assert!(window.grow(MOST - 1));
        assert!(!window.grow(1));
    }

    #[test]
    fn updates_come_by_the_half_window() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.received(100, Fault::StreamWindow), Ok(()));
        assert_eq!(window.consumed(49), None);
        assert_eq!(window.consumed(1), Some(50));
        assert_eq!(window.received(51, Fault::StreamWindow), Err(Fault::StreamWindow));
        assert_eq!(ReceiveWindow::new(0).consumed(0), None);
    }

    #[test]
    fn a_window_is_made_larger_and_smaller() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.resize(150), Some(50));
        assert_eq!(window.resize(20), None);
        assert_eq!(window.received(21, Fault::StreamWindow), Err(Fault::StreamWindow));
    }
}
