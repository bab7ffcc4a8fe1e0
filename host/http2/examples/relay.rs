//! The least relay there is, to be compared with others: it passes every call on to the next of its
//! servers, over one connection to each.
//!
//! `relay LISTEN SERVER..` takes HTTP/2 without TLS (prior knowledge) on one thread. Each
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
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Waker},
    time::Instant,
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    runtime::{Builder, LocalOptions},
    task::JoinSet,
};
use waymark_http2::{
    Block, Code, Connection, Event, Limits, NoRoom, StreamId,
    io::{Driver, Ended, Owner},
};

/// What one side tells the other of a call.
enum Mail {
    Open {
        call: CallId,
        block: Block,
        end: bool,
    },
    Headers {
        call: CallId,
        block: Block,
        end: bool,
    },
    Data {
        call: CallId,
        bytes: Bytes,
        end: bool,
    },
    Trailers {
        call: CallId,
        block: Block,
    },
    Reset {
        call: CallId,
        code: Code,
    },
    /// There is room again.
    Resume {
        call: CallId,
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
    upstream: Rc<Mailbox>,
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

/// A call: its place, and which use of the place it is. There may be mail of a call that is gone,
/// which is not for the next one there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct CallId {
    place: usize,
    turn: u32,
}

/// The calls, by their places, each with how often it was used.
#[derive(Default)]
struct Calls {
    list: Vec<(u32, Option<Call>)>,
    free: Vec<usize>,
}

impl Calls {
    fn insert(&mut self, call: Call) -> CallId {
        if let Some(place) = self.free.pop() {
            let (turn, free) = &mut self.list[place];
            *free = Some(call);
            CallId { place, turn: *turn }
        } else {
            self.list.push((0, Some(call)));
            CallId { place: self.list.len() - 1, turn: 0 }
        }
    }

    fn get(&mut self, id: CallId) -> Option<&mut Call> {
        let (turn, call) = self.list.get_mut(id.place)?;
        if *turn == id.turn { call.as_mut() } else { None }
    }

    fn remove(&mut self, id: CallId) {
        if self.get(id).is_some() {
            let (turn, call) = &mut self.list[id.place];
            *turn = turn.wrapping_add(1);
            *call = None;
            self.free.push(id.place);
        }
    }
}

#[derive(Default)]
struct Shared {
    calls: RefCell<Calls>,
    /// The servers.
    upstreams: RefCell<Vec<Rc<Mailbox>>>,
    /// How many calls there were, which says whose turn it is.
    turns: Cell<usize>,
}

impl Shared {
    /// The server whose turn it is.
    fn next(&self) -> Option<Rc<Mailbox>> {
        let upstreams = self.upstreams.borrow();
        let turn = self.turns.get();
        self.turns.set(turn.wrapping_add(1));
        upstreams.get(turn % upstreams.len().max(1)).cloned()
    }
}

/// Which call a stream is of, by its place.
#[derive(Default)]
struct Places(Vec<(u32, CallId)>);

impl Places {
    fn set(&mut self, stream: StreamId, call: CallId) {
        if self.0.len() <= stream.place() {
            self.0.resize(stream.place() + 1, Default::default());
        }
        self.0[stream.place()] = (stream.number(), call);
    }

    fn get(&self, stream: StreamId) -> Option<CallId> {
        self.0.get(stream.place()).filter(|(number, _)| *number == stream.number()).map(|(_, call)| *call)
    }

