//! The access log: a line for every call, when it has ended.
//!
//! ```text
//!   call ends ── try_send ──▶ bounded channel ──▶ writer's thread ──▶ file, standard output or standard error
//!                   └ full: counted, and told by the writer when it can
//! ```
//!
//! No call waits for it: a disk or a reader that is too slow loses lines, not calls. A call that is
//! not to be logged costs the look at an empty `Option`; one that is, a few allocations, and the
//! line is put together on the writer's thread.

mod line;

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tracing::warn;
use waymark_core::{model::Address, traffic::Code};

use self::line::Line;
use super::metrics::Metrics;
use crate::limits::rate_limited_log::RateLimitedLog;

/// Lines that wait for the writer: a quarter of a second of what one core carries, and some MB at
/// most with [`LONGEST`].
const WAITING: usize = 8192;

/// Lines written at once.
const BATCH: usize = 256;

/// Names and paths are cut here, in bytes: what callers make up shall not fill memory or disk.
const LONGEST: usize = 512;

/// How long the end of a process waits for what is to be written yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to, and made where there is none.
    File(PathBuf),
}

impl FromStr for AccessTarget {
    type Err = Infallible;

    /// `stdout`, `stderr`, or the path of a file; a file of such a name is `./stdout`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Stderr => f.write_str("standard error"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What its lines look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessFormat {
    /// A JSON object a line.
    #[default]
    Json,
    /// The time, and `name=value` for the rest.
    Text,
}

impl FromStr for AccessFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("json or text was expected"),
        }
    }
}

/// A log of calls. Cheap to clone; its writer ends with the last clone.
#[derive(Clone)]
pub struct AccessLog {
    inner: Arc<Inner>,
}

struct Inner {
    to_writer: SyncSender<Message>,
    left_out: Counter,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

enum Message {
    Ended(Box<AccessEntry>),
    Reopen,
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Opens a log, and starts the thread that writes it. Lines that are left out are counted in
    /// `metrics`.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for writing.
    pub fn open(target: &AccessTarget, format: AccessFormat, metrics: &Metrics) -> io::Result<Self> {
        let output = Output::open(target)?;
        let (log, messages) = Self::with_room_for(WAITING, metrics.access_log_left_out());
        let writer = Writer {
            messages,
            output,
            format,
            left_out: log.inner.left_out.clone(),
            told: 0,
            buffer: Vec::new(),
            lines: 0,
            warnings: RateLimitedLog::default(),
        };
        thread::Builder::new().name("access-log".into()).spawn(|| writer.run())?;
        Ok(log)
    }

    fn with_room_for(lines: usize, left_out: Counter) -> (Self, Receiver<Message>) {
        let (to_writer, messages) = sync_channel(lines);
        (Self { inner: Arc::new(Inner { to_writer, left_out }) }, messages)
    }

    /// Looks whether the log's file is still the one of its name, and opens that if not. Before
    /// each few lines the writer does so anyway; this is for whoever has to know that nothing goes
    /// to the old file any more.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it may not have happened.
    pub async fn reopen(&self) {
        self.send(Message::Reopen).await;
        self.flush().await;
    }

    /// Waits until all is written that was logged before, for 5 s at most.
    ///
    /// # Cancel safety
    ///
    /// What was logged is written all the same.
    pub async fn flush(&self) {
        let flushed = async {
            let (done, written) = oneshot::channel();
            self.send(Message::Flush(done)).await;
            written.await
        };
        if tokio::time::timeout(PATIENCE, flushed).await.is_err() {
            warn!("the access log cannot be written to its end");
        }
    }

    async fn send(&self, mut message: Message) {
        // A full channel has no event for its next place.
        while let Err(TrySendError::Full(back)) = self.inner.to_writer.try_send(message) {
            message = back;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A call that has arrived.
    pub(crate) fn entry(&self, service: &str, path: &str, peer: Option<IpAddr>) -> Box<AccessEntry> {
        let line = Line {
            at: SystemTime::now(),
            peer,
            service: cut(service),
            path: cut(path),
            endpoint: None,
            code: Code::Cancelled,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            reason: None,
        };
        Box::new(AccessEntry { log: self.clone(), line, received: Arc::default() })
    }
}

fn cut(text: &str) -> Box<str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(LONGEST)]).into()
}

