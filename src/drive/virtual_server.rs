//! One virtual server: a thread with its own machine, socket and engine, which waits for no other. It shares the object's bytes and
//! the hashes of its payloads, tells what it has sent by counters, and everything else by events.

mod trial;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender as EventSender;
use std::time::Duration;

use super::burst::Burst;
use super::image::Image;
use super::line::{EngineChoice, Line, LineCounts};
use super::repair::{Repair, Symbols};
use crate::failure::{Exit, Failure};
use crate::sender::{Outgoing, Sender, SenderCounts, Step, Stretch, WideStep};
use crate::sys::{Scratch, SendSocket, SourceMap, clock, memory, processors};
use crate::types::Time;
pub(super) use trial::{Findings, Trial, is_worthwhile};

/// The longest sleep: a thread that waits for the next packet of a slow server still hears that it is to stop.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The same while the kernel has not taken all that was sent.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// How many packets ahead the processor is asked for a payload: on one core, sending 1 GiB without a receiver took 3.2 s of its own
/// time with 0, 1.8 s with 1 or 2, 1.2 s with 4 and 1.3 s with 8.
pub(super) const PREFETCH_DISTANCE: usize = 4;

/// What all virtual servers of a program share.
#[derive(Debug)]
pub(super) struct Common {
    /// The object's bytes.
    pub(super) content: SourceMap,
    /// Its repair symbols, as far as they have been computed.
    pub(super) repair: Repair,
    /// Where payload hashes are remembered.
    pub(super) hashes: Option<Scratch>,
    /// What to send from without copying, once it is there.
    pub(super) image: OnceLock<Image>,
    /// Nothing more is to be sent.
    pub(super) stop: AtomicBool,
    /// Set when all are ready: what each waits for before it sends.
    pub(super) start: OnceLock<()>,
}

impl Common {
    /// What packets are composed from.
    fn symbols(&self) -> Symbols<'_> {
        Symbols { source: &self.content, repair: &self.repair }
    }

    /// The hashes of payloads, as far as there is room for them.
    fn hashes(&self) -> &[AtomicU64] {
        self.hashes.as_ref().map_or(&[], Scratch::words)
    }

    /// Lets all of them begin.
    pub(super) fn begin(&self) {
        // It can have begun before only if it has been stopped, and then it ends.
        let _ = self.start.set(());
    }

    /// Tells every virtual server to stop, and those that wait for the start as well.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.begin();
    }
}

/// What a virtual server has sent, as it tells after every burst. Two of them share no line of the cache.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Published {
    data: AtomicU64,
    manifest: AtomicU64,
    hashes: AtomicU64,
    outside: AtomicU64,
    ip_bytes: AtomicU64,
    lost_ns: AtomicU64,
    refused: AtomicU64,
    queue_drops: AtomicU64,
    icmp_errors: AtomicU64,
    image_sent: AtomicU64,
    image_copied: AtomicU64,
    uses_ring: AtomicBool,
    /// How often it has looked what is due; [`ENDED`] when it does so no more.
    turns: AtomicU64,
}

/// The turns of a virtual server that has sent all it was to send.
const ENDED: u64 = u64::MAX;

/// Sums over virtual servers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Packets and bytes.
    pub(super) counts: SenderCounts,
    /// The longest time that one of them was held up beyond what it could catch up.
    pub(super) lost: Duration,
    /// What the kernel refused and was sent again.
    pub(super) refusals: LineCounts,
    /// How many of them send by io_uring.
    pub(super) ring_count: usize,
}

