//! The least relay there is, to be compared with others: it passes every call on over one
//! connection.
//!
//! `relay LISTEN UPSTREAM` takes HTTP/2 without TLS (prior knowledge) on one thread. Each
//! connection is a task, and tasks send each other mail:
//!
//! ```text
//!   client ──▶ Inbound ──mail──▶ Upstream ──▶ server
//!                 ▲                  │
//!                 └───────mail───────┘
//! ```
//!
//! A side that is asked to wait by the other one's connection does not give flow control back until
//! it is told to go on: so no more is held than the windows are.
#![allow(clippy::print_stderr, reason = "an example")]

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Waker},
    time::Instant,
};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use waymark_http2::{
    Block, Code, Connection, Event, Limits, NoRoom, StreamId,
    io::{Driver, Owner},
};

/// What one side tells the other of a call.
enum Mail {
    Open {
        call: usize,
        block: Block,
        end: bool,
    },
    Headers {
        call: usize,
        block: Block,
        end: bool,
    },
    Data {
        call: usize,
        bytes: Bytes,
        end: bool,
    },
    Trailers {
        call: usize,
        block: Block,
    },
    Reset {
        call: usize,
        code: Code,
    },
    /// There is room again.
    Resume {
        call: usize,
    },
}

#[derive(Default)]
struct Mailbox {
    mail: RefCell<VecDeque<Mail>>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    fn post(&self, mail: Mail) {
        self.mail.borrow_mut().push_back(mail);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn listen(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            *waker = Some(context.waker().clone());
        }
    }

    fn next(&self) -> Option<Mail> {
        self.mail.borrow_mut().pop_front()
    }
}

/// A call, with both its streams.
struct Call {
    inbound: Rc<Mailbox>,
    down: StreamId,
    up: Option<StreamId>,
    /// Whether the client has sent all.
    asked: bool,
    /// Mail that came before there was room for a stream.
    held: Vec<Mail>,
    /// Whether the sender to the server, and the one to the client, is asked to wait, and what is
    /// not given back for it.
    to_server: Gate,
    to_client: Gate,
}

#[derive(Default)]
struct Gate {
    full: bool,
    owed: u32,
}

/// The calls, by their number; a number is used again.
#[derive(Default)]
struct Calls {
    list: Vec<Option<Call>>,
    free: Vec<usize>,
}

impl Calls {
    fn insert(&mut self, call: Call) -> usize {
        if let Some(number) = self.free.pop() {
            self.list[number] = Some(call);
            number
        } else {
            self.list.push(Some(call));
            self.list.len() - 1
        }
    }

    fn get(&mut self, number: usize) -> Option<&mut Call> {
        self.list.get_mut(number)?.as_mut()
    }

    fn remove(&mut self, number: usize) {
        if self.list[number].take().is_some() {
            self.free.push(number);
        }
    }
}

struct Shared {
    calls: RefCell<Calls>,
    upstream: Mailbox,
}

/// Which call a stream is of, by its place.
#[derive(Default)]
struct Places(Vec<(u32, usize)>);

impl Places {
    fn set(&mut self, stream: StreamId, call: usize) {
        if self.0.len() <= stream.place() {
            self.0.resize(stream.place() + 1, (0, 0));
        }
        self.0[stream.place()] = (stream.number(), call);
    }

    fn get(&self, stream: StreamId) -> Option<usize> {
        self.0.get(stream.place()).filter(|(number, _)| *number == stream.number()).map(|(_, call)| *call)
    }

    fn clear(&mut self, stream: StreamId) {
        if self.get(stream).is_some() {
            self.0[stream.place()] = (0, 0);
        }
    }
}

pub(crate) struct Inbound {
    shared: Rc<Shared>,
    mailbox: Rc<Mailbox>,
    places: Places,
}

