//! What signals mean to a command that runs until it is told to end.
//!
//! Only what asks for an end ends it, in order; nothing else does, least of all by a default that
//! stops a process on the spot. What a signal means is one table for all commands, but for SIGHUP:
//! to a server it says that files are to be opened anew, as it does to others, and to what is
//! looked at in a terminal that the terminal has gone.

use std::{
    io::{self, IsTerminal as _},
    task::{Context, Poll, ready},
};

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::output::CommandError;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// An end, in order.
    End,
    /// That files are opened anew.
    Reopen,
    /// Nothing that this command does.
    Nothing,
}

/// All that are listened for. What is not here cannot be caught, says that the program is broken,
/// or does nothing by itself.
const TABLE: [(Signal, &str, Wish); 10] = [
    (Signal::TERM, "SIGTERM", Wish::End),
    (Signal::INT, "SIGINT", Wish::End),
    (Signal::QUIT, "SIGQUIT", Wish::End),
    (Signal::POWER, "SIGPWR", Wish::End),
    (Signal::XCPU, "SIGXCPU", Wish::End),
    (Signal::HUP, "SIGHUP", Wish::Reopen),
    (Signal::USR1, "SIGUSR1", Wish::Reopen),
    (Signal::USR2, "SIGUSR2", Wish::Nothing),
    (Signal::ALARM, "SIGALRM", Wish::Nothing),
    // A file that may not grow further is an error of the write as well.
    (Signal::XFSZ, "SIGXFSZ", Wish::Nothing),
];

/// A signal that has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) signal: Signal,
    pub(super) name: &'static str,
    pub(super) wish: Wish,
}

/// From when it is made, signals do what they do by default no more.
pub(super) struct Signals {
    listeners: Vec<Listener>,
    /// Whether this was begun in a terminal.
    terminal: bool,
}

impl Signals {
    /// Begins to listen. Must be called within a tokio runtime.
    pub(super) fn new() -> Result<Self, CommandError> {
        let listen = |(number, ..): &(Signal, &str, Wish)| signal(SignalKind::from_raw(number.as_raw()));
        let listeners = TABLE.iter().map(listen).collect::<io::Result<Vec<_>>>();
        let listeners =
            listeners.map_err(|error| CommandError::failed(format!("cannot listen for signals: {error}")))?;
        Ok(Self { listeners, terminal: io::stdin().is_terminal() })
    }

    /// The next one.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn next(&mut self) -> Heard {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Heard> {
        for ((signal, name, wish), listener) in TABLE.iter().zip(&mut self.listeners) {
            if listener.poll_recv(context).is_ready() {
                let (signal, name, mut wish) = (*signal, *name, *wish);
                // A terminal that has gone is one no more.
                if signal == Signal::HUP && self.terminal && !io::stdin().is_terminal() {
                    wish = Wish::End;
                }
                return Poll::Ready(Heard { signal, name, wish });
            }
        }
        Poll::Pending
    }

    /// Waits until an end is asked for, and says by which signal. What means nothing to a server is
    /// logged.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn end(&mut self) -> Heard {
        loop {
            let heard = self.next().await;
            if heard.wish == Wish::End {
                return heard;
            }
            heard.ignored();
        }
    }
}

impl Heard {
    /// Says that nothing came of it.
    pub(super) fn ignored(self) {
        tracing::info!(signal = self.name, "a signal that means nothing here");
    }

    /// What a process exits with that this signal ended.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(128 + self.signal.as_raw()).unwrap_or(1)
    }
}

/// For what is looked at in a terminal: completes when an end is asked for, also by the terminal's
/// going. Without handlers the signals end the process by themselves.
pub(super) async fn terminated() -> &'static str {
    let Ok(mut signals) = Signals::new() else { return std::future::pending().await };
    std::future::poll_fn(|context| {
        loop {
            let heard = ready!(signals.poll_next(context));
            if heard.wish == Wish::End || heard.signal == Signal::HUP {
                return Poll::Ready(heard.name);
            }
        }
    })
    .await
}
