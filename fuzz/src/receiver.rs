//! The receiver with a disk and hostile company: it never panics, never calls wrong bytes right, and ends when it is left in peace.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use iotupd::fec::Encoder;
use iotupd::limits::{BLOCK_SIZE, HEADER_SIZE};
use iotupd::manifest::{DisplayName, Members};
use iotupd::object::{Group, Layout};
use iotupd::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig};
use iotupd::types::{BlockIndex, Esi, Position, SymbolSize};
use iotupd::wire::seal;

use super::input::Input;
use super::sink::{End, Sink, tree_of};

/// Sizes of the objects: of one short block, of one symbol, of a zero block and a short one.
const SIZES: [usize; 3] = [20 * 1024 + 77, 300, BLOCK_SIZE as usize + 5000];
const SYMBOL_SIZE: u16 = 1408;
/// Another session of the same object.
const OTHER_SYMBOL_SIZE: u16 = 512;
const REPAIR_PERCENT: u16 = 50;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// A receiver that is left in peace must be done within so many rounds, each of which takes a second, and so many times the bytes of the
/// object: by these the receiver measures its patience with streams and descriptions, and a round of a sparse object is a small part
/// of them.
const ROUND_COUNT_MAX: usize = 200;
const PASS_COUNT_MAX: usize = 16;

/// All packets of one object in one session.
struct Session {
    manifest: Vec<u8>,
    hashes: Option<Vec<u8>>,
    /// Source and repair symbols of all blocks that are sent.
    symbols: Vec<Vec<u8>>,
}

struct Object {
    bytes: Vec<u8>,
    sessions: [Session; 2],
}

fn objects() -> &'static [Object] {
    static OBJECTS: OnceLock<Vec<Object>> = OnceLock::new();
    OBJECTS.get_or_init(|| SIZES.into_iter().map(object).collect())
}

fn object(size: usize) -> Object {
    // The first block of an object of two is all zeroes: it need not be sent.
    let is_zero = |index: usize| size > BLOCK_SIZE as usize && index < BLOCK_SIZE as usize;
    let byte = |index: usize| if is_zero(index) { 0 } else { (index * 31 + index / 253) as u8 };
    let bytes: Vec<u8> = (0..size).map(byte).collect();
    let sessions = [SYMBOL_SIZE, OTHER_SYMBOL_SIZE].map(|symbol_size| session(&bytes, symbol_size));
    Object { bytes, sessions }
}

fn session(bytes: &[u8], symbol_size: u16) -> Session {
    let tree = Arc::new(tree_of(bytes));
    let members = Members::new(tree.digest(), tree.size(), DisplayName::new("object").expect("a name"));
    let config = SenderConfig {
        symbol_size: SymbolSize::new(symbol_size).expect("an allowed size"),
        payload_size_max: 1428,
        ip_overhead: 28,
        pacing: Pacing::Unpaced,
        start_ppm: 0,
        fec: Fec::OFF,
        passes: None,
        manifest_text: members.manifest().expect("a valid text").to_text().into_bytes(),
        manifest_signature: Vec::new(),
    };
    let sender = Sender::new(Arc::clone(&tree), &config).expect("it can be sent");
    let packet = |outgoing: &Outgoing| {
        let mut packet = vec![0; sender.packet_size(outgoing)];
        sender.compose(outgoing, bytes, &[], &mut packet);
        packet
    };
    let group = Group::new(tree.size().block_count(), BlockIndex(0), 4);
    let data = (0..sender.carousel().round_length()).map(|position| {
        let (block, esi) = sender.carousel().symbol_at(position);
        packet(&Outgoing::Data { position: Position::new(position).expect("a small object"), block, esi })
    });
    let mut symbols: Vec<Vec<u8>> = data.collect();
    symbols.extend(repair_symbols(bytes, sender.carousel().layout(), &symbols));
    Session {
        manifest: packet(&Outgoing::Manifest),
        hashes: group.map(|group| packet(&Outgoing::Hashes(group))),
        symbols,
    }
}

/// The repair symbols of the last block, made from its source symbols' packets.
fn repair_symbols(bytes: &[u8], layout: &Layout, sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let block = BlockIndex(layout.block_count() - 1);
    let source = &bytes[usize::try_from(block.offset()).expect("a small object")..];
    let count = layout.repair_symbol_count(block, REPAIR_PERCENT);
    let size = usize::from(layout.shard_size(block));
    let mut repair = vec![0; usize::from(count) * size];
    Encoder::new().encode(layout, block, source, count, &mut repair);
    let head = &sent.last().expect("something is sent")[..HEADER_SIZE];
    let numbered = (layout.source_symbol_count(block)..).map(Esi).zip(repair.chunks(size));
    let packet = |(esi, payload): (Esi, &[u8])| {
        let mut packet = head.to_vec();
        packet[30..32].copy_from_slice(&esi.0.to_be_bytes());
        packet.extend_from_slice(payload);
        seal(&mut packet);
        packet
    };
    numbered.map(packet).collect()
}

fn addr(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number % 3], 4000))
}

/// Any sequence of datagrams, true, changed and forged, of time that passes, of completions and failures, and of kills.
pub fn receiver(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let object = &objects()[input.below(objects().len())];
    let mut sink = Sink::new();
    while !input.is_empty() && !sink.is_complete {
        step(&mut input, object, &mut sink);
    }
    leave_in_peace(object, &mut sink);
}

