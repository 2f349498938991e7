//! Hashes packets: what is proved is true.

use std::sync::OnceLock;

use iotupd::digest::ObjectTree;
use iotupd::limits::{BLOCK_SIZE, GROUP_LOG2_MAX, HEADER_SIZE};
use iotupd::object::Group;
use iotupd::types::{BlockIndex, ChannelId, CodeId, Digest, Esi, ObjectKey, ObjectSize, Position, SymbolSize};
use iotupd::wire::{Header, Kind, Packet, emit_hashes, hashes_size, parse, seal};

use super::input::Input;

/// Blocks of the objects: about the edges at which the form of a tree changes.
const BLOCK_COUNTS: [u32; 8] = [2, 3, 5, 16, 17, 33, 100, 1025];

fn trees() -> &'static [ObjectTree] {
    static TREES: OnceLock<Vec<ObjectTree>> = OnceLock::new();
    TREES.get_or_init(|| BLOCK_COUNTS.into_iter().map(tree).collect())
}

/// Any values make a tree; those of real blocks would take time.
fn tree(block_count: u32) -> ObjectTree {
    let size = ObjectSize::new((u64::from(block_count) - 1) * BLOCK_SIZE + 700).expect("a small object");
    let value = |block: u32| {
        let mut value = [0x5A; 32];
        value[..4].copy_from_slice(&block.to_be_bytes());
        Digest(value)
    };
    let zero = (0..block_count).map(|block| block % 3 == 1).collect();
    ObjectTree::new(size, (0..block_count).map(value).collect(), zero)
}

/// A true packet of an object, changed as the bytes say: at a place, by a mask, so often as there are bytes.
pub fn proofs(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let tree = &trees()[input.below(BLOCK_COUNTS.len())];
    let log2 = input.u8() % (GROUP_LOG2_MAX + 1);
    let block = u32::from(input.u16()) % tree.size().block_count();
    let first = BlockIndex(block >> log2 << log2);
    let Some(group) = Group::new(tree.size().block_count(), first, log2) else { return };
    let mut packet = true_packet(tree, &group);
    assert!(is_proved(&packet, tree), "a true packet is believed");
    while !input.is_empty() {
        let (at, mask) = (input.below(packet.len() + 64), input.u8());
        match packet.get_mut(at) {
            Some(byte) => *byte ^= mask,
            // Beyond its end: shorter or longer.
            None if mask < 128 => packet.truncate(packet.len().saturating_sub(usize::from(mask)).max(HEADER_SIZE)),
            None => packet.extend(std::iter::repeat_n(mask, usize::from(mask))),
        }
    }
    seal(&mut packet);
    let _ = is_proved(&packet, tree);
}

fn true_packet(tree: &ObjectTree, group: &Group) -> Vec<u8> {
    let symbol_size = SymbolSize::new(1408).expect("an allowed size");
    let header = Header {
        kind: Kind::Hashes,
        channel: ChannelId(0),
        code: CodeId::REED_SOLOMON,
        size_tag: symbol_size.tag(),
        position: Position::ZERO,
        key: ObjectKey { id: tree.digest().object_id(), size: tree.size() },
        esi: Esi(0),
        block: group.first(),
    };
    let mut packet = vec![0; HEADER_SIZE + hashes_size(group)];
    header.emit(packet.first_chunk_mut().expect("room for a header"));
    let blocks = group.blocks().map(|block| (tree.values()[block as usize], tree.is_zero(BlockIndex(block))));
    emit_hashes(&mut packet[HEADER_SIZE..], group, blocks, tree.path(group));
    seal(&mut packet);
    packet
}

/// Whether the datagram is proved by the object's digest; if so, all it says of blocks is true.
fn is_proved(datagram: &[u8], tree: &ObjectTree) -> bool {
    let Ok((header, Packet::Hashes(hashes))) = parse(datagram) else { return false };
    // The receiver asks no proof of packets of other objects.
    if header.key.size != tree.size() || !hashes.is_proved_by(&tree.digest()) {
        return false;
    }
    let values = hashes.group.blocks().map(|block| tree.values()[block as usize]);
    assert!(hashes.values().eq(values), "a false value is proved");
    true
}
