//! The way out: bursts go to the kernel by io_uring where it may be used, else by `sendmmsg`. What the kernel refuses is sent again,
//! so that no position is skipped; an engine that fails is given up for the simpler one, once, with a warning.
//!
//! Nothing here waits long: where the kernel takes nothing, [`Line::send`] keeps what it has and returns, so that the caller can
//! look at its file and at signals, and calls again with the same burst. What a refusal means is for [`refusal`](super::refusal)
//! to judge.

use std::io;
use std::time::Duration;

use super::burst::{Burst, MESSAGE_COUNT_MAX};
use super::refusal::{Congestion, Refusals, Verdict, split};
use crate::failure::{Exit, Failure, describe};
use crate::sys::uring_socket::{Landed, UringSocket};
use crate::sys::{Message, QueuedErrors, SendSocket, clock};
use crate::types::Time;

/// Before the next attempt where the network cannot be reached for now.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Before the next attempt where a queue is full: about a burst. Doubled as long as it stays full, up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_micros(100);
const BACK_OFF_MAX: Duration = Duration::from_millis(2);
/// Refusals in one call before the caller may look at other things.
const REFUSALS_PER_CALL_MAX: u32 = 16;

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

/// What has been refused and was sent again, in messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LineCounts {
    /// All refusals.
    pub(super) refused: u64,
    /// Those for want of room in a queue of this host: the rate is above what the link takes.
    pub(super) queue_drops: u64,
    /// Those that an ICMP message caused, which anybody can forge.
    pub(super) icmp_errors: u64,
}

/// An engine with its buffers.
#[derive(Debug)]
pub(super) struct Line {
    engine: Engine,
    /// To compose in while the ring has the caller's buffer. The ring has it, or `retry` has, where this is `None`.
    spare: Option<Box<[u8]>>,
    /// What the kernel has refused of a burst: it goes again before anything else does.
    retry: Option<Retry>,
    /// What is left of the caller's burst while it goes by `sendmmsg`.
    rest: Vec<Message>,
    has_rest: bool,
    rest_refusals: Refusals,
    /// The caller's burst has not been taken.
    is_stuck: bool,
    /// The source could not be read by the kernel while it sent.
    is_torn: bool,
    /// No attempt before this.
    resume_at: Option<Time>,
    back_off: Duration,
    congestion: Congestion,
    /// The group and interface, for messages.
    what: String,
    counts: LineCounts,
    warnings: Vec<String>,
    said_unreachable: bool,
}

/// A burst, or what is left of one, that has a buffer of its own.
#[derive(Debug)]
struct Retry {
    buffer: Box<[u8]>,
    messages: Vec<Message>,
    refusals: Refusals,
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
    pub(super) fn new(socket: SendSocket, choice: EngineChoice, what: String) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let overhead = if socket.local_addr().is_ipv4() { 28 } else { 48 };
        // Without GSO every packet is a system call's work, and a ring does not make that cheaper.
        let tries_ring = choice == EngineChoice::Uring || (choice == EngineChoice::Auto && socket.gso());
        if !socket.gso() {
            warnings.push("the kernel has no segmentation offload for UDP: every packet is sent by itself".to_owned());
        }
        let engine = if tries_ring { Self::ring(socket, choice, &mut warnings)? } else { Engine::Sendmmsg(socket) };
        Ok(Self {
            spare: matches!(engine, Engine::Uring(_)).then(Burst::new_buffer),
            engine,
            retry: None,
            rest: Vec::with_capacity(MESSAGE_COUNT_MAX),
            has_rest: false,
            rest_refusals: Refusals::default(),
            is_stuck: false,
            is_torn: false,
            resume_at: None,
            back_off: BACK_OFF_MIN,
            congestion: Congestion::new(overhead),
            what,
            counts: LineCounts::default(),
            warnings,
            said_unreachable: false,
        })
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