fn step(input: &mut Input<'_>, object: &Object, sink: &mut Sink) {
    let session = &object.sessions[usize::from(input.u8() & 1)];
    let from = addr(input.u8());
    match input.u8() % 16 {
        0 => sink.datagram(from, &session.manifest),
        1 => session.hashes.iter().for_each(|hashes| sink.datagram(from, hashes)),
        2..=3 => sink.datagram(from, &session.symbols[input.below(session.symbols.len())]),
        4 => {
            // A run of symbols, and all that they lead to.
            let (first, count) = (input.below(session.symbols.len()), usize::from(input.u8()));
            session.symbols.iter().skip(first).take(count).for_each(|symbol| sink.datagram(from, symbol));
        }
        5 => {
            let mut forged = session.symbols[input.below(session.symbols.len())].clone();
            let at = HEADER_SIZE + input.below(forged.len() - HEADER_SIZE);
            forged[at] ^= input.u8() | 1;
            seal(&mut forged);
            sink.datagram(from, &forged);
        }
        6 => {
            let changed = changed(input, session);
            sink.datagram(from, &changed);
        }
        7 => {
            let count = input.below(1600);
            let mut any = input.take(count).to_vec();
            if any.len() >= HEADER_SIZE {
                seal(&mut any);
            }
            sink.datagram(from, &any);
        }
        8 => sink.answer(),
        9 => sink.end_store(input.below(64), if input.u8() < 200 { End::Done } else { End::Failed }),
        10 => sink.end_work(input.below(8), if input.u8() < 200 { End::Done } else { End::Failed }),
        11 => sink.pass_time(u64::from(input.u16()) * 1_000_000),
        12 => sink.receiver.handle_host_drops(u64::from(input.u8())),
        13 => sink.restart(input.below(1500)),
        14 => sink.spoil_map(input.below(4096), input.u32()),
        _ => sink.run(),
    }
}

/// A true packet with a few bytes changed, and a right checksum.
fn changed(input: &mut Input<'_>, session: &Session) -> Vec<u8> {
    let mut packet = match input.u8() % 3 {
        0 => session.manifest.clone(),
        1 => session.hashes.as_ref().unwrap_or(&session.manifest).clone(),
        _ => session.symbols[input.below(session.symbols.len())].clone(),
    };
    for _ in 0..=input.u8() % 4 {
        let at = input.below(packet.len());
        packet[at] ^= input.u8();
    }
    seal(&mut packet);
    packet
}

/// All lies have ended, and the object is sent round after round: unless another was accepted, the receiver completes it.
fn leave_in_peace(object: &Object, sink: &mut Sink) {
    let session = &object.sessions[0];
    let round_size: usize = session.symbols.iter().map(Vec::len).sum();
    let round_count = ROUND_COUNT_MAX + PASS_COUNT_MAX * object.bytes.len() / round_size;
    for _ in 0..round_count {
        if sink.is_complete || sink.has_given_up {
            return;
        }
        if let Some(manifest) = sink.receiver.manifest()
            && (manifest.size.bytes() != object.bytes.len() as u64 || !is_of(object, sink))
        {
            // The first manifest decides, and nobody has vouched for any.
            return;
        }
        sink.pass_time(NANOS_PER_SECOND);
        sink.datagram(addr(0), &session.manifest);
        sink.run();
        session.hashes.iter().for_each(|hashes| sink.datagram(addr(0), hashes));
        for symbol in &session.symbols {
            sink.datagram(addr(0), symbol);
            sink.run();
        }
    }
    let (progress, counts) = (sink.receiver.progress(), sink.receiver.counts());
    panic!("not complete after {round_count} rounds in peace: {progress:?}, {counts:?}, {:?}", sink.receiver.senders());
}

/// Whether the accepted manifest has the object's id, by which packets are told apart.
fn is_of(object: &Object, sink: &Sink) -> bool {
    let id = &object.sessions[0].manifest[12..24];
    sink.receiver.manifest().is_some_and(|manifest| manifest.key().id.0 == id)
}

/// A slot map that was left behind, with any words in it, beside a file with some bytes that are not what they should be.
pub fn slots(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let object = &objects()[input.below(objects().len())];
    let session = &object.sessions[0];
    let mut sink = Sink::new();
    sink.datagram(addr(0), &session.manifest);
    sink.run();
    // An honest beginning, so that the map's header is right.
    let held = input.below(session.symbols.len());
    let first = input.below(session.symbols.len());
    for symbol in session.symbols.iter().cycle().skip(first).take(held) {
        sink.datagram(addr(0), symbol);
        sink.end_store(0, End::Done);
    }
    for _ in 0..input.u8() {
        let at = input.below(sink.disk.len().min(65_536));
        let last = sink.disk.len() - 1;
        sink.disk[last - at] ^= input.u8();
    }
    while !input.is_empty() {
        // Low indexes are those of the header and the marks.
        let index = if input.u8() < 64 { input.below(24) } else { input.below(4096) };
        let word = match input.u8() % 4 {
            // An entry that could be true: a symbol that exists, with any hash.
            0 => (1 + input.below(session.symbols.len()) as u32) << 16 | u32::from(input.u16()),
            1 => u32::MAX,
            _ => input.u32(),
        };
        sink.spoil_map(index, word);
    }
    sink.restart(0);
    leave_in_peace(object, &mut sink);
}
