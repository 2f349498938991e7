//! The way out: bursts go to the kernel by io_uring where it may be used, else by `sendmmsg`. What the kernel refuses is sent again,
//! so that no position is skipped; an engine that fails is given up for the simpler one, once, with a warning.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::burst::{Burst, MESSAGE_COUNT_MAX};
use crate::failure::{Exit, Failure, describe};
use crate::sys::uring_socket::{BURSTS_IN_FLIGHT_MAX, Landed, UringSocket};
use crate::sys::{Message, SendSocket, clock};

/// Before the next attempt where the network cannot be reached for now.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Before the next attempt where a queue is full: about a burst.
const BACK_OFF: Duration = Duration::from_micros(100);

/// Which engine to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineChoice {
    /// io_uring if the kernel lets us, else `sendmmsg`.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// `sendmmsg`.
    Sendmmsg,
}

/// An engine with its buffers.
#[derive(Debug)]
pub(super) struct Line {
    engine: Engine,
    free: Vec<Box<[u8]>>,
    /// The messages of the burst that goes by `sendmmsg`.
    messages: Vec<Message>,
    /// The group and interface, for messages.
    what: String,
    refused: u64,
    /// The last error, if nothing has gone since.
    last_error: Option<i32>,
    warnings: Vec<String>,
    said_unreachable: bool,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of them")]
enum Engine {
    Uring(UringSocket),
    Sendmmsg(SendSocket),
    /// Between two engines, and after a failure.
    None,
}

impl Line {
    pub(super) fn new(
        socket: SendSocket,
        choice: EngineChoice,
        what: String,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        // Without GSO every packet is a system call's work, and a ring does not make that cheaper.
        let tries_ring = choice == EngineChoice::Uring || (choice == EngineChoice::Auto && socket.gso());
        let engine = if tries_ring { Self::ring(socket, choice, &mut warnings)? } else { Engine::Sendmmsg(socket) };
        let spare_count = if matches!(engine, Engine::Uring(_)) { BURSTS_IN_FLIGHT_MAX } else { 0 };
        let free = (0..spare_count).map(|_| Burst::new_buffer()).collect();
        let messages = Vec::with_capacity(MESSAGE_COUNT_MAX);
        Ok(Self { engine, free, messages, what, refused: 0, last_error: None, warnings, said_unreachable: false, stop })
    }

    fn ring(socket: SendSocket, choice: EngineChoice, warnings: &mut Vec<String>) -> Result<Engine, Failure> {
        match UringSocket::new(socket) {
            Ok(ring) => Ok(Engine::Uring(ring)),
            Err((_, error)) if choice == EngineChoice::Uring => {
                let failure = Failure::io(Exit::Unavailable, "send by io_uring", &error);
                Err(failure.remedy(
                    "see sysctl kernel.io_uring_disabled and the container's seccomp filter, or leave --engine out",
                ))
            }
            Err((socket, error)) => {
                warnings.push(format!("io_uring cannot be used ({}): sending by sendmmsg", describe(&error)));
                Ok(Engine::Sendmmsg(socket))
            }
        }
    }

    /// Whether nothing more is to be sent.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The name of the engine in use.
    pub(super) fn engine_name(&self) -> &'static str {
        match self.engine {
            Engine::Uring(_) => "uring",
            Engine::Sendmmsg(_) | Engine::None => "sendmmsg",
        }
    }

