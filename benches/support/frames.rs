//! The HTTP/2 frames of gRPC calls on one connection, written and read at minimal cost, so that the load does not
//! dominate the measurement. It supports only the frames that this service sends.
//!
//! Source: <https://datatracker.ietf.org/doc/html/rfc9113>, <https://datatracker.ietf.org/doc/html/rfc7541>

use anyhow::{bail, ensure};
use std::{collections::HashMap, time::Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head: length, kind, flags, stream.
const HEAD: usize = 9;
/// The length of a gRPC message's prefix: compression flag and length.
const PREFIX: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;

/// The flag that ends a stream, or acknowledges settings and pings.
const END: u8 = 1;
const END_HEADERS: u8 = 4;

/// The largest window, and the initial one of a connection.
const WIDE: u32 = 0x7fff_ffff;
const NARROW: u32 = 65_535;

/// The headers of later calls, as indices of the table that the first call has filled.
const INDEXED_HEADERS: [u8; 7] = [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];

/// The frames of a connection.
pub struct Frames {
    /// Bytes to be written.
    pub out: Vec<u8>,
    /// Bytes that were read and not parsed yet.
    pub read: Vec<u8>,
    open: HashMap<u32, Call>,
    first: Vec<u8>,
    /// The prefix of a right response.
    right: Vec<u8>,
    next: u32,
    /// The server's remaining window, in bytes.
    window: i64,
    /// The bytes received since the last window update.
    received: u32,
}

struct Call {
    due: Instant,
    is_right: bool,
}

impl Frames {
    /// The frames of a connection whose calls have these header fields, and whose right responses begin with `right`.
    pub fn new(fields: [(&str, &str); 5], right: Vec<u8>) -> Self {
        let mut frames = Self {
            out: PREFACE.to_vec(),
            read: Vec::new(),
            open: HashMap::new(),
            first: first(fields),
            right,
            next: 1,
            window: NARROW.into(),
            received: 0,
        };
        let initial_window = [&4_u16.to_be_bytes()[..], &WIDE.to_be_bytes()].concat();
        frames.frame(SETTINGS, 0, 0, &initial_window);
        frames.frame(WINDOW, 0, 0, &(WIDE - NARROW).to_be_bytes());
        frames
    }

    /// The number of open calls.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether the server's window has room for a call.
    pub fn takes(&self, bytes: usize) -> bool {
        self.window >= i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// Writes a call that is due at this instant.
    pub fn call(&mut self, body: &[u8], due: Instant) {
        let (stream, first) = (self.next, std::mem::take(&mut self.first));
        self.next += 2;
        self.frame(
            HEADERS,
            END_HEADERS,
            stream,
            if stream == 1 { &first } else { &INDEXED_HEADERS },
        );
        self.frame(DATA, END, stream, body);
        self.window -= i64::try_from(body.len()).unwrap_or(i64::MAX);
        self.open.insert(stream, Call { due, is_right: false });
    }

    /// Parses the bytes that were read, and reports for each ended call when it was due and whether its response was
    /// right.
    pub fn parse(&mut self, mut ended: impl FnMut(Instant, bool)) -> anyhow::Result<()> {
        let read = std::mem::take(&mut self.read);
        let mut rest = &read[..];
        while let Some((head, after)) = rest.split_at_checked(HEAD) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let Some((payload, after)) = after.split_at_checked(length as usize) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.frame_read(head[3], head[4], stream, payload, &mut ended)?;
            rest = after;
        }
        self.read.extend(rest);
        if self.received > WIDE / 2 {
            let received = std::mem::take(&mut self.received);
            self.frame(WINDOW, 0, 0, &received.to_be_bytes());
        }
        Ok(())
    }

    fn frame_read(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        ended: &mut impl FnMut(Instant, bool),
    ) -> anyhow::Result<()> {
        let number = |at: usize| payload[at..].first_chunk().map_or(0, |n| u32::from_be_bytes(*n));
        match kind {
            DATA => {
                self.received += u32::try_from(payload.len())?;
                let begins = self.open.get_mut(&stream).filter(|call| !call.is_right);
                if let (Some(call), Some(message)) = (begins, payload.get(PREFIX..)) {
                    ensure!(message.starts_with(&self.right), "a wrong answer: {message:x?}");
                    call.is_right = true;
                }
            }
            SETTINGS if flags & END == 0 => self.frame(SETTINGS, END, 0, &[]),
            PING if flags & END == 0 => self.frame(PING, END, 0, payload),
            WINDOW if stream == 0 => self.window += i64::from(number(0)),
            GOAWAY => bail!("the server ends the connection, error {}", number(4)),
            _ => {}
        }
        let ends = (matches!(kind, DATA | HEADERS) && flags & END != 0) || kind == RESET;
        if ends && let Some(call) = self.open.remove(&stream) {
            ended(call.due, call.is_right && kind != RESET);
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        self.out.extend(&length[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend(payload);
    }
}

/// The headers of the first call: POST, http, and five that enter the dynamic table.
fn first(fields: [(&str, &str); 5]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in fields {
        block.push(0x40);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|n| *n < 127).expect("a short header"));
            block.extend(text.as_bytes());
        }
    }
    block
}