impl Published {
    /// It has looked what is due.
    pub(super) fn note_turn(&self) {
        // Nobody else writes it.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// It looks no more.
    pub(super) fn note_end(&self) {
        self.turns.store(ENDED, Ordering::Relaxed);
    }

    /// How often it has looked; `None` if it does so no more.
    pub(super) fn turns(&self) -> Option<u64> {
        Some(self.turns.load(Ordering::Relaxed)).filter(|&turns| turns != ENDED)
    }

    fn tell(&self, sender: &Sender, line: &Line) {
        let (counts, refusals) = (sender.counts(), line.counts());
        let lost_ns = u64::try_from(sender.pacer().lost().as_nanos()).unwrap_or(u64::MAX);
        for (place, value) in [
            (&self.data, counts.data),
            (&self.manifest, counts.manifest),
            (&self.hashes, counts.hashes),
            (&self.outside, counts.outside),
            (&self.ip_bytes, counts.ip_bytes),
            (&self.lost_ns, lost_ns),
            (&self.refused, refusals.refused),
            (&self.queue_drops, refusals.queue_drops),
            (&self.icmp_errors, refusals.icmp_errors),
            (&self.image_sent, refusals.image.sent),
            (&self.image_copied, refusals.image.copied),
        ] {
            place.store(value, Ordering::Relaxed);
        }
        self.uses_ring.store(line.uses_ring(), Ordering::Relaxed);
    }

    /// What all of them have sent.
    pub(super) fn total(all: &[Self]) -> Totals {
        let mut totals = Totals::default();
        for one in all {
            let value = |place: &AtomicU64| place.load(Ordering::Relaxed);
            totals.counts.data += value(&one.data);
            totals.counts.manifest += value(&one.manifest);
            totals.counts.hashes += value(&one.hashes);
            totals.counts.outside += value(&one.outside);
            totals.counts.ip_bytes += value(&one.ip_bytes);
            totals.lost = totals.lost.max(Duration::from_nanos(value(&one.lost_ns)));
            totals.refusals.refused += value(&one.refused);
            totals.refusals.queue_drops += value(&one.queue_drops);
            totals.refusals.icmp_errors += value(&one.icmp_errors);
            totals.refusals.image.sent += value(&one.image_sent);
            totals.refusals.image.copied += value(&one.image_copied);
            totals.ring_count += usize::from(one.uses_ring.load(Ordering::Relaxed));
        }
        totals
    }
}

/// What a virtual server tells the thread that watches.
#[derive(Debug)]
pub(super) enum Event {
    /// It has the engine of this name, and waits for the start.
    Ready(&'static str),
    /// People should be told.
    Warning(String),
    /// A packet image has been tried; a failure, if it was found good and could not be made.
    Tried(Findings, Result<(), Failure>),
    /// It has ended.
    Ended(Result<(), Trouble>),
}

/// Why a virtual server ended early.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Bytes of the object are gone.
    Torn,
    /// It cannot send.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Sleeps for so long, unless it is told to stop.
fn wait_for(span: Duration, stop: &AtomicBool, published: &Published) {
    let end = clock::now().after(span);
    while clock::now() < end && !stop.load(Ordering::Relaxed) {
        published.note_turn();
        clock::sleep_until(end.min(clock::now().after(SLEEP_MAX)));
    }
}

/// What one virtual server is made of, before its thread runs.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Its machine.
    pub(super) sender: Sender,
    /// Its socket.
    pub(super) socket: SendSocket,
    /// How to send.
    pub(super) engine: EngineChoice,
    /// There is an image, and the user wants it to be sent from.
    pub(super) needs_image: bool,
    /// To find out whether an image pays.
    pub(super) trial: Option<Trial>,
    /// The group and interface, for messages.
    pub(super) what: String,
    /// The processor to stay on, if there are several virtual servers.
    pub(super) processor: Option<usize>,
    /// Begin so much later, so that the bursts of several do not fall together.
    pub(super) delay: Duration,
}

/// Runs a virtual server in the calling thread until it is told to stop or its passes are done.
pub(super) fn run(recipe: Recipe, common: &Common, published: &Published, events: &EventSender<Event>) {
    let tell = |event| {
        // Nobody listens any more only if the program is ending.
        let _ = events.send(event);
    };
    if let Some(processor) = recipe.processor {
        // A thread that may not be kept in one place runs wherever there is room: slower perhaps, and just as well.
        let _ = processors::pin(processor);
    }
    clock::set_timer_slack();
    let gso = recipe.socket.gso();
    // The ring belongs to the thread that makes it.
    let line = match Line::new(recipe.socket, recipe.engine, recipe.what) {
        Ok(line) => line,
        Err(failure) => return tell(Event::Ended(Err(failure.into()))),
    };
    if recipe.needs_image && !line.takes_images() {
        return tell(Event::Ended(Err(no_image().into())));
    }
    tell(Event::Ready(line.engine_name()));
    common.start.wait();
    let mut server = VirtualServer::new(recipe.sender, line, gso, common, published, events);
    server.trial = recipe.trial.filter(|_| server.line.takes_images());
    wait_for(recipe.delay, &common.stop, published);
    let result = server.serve();
    server.line.settle_image();
    server.published.tell(&server.sender, &server.line);
    published.note_end();
    tell(Event::Ended(result));
}

fn no_image() -> Failure {
    let cause = "the kernel has no way to send without copying (io_uring and segmentation offload, Linux 6.2), or it is forbidden";
    let remedy = "see sysctl kernel.io_uring_disabled and the container's seccomp filter, or leave --image out";
    Failure::new(Exit::Unavailable, "send from a packet image", cause).remedy(remedy)
}

/// A virtual server at work.
#[derive(Debug)]
pub(super) struct VirtualServer<'a> {
    /// The packets of the burst that is being composed.
    next: Vec<Outgoing>,
    /// Control packets that go at the end of its messages.
    deferred: Vec<Outgoing>,
    sender: Sender,
    line: Line,
    burst: Burst,
    /// What the line sends from.
    image: Option<Image>,
    trial: Option<Trial>,
    common: &'a Common,
    published: &'a Published,
    events: &'a EventSender<Event>,
}

