//! What benches and the allocation test see of the two loops: the real pieces, driven a number of packets at a time. No program
//! uses this, and nothing here is stable.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::assembly::PATIENCE;
use super::burst::BUFFER_SIZE;
use super::image::{Image, ImageChoice};
use super::line::{EngineChoice, Line};
use super::repair::Repair;
use super::virtual_server::{Common, PREFETCH_DISTANCE, Published, Trouble, VirtualServer};
use super::{choose, runs, serve, workers};
use crate::digest::{ObjectTree, block_value, zero_block_value};
use crate::failure::{Exit, Failure};
use crate::limits::{BLOCK_SIZE, GSO_MESSAGE_SIZE_MAX, GSO_SEGMENT_COUNT_MAX, HEADER_SIZE, RECEIVE_BATCH};
use crate::receiver::{Action, Receiver, ReceiverConfig, Verdict, plain_memory};
use crate::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig, Step};
use crate::sys::{
    Interface, Memory, Message, Scratch, SendOptions, SendSocket, SourceFile, SourceMap, Target, Train, clock, memory,
};
use crate::types::{BlockIndex, SymbolSize, Time};

/// The payload of full data packets: what fills an MTU of 1500.
pub const SYMBOL_SIZE: u16 = 1408;
/// Bytes of a full datagram.
pub const DATAGRAM_SIZE: usize = HEADER_SIZE + SYMBOL_SIZE as usize;
/// Full datagrams of a full GSO message.
pub const SEGMENT_COUNT: usize = GSO_MESSAGE_SIZE_MAX / DATAGRAM_SIZE;
/// Messages of one system call of the blast.
const BLAST_MESSAGE_COUNT: usize = 16;
/// Messages that are copied together for one system call, as senders do it here: more would not stay in the cache until they are sent.
const COPIES_MESSAGE_COUNT: usize = BUFFER_SIZE / GSO_MESSAGE_SIZE_MAX;
/// Datagrams of one batch of the receiver: a full batch of full GSO messages.
const BATCH_DATAGRAM_COUNT: usize = RECEIVE_BATCH * SEGMENT_COUNT;

/// Where to send.
#[derive(Clone, Debug)]
pub struct Way {
    interface: Interface,
    group: SocketAddr,
}

impl Way {
    /// To `group`, from the interface of that name.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn new(interface: &str, group: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { interface: choose::interface(Some(interface), None)?, group })
    }

    /// The longest IP packet that goes this way, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.interface.mtu
    }

    fn socket(&self) -> Result<SendSocket, Failure> {
        SendSocket::open(&SendOptions {
            group: self.group,
            interface_index: self.interface.index,
            bind_addr: choose::source_address(&self.interface, self.group),
            hops: 1,
        })
    }
}

/// The most that a socket can do: the same 64 KiB again and again, by GSO, with no thought for what they are.
#[derive(Debug)]
pub struct Blast {
    socket: SendSocket,
    buffer: Vec<u8>,
    messages: Vec<Message>,
    segment_count: usize,
}

impl Blast {
    /// # Errors
    /// If the socket cannot be opened.
    pub fn new(way: &Way) -> Result<Self, Failure> {
        Self::with_datagrams(way, DATAGRAM_SIZE)
    }

