//! The one task that owns the output: it tells the story as it comes, and draws the picture of the
//! moment below it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    load::Load,
    screen,
    terminal::{Out, width},
    view::{Known, Rate, View},
};
use crate::admin::client::Service;

/// How often the picture is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// How often the shares are printed where there is no terminal to draw in.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// The instances the demo has started, shared by whoever starts them and whoever shows them.
pub(super) type Roster = Arc<Mutex<Vec<Known>>>;

/// What the picture is made of.
pub(super) struct ViewSource {
    /// The service as the node has it.
    pub(super) service: watch::Receiver<Service>,
    /// The clients' books.
    pub(super) load: Load,
    /// The instances.
    pub(super) roster: Roster,
    /// The node's zone.
    pub(super) zone: &'static str,
}

enum Message {
    Head(String),
    Say(String),
    Print(String),
    Report(String),
    Event(String),
    Show(Box<ViewSource>),
    Hide,
    Shown(oneshot::Sender<()>),
}

/// Tells the story. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ui {
    messages: mpsc::UnboundedSender<Message>,
}

impl Ui {
    /// Starts the task. It ends, and puts the terminal back, when the last handle is dropped.
    pub(super) fn start(out: Out, began: Instant) -> (Self, JoinHandle<()>) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let teller = Teller { out, began, view: View::default(), rate: Rate::default(), subject: None };
        (Self { messages }, tokio::spawn(teller.run(inbox)))
    }

    /// A part of the story begins.
    pub(super) fn head(&self, text: impl Into<String>) {
        self.send(Message::Head(text.into()));
    }

    /// A part of the story, in whole sentences.
    pub(super) fn say(&self, text: impl Into<String>) {
        self.send(Message::Say(text.into()));
    }

    /// Output, commands and tables: printed as they are.
    pub(super) fn print(&self, text: impl Into<String>) {
        self.send(Message::Print(text.into()));
    }

    /// Tables with colours of their own.
    pub(super) fn report(&self, text: impl Into<String>) {
        self.send(Message::Report(text.into()));
    }

    /// Something happened; shown with its time.
    pub(super) fn event(&self, text: impl Into<String>) {
        self.send(Message::Event(text.into()));
    }

    /// From now on the picture shows this.
    pub(super) fn show(&self, subject: ViewSource) {
        self.send(Message::Show(Box::new(subject)));
    }

    /// Takes the picture away.
    pub(super) fn hide(&self) {
        self.send(Message::Hide);
    }

    /// Waits until everything said so far is on the screen.
    pub(super) async fn flush(&self) {
        let (done, shown) = oneshot::channel();
        self.send(Message::Shown(done));
        // Without the task there is nothing left to be shown.
        let _ = shown.await;
    }

    fn send(&self, message: Message) {
        // The task ends after the last handle, or with the runtime.
        let _ = self.messages.send(message);
    }
}

struct Teller {
    out: Out,
    began: Instant,
    view: View,
    rate: Rate,
    subject: Option<Box<ViewSource>>,
}

impl Teller {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut frames = interval(if self.out.is_live() { FRAME } else { PLAIN_EVERY });
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                _ = frames.tick() => {
                    self.look();
                    if self.out.is_live() {
                        self.draw();
                    } else if self.view.rows.iter().any(|row| row.calls > 0) {
                        self.out.print(&format!("{}   {}", self.now(), screen::plain(&self.view)));
                    }
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Head(text) => self.out.head(&text),
            Message::Say(text) => self.out.say(&text),
            Message::Print(text) => self.out.print(&text),
            Message::Report(text) => self.out.report(&text),
            Message::Event(text) => {
                if !self.out.is_live() || self.subject.is_none() {
                    self.out.print(&format!("{} {text}", self.now()));
                }
                self.view.event(self.began.elapsed(), text);
            }
            Message::Show(subject) => self.subject = Some(subject),
            Message::Hide => {
                self.subject = None;
                self.view.rows.clear();
                self.out.clear();
            }
            Message::Shown(done) => drop(done.send(())),
        }
        self.draw();
    }

    fn look(&mut self) {
        let Some(subject) = &self.subject else { return };
        let roster = subject.roster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let service = subject.service.borrow().clone();
        self.view.update(&service, subject.zone, &roster, &subject.load.tally());
        let totals = subject.load.totals();
        (self.view.calls, self.view.failed, self.view.cut_off) = (totals.calls, totals.failed(), totals.cut_off());
        self.view.per_second = self.rate.sample(self.began.elapsed(), self.view.calls);
    }

    fn draw(&mut self) {
        if self.out.is_live() && self.subject.is_some() {
            self.out.picture(&screen::render(&self.view, width()));
        }
    }

    fn now(&self) -> String {
        screen::seconds(self.began.elapsed())
    }
}