impl<'a> VirtualServer<'a> {
    /// One that has sent nothing yet; `gso`: several packets may share a message.
    pub(super) fn new(
        sender: Sender,
        line: Line,
        gso: bool,
        common: &'a Common,
        published: &'a Published,
        events: &'a EventSender<Event>,
    ) -> Self {
        let burst = Burst::new(gso, sender.packet_size_max());
        let packets = burst.packet_count_max();
        let (next, deferred) = (Vec::with_capacity(packets), Vec::with_capacity(packets));
        Self { next, deferred, sender, line, burst, image: None, trial: None, common, published, events }
    }

    /// Its machine.
    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    fn serve(&mut self) -> Result<(), Trouble> {
        while !self.common.stop.load(Ordering::Relaxed) {
            self.published.note_turn();
            if self.turn()? {
                break;
            }
        }
        Ok(())
    }

    /// Sends what is due and waits until more is, but not for long; answers whether all has been sent.
    pub(super) fn turn(&mut self) -> Result<bool, Trouble> {
        // What a trial prepares is not what it measures.
        self.go_on_trying();
        let now = clock::now();
        // A burst that the kernel has not taken goes before the next is composed: no position is skipped.
        let step = if self.line.is_stuck() { None } else { self.compose(now) };
        if self.common.content.is_torn() || self.line.is_torn() {
            // What was composed from it may be wrong: it does not go out.
            return Err(Trouble::Torn);
        }
        if !self.burst.is_empty() {
            let is_taken = self.line.send(&mut self.burst)?;
            self.tell();
            if !is_taken {
                return Ok(false);
            }
            self.note_burst(now);
        }
        match step {
            Some(Step::Done) => return Ok(self.line.drain()?),
            Some(Step::Wait(due)) => {
                // What the kernel has not taken yet does not wait for the next packet.
                let pause = if self.line.drain()? { SLEEP_MAX } else { RETRY_PAUSE };
                clock::sleep_until(due.min(now.after(pause)));
            }
            _ => {}
        }
        Ok(false)
    }

    /// Puts into the burst what may go now; answers with what the machine said when it had no more, `None` if the burst is full.
    fn compose(&mut self, now: Time) -> Option<Step> {
        if self.image.is_none()
            && let Some(image) = self.common.image.get()
            && self.line.takes_images()
        {
            self.image = self.line.set_image(image.slots()).then(|| image.clone());
        }
        if let Some(image) = self.image.take() {
            let last = self.compose_from(&image, now);
            // A kernel that does not send it as it is gets copies.
            self.image = self.line.takes_images().then_some(image);
            return last;
        }
        let last = self.gather(now);
        let (content, hashes) = (self.common.symbols(), self.common.hashes());
        let sender = &self.sender;
        let ahead = |index: usize| {
            if let Some(payload) = self.next.get(index).and_then(|outgoing| sender.payload(outgoing, &content)) {
                memory::prefetch(payload);
            }
        };
        (0..PREFETCH_DISTANCE).for_each(ahead);
        let mut deferred = self.deferred.iter().peekable();
        let (burst, push) = (&mut self.burst, |burst: &mut Burst, outgoing: &Outgoing| {
            burst.push(sender.packet_size(outgoing), |out| sender.compose(outgoing, &content, hashes, out));
        });
        burst.clear();
        for (index, outgoing) in self.next.iter().enumerate() {
            ahead(index + PREFETCH_DISTANCE);
            push(burst, outgoing);
            // A shorter packet ends a message: there it costs nothing, within it would cost another message.
            if burst.takes_one_more()
                && let Some(control) = deferred.next()
            {
                push(burst, control);
            }
        }
        deferred.for_each(|control| push(burst, control));
        last
    }