    fn clear(&mut self, stream: StreamId) {
        if self.get(stream).is_some() {
            self.0[stream.place()] = Default::default();
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
        while let Some(event) = connection.next_event() {
            match event {
                Event::Headers { stream, block, end } => self.begin(stream, block, end, connection),
                Event::Data { stream, bytes, flow_len, end } => {
                    let call = self.places.get(stream);
                    let mut calls = self.shared.calls.borrow_mut();
                    let Some((call, state)) = call.and_then(|call| Some((call, calls.get(call)?))) else {
                        connection.consumed(stream, flow_len);
                        continue;
                    };
                    state.asked |= end;
                    if state.to_server.full {
                        state.to_server.owed += flow_len;
                    } else {
                        connection.consumed(stream, flow_len);
                    }
                    state.upstream.post(Mail::Data { call, bytes, end });
                }
                Event::Trailers { stream, block } => self.post(stream, |call, state| {
                    state.asked = true;
                    Mail::Trailers { call, block }
                }),
                Event::Reset { stream, .. } | Event::StreamFault { stream, .. } => self.cancel(stream),
                Event::HeadersTooLarge { stream, .. } => {
                    self.cancel(stream);
                    connection.reset(stream, Code::CANCEL);
                }
                Event::Writable { stream } => self.post(stream, |call, _| Mail::Resume { call }),
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
    fn begin(&mut self, stream: StreamId, block: Block, end: bool, connection: &mut Connection) {
        let Some(upstream) = self.shared.next() else {
            connection.reset(stream, Code::REFUSED_STREAM);
            return;
        };
        let call = self.shared.calls.borrow_mut().insert(Call {
            inbound: self.mailbox.clone(),
            upstream: upstream.clone(),
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

    /// Tells the server of a call, if there is one on this stream.
    fn post(&self, stream: StreamId, mail: impl FnOnce(CallId, &mut Call) -> Mail) {
        let Some(call) = self.places.get(stream) else { return };
        if let Some(state) = self.shared.calls.borrow_mut().get(call) {
            let mail = mail(call, state);
            state.upstream.post(mail);
        }
    }

    fn cancel(&mut self, stream: StreamId) {
        self.post(stream, |call, _| Mail::Reset { call, code: Code::CANCEL });
        self.places.clear(stream);
    }

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
        let mut calls = self.shared.calls.borrow_mut();
        for &(number, call) in &self.places.0 {
            if number != 0
                && let Some(state) = calls.get(call)
            {
                state.upstream.post(Mail::Reset { call, code: Code::CANCEL });
            }
        }
    }
}

pub(crate) struct Upstream {
    shared: Rc<Shared>,
    mailbox: Rc<Mailbox>,
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
        self.mailbox.listen(context);
        for _ in 0..self.waiting.len() {
            if let Some(mail) = self.waiting.pop_front() {
                self.deliver(mail, connection);
            }
        }
        while let Some(mail) = self.mailbox.next() {
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
    from_clients: Limits,
    to_servers: Limits,
}

impl Relay {
    /// With the limits of its clients' connections, and of those to its servers.
    pub(crate) fn new(from_clients: Limits, to_servers: Limits) -> Self {
        Self { shared: Rc::default(), from_clients, to_servers }
    }

    /// A connection to a server, which is the next one to take its turn.
    pub(crate) fn upstream<S>(&self, socket: S) -> Driver<S, Upstream> {
        let mailbox: Rc<Mailbox> = Rc::default();
        self.shared.upstreams.borrow_mut().push(mailbox.clone());
        let owner =
            Upstream { shared: self.shared.clone(), mailbox, places: Places::default(), waiting: VecDeque::new() };
        Driver::new(socket, Connection::client(self.to_servers.clone(), Instant::now()), owner)
    }

    /// A client's connection.
    pub(crate) fn inbound<S>(&self, socket: S) -> Driver<S, Inbound> {
        let owner = Inbound { shared: self.shared.clone(), mailbox: Rc::default(), places: Places::default() };
        Driver::new(socket, Connection::server(self.from_clients.clone(), Instant::now()), owner)
    }
}

/// A relay with its sockets.
#[allow(dead_code, reason = "tests have sockets of their own")]
pub(crate) struct Listening {
    relay: Relay,
    listener: TcpListener,
    servers: JoinSet<io::Result<Ended>>,
}

#[allow(dead_code, reason = "tests have sockets of their own")]
impl Listening {
    /// Connects to the servers. It is for a thread that runs local tasks.
    pub(crate) async fn new(
        relay: Relay,
        listener: TcpListener,
        servers: impl IntoIterator<Item = impl ToSocketAddrs>,
    ) -> io::Result<Self> {
        let mut connected = JoinSet::new();
        for server in servers {
            let socket = TcpStream::connect(server).await?;
            socket.set_nodelay(true)?;
            connected.spawn_local(relay.upstream(socket));
        }
        Ok(Self { relay, listener, servers: connected })
    }

    /// Relays until the connection to one of the servers ends, and then ends its clients'. Returns
    /// how that one ended.
    pub(crate) async fn run(mut self) -> io::Result<Ended> {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = self.servers.join_next() => return ended?,
                accepted = self.listener.accept() => {
                    let (socket, _) = accepted?;
                    // One that is gone already is found to be when it is read.
                    let _ = socket.set_nodelay(true);
                    clients.spawn_local(self.relay.inbound(socket));
                }
                Some(ended) = clients.join_next() => match ended? {
                    Ok(Ended::Finished | Ended::Closed) => {}
                    Ok(ended) => eprintln!("a client's connection ended: {ended:?}"),
                    Err(error) => eprintln!("a client's connection ended: {error}"),
                },
            }
        }
    }
}

#[allow(dead_code, reason = "others have this file as a module")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (listen, servers) = (arguments.next(), arguments.collect::<Vec<_>>());
    let Some(listen) = listen.filter(|_| !servers.is_empty()) else {
        return Err("relay LISTEN SERVER..".into());
    };
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let limits = Limits { header_block: 1 << 20, ..Limits::default() };
        let relay = Relay::new(limits.clone(), limits);
        let listening = Listening::new(relay, TcpListener::bind(&listen).await?, servers).await?;
        eprintln!("a server's connection ended: {:?}", listening.run().await?);
        Ok(())
    })
}
