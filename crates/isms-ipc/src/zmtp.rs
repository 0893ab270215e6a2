//! ZMTP 3.1 with the NULL mechanism (RFC 37), without I/O: bytes in, events out.
//!
//! Invariants: no received byte makes it panic; every limit acts on the announced length, before
//! anything is allocated for it; the input buffer never exceeds [`INPUT_LEN_MAX`], whatever the peer
//! sends and however it is cut; bytes are looked at once, so the work is linear in what was received.
//!
//! Deliberately absent: ZMTP 1 and 2, other mechanisms, other sockets than DEALER and ROUTER, and
//! routing ids: a peer is the connection it came by, whatever identity it claims.

mod command;
mod error;
mod frame;
mod input;

use std::ops::Range;

use isms_protocol::limits::{MESSAGE_FRAMES_MAX, MESSAGE_LEN_MAX};

pub use error::ZmtpError;
pub use frame::put_message;
pub use input::INPUT_LEN_MAX;

use command::Command;
use frame::{COMMAND, FrameHead, MORE};
use input::Input;

/// Longest command that is taken: READY with its metadata, PING, PONG, ERROR.
pub const COMMAND_LEN_MAX: usize = 512;

const GREETING_LEN: usize = 64;
const SIGNATURE: [u8; 10] = [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f];
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Which end of a connection this is, and so which ZeroMQ socket it speaks as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that listens: a ROUTER.
    Bind,
    /// The one that connects: a DEALER.
    Connect,
}

impl Side {
    const fn socket_type(self) -> &'static [u8] {
        match self {
            Side::Bind => b"ROUTER",
            Side::Connect => b"DEALER",
        }
    }

    const fn peer(self) -> Side {
        match self {
            Side::Bind => Side::Connect,
            Side::Connect => Side::Bind,
        }
    }
}

/// What received bytes amount to.
#[derive(Debug)]
pub enum Event<'a> {
    /// The handshake is complete: messages may be sent.
    Ready,
    /// A whole message.
    Message(Frames<'a>),
}

/// The frames of one received message, inside the engine's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Frames<'a> {
    /// How many there are: 1 to [`MESSAGE_FRAMES_MAX`].
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// One of them; empty when there are fewer.
    pub fn get(&self, index: usize) -> &'a [u8] {
        self.ranges
            .get(index)
            .map_or(&[], |range| &self.bytes[range.clone()])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Handshake,
    Traffic,
    Failed,
}

/// What a step through the input has found.
enum Step {
    NeedInput,
    Continue,
    Ready,
    Message,
}

/// One end of one connection.
#[derive(Debug)]
pub struct Engine {
    side: Side,
    state: State,
    input: Input,
    /// Where the next frame starts, counted from the input's start.
    cursor: usize,
    /// The frames so far of the message that is being received.
    ranges: [Range<usize>; MESSAGE_FRAMES_MAX],
    count: usize,
    /// A message has been handed out: its bytes are released at the next step.
    handed_out: bool,
    output: Vec<u8>,
}

impl Engine {
    /// Starts an endpoint; its greeting and READY are in [`Engine::output`] at once.
    pub fn new(side: Side) -> Engine {
        let mut output = Vec::with_capacity(128);
        output.extend_from_slice(&SIGNATURE);
        output.extend_from_slice(&[3, 1]);
        output.extend_from_slice(MECHANISM);
        output.resize(GREETING_LEN, 0);
        command::put_ready(&mut output, side.socket_type());
        Engine {
            side,
            state: State::Greeting,
            input: Input::default(),
            cursor: 0,
            ranges: [const { 0..0 }; MESSAGE_FRAMES_MAX],
            count: 0,
            handed_out: false,
            output,
        }
    }

    /// Where the next received bytes go; never empty after [`Engine::next_event`] has returned
    /// `None`. Follow it with [`Engine::received`].
    pub fn space(&mut self) -> &mut [u8] {
        self.release();
        self.input.space()
    }

    /// Tells that so many bytes have been written to the front of [`Engine::space`].
    pub fn received(&mut self, len: usize) {
        self.input.received(len);
    }

    /// What must be sent besides messages: greeting, READY, answers to PING. Sending clears it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// True when a whole frame waits in the input that [`Engine::next_event`] has not looked at.
    pub fn buffered(&self) -> bool {
        let rest = &self.input.bytes()[self.cursor..];
        match self.state {
            State::Greeting => rest.len() >= GREETING_LEN,
            State::Failed => false,
            State::Handshake | State::Traffic => match FrameHead::parse(rest) {
                Ok(head) => head.is_some_and(|head| rest.len() >= head.frame_len()),
                Err(_) => true,
            },
        }
    }