impl Owner for Inbound {
    fn turn(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        let upstream = &self.shared.upstream;
        while let Some(event) = connection.next_event() {
            match event {
                Event::Headers { stream, block, end } => {
                    let call = self.shared.calls.borrow_mut().insert(Call {
                        inbound: self.mailbox.clone(),
                        down: stream,
                        up: None,
                        asked: end,
                        held: Vec::new(),
                        to_server: Gate::default(),
                        to_client: Gate::default(),
                    });
                    self.places.set(stream, call);
                    upstream.post(Mail::Open { call, block, end });
                }
                Event::Data { stream, bytes, flow_len, end } => {
                    let Some(call) = self.places.get(stream) else {
                        connection.consumed(stream, flow_len);
                        continue;
                    };
                    if let Some(state) = self.shared.calls.borrow_mut().get(call) {
                        state.asked |= end;
                        if state.to_server.full {
                            state.to_server.owed += flow_len;
                        } else {
                            connection.consumed(stream, flow_len);
                        }
                    }
                    upstream.post(Mail::Data { call, bytes, end });
                }
                Event::Trailers { stream, block } => {
                    if let Some(call) = self.places.get(stream) {
                        if let Some(state) = self.shared.calls.borrow_mut().get(call) {
                            state.asked = true;
                        }
                        upstream.post(Mail::Trailers { call, block });
                    }
                }
                Event::Reset { stream, .. } | Event::StreamFault { stream, .. } => {
                    if let Some(call) = self.places.get(stream) {
                        self.places.clear(stream);
                        upstream.post(Mail::Reset { call, code: Code::CANCEL });
                    }
                }
                Event::HeadersTooLarge { stream, .. } => {
                    if let Some(call) = self.places.get(stream) {
                        self.places.clear(stream);
                        upstream.post(Mail::Reset { call, code: Code::CANCEL });
                    }
                    connection.reset(stream, Code::CANCEL);
                }
                Event::Writable { stream } => {
                    if let Some(call) = self.places.get(stream) {
                        upstream.post(Mail::Resume { call });
                    }
                }
                _ => {}
            }
        }
        self.mailbox.listen(context);
        while let Some(mail) = self.mailbox.next() {
            self.deliver(mail, connection);
        }
    }
}

impl Inbound {
    fn deliver(&mut self, mail: Mail, connection: &mut Connection) {
        let mut calls = self.shared.calls.borrow_mut();
        let (Mail::Open { call, .. }
        | Mail::Headers { call, .. }
        | Mail::Data { call, .. }
        | Mail::Trailers { call, .. }
        | Mail::Reset { call, .. }
        | Mail::Resume { call }) = mail;
        let Some(state) = calls.get(call) else { return };
        let stream = state.down;
        let mut ended = false;
        // An error is a stream that its client has reset, of which the server hears as well.
        match mail {
            Mail::Headers { block, end, .. } => {
                let _ = connection.send_headers(stream, &block, end);
                connection.recycle(block);
                ended = end;
            }
            Mail::Data { bytes, end, .. } => {
                if let Ok(backlog) = connection.send_data(stream, bytes, end) {
                    state.to_client.full = backlog.full;
                }
                ended = end;
            }
            Mail::Trailers { block, .. } => {
                let _ = connection.send_trailers(stream, &block);
                connection.recycle(block);
                ended = true;
            }
            Mail::Reset { code, .. } => {
                connection.reset(stream, code);
                ended = true;
            }
            Mail::Resume { .. } => {
                state.to_server.full = false;
                connection.consumed(stream, std::mem::take(&mut state.to_server.owed));
            }
            Mail::Open { .. } => {}
        }
        if ended {
            connection.consumed(stream, std::mem::take(&mut state.to_server.owed));
            if !state.asked {
                connection.discard(stream);
            }
            self.places.clear(stream);
            calls.remove(call);
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        for (number, call) in &self.places.0 {
            if *number != 0 {
                self.shared.upstream.post(Mail::Reset { call: *call, code: Code::CANCEL });
            }
        }
    }
}

pub(crate) struct Upstream {
    shared: Rc<Shared>,
    places: Places,
    /// Calls that there is no room for yet.
    waiting: VecDeque<Mail>,
}

impl Owner for Upstream {
    fn turn(&mut self, context: &mut Context<'_>, connection: &mut Connection) {
        while let Some(event) = connection.next_event() {
            let (Event::Headers { stream, .. }
            | Event::Informational { stream, .. }
            | Event::Data { stream, .. }
            | Event::Trailers { stream, .. }
            | Event::Reset { stream, .. }
            | Event::StreamFault { stream, .. }
            | Event::Refused { stream, .. }
            | Event::HeadersTooLarge { stream, .. }
            | Event::Writable { stream }) = event
            else {
                continue;
            };
            let Some(call) = self.places.get(stream) else {
                if let Event::Data { flow_len, .. } = event {
                    connection.consumed(stream, flow_len);
                }
                continue;
            };
            let mut calls = self.shared.calls.borrow_mut();
            let Some(state) = calls.get(call) else { continue };
            let inbound = state.inbound.clone();
            let mut ended = false;
            let mail = match event {
                Event::Headers { block, end, .. } => {
                    ended = end;
                    Mail::Headers { call, block, end }
                }
                Event::Informational { block, .. } => Mail::Headers { call, block, end: false },
                Event::Data { bytes, flow_len, end, .. } => {
                    if state.to_client.full && !end {
                        state.to_client.owed += flow_len;
                    } else {
                        connection.consumed(stream, flow_len);
                    }
                    ended = end;
                    Mail::Data { call, bytes, end }
                }
                Event::Trailers { block, .. } => {
                    ended = true;
                    Mail::Trailers { call, block }
                }
                Event::Writable { .. } => Mail::Resume { call },
                Event::Reset { code, .. } => {
                    ended = true;
                    Mail::Reset { call, code }
                }
                Event::Refused { .. } => {
                    ended = true;
                    Mail::Reset { call, code: Code::REFUSED_STREAM }
                }
                _ => {
                    ended = true;
                    Mail::Reset { call, code: Code::INTERNAL_ERROR }
                }
            };
            if ended {
                self.places.clear(stream);
                // The client's side may still be full of it: no more than a window a call.
                connection.consumed(stream, std::mem::take(&mut state.to_client.owed));
                if !state.asked {
                    connection.reset(stream, Code::CANCEL);
                }
            }
            drop(calls);
            inbound.post(mail);
        }
        self.shared.upstream.listen(context);
        for _ in 0..self.waiting.len() {
            if let Some(mail) = self.waiting.pop_front() {
                self.deliver(mail, connection);
            }
        }
        while let Some(mail) = self.shared.upstream.next() {
            self.deliver(mail, connection);
        }
    }
}

impl Upstream {
    fn deliver(&mut self, mail: Mail, connection: &mut Connection) {
        let mut calls = self.shared.calls.borrow_mut();
        let (Mail::Open { call, .. }
        | Mail::Headers { call, .. }
        | Mail::Data { call, .. }
        | Mail::Trailers { call, .. }
        | Mail::Reset { call, .. }
        | Mail::Resume { call }) = mail;
        let Some(state) = calls.get(call) else { return };
        let Some(stream) = state.up else {
            match mail {
                Mail::Open { block, end, .. } => match connection.open(&block, end) {
                    Ok(stream) => {
                        state.up = Some(stream);
                        self.places.set(stream, call);
                        connection.recycle(block);
                        let held = std::mem::take(&mut state.held);
                        drop(calls);
                        for mail in held {
                            self.deliver(mail, connection);
                        }
                    }
                    Err(NoRoom::Streams) => self.waiting.push_back(Mail::Open { call, block, end }),
                    Err(_) => state.inbound.post(Mail::Reset { call, code: Code::REFUSED_STREAM }),
                },
                Mail::Reset { .. } => calls.remove(call),
                other => state.held.push(other),
            }
            return;
        };
        match mail {
            Mail::Data { bytes, end, .. } => {
                if let Ok(backlog) = connection.send_data(stream, bytes, end) {
                    state.to_server.full = backlog.full;
                }
            }
            Mail::Trailers { block, .. } => {
                let _ = connection.send_trailers(stream, &block);
                connection.recycle(block);
            }
            Mail::Reset { code, .. } => {
                connection.reset(stream, code);
                self.places.clear(stream);
                calls.remove(call);
            }
            Mail::Resume { .. } => {
                state.to_client.full = false;
                connection.consumed(stream, std::mem::take(&mut state.to_client.owed));
            }
            Mail::Open { .. } | Mail::Headers { .. } => {}
        }
    }
}

/// The calls of all connections, and what they have in common.
pub(crate) struct Relay {
    shared: Rc<Shared>,
    limits: Limits,
}

impl Relay {
    pub(crate) fn new(limits: Limits) -> Self {
        let shared = Shared { calls: RefCell::default(), upstream: Mailbox::default() };
        Self { shared: Rc::new(shared), limits }
    }