/// A call that is logged when it ends.
pub(crate) struct AccessEntry {
    log: AccessLog,
    line: Line,
    /// Bytes of the request's body. Whoever reads that may outlive, or be outlived by, whoever
    /// notes the rest.
    received: Arc<AtomicU64>,
}

impl AccessEntry {
    /// One more endpoint is asked.
    pub(crate) fn attempt(&mut self, endpoint: &Address) {
        self.line.attempts += 1;
        self.answered_by(endpoint);
    }

    /// Of several, this endpoint's answer is the call's.
    pub(crate) fn answered_by(&mut self, endpoint: &Address) {
        self.line.endpoint = Some(endpoint.clone());
    }

    /// Bytes of the answer went to the caller.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.line.bytes_out += bytes as u64;
    }

    /// Where bytes of the request are counted.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Why this node itself ended it.
    pub(crate) fn reason(&mut self, kind: &'static str) {
        self.line.reason = Some(kind);
    }

    /// Logs it, unless too many wait to be written.
    pub(crate) fn ended(mut self: Box<Self>, code: Code, duration: Duration) {
        self.line.code = code;
        self.line.duration = duration;
        self.line.bytes_in = self.received.load(Relaxed);
        let inner = Arc::clone(&self.log.inner);
        if inner.to_writer.try_send(Message::Ended(self)).is_err() {
            inner.left_out.inc();
        }
    }
}

/// Where lines go.
struct Output {
    file: File,
    named: Option<Named>,
}

/// A file, and which one it was when it was opened.
struct Named {
    path: PathBuf,
    id: (u64, u64),
}

impl Output {
    fn open(target: &AccessTarget) -> io::Result<Self> {
        // Of our own, so that a reader who stops does not also stop what else is printed there,
        // line by line under a lock.
        let file = match target {
            AccessTarget::Stdout => io::stdout().as_fd().try_clone_to_owned()?.into(),
            AccessTarget::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
            AccessTarget::File(path) => return Self::open_file(path.clone()),
        };
        Ok(Self { file, named: None })
    }

    fn open_file(path: PathBuf) -> io::Result<Self> {
        // To open it would wait for a reader.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe; write to stdout instead"));
        }
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let id = id(&file.metadata()?);
        Ok(Self { file, named: Some(Named { path, id }) })
    }

    /// Opens the file of its name, if that is another than the open one: somebody moved or removed
    /// that, to start a new one.
    fn follow(&mut self) -> io::Result<()> {
        let Some(named) = &self.named else { return Ok(()) };
        if !fs::metadata(&named.path).is_ok_and(|metadata| id(&metadata) == named.id) {
            *self = Self::open_file(named.path.clone())?;
        }
        Ok(())
    }
}

/// What tells a file from another of the same name.
fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

struct Writer {
    messages: Receiver<Message>,
    output: Output,
    format: AccessFormat,
    left_out: Counter,
    /// How many lines were left out when it was last told.
    told: u64,
    buffer: Vec<u8>,
    /// In the buffer.
    lines: u64,
    warnings: RateLimitedLog,
}