    /// Messages that the kernel refused and that were sent again.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// The next thing to tell people.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warnings.pop()
    }

    /// Sends a burst, and leaves it with a buffer to compose the next one in. Returns early, with the rest unsent, if it is told
    /// to stop while the kernel takes nothing.
    pub(super) fn send(&mut self, burst: &mut Burst) -> Result<(), Failure> {
        if let Engine::Uring(ring) = &mut self.engine {
            match ring.submit(burst.take_buffer(), burst.messages()) {
                Ok(()) => {
                    self.land(false)?;
                    while self.free.is_empty() && matches!(self.engine, Engine::Uring(_)) && !self.is_stopped() {
                        self.land(true)?;
                    }
                }
                Err(error) => self.leave_ring(&error, Vec::new())?,
            }
            burst.put_buffer(self.free.pop().unwrap_or_else(Burst::new_buffer));
            burst.set_gso(self.gso());
            return Ok(());
        }
        let mut messages = std::mem::take(&mut self.messages);
        messages.clear();
        messages.extend_from_slice(burst.messages());
        let result = self.send_all(burst.bytes(), &mut messages);
        self.messages = messages;
        burst.set_gso(self.gso());
        result
    }

    /// Whether a message may hold several datagrams.
    fn gso(&self) -> bool {
        match &self.engine {
            Engine::Sendmmsg(socket) => socket.gso(),
            Engine::Uring(_) | Engine::None => true,
        }
    }

    /// Waits until all that was sent has gone.
    pub(super) fn drain(&mut self) -> Result<(), Failure> {
        while matches!(&self.engine, Engine::Uring(ring) if !ring.is_idle()) && !self.is_stopped() {
            self.land(true)?;
        }
        Ok(())
    }

    /// Takes back what has landed; with `wait`, at least one burst, if any is under way.
    fn land(&mut self, mut wait: bool) -> Result<(), Failure> {
        while let Engine::Uring(ring) = &mut self.engine {
            match ring.land(wait) {
                Ok(None) => return Ok(()),
                Ok(Some(landed)) if landed.failed.is_empty() => {
                    self.last_error = None;
                    self.said_unreachable = false;
                    self.free.push(landed.buffer);
                    wait = false;
                }
                Ok(Some(landed)) => {
                    self.repeat(landed)?;
                    if self.is_stopped() {
                        return Ok(());
                    }
                }
                Err(error) => return self.leave_ring(&error, Vec::new()),
            }
        }
        Ok(())
    }

    /// Sends again what the kernel has refused.
    fn repeat(&mut self, landed: Landed) -> Result<(), Failure> {
        self.refused += landed.failed.len() as u64;
        let (_, number) = landed.failed[0];
        let error = io::Error::from_raw_os_error(number);
        if landed.failed.iter().any(|(message, number)| refuses_gso(message, *number)) {
            return self.leave_ring(&error, vec![landed]);
        }
        if self.last_error == Some(number) {
            self.endure(&error)?;
        }
        self.last_error = Some(number);
        let messages: Vec<_> = landed.failed.iter().map(|(message, _)| *message).collect();
        let Engine::Uring(ring) = &mut self.engine else { return Ok(()) };
        match ring.submit(landed.buffer, &messages) {
            Ok(()) => Ok(()),
            Err(error) => self.leave_ring(&error, Vec::new()),
        }
    }

    /// Goes over to `sendmmsg`, and sends what the ring has not.
    fn leave_ring(&mut self, error: &io::Error, mut unsent: Vec<Landed>) -> Result<(), Failure> {
        let Engine::Uring(mut ring) = std::mem::replace(&mut self.engine, Engine::None) else { return Ok(()) };
        while !ring.is_idle() && !self.is_stopped() {
            match ring.land(true) {
                Ok(Some(landed)) if !landed.failed.is_empty() => unsent.push(landed),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let mut socket = ring.into_socket();
        let gso_refused =
            unsent.iter().flat_map(|landed| &landed.failed).any(|(message, number)| refuses_gso(message, *number));
        if gso_refused {
            socket.disable_gso();
            self.warnings.push(gso_warning(error));
        } else {
            self.warnings.push(format!("io_uring has failed ({}): going on by sendmmsg", describe(error)));
        }
        self.engine = Engine::Sendmmsg(socket);
        self.free.clear();
        for landed in unsent {
            let mut messages = landed.failed.iter().map(|(message, _)| *message).collect();
            self.send_all(&landed.buffer, &mut messages)?;
        }
        Ok(())
    }

    /// Sends all messages by `sendmmsg`, in order, each until the kernel takes it.
    fn send_all(&mut self, buffer: &[u8], messages: &mut Vec<Message>) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < messages.len() {
            let Engine::Sendmmsg(socket) = &mut self.engine else { return Ok(()) };
            if !socket.gso() {
                split(messages, sent);
            }
            match socket.send(buffer, &messages[sent..]) {
                Ok(0) if self.stop.load(Ordering::Relaxed) => return Ok(()),
                Ok(count) => {
                    sent += count;
                    self.last_error = None;
                    self.said_unreachable = false;
                }
                Err(error) if error.raw_os_error().is_some_and(|number| refuses_gso(&messages[sent], number)) => {
                    self.refused += 1;
                    socket.disable_gso();
                    self.warnings.push(gso_warning(&error));
                }
                Err(error) => {
                    self.refused += 1;
                    if self.last_error == error.raw_os_error() {
                        // The same twice running: not the echo of an old ICMP message, but the state of things.
                        self.endure(&error)?;
                        if self.is_stopped() {
                            return Ok(());
                        }
                    }
                    self.last_error = error.raw_os_error();
                }
            }
        }
        Ok(())
    }

    /// Waits a little where the trouble may pass; fails where it will not.
    fn endure(&mut self, error: &io::Error) -> Result<(), Failure> {
        let failure = || Failure::io(Exit::Io, self.what.clone(), error);
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Err(failure().remedy("the path takes smaller packets: give --mtu")),
            Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::ENOPROTOOPT) => {
                clock::sleep_until(clock::now().after(BACK_OFF));
                Ok(())
            }
            Some(libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EPERM | libc::EADDRNOTAVAIL) => {
                if !self.said_unreachable {
                    self.said_unreachable = true;
                    self.warnings.push(format!("{}: {}; trying again until it works", self.what, describe(error)));
                }
                clock::sleep_until(clock::now().after(RETRY_INTERVAL));
                Ok(())
            }
            _ => Err(failure()),
        }
    }
}

/// What a kernel or device says that cannot cut a message into datagrams.
fn refuses_gso(message: &Message, error: i32) -> bool {
    message.size > message.segment_size && matches!(error, libc::EIO | libc::EINVAL)
}

fn gso_warning(error: &io::Error) -> String {
    format!("the kernel refuses segmentation offload ({}): going on without", describe(error))
}

/// Makes every datagram from message `from` on a message of its own.
fn split(messages: &mut Vec<Message>, from: usize) {
    if messages[from..].iter().all(|message| message.size <= message.segment_size) {
        return;
    }
    for message in messages.split_off(from) {
        let end = message.start + message.size;
        for start in (message.start..end).step_by(message.segment_size) {
            let size = message.segment_size.min(end - start);
            messages.push(Message { start, size, segment_size: size });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_gso_what_has_not_been_sent_is_split() {
        let message = |start, size, segment_size| Message { start, size, segment_size };
        let mut messages = vec![message(0, 500, 500), message(500, 2 * 1452 + 700, 1452), message(4104, 1452, 1452)];
        split(&mut messages, 1);
        let sizes: Vec<_> = messages.iter().map(|message| message.size).collect();
        assert_eq!(sizes, [500, 1452, 1452, 700, 1452]);
        assert!(messages.windows(2).all(|pair| pair[0].start + pair[0].size == pair[1].start));
        let before = messages.clone();
        split(&mut messages, 0);
        assert_eq!(messages, before);
    }
}
