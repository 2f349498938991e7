//! One receiver, played a broadcast with losses: what it does is what `drive::receive` does, in memory and at once. Decoding takes most of
//! the time, so it is done for some receivers only. For the others every symbol that would be decoded is compared with the one
//! that was sent: K different and right ones give the block, which is what tests of the code show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use iotupd::digest::{block_value, zero_block_value};
use iotupd::fec::Decoder;
use iotupd::object::Layout;
use iotupd::receiver::{Action, Receiver, ReceiverConfig, SlotEntry, Verdict, Work, plain_memory};
use iotupd::types::{BlockIndex, Digest, Esi, Time};

use crate::broadcast::{Broadcast, Truth};
use crate::random::{Ppm, Random};

const HEADER_SIZE: usize = 44;
/// Data packets between two of the control packets that a receiver needs, with some of them lost.
const CONTROL_WAIT_MAX: u64 = 4_000;
/// Far more than any reception takes.
const PASSES_MAX: u64 = 100;

/// How packets are lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Each by itself.
    Random(Ppm),
    /// In bursts of so many on average, with so many lost of all (Gilbert's model: in a burst everything is lost).
    Bursts { loss: Ppm, length_mean: u64 },
}

struct Link {
    random: Random,
    loss: Loss,
    is_in_burst: bool,
}

impl Link {
    fn loses(&mut self) -> bool {
        match self.loss {
            Loss::Random(loss) => self.random.chance(loss),
            Loss::Bursts { loss, length_mean } => {
                // A burst ends with probability 1 / mean; how often one begins follows from the share that is lost.
                let ends = 1_000_000 / length_mean;
                let begins = ends * loss.0 / (1_000_000 - loss.0);
                let changes = Ppm(if self.is_in_burst { ends } else { begins });
                self.is_in_burst ^= self.random.chance(changes);
                self.is_in_burst
            }
        }
    }
}

/// Which symbols have arrived, and since when they are enough.
struct Arrived {
    needed: usize,
    blocks: Vec<BTreeSet<Esi>>,
    open_count: usize,
    enough_at: Option<u64>,
}

impl Arrived {
    fn new(truth: &Truth) -> Self {
        let blocks = vec![BTreeSet::new(); truth.block_count()];
        Self {
            needed: truth.source_symbol_count() as usize / blocks.len(),
            open_count: blocks.len(),
            blocks,
            enough_at: None,
        }
    }

    fn note(&mut self, packet: &[u8], sent: u64) {
        // Offsets of docs/PROTOCOL.md, section 3.
        let esi = Esi(u16::from_be_bytes([packet[30], packet[31]]));
        let block = u32::from_be_bytes([packet[32], packet[33], packet[34], packet[35]]);
        let symbols = &mut self.blocks[block as usize];
        if symbols.len() < self.needed && symbols.insert(esi) && symbols.len() == self.needed {
            self.open_count -= 1;
            if self.open_count == 0 {
                self.enough_at = Some(sent);
            }
        }
    }
}

/// A receiver with its file.
pub(crate) struct Reception<'a> {
    truth: &'a Truth,
    receiver: Receiver,
    file: &'a mut [u8],
    kept: BTreeMap<BlockIndex, (Esi, Vec<u8>)>,
    decoded: BTreeMap<BlockIndex, Vec<u8>>,
    /// `None`: symbols are compared with those that were sent.
    decoder: Option<Decoder>,
    is_complete: bool,
}

impl<'a> Reception<'a> {
    /// Receives all of it into `file` from a random moment on; the data packets sent meanwhile. No packet was received in vain: it is
    /// complete when each block has had as many different symbols as it has source symbols, or when the last proof comes.
    pub(crate) fn run(
        truth: &'a Truth,
        broadcast: &Broadcast,
        loss: Loss,
        seed: u64,
        decodes: bool,
        file: &'a mut [u8],
    ) -> u64 {
        let mut random = Random::new(seed);
        file.fill(0xEE);
        let join = random.below(broadcast.cycle_length());
        let mut link = Link { random: random.fork(), loss, is_in_burst: false };
        let config = ReceiverConfig { size_max: u64::MAX, timeout: None, idle_timeout: None, decode: true };
        let mut reception = Self {
            truth,
            receiver: Receiver::new(Time::default(), config),
            file,
            kept: BTreeMap::new(),
            decoded: BTreeMap::new(),
            decoder: decodes.then(Decoder::new),
            is_complete: false,
        };
        let mut arrived = Arrived::new(truth);
        for sent in 0..PASSES_MAX * truth.source_symbol_count() {
            let position = join + sent;
            if let Some(control) = broadcast.control(position)
                && !link.loses()
            {
                reception.take(control);
            }
            if !link.loses() {
                arrived.note(broadcast.data(position), sent + 1);
                reception.take(broadcast.data(position));
            }
            if reception.is_complete {
                let late = sent + 1 - arrived.enough_at.expect("fewer symbols give no block");
                assert!(late <= CONTROL_WAIT_MAX, "complete {late} packets later than possible: {loss:?}, seed {seed}");
                assert!(*reception.file == truth.bytes, "a complete file is the object");
                return sent + 1;
            }
        }
        panic!("not complete after {PASSES_MAX} passes: {loss:?}, seed {seed}");
    }