impl Writer {
    fn run(mut self) {
        while let Ok(mut message) = self.messages.recv() {
            self.follow();
            for _ in 0..BATCH {
                // Whoever waited for the flush may move the file now.
                let last = matches!(message, Message::Flush(_));
                self.take(message);
                if last {
                    break;
                }
                let Ok(next) = self.messages.try_recv() else { break };
                message = next;
            }
            self.write();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ended(entry) => {
                entry.line.write(self.format, &mut self.buffer);
                self.lines += 1;
            }
            Message::Reopen => {
                self.write();
                self.follow();
            }
            Message::Flush(done) => {
                self.write();
                // Who asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn follow(&mut self) {
        if let Err(error) = self.output.follow()
            && self.warnings.allow().is_some()
        {
            warn!(%error, "cannot open the access log anew; the old file is written to");
        }
    }

    fn write(&mut self) {
        let written = self.output.file.write_all(&self.buffer);
        self.buffer.clear();
        let lines = std::mem::take(&mut self.lines);
        if let Err(error) = written {
            self.left_out.inc_by(lines);
            if self.warnings.allow().is_some() {
                warn!(%error, "cannot write the access log");
            }
        }
        // Told here and not by who left them out: that was a call, and the log of the process may
        // be what nobody reads.
        let left_out = self.left_out.get();
        if left_out > self.told && self.warnings.allow().is_some() {
            warn!(
                lines = left_out - self.told,
                "calls were left out of the access log: it cannot be written fast enough"
            );
            self.told = left_out;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn log_a_call(log: &AccessLog, service: &str) {
        log.entry(service, "/a.B/C", None).ended(Code::Ok, Duration::ZERO);
    }

    #[test]
    fn a_full_channel_loses_lines_and_no_time() {
        let left_out = Counter::default();
        let (log, messages) = AccessLog::with_room_for(2, left_out.clone());
        for service in ["a", "b", "c", "d"] {
            log_a_call(&log, service);
        }
        assert_eq!(left_out.get(), 2);
        let logged = messages.try_iter().map(|message| match message {
            Message::Ended(entry) => String::from(entry.line.service),
            _ => unreachable!("calls only"),
        });
        assert_eq!(logged.collect::<Vec<_>>(), ["a", "b"]);
        // There is room again.
        log_a_call(&log, "e");
        assert_eq!((left_out.get(), messages.try_iter().count()), (2, 1));
    }

    #[tokio::test]
    async fn a_file_that_was_moved_or_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        fs::write(&path, "what was there\n").unwrap();
        let target = AccessTarget::File(path.clone());
        let log = AccessLog::open(&target, AccessFormat::Text, &Metrics::default()).unwrap();
        let services = |path| {
            let text = fs::read_to_string(path).unwrap();
            let service = |line: &str| line.split(' ').nth(2).unwrap().to_owned();
            text.lines().map(service).collect::<Vec<_>>()
        };
        log_a_call(&log, "a");
        log.flush().await;
        fs::rename(&path, &moved).unwrap();
        log_a_call(&log, "b");
        log.flush().await;
        assert_eq!(services(&moved), ["there", "service=a"]);
        assert_eq!(services(&path), ["service=b"]);
        // Without a call too, when it is asked for.
        fs::remove_file(&path).unwrap();
        log.reopen().await;
        assert_eq!(services(&path), [""; 0]);
        // What cannot be opened leaves the old file in use.
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        log_a_call(&log, "c");
        log.flush().await;
        assert_eq!(services(&moved), ["service=c"]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        let metrics = Metrics::default();
        let log = AccessLog::open(&AccessTarget::File("/dev/full".into()), AccessFormat::Json, &metrics).unwrap();
        log_a_call(&log, "a");
        log.flush().await;
        assert_eq!(metrics.access_log_left_out().get(), 1);
    }

    #[test]
    fn what_is_no_place_for_a_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: PathBuf| AccessLog::open(&AccessTarget::File(path), AccessFormat::Json, &Metrics::default());
        assert!(open(folder.path().to_owned()).is_err());
        assert!(open(folder.path().join("no/folder")).is_err());
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open(pipe).unwrap_err().to_string().contains("stdout"));
    }

    #[test]
    fn long_names_are_cut() {
        let long = "ä".repeat(LONGEST);
        let cut = cut(&format!("a{long}"));
        assert!(cut.len() <= LONGEST + '…'.len_utf8() && cut.ends_with("ä…"), "{cut}");
    }
}