    /// One that sends datagrams of so many bytes.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn with_datagrams(way: &Way, datagram_size: usize) -> Result<Self, Failure> {
        let socket = way.socket()?;
        let segment_count = (GSO_MESSAGE_SIZE_MAX / datagram_size).min(GSO_SEGMENT_COUNT_MAX);
        let size = segment_count * datagram_size;
        let message = Message { start: 0, size, segment_size: datagram_size, memory: Memory::Buffer };
        Ok(Self { socket, buffer: vec![0x5a; size], messages: vec![message; BLAST_MESSAGE_COUNT], segment_count })
    }

    /// Sends at least so many datagrams, in whole messages, and answers with their number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_packets(&mut self, count: u64) -> io::Result<u64> {
        let mut sent = 0;
        while sent < count {
            sent += self.socket.send(&self.buffer, &self.messages)? as u64 * self.segment_count as u64;
        }
        Ok(sent)
    }

    /// The same, but every payload of `symbol_size` bytes is copied from `content` first, on from symbol `next`, and asked for a little
    /// earlier, as many messages at a time as our senders compose: what these would reach if there were nothing else to do.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_copies(
        &mut self,
        content: &Object,
        symbol_size: usize,
        next: &mut usize,
        count: u64,
    ) -> io::Result<u64> {
        let (message, segment_count) = full_message(symbol_size);
        let starts = (0..COPIES_MESSAGE_COUNT).map(|index| index * message.size);
        let messages: Vec<Message> = starts.map(|start| Message { start, ..message }).collect();
        self.buffer.resize(self.buffer.len().max(COPIES_MESSAGE_COUNT * message.size), 0);
        let mut sent = 0;
        while sent < count {
            for datagram in self.buffer[..COPIES_MESSAGE_COUNT * message.size].chunks_exact_mut(message.segment_size) {
                memory::prefetch(content.symbol(*next + PREFETCH_DISTANCE, symbol_size));
                datagram[HEADER_SIZE..].copy_from_slice(content.symbol(*next, symbol_size));
                *next += 1;
            }
            // What is not taken at once is not sent again: nobody waits for it.
            sent += self.socket.send(&self.buffer, &messages)? as u64 * segment_count as u64;
        }
        Ok(sent)
    }

    /// The same, but nothing is copied: the kernel gathers headers and payloads from where they are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_gathered(
        &mut self,
        content: &Object,
        symbol_size: usize,
        next: &mut usize,
        count: u64,
    ) -> io::Result<u64> {
        let (message, segment_count) = full_message(symbol_size);
        let segment_size = u16::try_from(message.segment_size).expect("a datagram");
        let cut = [ControlMessage::UdpGsoSegments(&segment_size)];
        let mut sent = 0;
        while sent < count {
            let mut parts = Vec::with_capacity(2 * segment_count);
            for header in self.buffer.chunks_exact(HEADER_SIZE).take(segment_count) {
                memory::prefetch(content.symbol(*next, symbol_size));
                parts.extend([IoSlice::new(header), IoSlice::new(content.symbol(*next, symbol_size))]);
                *next += 1;
            }
            sendmsg::<()>(self.socket.as_raw_fd(), &parts, &cut, MsgFlags::empty(), None)?;
            sent += segment_count as u64;
        }
        Ok(sent)
    }
}

/// As many datagrams with symbols of so many bytes as one message holds, and their number.
fn full_message(symbol_size: usize) -> (Message, usize) {
    let segment_size = HEADER_SIZE + symbol_size;
    let segment_count = GSO_MESSAGE_SIZE_MAX / segment_size;
    let size = segment_count * segment_size;
    (Message { start: 0, size, segment_size, memory: Memory::Buffer }, segment_count)
}

/// A mapped file with what is needed to send it.
#[derive(Debug)]
pub struct Object {
    content: SourceMap,
    tree: Arc<ObjectTree>,
    manifest_text: Vec<u8>,
}

impl Object {
    /// # Errors
    /// If the file cannot be read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = SourceFile::open(path)?;
        let content = file.map()?;
        let blocks = || (0..).map(BlockIndex).zip(content.chunks(BLOCK_SIZE as usize));
        let values = blocks().map(|(block, bytes)| block_value(file.size(), block, bytes)).collect::<Vec<_>>();
        let zero = blocks().zip(&values).map(|((block, _), value)| *value == zero_block_value(file.size(), block));
        let zero = zero.collect();
        let tree = Arc::new(ObjectTree::new(file.size(), values, zero));
        let manifest = serve::manifest_members(&file, path, &tree).manifest().map_err(|refusal| {
            Failure::new(Exit::BadData, format!("describe {}", path.display()), refusal.to_string())
        })?;
        Ok(Self { manifest_text: manifest.to_text().into_bytes(), content, tree })
    }

    /// Symbol `number` of an endless object.
    fn symbol(&self, number: usize, size: usize) -> &[u8] {
        let start = number % (self.content.len() / size) * size;
        &self.content[start..start + size]
    }

    /// The bytes.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// A machine that sends it in symbols of [`SYMBOL_SIZE`] bytes.
    ///
    /// # Panics
    /// If it is so large that the proofs of its blocks do not fit a packet.
    #[must_use]
    pub fn sender(&self, pacing: Pacing, fec: Fec) -> Sender {
        let config = SenderConfig {
            symbol_size: SymbolSize::new(SYMBOL_SIZE).expect("a symbol size"),
            payload_size_max: u32::from(SYMBOL_SIZE),
            ip_overhead: 28,
            pacing,
            start_ppm: 0,
            fec,
            passes: None,
            manifest_text: self.manifest_text.clone(),
            manifest_signature: Vec::new(),
        };
        Sender::new(Arc::clone(&self.tree), &config).expect("every packet fits 1500 bytes")
    }
}