    /// The next event, `None` when more input is needed. An error is final.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, ZmtpError> {
        self.release();
        loop {
            let step = match self.state {
                State::Greeting => self.read_greeting(),
                State::Handshake | State::Traffic => self.read_frame(),
                State::Failed => return Err(ZmtpError::Failed),
            };
            match step.inspect_err(|_| self.state = State::Failed)? {
                Step::NeedInput => return Ok(None),
                Step::Continue => {}
                Step::Ready => return Ok(Some(Event::Ready)),
                Step::Message => break,
            }
        }
        self.handed_out = true;
        Ok(Some(Event::Message(Frames {
            bytes: self.input.bytes(),
            ranges: &self.ranges[..self.count],
        })))
    }

    fn release(&mut self) {
        if self.handed_out {
            self.handed_out = false;
            self.consume();
        }
    }

    /// Forgets everything before the cursor.
    fn consume(&mut self) {
        self.input.consume(self.cursor);
        self.cursor = 0;
        self.count = 0;
    }

    fn read_greeting(&mut self) -> Result<Step, ZmtpError> {
        let bytes = self.input.bytes();
        check_greeting(bytes)?;
        if bytes.len() < GREETING_LEN {
            return Ok(Step::NeedInput);
        }
        self.cursor = GREETING_LEN;
        self.consume();
        self.state = State::Handshake;
        Ok(Step::Continue)
    }

    fn read_frame(&mut self) -> Result<Step, ZmtpError> {
        let rest = &self.input.bytes()[self.cursor..];
        let Some(head) = FrameHead::parse(rest)? else {
            return self.need_input();
        };
        let is_command = head.flags & COMMAND != 0;
        if is_command {
            if head.body_len > COMMAND_LEN_MAX as u64 {
                return Err(ZmtpError::CommandTooLong { len: head.body_len });
            }
        } else {
            self.check_message_frame(&head)?;
        }
        if rest.len() < head.frame_len() {
            return self.need_input();
        }
        let body = self.cursor + head.head_len..self.cursor + head.frame_len();
        self.cursor = body.end;
        if is_command {
            return self.read_command(body);
        }
        self.ranges[self.count] = body;
        self.count += 1;
        Ok(if head.flags & MORE != 0 {
            Step::Continue
        } else {
            Step::Message
        })
    }

    fn check_message_frame(&self, head: &FrameHead) -> Result<(), ZmtpError> {
        if self.state != State::Traffic {
            return Err(ZmtpError::MessageBeforeReady);
        }
        if self.count == MESSAGE_FRAMES_MAX {
            return Err(ZmtpError::TooManyFrames);
        }
        let received: usize = self.ranges[..self.count].iter().map(Range::len).sum();
        if head.body_len > (MESSAGE_LEN_MAX - received) as u64 {
            return Err(ZmtpError::MessageTooLong {
                len: head.body_len.saturating_add(received as u64),
            });
        }
        Ok(())
    }

    /// More input is needed; impossible when the buffer is full, which takes a peer that stuffs
    /// commands between the frames of a message.
    fn need_input(&self) -> Result<Step, ZmtpError> {
        match self.input.bytes().len() {
            INPUT_LEN_MAX => Err(ZmtpError::TooManyCommands),
            _ => Ok(Step::NeedInput),
        }
    }

    fn read_command(&mut self, body: Range<usize>) -> Result<Step, ZmtpError> {
        let command = Command::parse(&self.input.bytes()[body])?;
        let step = match (self.state, command) {
            (State::Handshake, Command::Ready { socket_type }) => {
                if socket_type != self.side.peer().socket_type() {
                    command::put_error(&mut self.output, b"socket type does not match");
                    return Err(ZmtpError::socket_type(socket_type, self.side));
                }
                self.state = State::Traffic;
                Step::Ready
            }
            (_, Command::Error { reason }) => return Err(ZmtpError::peer(reason)),
            (State::Traffic, Command::Ping { context }) => {
                command::put_pong(&mut self.output, context);
                Step::Continue
            }
            (State::Traffic, Command::Ignored) => Step::Continue,
            (State::Traffic, Command::Ready { .. }) => return Err(ZmtpError::SecondReady),
            _ => return Err(ZmtpError::NotReady),
        };
        if self.count == 0 {
            self.consume();
        }
        Ok(step)
    }
}

/// Checks as much of a greeting as is there, so that a stranger is turned away at its first byte.
fn check_greeting(bytes: &[u8]) -> Result<(), ZmtpError> {
    let signed = bytes.first().is_none_or(|first| *first == SIGNATURE[0])
        && bytes.get(9).is_none_or(|last| *last == SIGNATURE[9]);
    if !signed {
        return Err(ZmtpError::NotZmtp);
    }
    if let Some(major) = bytes.get(10).filter(|major| **major < 3) {
        return Err(ZmtpError::Version { major: *major });
    }
    if bytes.len() >= 32 && &bytes[12..32] != MECHANISM {
        return Err(ZmtpError::Mechanism);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