    /// The connection to the server, which there is one of.
    pub(crate) fn upstream<S>(&self, socket: S) -> Driver<S, Upstream> {
        let owner = Upstream { shared: self.shared.clone(), places: Places::default(), waiting: VecDeque::new() };
        Driver::new(socket, Connection::client(self.limits.clone(), Instant::now()), owner)
    }

    /// A client's connection.
    pub(crate) fn inbound<S>(&self, socket: S) -> Driver<S, Inbound> {
        let owner = Inbound { shared: self.shared.clone(), mailbox: Rc::default(), places: Places::default() };
        Driver::new(socket, Connection::server(self.limits.clone(), Instant::now()), owner)
    }
}

#[allow(dead_code, reason = "a test has this file as a module")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("relay LISTEN UPSTREAM".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let relay = Relay::new(Limits { header_block: 1 << 20, ..Limits::default() });
        let socket = TcpStream::connect(&upstream).await?;
        socket.set_nodelay(true)?;
        let ended = tokio::task::spawn_local(relay.upstream(socket));
        let listener = TcpListener::bind(&listen).await?;
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let connection = relay.inbound(socket);
                tokio::task::spawn_local(async move {
                    match connection.await {
                        Ok(ended) => eprintln!("a client's connection ended: {ended:?}"),
                        Err(error) => eprintln!("a client's connection ended: {error}"),
                    }
                });
            }
        });
        eprintln!("the server's connection ended: {:?}", ended.await?);
        Ok(())
    })
}
