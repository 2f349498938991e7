//! Whether a packet image pays, found out while the first packets go: some are copied, some are sent from a small image, in turn, and
//! what each way costs is the time from composing to the kernel's answer. Whatever is sent belongs to the carousel, in its order.
//!
//! What only the first cycle costs does not count, for neither way: before each phase its payloads are read and hashed, or laid out.
//! Both then find what they send in the same cache.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use super::{Event, VirtualServer};
use crate::drive::image::Image;
use crate::failure::describe;
use crate::limits::RATE_BPS_IMAGE_MIN;
use crate::sender::{Content, Outgoing, Pacing};
use crate::sys::{ImageUsage, clock};
use crate::types::Time;

/// Packets of one phase, copied or from an image: about 4 MiB, more than the caches of one core hold.
const PHASE_PACKET_COUNT: u64 = 2880;
/// Phases of each way. The first of each finds everything cold and does not count.
const PHASE_COUNT: usize = 4;
/// An image takes memory: it has to be so much faster, in percent.
const GAIN_PERCENT_MIN: f64 = 10.0;

/// What a trial has found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::drive) struct Findings {
    /// IP-level bits per second of one core, by copying.
    pub(in crate::drive) copied_bps: f64,
    /// The same from an image.
    pub(in crate::drive) image_bps: f64,
    /// What became of the messages of the image.
    pub(in crate::drive) usage: ImageUsage,
}

impl Findings {
    /// Whether an image is worth its memory.
    pub(in crate::drive) fn are_good(&self) -> bool {
        let is_read_in_place = self.usage.copied * 2 < self.usage.sent;
        is_read_in_place && self.image_bps > self.copied_bps * (1.0 + GAIN_PERCENT_MIN / 100.0)
    }
}

/// Whether it can make a difference worth measuring how packets are sent.
pub(in crate::drive) fn is_worthwhile(pacing: Pacing) -> bool {
    match pacing {
        Pacing::Unpaced => true,
        Pacing::Rate(rate) | Pacing::DefaultRate(rate) => rate.bits_per_second() >= RATE_BPS_IMAGE_MIN,
        // The largest packets that are sent without being asked for.
        Pacing::PacketDelay(delay) => delay < Duration::from_nanos(1500 * 8 * 1_000_000_000 / RATE_BPS_IMAGE_MIN),
    }
}

/// A trial under way.
#[derive(Debug)]
pub(in crate::drive) struct Trial {
    folder: PathBuf,
    outcome: mpsc::Sender<Findings>,
    /// How many are over.
    phase: usize,
    data_before: u64,
    bytes_before: u64,
    busy: Duration,
    /// The most bits per second of any phase, by copying and from an image.
    best_bps: [f64; 2],
}

impl Trial {
    /// One with images in `folder`, which tells `outcome`.
    pub(in crate::drive) fn new(folder: PathBuf, outcome: mpsc::Sender<Findings>) -> Self {
        Self { folder, outcome, phase: 0, data_before: 0, bytes_before: 0, busy: Duration::ZERO, best_bps: [0.0; 2] }
    }
}

impl VirtualServer<'_> {
    /// Has a burst that was begun at `start` and has been taken counted.
    pub(super) fn note_burst(&mut self, start: Time) {
        if let Some(trial) = &mut self.trial {
            trial.busy += clock::now().since(start);
        }
    }

    /// Goes on to the next phase of the trial, if there is one and it is time for that.
    pub(super) fn go_on_trying(&mut self) {
        let Some(mut trial) = self.trial.take() else { return };
        let counts = self.sender.counts();
        if counts.data + counts.outside - trial.data_before < PHASE_PACKET_COUNT || !self.line.is_idle() {
            self.trial = Some(trial);
            return;
        }
        if self.image.take().is_some() {
            // What the kernel has put off belongs to it.
            let start = clock::now();
            self.line.settle_image();
            trial.busy += clock::now().since(start);
        }
        let bps = 8.0 * (counts.ip_bytes - trial.bytes_before) as f64 / trial.busy.as_secs_f64().max(1e-9);
        let best = &mut trial.best_bps[trial.phase % 2];
        if trial.phase >= 2 {
            *best = best.max(bps);
        }
        trial.phase += 1;
        if trial.phase == 2 * PHASE_COUNT || !self.line.takes_images() {
            let [copied_bps, image_bps] = trial.best_bps;
            // Nobody waits for it any more if the program is about to end.
            let _ = trial.outcome.send(Findings { copied_bps, image_bps, usage: self.line.counts().image });
            return;
        }
        if trial.phase % 2 == 0 {
            let (content, hashes) = (self.common.symbols(), self.common.hashes());
            // Read even if there is no room to remember what comes of it.
            for outgoing in self.composable() {
                let _ = black_box(self.sender.hash_ahead(&outgoing, &content, hashes));
            }
        } else {
            match self.new_image(&trial) {
                Ok(image) => self.image = self.line.set_image(image.slots()).then_some(image),
                Err(error) => {
                    let text = format!("no packet image is tried: {}", describe(&error));
                    let _ = self.events.send(Event::Warning(text));
                    return;
                }
            }
        }
        (trial.data_before, trial.bytes_before) = (counts.data + counts.outside, counts.ip_bytes);
        trial.busy = Duration::ZERO;
        self.trial = Some(trial);
    }

    /// An image of the packets of the next phase, with all of them in it that can be composed.
    fn new_image(&self, trial: &Trial) -> std::io::Result<Image> {
        let (carousel, first) = (self.sender.carousel(), self.sender.next_position());
        let image = Image::new(&trial.folder, carousel, first, PHASE_PACKET_COUNT, &|| false)?;
        self.composable().for_each(|outgoing| {
            let _ = self.lay_out(&image, &outgoing);
        });
        Ok(image)
    }

    /// The data packets of the next phase, without those whose repair symbols are yet to be computed.
    fn composable(&self) -> impl Iterator<Item = Outgoing> {
        let carousel = self.sender.carousel();
        let (first, cycle_length) = (self.sender.next_position(), carousel.cycle_length());
        let positions = (first..first + PHASE_PACKET_COUNT.min(cycle_length)).map(move |place| place % cycle_length);
        positions.map(|position| self.sender.data_at(position)).filter(|outgoing| {
            let Outgoing::Data { block, esi, .. } = *outgoing else { return false };
            let sent = carousel.sent_block(block).expect("a block that is sent");
            !carousel.is_repair(block, esi) || self.common.symbols().repair(sent).is_some()
        })
    }
}
