//! What a peer can do wrong, each with one word, what it ends, and its code.

use std::fmt;

/// An error code (RFC 9113, section 7). A code that nobody registered is kept as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The name in the RFC, or `UNKNOWN`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    /// Not an error: a graceful end.
    NO_ERROR = 0, "NO_ERROR";
    /// The peer broke the protocol in a way no other code has.
    PROTOCOL_ERROR = 1, "PROTOCOL_ERROR";
    /// This side failed.
    INTERNAL_ERROR = 2, "INTERNAL_ERROR";
    /// More was sent than the window allowed, or a window got too large.
    FLOW_CONTROL_ERROR = 3, "FLOW_CONTROL_ERROR";
    /// The settings were not acknowledged in time.
    SETTINGS_TIMEOUT = 4, "SETTINGS_TIMEOUT";
    /// A frame came for a stream that is closed.
    STREAM_CLOSED = 5, "STREAM_CLOSED";
    /// A frame has a length it cannot have.
    FRAME_SIZE_ERROR = 6, "FRAME_SIZE_ERROR";
    /// The stream was refused before anything was done for it, so that it may be tried again.
    REFUSED_STREAM = 7, "REFUSED_STREAM";
    /// The stream is not wanted any more.
    CANCEL = 8, "CANCEL";
    /// The state of header compression is lost.
    COMPRESSION_ERROR = 9, "COMPRESSION_ERROR";
    /// A tunnel's connection broke.
    CONNECT_ERROR = 10, "CONNECT_ERROR";
    /// The peer does too much of something.
    ENHANCE_YOUR_CALM = 11, "ENHANCE_YOUR_CALM";
    /// The transport is not safe enough.
    INADEQUATE_SECURITY = 12, "INADEQUATE_SECURITY";
    /// The request has to be sent by HTTP/1.1.
    HTTP_1_1_REQUIRED = 13, "HTTP_1_1_REQUIRED";
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// What a [`Fault`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Only the stream.
    Stream,
    /// The whole connection.
    Connection,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $ends:ident, $code:ident;)*) => {
        /// What a peer did wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// One word for it, for logs and labels of metrics.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// What it ends.
            pub fn ends(self) -> Ends {
                match self {
                    $(Self::$name => Ends::$ends,)*
                }
            }

            /// The code that the peer is told.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// The connection does not begin with the preface (section 3.4).
    Preface = "preface", Connection, PROTOCOL_ERROR;
    /// The first frame is not SETTINGS (section 3.4).
    FirstFrame = "first_frame", Connection, PROTOCOL_ERROR;
    /// A frame is longer than was allowed (section 4.2).
    FrameTooLarge = "frame_too_large", Connection, FRAME_SIZE_ERROR;
    /// A frame of fixed length has another one (section 6).
    FrameLength = "frame_length", Connection, FRAME_SIZE_ERROR;
    /// A frame of a stream came on stream 0, or one of the connection on a stream (section 6).
    WrongStream = "wrong_stream", Connection, PROTOCOL_ERROR;
    /// The padding is longer than the frame (section 6.1).
    Padding = "padding", Connection, PROTOCOL_ERROR;
    /// A header block was interrupted by another frame (section 4.3).
    Interrupted = "interrupted", Connection, PROTOCOL_ERROR;
    /// CONTINUATION without a header block (section 6.10).
    StrayContinuation = "stray_continuation", Connection, PROTOCOL_ERROR;
    /// A header block in more frames than [`Limits::continuations`](crate::Limits).
    Continuations = "continuations", Connection, ENHANCE_YOUR_CALM;
    /// An encoded header block larger than [`Limits::header_block_wire`](crate::Limits).
    HeaderBlockWire = "header_block_wire", Connection, ENHANCE_YOUR_CALM;
    /// A header block that cannot be decoded (RFC 7541).
    Compression = "compression", Connection, COMPRESSION_ERROR;
    /// A setting has a value it cannot have (section 6.5.2).
    Setting = "setting", Connection, PROTOCOL_ERROR;
    /// The initial window in the settings is too large (section 6.5.2).
    SettingWindow = "setting_window", Connection, FLOW_CONTROL_ERROR;
    /// A frame for a stream that nobody opened (section 5.1).
    IdleStream = "idle_stream", Connection, PROTOCOL_ERROR;
    /// A stream was opened with a number that is not the peer's to use (section 5.1.1).
    StreamNumber = "stream_number", Connection, PROTOCOL_ERROR;
    /// A frame for a stream that the peer itself had ended (section 5.1).
    ClosedStream = "closed_stream", Connection, STREAM_CLOSED;
    /// PUSH_PROMISE, which was switched off (section 6.6).
    Push = "push", Connection, PROTOCOL_ERROR;
    /// The connection's window was to grow by 0 (section 6.9).
    ConnectionWindowZero = "connection_window_zero", Connection, PROTOCOL_ERROR;
    /// The connection's window was to grow above 2^31-1 (section 6.9.1).
    ConnectionWindowOverflow = "connection_window_overflow", Connection, FLOW_CONTROL_ERROR;
    /// More DATA than the connection's window has room for (section 6.9.1).
    ConnectionWindow = "connection_window", Connection, FLOW_CONTROL_ERROR;
    /// GOAWAY with a higher last stream than the one before (section 6.8).
    GoAwayGrew = "goaway_grew", Connection, PROTOCOL_ERROR;
    /// More resets than [`Limits::resets`](crate::Limits) pays for.
    Resets = "resets", Connection, ENHANCE_YOUR_CALM;
    /// More frames that do nothing than [`Limits::idle_frames`](crate::Limits) pays for.
    IdleFrames = "idle_frames", Connection, ENHANCE_YOUR_CALM;
    /// More unsent answers to PING and SETTINGS than [`Limits::pending_acks`](crate::Limits).
    PendingAcks = "pending_acks", Connection, ENHANCE_YOUR_CALM;

    /// The name of a field is no token in lower case (section 8.2.1).
    HeaderName = "header_name", Stream, PROTOCOL_ERROR;
    /// The value of a field has NUL, CR or LF in it, or a blank at an end (section 8.2.1).
    HeaderValue = "header_value", Stream, PROTOCOL_ERROR;
    /// A pseudo-header field is missing, unknown, double, not first, or not allowed there (section
    /// 8.3).
    PseudoHeader = "pseudo_header", Stream, PROTOCOL_ERROR;
    /// A field that is about the connection (section 8.2.2).
    ConnectionHeader = "connection_header", Stream, PROTOCOL_ERROR;
    /// The status is no number of three digits, or 101 (section 8.6).
    Status = "status", Stream, PROTOCOL_ERROR;
    /// The length in `content-length` is no number, or not that of the content (section 8.1.1).
    ContentLength = "content_length", Stream, PROTOCOL_ERROR;
    /// DATA before the response's header block, or a 1xx response that ends the stream (section
    /// 8.1).
    NoHeaders = "no_headers", Stream, PROTOCOL_ERROR;
    /// Trailers that do not end the stream (section 8.1).
    TrailersOpen = "trailers_open", Stream, PROTOCOL_ERROR;
    /// A frame after the one that ended the stream (section 5.1).
    AfterEnd = "after_end", Stream, STREAM_CLOSED;
    /// A frame for a stream that ended too long ago to know how.
    Forgotten = "forgotten", Stream, STREAM_CLOSED;
    /// The stream's window was to grow by 0 (section 6.9).
    StreamWindowZero = "stream_window_zero", Stream, PROTOCOL_ERROR;
    /// The stream's window was to grow above 2^31-1 (section 6.9.1).
    StreamWindowOverflow = "stream_window_overflow", Stream, FLOW_CONTROL_ERROR;
    /// More DATA than the stream's window has room for (section 6.9.1).
    StreamWindow = "stream_window", Stream, FLOW_CONTROL_ERROR;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_fault_has_a_word_of_its_own() {
        let words: BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.word()).collect();
        assert_eq!(words.len(), Fault::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())));
    }

    #[test]
    fn codes_have_their_names() {
        assert_eq!(format!("{:?}", Code::CANCEL), "CANCEL(8)");
        assert_eq!(Code(99).name(), "UNKNOWN");
    }
}
