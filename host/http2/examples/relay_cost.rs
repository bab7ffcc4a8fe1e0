//! What the HTTP/2 work of one relayed call costs, wholly in memory.
//!
//! ```text
//!   client ──▶ [ server │ relay │ client ] ──▶ server
//! ```
//!
//! `relay_cost CALLS` makes so many unary calls through a relay, one after the other, with the
//! bytes of both ends recorded from a first run, so that nearly all that is counted is the relay's.
//! Run it under a counter of instructions with two numbers and take the difference.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{io::IoSlice, time::Instant};

use bytes::{Bytes, BytesMut};
use waymark_http2::{Block, Connection, Event, Known, Limits, StreamId};

type Failure = Box<dyn std::error::Error>;

fn block(fields: &[(&str, &str)]) -> Result<Block, Failure> {
    let mut block = Block::new();
    for (name, value) in fields {
        block.push(name.as_bytes(), value.as_bytes())?;
    }
    Ok(block)
}

/// Writes what there is to `wire`, as one vectored write would.
fn write(from: &mut Connection, wire: &mut BytesMut) {
    while from.prepare() {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = from.slices(&mut slices);
        let mut written = 0;
        for slice in &slices[..count] {
            wire.extend_from_slice(slice);
            written += slice.len();
        }
        from.written(written);
    }
}

/// The two connections in the middle, with one call at a time.
struct Relay {
    inbound: Connection,
    upstream: Connection,
    call: Option<(StreamId, StreamId)>,
}

impl Relay {
    #[inline(never)]
    fn requests(&mut self, wire: &mut BytesMut, now: Instant) -> Result<(), Failure> {
        self.inbound.receive(wire, now)?;
        while let Some(event) = self.inbound.next_event() {
            match event {
                Event::Headers { stream, mut block, end } => {
                    block.remove_name(b"waymark-service");
                    block.set(Known::GrpcTimeout, b"998m")?;
                    let up = self.upstream.open(&block, end)?;
                    self.inbound.recycle(block);
                    self.call = Some((stream, up));
                }
                Event::Data { stream, bytes, flow_len, end } => {
                    if let Some((_, up)) = self.call {
                        self.upstream.send_data(up, bytes, end)?;
                        self.inbound.consumed(stream, flow_len);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn responses(&mut self, wire: &mut BytesMut, now: Instant) -> Result<(), Failure> {
        self.upstream.receive(wire, now)?;
        while let Some(event) = self.upstream.next_event() {
            let Some((down, _)) = self.call else { continue };
            match event {
                Event::Headers { block, end, .. } => {
                    self.inbound.send_headers(down, &block, end)?;
                    self.upstream.recycle(block);
                }
                Event::Data { stream, bytes, flow_len, end } => {
                    self.inbound.send_data(down, bytes, end)?;
                    self.upstream.consumed(stream, flow_len);
                }
                Event::Trailers { block, .. } => {
                    self.inbound.send_trailers(down, &block)?;
                    self.upstream.recycle(block);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let calls: usize = std::env::args().nth(1).ok_or("how many calls?")?.parse()?;
    let now = Instant::now();
    let mut client = Connection::client(Limits::default(), now);
    let mut server = Connection::server(Limits::default(), now);
    let mut relay = Relay {
        inbound: Connection::server(Limits::default(), now),
        upstream: Connection::client(Limits::default(), now),
        call: None,
    };
    let request = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/waymark.demo.v1.Greeter/SayHello"),
        (":authority", "greeter.internal:8080"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.80.0"),
        ("grpc-accept-encoding", "gzip"),
        ("waymark-service", "greeter"),
        ("x-tenant", "blue"),
        ("grpc-timeout", "999m"),
    ])?;
    let response = block(&[
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("date", "Mon, 30 Nov 2026 09:30:00 GMT"),
        ("server", "greeter"),
        ("grpc-accept-encoding", "gzip"),
        ("x-instance", "greeter-7f9c4d"),
        ("x-zone", "b"),
    ])?;
    let trailers = block(&[("grpc-status", "0"), ("grpc-message", ""), ("x-cost", "1")])?;
    let message = Bytes::from(vec![0; 100]);

    // The ends are run for every call, so what they cost is to be taken off:
    // `relay_cost CALLS ends` does the same without the relay between them.
    let direct = std::env::args().nth(2).is_some();
    let (mut there, mut onward, mut back, mut home) =
        (BytesMut::new(), BytesMut::new(), BytesMut::new(), BytesMut::new());
    let mut done = 0;
    for _ in 0..calls {
        let stream = client.open(&request, false)?;
        client.send_data(stream, message.clone(), true)?;
        write(&mut client, &mut there);
        let wire = if direct {
            &mut there
        } else {
            relay.requests(&mut there, now)?;
            write(&mut relay.upstream, &mut onward);
            write(&mut relay.inbound, &mut home);
            &mut onward
        };
        server.receive(wire, now)?;
        while let Some(event) = server.next_event() {
            match event {
                Event::Headers { block, .. } => server.recycle(block),
                Event::Data { stream, flow_len, .. } => {
                    server.consumed(stream, flow_len);
                    server.send_headers(stream, &response, false)?;
                    server.send_data(stream, message.clone(), false)?;
                    server.send_trailers(stream, &trailers)?;
                }
                _ => {}
            }
        }
        write(&mut server, &mut back);
        let wire = if direct {
            &mut back
        } else {
            relay.responses(&mut back, now)?;
            write(&mut relay.inbound, &mut home);
            write(&mut relay.upstream, &mut onward);
            &mut home
        };
        client.receive(wire, now)?;
        while let Some(event) = client.next_event() {
            match event {
                Event::Headers { block, .. } => client.recycle(block),
                Event::Data { stream, flow_len, .. } => client.consumed(stream, flow_len),
                Event::Trailers { block, .. } => {
                    client.recycle(block);
                    done += 1;
                }
                _ => {}
            }
        }
    }
    println!("{done} calls");
    Ok(())
}
