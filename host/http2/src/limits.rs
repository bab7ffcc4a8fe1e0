//! Every bound there is, each with its default and the reason for it.

/// What one connection may take, and what it tells its peer. The fields may be set as needed; the
/// defaults are for a gRPC relay between data centres' machines.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest header block or trailers that are handed on, as RFC 9113 counts it: names,
    /// values and 32 a field. A larger one ends only its stream. Told to the peer. 64 KiB: gRPC's
    /// own default is 8 KiB, and tokens and traces are known to need more. At most 16 MiB.
    pub header_block: usize,
    /// The largest header block as it is encoded, which ends the connection: nothing after it could
    /// be decoded. 1 MiB: a sender that has a header block too large by far still only loses a
    /// stream.
    pub header_block_wire: usize,
    /// How many CONTINUATION frames a header block may have. 128: even fragments of 8 KiB reach
    /// `header_block_wire`, and frames with nothing in them do not go on for ever.
    pub continuations: u32,
    /// The table that the peer's encoder may use. 4096, as the RFC has it: a peer that knows
    /// nothing else may use it anyway.
    pub decoder_table: usize,
    /// The most our encoder uses of the table that the peer offers. 4096: it holds what the calls
    /// of a service have in common, and costs as much memory a connection.
    pub encoder_table: usize,
    /// Whether our encoder Huffman-codes strings. No: see `hpack::Encoder`.
    pub huffman: bool,
    /// The largest frame that is read, from 16384, the least there is, to 16777215. 16384: a frame
    /// is read whole before it is handed on, and larger ones only make others wait.
    pub frame: u32,
    /// How many streams the peer may have open at once. A further one is refused, not a fault: the
    /// peer may not know of the limit yet. 1000: many clients put all their calls on one
    /// connection.
    pub streams: u32,
    /// How many bytes of a stream may be on their way or unconsumed. 256 KiB: 1 Gbit/s at 2 ms.
    pub stream_window: u32,
    /// The same for all streams of the connection together, at least 65535, the least there is. It
    /// bounds what a peer can make us hold. 1 MiB: four streams at their full rate.
    pub connection_window: u32,
    /// How much may be queued for sending on a stream before [`Backlog::full`](crate::Backlog) asks
    /// to wait. 64 KiB: enough to fill a frame or four when there is room again.
    pub stream_backlog: usize,
    /// The same for all streams of the connection together. 1 MiB, as `connection_window`.
    pub connection_backlog: usize,
    /// How much is made ready for one write; what is above waits in its stream, so that streams
    /// take turns and a reset takes back what is not sent. 64 KiB: what a socket takes at once.
    pub output: usize,
    /// How much may be ready and not written before a server refuses further streams, because the
    /// peer does not read what it asked for. 1 MiB: a thousand small answers.
    pub unwritten: usize,
    /// Resets, those that the peer sends and those that it causes, as in "rapid reset" and "made
    /// you reset". A stream that ended well pays for one, so that honest clients that hedge or give
    /// up a lot are not cut off, and one that does nothing else soon is. 2000 at once, 200 a
    /// second.
    pub resets: Allowance,
    /// Frames that do nothing: PING, SETTINGS, PRIORITY, DATA without data, unknown ones, updates
    /// of windows of streams that are gone. Small frames with data are not among them. 10 000 at
    /// once, 2000 a second.
    pub idle_frames: Allowance,
    /// How many answers to PING and SETTINGS may be waiting because the peer does not read. 1000.
    pub pending_acks: u32,
    /// Of how many of the last streams it is remembered whether we reset them, so that what the
    /// peer had sent before it knew is no fault. A bit a stream; 4096: all that can be open, four
    /// times.
    pub remembered: u32,
}

/// A token bucket: how many at once, and how many come back a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many there are when it is full.
    pub burst: u32,
    /// How many come back in a second.
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_block: 64 << 10,
            header_block_wire: 1 << 20,
            continuations: 128,
            decoder_table: 4096,
            encoder_table: 4096,
            huffman: false,
            frame: 16_384,
            streams: 1000,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            stream_backlog: 64 << 10,
            connection_backlog: 1 << 20,
            output: 64 << 10,
            unwritten: 1 << 20,
            resets: Allowance { burst: 2000, per_second: 200 },
            idle_frames: Allowance { burst: 10_000, per_second: 2000 },
            pending_acks: 1000,
            remembered: 4096,
        }
    }
}

impl Limits {
    /// With each value within what the protocol allows.
    pub(crate) fn checked(mut self) -> Self {
        self.header_block = self.header_block.min(16 << 20);
        self.header_block_wire = self.header_block_wire.clamp(self.header_block, 32 << 20);
        self.decoder_table = self.decoder_table.min(1 << 20);
        self.encoder_table = self.encoder_table.min(1 << 20);
        self.frame = self.frame.clamp(16_384, (1 << 24) - 1);
        self.stream_window = self.stream_window.min(crate::flow::MOST);
        self.connection_window = self.connection_window.clamp(crate::flow::INITIAL, crate::flow::MOST);
        self.output = self.output.max(16_384);
        self.remembered = self.remembered.clamp(64, 1 << 20).next_multiple_of(64);
        self
    }
}
