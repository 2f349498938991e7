//! The way out: bursts go to the kernel by io_uring where it may be used, else by `sendmmsg`. What the kernel refuses is sent again,
//! so that no position is skipped; an engine that fails is given up for the simpler one, once, with a warning.
//!
//! Messages of a packet image go by io_uring without being copied. One that is refused goes again like any other, but copied, whatever
//! the reason; when the reason is that the kernel will not do without copying, no more are taken.
//!
//! Nothing here waits long: where the kernel takes nothing, [`Line::send`] keeps what it has and returns, so that the caller can
//! look at its file and at signals, and calls again with the same burst. What a refusal means is for [`refusal`](super::refusal)
//! to judge.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::burst::{Burst, MESSAGE_COUNT_MAX};
use super::refusal::{Congestion, Refusals, Verdict, split};
use crate::failure::{Exit, Failure, describe};
use crate::sys::uring_socket::{Landed, UringSocket};
use crate::sys::{ImageUsage, Lent, Memory, Message, QueuedErrors, ScratchSlots, SendSocket, clock};
use crate::types::Time;

/// Before the next attempt where the network cannot be reached for now.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Before the next attempt where a queue is full: about a burst. Doubled as long as it stays full, up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_micros(100);
const BACK_OFF_MAX: Duration = Duration::from_millis(2);
/// Bursts of which messages of an image were refused because they were not to be copied, without one such message that was taken
/// between them: the kernel will not have it.
const IMAGE_REFUSALS_MAX: u32 = 3;
/// Waits for what the device has not read, at the end.
const NOTICE_WAITS_MAX: usize = 10;
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
    /// What became of the messages of images.
    pub(super) image: ImageUsage,
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
    image: ImageState,
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

/// The image, and whether the kernel sends from it.
#[derive(Debug, Default)]
struct ImageState {
    slots: Option<Arc<ScratchSlots>>,
    refusal_count: u32,
    /// How many had been taken at the last refusal.
    sent_before: u64,
    is_given_up: bool,
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
            image: ImageState::default(),
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
        match &self.engine {
            Engine::Uring(ring) => LineCounts { image: ring.image_usage(), ..self.counts },
            Engine::Sendmmsg(_) | Engine::None => self.counts,
        }
    }

    /// Whether messages of an image would go without being copied.
    pub(super) fn takes_images(&self) -> bool {
        matches!(&self.engine, Engine::Uring(ring) if ring.gso() && ring.can_send_image()) && !self.image.is_given_up
    }

    /// Whether all that was handed over has gone.
    pub(super) fn is_idle(&self) -> bool {
        let has_landed = !matches!(&self.engine, Engine::Uring(ring) if !ring.is_idle());
        has_landed && !self.is_stuck && self.retry.is_none()
    }

    /// From now on messages of an image are of this one; `false` if some of another are still under way.
    pub(super) fn set_image(&mut self, slots: &Arc<ScratchSlots>) -> bool {
        if !self.is_idle() {
            return false;
        }
        let Engine::Uring(ring) = &mut self.engine else { return false };
        ring.set_image(Arc::clone(slots));
        self.image.slots = Some(Arc::clone(slots));
        true
    }

    /// Waits a moment until it is known what became of the messages of images.
    pub(super) fn settle_image(&mut self) {
        let Engine::Uring(ring) = &mut self.engine else { return };
        for _ in 0..NOTICE_WAITS_MAX {
            if ring.take_notice(true).is_err() || ring.unread_count() == 0 {
                break;
            }
        }
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
    /// is to look around and call again with the same burst. Waits a quarter of a second at most, or so.
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
            if self.retry.is_some() || !ring.is_ready() {
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
        let mut image_error = None;
        for (message, number) in &failed {
            // What several messages of one burst say at once is said once.
            retry.refusals = before;
            let error = io::Error::from_raw_os_error(*number);
            if message.memory == Memory::Image && found.icmp_count == 0 && may_be_for_want_of_copying(*number) {
                self.counts.refused += 1;
                image_error = Some(error);
                continue;
            }
            if self.judge(&error, message, &mut retry.refusals, &found)? == Verdict::WithoutGso {
                gso_error = Some(error);
            }
        }
        self.retry = Some(retry);
        if let Some(error) = image_error {
            self.note_image_refused(&error);
        }
        match gso_error {
            Some(error) => self.leave_ring_for_gso(&error),
            None => Ok(()),
        }
    }

    /// What is to go again of a burst, and why it did not go.
    fn keep(&mut self, landed: Landed) -> (Retry, Vec<(Message, i32)>) {
        let mut failed = landed.failed;
        failed.sort_by_key(|(message, _)| message.start);
        let again = |message: &Message| match message.memory {
            Memory::Image => Message { memory: Memory::ImageToCopy, ..*message },
            Memory::Buffer | Memory::ImageToCopy => *message,
        };
        let messages: Vec<_> = failed.iter().map(|(message, _)| again(message)).collect();
        self.congestion.note_refused(&messages);
        (Retry { buffer: landed.buffer, messages, refusals: Refusals::from_mark(landed.mark) }, failed)
    }

    /// Some messages of a burst were refused because they were not to be copied.
    fn note_image_refused(&mut self, error: &io::Error) {
        let sent = self.counts().image.sent;
        let image = &mut self.image;
        image.refusal_count = if sent == image.sent_before { image.refusal_count + 1 } else { 1 };
        image.sent_before = sent;
        if image.refusal_count >= IMAGE_REFUSALS_MAX && !image.is_given_up {
            image.is_given_up = true;
            let error = describe(error);
            let text = "copying from now on (the memory that may be locked counts: ulimit -l)";
            self.warnings.push(format!("the kernel does not send the packet image as it is ({error}): {text}"));
        }
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
        self.counts = self.counts();
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
            match socket.send_lent(&Lent { buffer, image: self.image.slots.as_deref() }, messages) {
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

/// What the kernel says of a message that is not to be copied where it would take one that is: no such thing (before Linux 6.2, or of
/// this socket), too much memory locked, a page that is not to be had.
fn may_be_for_want_of_copying(number: i32) -> bool {
    matches!(number, libc::EINVAL | libc::EOPNOTSUPP | libc::ENOMEM | libc::EFAULT)
}

/// Said once: nothing has to be refused twice where messages hold one datagram each.
fn gso_warning(error: &io::Error) -> String {
    format!("the kernel refuses segmentation offload ({}): going on without", describe(error))
}

#[cfg(test)]
mod tests;