    /// The same, with packets of the image: those that are there, and those that can be composed there.
    fn compose_from(&mut self, image: &Image, now: Time) -> Option<Step> {
        self.burst.clear();
        self.deferred.clear();
        let mut has_data = false;
        let last = loop {
            let image_count_max = image.count_max(&self.sender, &self.burst, self.deferred.len());
            let copied_count_max = self.burst.copied_count_max(self.deferred.len()) as u64;
            if image_count_max == 0 || copied_count_max == 0 {
                break None;
            }
            let full_count = image.full_count(self.sender.next_position(), image_count_max);
            let count_max = if full_count > 0 { full_count } else { image_count_max.min(copied_count_max) };
            match self.sender.poll_stretch(now, &self.common.symbols(), count_max) {
                WideStep::SendStretch(stretch) => {
                    has_data = true;
                    if full_count > 0 {
                        image.push(&stretch, &mut self.burst);
                    } else {
                        self.push_new(image, &stretch);
                    }
                }
                WideStep::Other(Step::Send(outgoing)) if has_data && !matches!(outgoing, Outgoing::Data { .. }) => {
                    self.deferred.push(outgoing);
                }
                WideStep::Other(Step::Send(outgoing)) => self.push(&outgoing),
                WideStep::Other(step) => break Some(step),
            }
        };
        // Those of equal size share a message.
        let sender = &self.sender;
        self.deferred.sort_by_key(|outgoing| std::cmp::Reverse(sender.packet_size(outgoing)));
        for place in 0..self.deferred.len() {
            self.push(&self.deferred[place].clone());
        }
        last
    }

    /// Adds packets that are not in the image yet, there if that is possible.
    fn push_new(&mut self, image: &Image, stretch: &Stretch) {
        for position in (stretch.first.value()..).take(usize::try_from(stretch.count).unwrap_or(0)) {
            let outgoing = self.sender.data_at(position);
            match self.lay_out(image, &outgoing) {
                Some((start, size)) => self.burst.push_from_image(start, size, 1),
                None => self.push(&outgoing),
            }
        }
    }

    /// Composes a data packet in the image, unless it is there, and answers with where it is.
    fn lay_out(&self, image: &Image, outgoing: &Outgoing) -> Option<(usize, usize)> {
        let Outgoing::Data { position, .. } = *outgoing else { return None };
        let (common, size) = (self.common, self.sender.packet_size(outgoing));
        let start = image.packet(position, size, |out| {
            self.sender.compose(outgoing, &common.symbols(), common.hashes(), out);
            !common.content.is_torn()
        });
        start.map(|start| (start, size))
    }

    /// Adds a copy of a packet.
    fn push(&mut self, outgoing: &Outgoing) {
        let (sender, common) = (&self.sender, self.common);
        self.burst.push(sender.packet_size(outgoing), |out| {
            sender.compose(outgoing, &common.symbols(), common.hashes(), out);
        });
    }

    /// Asks the machine for as many packets as a burst holds. Control packets that come after data packets are put off to the end of
    /// a message.
    fn gather(&mut self, now: Time) -> Option<Step> {
        self.next.clear();
        self.deferred.clear();
        let content = self.common.symbols();
        let mut has_data = false;
        while self.next.len() + self.deferred.len() < self.burst.packet_count_max() {
            match self.sender.poll_with(now, &content) {
                Step::Send(outgoing) => {
                    let is_data = matches!(outgoing, Outgoing::Data { .. });
                    has_data |= is_data;
                    if is_data || !has_data { &mut self.next } else { &mut self.deferred }.push(outgoing);
                }
                step => return Some(step),
            }
        }
        None
    }

    fn tell(&mut self) {
        self.published.tell(&self.sender, &self.line);
        while let Some(warning) = self.line.take_warning() {
            let _ = self.events.send(Event::Warning(warning));
        }
    }
}