    fn take(&mut self, packet: &[u8]) {
        let from = SocketAddr::from(([192, 0, 2, 1], 4242));
        match self.receiver.handle_datagram(Time::default(), from, packet) {
            Verdict::Store(store) => {
                let start = store.offset as usize;
                self.file[start..start + usize::from(store.size)].copy_from_slice(&packet[HEADER_SIZE..]);
                self.receiver.handle_stored(&[store]);
            }
            Verdict::Keep(kept) => {
                self.kept.insert(kept.block, (kept.esi, packet[HEADER_SIZE..].to_vec()));
                self.receiver.handle_kept(kept, true);
            }
            Verdict::Taken | Verdict::Dropped(_) => {}
        }
        while let Some(work) = self.receiver.poll_work() {
            self.work(work);
        }
        while let Some(action) = self.receiver.poll_action() {
            match action {
                Action::Prepare { word_count, .. } => {
                    let early = self.receiver.handle_prepared(Time::default(), false, plain_memory(word_count));
                    let early: Vec<_> = early.datagrams().map(|(_, packet)| packet.to_vec()).collect();
                    early.iter().for_each(|packet| self.take(packet));
                }
                Action::Commit => self.is_complete = true,
                Action::Remap { .. } | Action::GiveUp(_) => panic!("{action:?} with one session and no deadline"),
            }
        }
    }

    fn work(&mut self, work: Work) {
        let now = Time::default();
        match work {
            Work::Hash { block, size } => {
                let value = block_value(size, block, &self.file[self.range(block)]);
                self.receiver.handle_hashed(now, block, Some(value));
            }
            Work::HashZeroes { block, size } => {
                self.receiver.handle_hashed(now, block, Some(zero_block_value(size, block)));
            }
            Work::Decode { block, layout, slots, .. } => {
                let value = self.decode(block, &layout, &slots);
                self.receiver.handle_hashed(now, block, value);
            }
            Work::WriteDecoded { block, .. } => {
                let range = self.range(block);
                let bytes = self.decoded.remove(&block).expect("what is to be written has been decoded");
                self.file[range].copy_from_slice(&bytes);
                self.receiver.handle_written(block, true);
            }
            Work::Clear { .. } | Work::CheckSlots { .. } => panic!("{work:?} of a new file without zeroes"),
        }
    }

    fn range(&self, block: BlockIndex) -> std::ops::Range<usize> {
        let start = block.offset() as usize;
        start..(start + (1 << 20)).min(self.truth.bytes.len())
    }

    fn decode(&mut self, block: BlockIndex, layout: &Layout, slots: &[SlotEntry]) -> Option<Digest> {
        let bytes = &self.file[self.range(block)];
        let held = slots.iter().map(|slot| {
            let start = slot.within as usize;
            (slot.esi, &bytes[start..start + usize::from(slot.size)])
        });
        let kept = self.kept.remove(&block);
        let symbols = held.chain(kept.iter().map(|(esi, payload)| (*esi, payload.as_slice())));
        let out = match &mut self.decoder {
            Some(decoder) => {
                let mut out = vec![0; bytes.len()];
                decoder.decode(layout, block, symbols, &mut out).ok()?;
                out
            }
            None => {
                let esis: BTreeSet<_> = symbols.clone().map(|(esi, _)| esi).collect();
                assert!(esis.len() >= usize::from(layout.source_symbol_count(block)), "enough of them");
                assert!(
                    symbols.into_iter().all(|(esi, symbol)| symbol == self.truth.symbol(block, esi)),
                    "the right ones"
                );
                self.truth.bytes[self.range(block)].to_vec()
            }
        };
        let value = block_value(layout.size(), block, &out);
        self.decoded.insert(block, out);
        Some(value)
    }
}