    /// The name of the engine in use.
    pub(super) fn engine_name(&self) -> &'static str {
        match self.engine {
            Engine::Uring(_) => "uring",
            Engine::Sendmmsg(_) | Engine::None => "sendmmsg",
        }
    }

    /// Whether the engine in use is io_uring.
    pub(super) fn uses_ring(&self) -> bool {
        matches!(self.engine, Engine::Uring(_))
    }

    /// What the kernel refused and was sent again.
    pub(super) fn counts(&self) -> LineCounts {
        self.counts
    }

    /// The next thing to tell people.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warnings.pop()
    }

    /// Whether the last burst has not been taken: it must come again, unchanged, before another is composed.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Whether the kernel found, while it sent, that the source can no longer be read (EFAULT).
    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Sends a burst, and leaves it with a buffer to compose the next one in. `false` if the kernel takes nothing for now: the caller
    /// is to look around and call again with the same burst. Never waits longer than about 100 ms.
    pub(super) fn send(&mut self, burst: &mut Burst) -> Result<bool, Failure> {
        let mut is_taken = false;
        if matches!(self.engine, Engine::Uring(_)) {
            is_taken = self.send_by_ring(burst)?;
        }
        // The ring may just have been given up.
        if !is_taken && matches!(self.engine, Engine::Sendmmsg(_)) {
            is_taken = self.send_by_calls(burst)?;
        }
        self.is_stuck = !is_taken;
        burst.set_gso(self.gso());
        Ok(is_taken)
    }

    /// Whether a message may hold several datagrams.
    fn gso(&self) -> bool {
        match &self.engine {
            Engine::Sendmmsg(socket) => socket.gso(),
            Engine::Uring(ring) => ring.gso(),
            Engine::None => false,
        }
    }

    /// Waits a moment for what was sent to go; `true` when all of it has.
    pub(super) fn drain(&mut self) -> Result<bool, Failure> {
        self.land(true)?;
        let _ = self.retry_by_ring()?;
        match &self.engine {
            Engine::Uring(ring) => Ok(ring.is_idle() && self.retry.is_none()),
            Engine::Sendmmsg(_) => self.retry_by_calls(),
            Engine::None => Ok(true),
        }
    }

    fn send_by_ring(&mut self, burst: &mut Burst) -> Result<bool, Failure> {
        for attempt in 0..REFUSALS_PER_CALL_MAX {
            self.land(attempt > 0)?;
            if !self.retry_by_ring()? {
                return Ok(false);
            }
            let Engine::Uring(ring) = &self.engine else { return Ok(false) };
            if self.retry.is_some() || !ring.is_idle() {
                continue;
            }
            let Some(spare) = self.spare.take() else { continue };
            let buffer = burst.take_buffer();
            burst.put_buffer(spare);
            self.submit(buffer, burst.messages(), Refusals::default())?;
            // Most has gone already. What was refused goes again before anything else does.
            self.land(false)?;
            let _ = self.retry_by_ring()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn submit(&mut self, buffer: Box<[u8]>, messages: &[Message], refusals: Refusals) -> Result<(), Failure> {
        let Engine::Uring(ring) = &mut self.engine else { unreachable!("only called with a ring") };
        self.congestion.note_sent(messages);
        match ring.submit(buffer, messages, refusals.to_mark()) {
            Ok(()) => Ok(()),
            Err(error) => self.leave_ring(&error),
        }
    }

    /// Hands over what was refused; `false` if it is not yet time for that.
    fn retry_by_ring(&mut self) -> Result<bool, Failure> {
        if self.is_paused() {
            return Ok(false);
        }
        for _ in 0..REFUSALS_PER_CALL_MAX {
            let Engine::Uring(ring) = &self.engine else { break };
            if !ring.is_idle() {
                break;
            }
            let Some(retry) = self.retry.take() else { break };
            self.submit(retry.buffer, &retry.messages, retry.refusals)?;
            self.land(false)?;
            if self.resume_at.is_some() {
                break;
            }
        }
        Ok(true)
    }

    /// Takes back what has landed; with `wait`, within 10 ms.
    fn land(&mut self, mut wait: bool) -> Result<(), Failure> {
        while let Engine::Uring(ring) = &mut self.engine {
            match ring.land(wait) {
                Ok(None) => return Ok(()),
                Ok(Some(landed)) if landed.failed.is_empty() => {
                    self.note_taken();
                    self.spare = Some(landed.buffer);
                }
                Ok(Some(landed)) => self.take_refused(landed)?,
                Err(error) => return self.leave_ring(&error),
            }
            wait = false;
        }
        Ok(())
    }

    /// Judges what the ring has brought back, and keeps it for another attempt.
    fn take_refused(&mut self, landed: Landed) -> Result<(), Failure> {
        let Engine::Uring(ring) = &mut self.engine else { unreachable!("only called with a ring") };
        let found = ring.take_errors();
        let (mut retry, failed) = self.keep(landed);
        let (before, mut gso_error) = (retry.refusals, None);
        for (message, number) in &failed {
            // What several messages of one burst say at once is said once.
            retry.refusals = before;
            let error = io::Error::from_raw_os_error(*number);
            if self.judge(&error, message, &mut retry.refusals, &found)? == Verdict::WithoutGso {
                gso_error = Some(error);
            }
        }
        self.retry = Some(retry);
        match gso_error {
            Some(error) => self.leave_ring_for_gso(&error),
            None => Ok(()),
        }
    }

    /// What is to go again of a burst, and why it did not go.
    fn keep(&mut self, landed: Landed) -> (Retry, Vec<(Message, i32)>) {
        let mut failed = landed.failed;
        failed.sort_by_key(|(message, _)| message.start);
        let messages: Vec<_> = failed.iter().map(|(message, _)| *message).collect();
        self.congestion.note_refused(&messages);
        (Retry { buffer: landed.buffer, messages, refusals: Refusals::from_mark(landed.mark) }, failed)
    }

    /// Goes over to `sendmmsg` because io_uring itself does not work.
    fn leave_ring(&mut self, error: &io::Error) -> Result<(), Failure> {
        self.warnings.push(format!("io_uring has failed ({}): going on by sendmmsg", describe(error)));
        self.take_ring_apart(|_| {});
        Ok(())
    }

    /// Goes over to `sendmmsg` because the device does not take several datagrams at once.
    fn leave_ring_for_gso(&mut self, error: &io::Error) -> Result<(), Failure> {
        self.warnings.push(gso_warning(error));
        self.take_ring_apart(SendSocket::disable_gso);
        Ok(())
    }

    /// What the ring has not sent is kept for another attempt.
    fn take_ring_apart(&mut self, change: impl FnOnce(&mut SendSocket)) {
        let Engine::Uring(ring) = std::mem::replace(&mut self.engine, Engine::None) else { return };
        let (mut socket, unsent) = ring.into_socket();
        if let Some(landed) = unsent {
            self.counts.refused += landed.failed.len() as u64;
            let (retry, _) = self.keep(landed);
            self.retry = Some(retry);
        }
        change(&mut socket);
        self.engine = Engine::Sendmmsg(socket);
        self.spare = None;
    }

    fn send_by_calls(&mut self, burst: &Burst) -> Result<bool, Failure> {
        if !self.retry_by_calls()? {
            return Ok(false);
        }
        if !self.has_rest {
            self.rest.clear();
            self.rest.extend_from_slice(burst.messages());
            self.rest_refusals = Refusals::default();
        }
        let mut rest = std::mem::take(&mut self.rest);
        let mut refusals = self.rest_refusals;
        let result = self.push_out(burst.bytes(), &mut rest, &mut refusals);
        (self.rest, self.rest_refusals) = (rest, refusals);
        self.has_rest = matches!(result, Ok(false));
        result
    }

    /// Sends what a ring has left behind; `false` if the kernel does not take it for now.
    fn retry_by_calls(&mut self) -> Result<bool, Failure> {
        let Some(mut retry) = self.retry.take() else { return Ok(true) };
        let is_done = self.push_out(&retry.buffer, &mut retry.messages, &mut retry.refusals)?;
        self.retry = (!is_done).then_some(retry);
        Ok(is_done)
    }

    /// Sends `messages` by `sendmmsg`, in order, and takes those out that have gone; `false` if the kernel does not take the rest for
    /// now.
    fn push_out(
        &mut self,
        buffer: &[u8],
        messages: &mut Vec<Message>,
        refusals: &mut Refusals,
    ) -> Result<bool, Failure> {
        let mut refusals_left = REFUSALS_PER_CALL_MAX;
        while !messages.is_empty() {
            if refusals_left == 0 || self.is_paused() {
                return Ok(false);
            }
            let Engine::Sendmmsg(socket) = &mut self.engine else { return Ok(false) };
            if !socket.gso() {
                split(messages);
            }
            match socket.send(buffer, messages) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.congestion.note_sent(&messages[..count]);
                    let _ = messages.drain(..count);
                    *refusals = Refusals::default();
                    self.note_taken();
                }
                // The send buffer was full all the time: the link is slow, and nothing has been refused.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => {
                    refusals_left -= 1;
                    let found = socket.take_errors();
                    if self.judge(&error, &messages[0], refusals, &found)? == Verdict::WithoutGso
                        && let Engine::Sendmmsg(socket) = &mut self.engine
                    {
                        socket.disable_gso();
                        self.warnings.push(gso_warning(&error));
                        *refusals = Refusals::default();
                    }
                }
            }
        }
        Ok(true)
    }

    fn note_taken(&mut self) {
        self.back_off = BACK_OFF_MIN;
        self.said_unreachable = false;
    }

    /// Counts a refusal, and arranges for what it asks for; fails where another attempt would be in vain.
    fn judge(
        &mut self,
        error: &io::Error,
        message: &Message,
        refusals: &mut Refusals,
        found: &QueuedErrors,
    ) -> Result<Verdict, Failure> {
        self.counts.refused += 1;
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        let verdict = refusals.judge(number, message, found);
        match verdict {
            Verdict::Forgeable => self.counts.icmp_errors += 1,
            Verdict::Again | Verdict::WithoutGso => {}
            Verdict::QueueFull => {
                self.counts.queue_drops += 1;
                let now = clock::now();
                self.warnings.extend(self.congestion.note_full(now));
                if self.resume_at.is_none() {
                    self.resume_at = Some(now.after(self.back_off));
                    self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
                }
            }
            Verdict::Unreachable => {
                if !self.said_unreachable {
                    self.said_unreachable = true;
                    self.warnings.push(format!("{}: {}; trying again until it works", self.what, describe(error)));
                }
                self.resume_at = Some(clock::now().after(RETRY_INTERVAL));
            }
            Verdict::Torn => {
                self.is_torn = true;
                self.resume_at = Some(clock::now().after(BACK_OFF_MAX));
            }
            Verdict::Fatal => {
                let failure = Failure::io(Exit::Io, self.what.clone(), error);
                return Err(if number == libc::EMSGSIZE {
                    failure.remedy("the interface takes smaller packets: give --mtu")
                } else {
                    failure
                });
            }
        }
        Ok(verdict)
    }

    /// Whether the next attempt is not due, after a short sleep towards it.
    fn is_paused(&mut self) -> bool {
        let Some(resume_at) = self.resume_at.take() else { return false };
        clock::sleep_until(resume_at);
        // A signal may have ended the sleep: the caller looks.
        true
    }
}