/// How to send an object.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// By which engine.
    pub engine: EngineChoice,
    /// How fast.
    pub pacing: Pacing,
    /// How many repair symbols, in percent, and in which order all goes.
    pub fec: Fec,
    /// On, or else off.
    pub image: ImageChoice,
    /// Whether the hashes of payloads are remembered, or computed for each packet.
    pub remembers_hashes: bool,
}

/// A virtual server that is run by the calling thread.
#[derive(Debug)]
pub struct OurSender<'a> {
    server: VirtualServer<'a>,
    engine: &'static str,
}

impl OurSender<'_> {
    /// Calls `body` with a virtual server that sends the object of the file at `path`, of which all repair symbols are there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn with<R>(
        way: &Way,
        path: &Path,
        manner: Manner,
        body: impl FnOnce(&mut OurSender<'_>) -> R,
    ) -> Result<R, Failure> {
        let object = Object::open(path)?;
        let sender = object.sender(manner.pacing, manner.fec);
        let count = usize::try_from(sender.carousel().round_length()).expect("the packets of a mapped file");
        let folder = path.parent().unwrap_or(Path::new("."));
        let common = Common {
            content: object.content,
            repair: Repair::new(std::slice::from_ref(&sender), Some(folder.to_owned()))?,
            hashes: if manner.remembers_hashes { Scratch::new(folder, count).ok() } else { None },
            image: OnceLock::new(),
            stop: AtomicBool::new(false),
            start: OnceLock::new(),
        };
        // The threads end when all is computed, and with them the scope.
        std::thread::scope(|scope| common.repair.spawn(scope, &common.content, &common.stop, 0))?;
        clock::set_timer_slack();
        let (published, (events, _inbox)) = (Published::default(), mpsc::channel());
        let socket = way.socket()?;
        let gso = socket.gso();
        if manner.image == ImageChoice::On {
            let image = Image::of_cycle(folder, sender.carousel(), &|| false)?;
            common.image.set(image).expect("it has none yet");
        }
        let line = Line::new(socket, manner.engine, format!("send to {}", way.group))?;
        let engine = line.engine_name();
        let server = VirtualServer::new(sender, line, gso, &common, &published, &events);
        Ok(body(&mut OurSender { server, engine }))
    }

    /// The engine in use.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.engine
    }

    /// Sends at least so many packets, of all kinds, in whole bursts, each with the wait that follows; answers with their number.
    ///
    /// # Errors
    /// If it cannot go on.
    pub fn send_packets(&mut self, count: u64) -> Result<u64, Failure> {
        let before = self.packets();
        while self.packets() - before < count {
            let is_done = self.server.turn().map_err(|trouble| match trouble {
                Trouble::Failed(failure) => failure,
                Trouble::Torn => Failure::new(Exit::Io, "send a file", "it was changed while it was being sent"),
            })?;
            assert!(!is_done, "an endless carousel");
        }
        Ok(self.packets() - before)
    }

    /// Sends for so long without being asked how much: what comes after it is steady.
    ///
    /// # Errors
    /// If it cannot go on.
    pub fn settle(&mut self, time: Duration) -> Result<(), Failure> {
        let end = clock::now().after(time);
        while clock::now() < end {
            self.send_packets(1)?;
        }
        Ok(())
    }

    /// The packets of one pass over the object.
    #[must_use]
    pub fn round_length(&self) -> u64 {
        self.server.sender().carousel().round_length()
    }

    /// The time for which it was held up beyond what it could catch up: the machine had no time for it.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.server.sender().pacer().lost()
    }

    fn packets(&self) -> u64 {
        let counts = self.server.sender().counts();
        counts.data + counts.manifest + counts.hashes
    }
}

