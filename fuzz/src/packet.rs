//! Datagrams: what is accepted is written back as it was, but for what receivers are told to ignore.

use iotupd::limits::HEADER_SIZE;
use iotupd::wire::{HashesPayload, Header, ManifestPayload, Packet, emit_manifest, manifest_size, parse, seal};

/// Bit 3 of the byte of code and size tag (section 3).
const RESERVED_IN_HEADER: (usize, u8) = (5, 0b1000);
/// The least description (section 5.1), and the bytes in it for each channel.
const DESCRIPTION_SIZE: usize = 8;
const CHANNEL_SIZE: usize = 32;

/// The bytes as a datagram, and once more with the checksum that makes it one of ours.
pub fn packet(bytes: &[u8]) {
    check(bytes);
    if bytes.len() >= HEADER_SIZE {
        let mut sealed = bytes.to_vec();
        seal(&mut sealed);
        check(&sealed);
    }
}

fn check(datagram: &[u8]) {
    let Ok((header, packet)) = parse(datagram) else { return };
    let again = emit(&header, &packet, datagram);
    assert_eq!(parse(&again), Ok((header, packet.clone())), "it reads back as it was");
    let without_ignored = without_ignored(datagram, &packet);
    assert_eq!(again, without_ignored, "what was accepted has one form");
}

fn emit(header: &Header, packet: &Packet<'_>, datagram: &[u8]) -> Vec<u8> {
    let mut again = vec![0; HEADER_SIZE];
    header.emit(again.first_chunk_mut().expect("room for a header"));
    match packet {
        Packet::Data(payload) => again.extend_from_slice(payload),
        Packet::Manifest(manifest) => emit_payload(manifest, &mut again),
        Packet::Hashes(hashes) => emit_hashes(hashes, datagram, &mut again),
    }
    seal(&mut again);
    again
}

fn emit_payload(manifest: &ManifestPayload<'_>, out: &mut Vec<u8>) {
    out.resize(HEADER_SIZE + manifest_size(manifest), 0);
    emit_manifest(&mut out[HEADER_SIZE..], manifest);
}

/// The path is not to be had from what was parsed: it is taken from the datagram.
fn emit_hashes(hashes: &HashesPayload<'_>, datagram: &[u8], out: &mut Vec<u8>) {
    let path = &datagram[HEADER_SIZE + 8 + 32 * hashes.group.len()..];
    let path: Vec<_> = path.as_chunks::<32>().0.iter().map(|value| iotupd::types::Digest(*value)).collect();
    assert_eq!(path.len(), hashes.group.path().count(), "the path has the length that follows from the group");
    let blocks = (0..).zip(hashes.values()).map(|(index, value)| (value, hashes.claims_zero(index)));
    out.resize(HEADER_SIZE + iotupd::wire::hashes_size(&hashes.group), 0);
    iotupd::wire::emit_hashes(&mut out[HEADER_SIZE..], &hashes.group, blocks, path.into_iter());
}

/// The datagram without what receivers must ignore (sections 3, 5.1 and 6).
fn without_ignored(datagram: &[u8], packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = datagram.to_vec();
    bytes[RESERVED_IN_HEADER.0] &= !RESERVED_IN_HEADER.1;
    let payload = HEADER_SIZE;
    match packet {
        Packet::Data(_) => {}
        Packet::Manifest(manifest) => {
            let size = usize::from(u16::from_be_bytes([bytes[payload], bytes[payload + 1]]));
            let known = DESCRIPTION_SIZE + CHANNEL_SIZE * manifest.description.channels().len();
            bytes.drain(payload + 8 + known..payload + 8 + size);
            let known = u16::try_from(known).expect("at most eight channels");
            bytes[payload..payload + 2].copy_from_slice(&known.to_be_bytes());
            bytes[payload + 6..payload + 8].fill(0);
            bytes[payload + 14..payload + 16].fill(0);
        }
        Packet::Hashes(_) => {
            bytes[payload + 3] = 0;
            bytes[payload + 6..payload + 8].fill(0);
        }
    }
    seal(&mut bytes);
    bytes
}
