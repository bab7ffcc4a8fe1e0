//! SETTINGS (RFC 9113, section 6.5).

use crate::{
    fault::Fault,
    flow,
    frame::{Head, kind},
    limits::Limits,
};

mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// What a peer's SETTINGS say, all that it ever sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The size of the table that our encoder may use.
    pub header_table: u32,
    /// How many streams we may have open at once; all there are until it says.
    pub streams: u32,
    /// What windows of streams begin with.
    pub window: u32,
    /// The largest frame it reads.
    pub frame: u32,
    /// The largest header block it wants, as far as it said.
    pub header_block: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { header_table: 4096, streams: u32::MAX, window: flow::INITIAL, frame: 16_384, header_block: None }
    }
}

impl Settings {
    /// Takes the payload of a frame in. `by_client` is who sent it.
    pub(crate) fn read(&mut self, payload: &[u8], by_client: bool) -> Result<(), Fault> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fault::FrameLength);
        }
        for &[i, d, a, b, c, e] in entries {
            let value = u32::from_be_bytes([a, b, c, e]);
            match u16::from_be_bytes([i, d]) {
                id::HEADER_TABLE_SIZE => self.header_table = value,
                id::ENABLE_PUSH if value > 1 || (value == 1 && !by_client) => return Err(Fault::Setting),
                id::MAX_CONCURRENT_STREAMS => self.streams = value,
                id::INITIAL_WINDOW_SIZE if value > flow::MOST => return Err(Fault::SettingWindow),
                id::INITIAL_WINDOW_SIZE => self.window = value,
                id::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => return Err(Fault::Setting),
                id::MAX_FRAME_SIZE => self.frame = value,
                id::MAX_HEADER_LIST_SIZE => self.header_block = Some(value),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The frame that tells a peer our limits.
pub(crate) fn write(limits: &Limits, client: bool, out: &mut Vec<u8>) {
    let entries = [
        (id::HEADER_TABLE_SIZE, limits.decoder_table as u32),
        (if client { id::ENABLE_PUSH } else { id::MAX_CONCURRENT_STREAMS }, if client { 0 } else { limits.streams }),
        (id::INITIAL_WINDOW_SIZE, limits.stream_window),
        (id::MAX_FRAME_SIZE, limits.frame),
        (id::MAX_HEADER_LIST_SIZE, limits.header_block as u32),
    ];
    let head = Head { length: entries.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 };
    out.extend_from_slice(&head.bytes());
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::HEAD;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        write(&Limits { decoder_table: 1000, streams: 7, ..Limits::default() }, false, &mut out);
        let mut settings = Settings::default();
        settings.read(&out[HEAD..], false).expect("valid settings");
        let expected =
            Settings { header_table: 1000, streams: 7, window: 256 << 10, frame: 16_384, header_block: Some(64 << 10) };
        assert_eq!(settings, expected);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let mut settings = Settings::default();
        for (payload, fault) in [
            (&[0, 2, 0, 0, 0, 2][..], Fault::Setting),
            (&[0, 2, 0, 0, 0, 1], Fault::Setting),
            (&[0, 4, 0x80, 0, 0, 0], Fault::SettingWindow),
            (&[0, 5, 0, 0, 0x3f, 0xff], Fault::Setting),
            (&[0, 5, 1, 0, 0, 0], Fault::Setting),
            (&[0, 1, 0], Fault::FrameLength),
        ] {
            assert_eq!(settings.read(payload, false), Err(fault), "{payload:?}");
        }
        assert_eq!(settings.read(&[0, 2, 0, 0, 0, 1, 0xff, 0xff, 1, 2, 3, 4], true), Ok(()));
    }
}