/// The packets of some passes, in the order in which a server sends them.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
    size: u64,
}

impl Recording {
    /// Records the packets of one pass over the file at `path`, of all kinds, in their order; repair symbols are left out.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_one_pass(path: &Path, fec: Fec) -> Result<Self, Failure> {
        let object = Object::open(path)?;
        let mut sender = object.sender(Pacing::Unpaced, fec);
        let mut recording = Self { bytes: Vec::new(), ends: Vec::new(), size: object.tree.size().bytes() };
        // Time goes on, so that there are manifests among them.
        let mut now = Time::from_nanos(0);
        let content: &[u8] = &object.content;
        let (layout, block_count) = (*sender.carousel().layout(), object.tree.size().block_count());
        let sent = (0..block_count).map(BlockIndex).filter(|&block| !object.tree.is_zero(block));
        let mut left: u64 = sent.map(|block| u64::from(layout.source_symbol_count(block))).sum();
        while left > 0 {
            now = now.after(Duration::from_micros(1));
            let Step::Send(outgoing) = sender.poll(now) else { panic!("an unpaced sender always has a packet") };
            if let Outgoing::Data { block, esi, .. } = outgoing {
                if esi.0 >= layout.source_symbol_count(block) {
                    continue;
                }
                // A round has every symbol once.
                left -= 1;
            }
            let start = recording.bytes.len();
            recording.bytes.resize(start + sender.packet_size(&outgoing), 0);
            sender.compose(&outgoing, content, &[], &mut recording.bytes[start..]);
            recording.ends.push(recording.bytes.len());
        }
        Ok(recording)
    }

    /// How many packets there are.
    #[must_use]
    pub fn packet_count(&self) -> usize {
        self.ends.len()
    }

    /// The size of the object in bytes.
    #[must_use]
    pub fn object_size(&self) -> u64 {
        self.size
    }

    /// The packets with their sender, as the kernel would hand them over.
    pub(super) fn batches(&self) -> impl Iterator<Item = impl Iterator<Item = Train<'_>>> {
        let starts = (0..self.ends.len()).step_by(BATCH_DATAGRAM_COUNT);
        starts.map(move |first| {
            let (mut next, end) = (first, self.ends.len().min(first + BATCH_DATAGRAM_COUNT));
            std::iter::from_fn(move || {
                let train = (next < end).then(|| self.train(next, end.min(next + SEGMENT_COUNT)))?;
                next += train.datagrams().count();
                Some(train)
            })
        })
    }

    /// The packets from index `first` on, but not beyond `end`, that come in one buffer: those of equal size, and a shorter one.
    fn train(&self, first: usize, end: usize) -> Train<'_> {
        let start = |index: usize| if index == 0 { 0 } else { self.ends[index - 1] };
        let size = |index: usize| self.ends[index] - start(index);
        let equal = (first..end).take_while(|&index| size(index) == size(first)).count();
        let behind = first + equal;
        let has_shorter = behind < end && size(behind) < size(first);
        let bytes = &self.bytes[start(first)..self.ends[behind - 1 + usize::from(has_shorter)]];
        Train::new(SocketAddr::from(([192, 0, 2, 1], 4000)), bytes, size(first))
    }
}

/// How fast a fast replay's packets come: more than it takes for blocks to be put together.
const REPLAY_RATE_BPS_FAST: u64 = 10_000_000_000;