/// Said once: nothing has to be refused twice where messages hold one datagram each.
fn gso_warning(error: &io::Error) -> String {
    format!("the kernel refuses segmentation offload ({}): going on without", describe(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{ReceiveOptions, ReceiveSocket, SendOptions};

    /// A line on the loopback interface and a receiver at its end, or `None` where the kernel forbids the engine.
    fn open(choice: EngineChoice, group: &str) -> Option<(Line, ReceiveSocket, u16)> {
        let (group, interface_index) = (group.parse().unwrap(), nix::net::if_::if_nametoindex("lo").unwrap());
        let bind_addr = Some([127, 0, 0, 1].into());
        let socket = SendSocket::open(&SendOptions { group, interface_index, bind_addr, hops: 1 }).unwrap();
        let port = socket.local_addr().port();
        let (receiver, _) = ReceiveSocket::open(&ReceiveOptions { group, interface_index }).unwrap();
        let line = Line::new(socket, choice, "send".into()).ok()?;
        Some((line, receiver, port))
    }

    fn received(receiver: &mut ReceiveSocket, from_port: u16, count: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let deadline = clock::now().after(Duration::from_secs(5));
        while datagrams.len() < count && clock::now() < deadline {
            receiver.receive(deadline).unwrap();
            let ours = receiver.datagrams().filter(|(from, _)| from.port() == from_port);
            datagrams.extend(ours.map(|(_, datagram)| datagram.to_vec()));
        }
        datagrams
    }

    #[test]
    fn message_that_the_kernel_does_not_cut_is_cut_here_once_and_for_all() {
        for (choice, group) in [(EngineChoice::Uring, "239.77.9.2:47912"), (EngineChoice::Sendmmsg, "239.77.9.3:47913")]
        {
            let Some((mut line, mut receiver, port)) = open(choice, group) else { continue };
            assert!(line.gso());
            // More datagrams than any kernel makes of one message (EINVAL).
            let (buffer, messages) = ((0..200).collect(), vec![Message { start: 0, size: 200, segment_size: 1 }]);
            line.retry = Some(Retry { buffer, messages, refusals: Refusals::default() });
            let deadline = clock::now().after(Duration::from_secs(5));
            while !line.drain().unwrap() && clock::now() < deadline {}
            let expected: Vec<_> = (0..200).map(|byte| vec![byte]).collect();
            assert_eq!(received(&mut receiver, port, 200), expected, "all, once and in order");
            assert_eq!((line.engine_name(), line.gso()), ("sendmmsg", false));
            assert!(line.take_warning().unwrap().contains("refuses segmentation offload"));
            assert_eq!((line.take_warning(), line.counts().refused), (None, 3));
        }
    }

    #[test]
    fn burst_that_can_never_be_sent_is_a_failure_with_its_remedy() {
        for (choice, group) in [(EngineChoice::Uring, "239.77.9.4:47914"), (EngineChoice::Sendmmsg, "239.77.9.5:47915")]
        {
            let Some((mut line, _, _)) = open(choice, group) else { continue };
            // Longer than any datagram.
            let (buffer, messages) = (vec![0; 65_530], vec![Message { start: 0, size: 65_530, segment_size: 65_530 }]);
            line.retry = Some(Retry { buffer: buffer.into(), messages, refusals: Refusals::default() });
            let failure = loop {
                match line.drain() {
                    Ok(is_drained) => assert!(!is_drained),
                    Err(failure) => break failure,
                }
            };
            assert_eq!(failure.exit, Exit::Io);
            assert!(failure.to_string().contains("give --mtu"), "{failure}");
        }
    }
}