/// Where a replay puts the symbols.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Into memory, one by one.
    Memory,
    /// Into a file in this folder, run by run, as the program does it while they come slowly or out of order.
    Runs(&'a Path),
    /// Into a file in this folder, by whole blocks that are put together, hashed and written, as the program does it while they come
    /// fast and in order; but all by one thread.
    Blocks(&'a Path),
}

#[derive(Debug)]
enum Sink {
    Memory(Vec<u8>),
    Runs(Target),
    Blocks(Target),
}

/// The receiver's machine with a sink.
#[derive(Debug)]
pub struct Replay {
    receiver: Receiver,
    sink: Sink,
    memory: runs::Memory,
    now: Time,
    blocks: u64,
}

impl Replay {
    /// A receiver that has accepted the recording's manifest.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(recording: &Recording, place: Place<'_>) -> Result<Self, Failure> {
        let now = Time::from_nanos(1);
        let config = ReceiverConfig { size_max: u64::MAX, timeout: None, idle_timeout: None, decode: true };
        let mut receiver = Receiver::new(now, config);
        let first = recording.train(0, 1);
        for manifest in first.datagrams() {
            let _ = receiver.handle_datagram(now, first.from, manifest);
        }
        let Some(Action::Prepare { manifest, word_count, .. }) = receiver.poll_action() else {
            panic!("a recording begins with the manifest")
        };
        let size = manifest.size.bytes();
        let target = |folder: &Path| {
            Target::create(&folder.join("replay"), size, &manifest.key().id.to_string()).map(|created| created.target)
        };
        let sink = match place {
            // Not zeroes: those pages would come only when they are written to.
            Place::Memory => Sink::Memory(vec![1; usize::try_from(size).expect("an object that was in memory")]),
            Place::Runs(folder) => Sink::Runs(target(folder)?),
            Place::Blocks(folder) => Sink::Blocks(target(folder)?),
        };
        let _ = receiver.handle_prepared(now, false, plain_memory(word_count));
        let mut replay = Self { receiver, sink, memory: runs::Memory::default(), now, blocks: 0 };
        if let Place::Blocks(_) = place {
            // As if packets had come as fast before.
            replay.memory.assembly.tick(now);
            replay.memory.assembly.note(BLOCK_SIZE);
            replay.now = now.after(PATIENCE);
            replay.memory.assembly.tick(replay.now);
        }
        Ok(replay)
    }

    /// Takes every packet; answers with the bytes of the symbols that were stored.
    ///
    /// # Errors
    /// What the kernel says of a write.
    pub fn take_all(&mut self, recording: &Recording) -> io::Result<u64> {
        self.take_batches(recording, 0, usize::MAX)
    }

    /// The same with `count` batches from `first` on.
    ///
    /// # Errors
    /// What the kernel says of a write.
    pub fn take_batches(&mut self, recording: &Recording, first: usize, count: usize) -> io::Result<u64> {
        for batch in recording.batches().skip(first).take(count) {
            let now = self.now;
            match &mut self.sink {
                Sink::Runs(target) => runs::take(&mut self.receiver, Some(target), &mut self.memory, now, batch)?,
                Sink::Blocks(target) => {
                    let mut size = 0;
                    let batch = batch.inspect(|train| size += train.datagrams().map(<[u8]>::len).sum::<usize>());
                    runs::take(&mut self.receiver, Some(target), &mut self.memory, now, batch)?;
                    self.now = now.after(Duration::from_nanos(8 * 1_000_000_000 * size as u64 / REPLAY_RATE_BPS_FAST));
                    self.memory.assembly.tick(self.now);
                    self.store_blocks()?;
                }
                Sink::Memory(memory) => batch.for_each(|train| {
                    for datagram in train.datagrams() {
                        let verdict = self.receiver.handle_datagram(now, train.from, datagram);
                        let Verdict::Store(store) = verdict else { continue };
                        let start = usize::try_from(store.offset).expect("an object in memory");
                        memory[start..start + usize::from(store.size)].copy_from_slice(&datagram[HEADER_SIZE..]);
                        self.receiver.handle_stored(&[store]);
                    }
                }),
            }
        }
        Ok(self.receiver.progress().held)
    }

    /// Whole blocks that were put together, hashed and written.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.blocks
    }

    /// Hashes and writes what has been put together, as the threads that verify do.
    fn store_blocks(&mut self) -> io::Result<()> {
        let Sink::Blocks(target) = &self.sink else { return Ok(()) };
        while let Some(assembled) = self.memory.assembly.next() {
            let value = workers::hash(target, &assembled);
            workers::write(target, &assembled)?;
            self.receiver.handle_stored(&assembled.stores);
            if let Some(value) = value
                && self.receiver.take_hash_work(assembled.block)
            {
                self.receiver.handle_hashed(self.now, assembled.block, Some(value));
                self.blocks += 1;
            }
            self.memory.assembly.reuse(assembled);
        }
        Ok(())
    }
}
