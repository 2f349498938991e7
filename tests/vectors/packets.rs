//! Packets from fields, byte by byte as docs/PROTOCOL.md draws them, without the library: it is what is being tested.

use std::net::IpAddr;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::objects::Object;
use super::reed_solomon::{Field, repair_symbols};

#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) magic: u16,
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) channel: u8,
    pub(crate) size_tag: u8,
    pub(crate) reserved: u8,
    pub(crate) code: u8,
    pub(crate) position: u64,
    pub(crate) object_id: [u8; 12],
    pub(crate) object_size: u64,
    pub(crate) esi: u16,
    pub(crate) block: u32,
}

/// A packet before its checksum.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) fields: Fields,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn new(kind: u8, object: &Object, symbol_size: u16, payload: Vec<u8>) -> Self {
        let fields = Fields {
            magic: 0x107D,
            version: 1,
            kind,
            channel: 0,
            size_tag: (symbol_size / 64 % 16) as u8,
            reserved: 0,
            code: 1,
            position: 0,
            object_id: object.id(),
            object_size: object.bytes.len() as u64,
            esi: 0,
            block: 0,
        };
        Self { fields, payload }
    }

    fn head(&self, last: u64) -> Vec<u8> {
        let fields = &self.fields;
        let mut head = Vec::new();
        head.extend(fields.magic.to_be_bytes());
        head.extend([fields.version, fields.kind, fields.channel]);
        head.push(fields.size_tag << 4 | fields.reserved << 3 | fields.code);
        head.extend(u48(fields.position));
        head.extend(fields.object_id);
        head.extend(u48(fields.object_size));
        head.extend(fields.esi.to_be_bytes());
        head.extend(fields.block.to_be_bytes());
        head.extend(last.to_be_bytes());
        head
    }

    pub(crate) fn checksum(&self) -> u64 {
        xxh3_64(&self.head(xxh3_64(&self.payload)))
    }

    pub(crate) fn datagram(&self) -> Vec<u8> {
        self.datagram_with(self.checksum())
    }

    pub(crate) fn datagram_with(&self, checksum: u64) -> Vec<u8> {
        let mut datagram = self.head(checksum);
        datagram.extend(&self.payload);
        datagram
    }

    pub(crate) fn header_json(&self) -> Value {
        let fields = &self.fields;
        json!({
            "magic": fields.magic, "version": fields.version, "kind": fields.kind, "channel": fields.channel,
            "size_tag": fields.size_tag, "reserved": fields.reserved, "code": fields.code, "position": fields.position,
            "object_id": hex(&fields.object_id), "object_size": fields.object_size, "esi": fields.esi,
            "block": fields.block, "checksum": format!("{:016x}", self.checksum()),
        })
    }
}

pub(crate) fn u48(value: u64) -> [u8; 6] {
    let [_, _, rest @ ..] = value.to_be_bytes();
    rest
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data packet of source symbol `esi` of `block`.
pub(crate) fn data(object: &Object, symbol_size: u16, position: u64, block: u32, esi: u16) -> (Packet, Value) {
    let start = (usize::try_from(block).unwrap() << 20) + usize::from(esi) * usize::from(symbol_size);
    let block_end = ((usize::try_from(block).unwrap() + 1) << 20).min(object.bytes.len());
    let end = (start + usize::from(symbol_size)).min(block_end);
    let mut packet = Packet::new(1, object, symbol_size, object.bytes[start..end].to_vec());
    packet.fields = Fields { position, block, esi, ..packet.fields };
    (packet, json!({ "object_offset": start, "size": end - start }))
}

/// The data packet of repair symbol `repair` of `block`.
pub(crate) fn repair(object: &Object, symbol_size: u16, position: u64, block: u32, repair: u16) -> (Packet, Value) {
    let bytes = object.bytes.chunks(1 << 20).nth(usize::try_from(block).unwrap()).unwrap();
    let source_count = u16::try_from(bytes.len().div_ceil(usize::from(symbol_size))).unwrap();
    let symbols = repair_symbols(&Field::new(), bytes, usize::from(symbol_size), &[usize::from(repair)]);
    let mut packet = Packet::new(1, object, symbol_size, symbols.into_iter().next().unwrap());
    packet.fields = Fields { position, block, esi: source_count + repair, ..packet.fields };
    let size = packet.payload.len();
    (packet, json!({ "source_symbols": source_count, "repair_symbol": repair, "size": size }))
}

/// The hashes packet of a group.
pub(crate) fn hashes(object: &Object, symbol_size: u16, first: usize, log2: u8) -> (Packet, Value) {
    let (range, path) = object.group(first, log2);
    let zero_bits = object.zero_blocks.iter().filter(|block| range.contains(block)).map(|block| 1 << (block - first));
    let zero_bits: u16 = zero_bits.sum();
    let values = &object.values[range];
    let mut payload = vec![0, log2, path.len() as u8, 0];
    payload.extend(zero_bits.to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(values.iter().chain(&path).flatten());
    let mut packet = Packet::new(3, object, symbol_size, payload);
    packet.fields.block = u32::try_from(first).unwrap();
    let digests = |digests: &[[u8; 32]]| digests.iter().map(|digest| hex(digest)).collect::<Vec<_>>();
    let meaning = json!({
        "tree": 0, "group_log2": log2, "path_length": path.len(), "zero_bits": zero_bits, "values": digests(values),
        "path": digests(&path),
    });
    (packet, meaning)
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) channel: u8,
    pub(crate) family: u8,
    pub(crate) port: u16,
    pub(crate) cycle_length: u64,
    pub(crate) rate: u64,
    pub(crate) group: [u8; 16],
}

impl Entry {
    /// The channel on which the packet itself comes.
    pub(crate) fn own(channel: u8, cycle_length: u64) -> Self {
        Self { channel, family: 0, port: 0, cycle_length, rate: 0, group: [0; 16] }
    }

    /// Another group.
    pub(crate) fn of(channel: u8, group: &str, port: u16, cycle_length: u64, rate: u64) -> Self {
        let mut octets = [0; 16];
        let family = match group.parse().unwrap() {
            IpAddr::V4(group) => {
                octets[..4].copy_from_slice(&group.octets());
                4
            }
            IpAddr::V6(group) => {
                octets = group.octets();
                6
            }
        };
        Self { channel, family, port, cycle_length, rate, group: octets }
    }
}

/// A manifest packet's payload.
#[derive(Clone)]
pub(crate) struct Manifest {
    pub(crate) symbol_size: u16,
    pub(crate) code: u8,
    pub(crate) percent: u16,
    pub(crate) channels: Vec<Entry>,
    pub(crate) trailing: Vec<u8>,
    pub(crate) text: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Manifest {
    pub(crate) fn new(symbol_size: u16, entry: Entry, text: impl Into<Vec<u8>>) -> Self {
        let channels = vec![entry];
        Self { symbol_size, code: 1, percent: 0, channels, trailing: vec![], text: text.into(), signature: vec![] }
    }

    fn description(&self) -> Vec<u8> {
        let mut bytes = self.symbol_size.to_be_bytes().to_vec();
        bytes.extend([self.code, u8::try_from(self.channels.len()).unwrap()]);
        bytes.extend(self.percent.to_be_bytes());
        bytes.extend([0, 0]);
        for entry in &self.channels {
            bytes.extend([entry.channel, entry.family]);
            bytes.extend(entry.port.to_be_bytes());
            bytes.extend(u48(entry.cycle_length));
            bytes.extend(u48(entry.rate));
            bytes.extend(entry.group);
        }
        bytes.extend(&self.trailing);
        bytes
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let description = self.description();
        let mut payload = Vec::new();
        for part in [&description, &self.text, &self.signature] {
            payload.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        }
        payload.extend([0, 0]);
        payload.extend(description.iter().chain(&self.text).chain(&self.signature));
        payload
    }

    pub(crate) fn packet(&self, object: &Object) -> Packet {
        Packet::new(2, object, self.symbol_size, self.payload())
    }

    pub(crate) fn json(&self) -> Value {
        let channel = |entry: &Entry| {
            json!({
                "channel": entry.channel, "family": entry.family, "port": entry.port,
                "cycle_length": entry.cycle_length, "rate": entry.rate, "group": hex(&entry.group),
            })
        };
        json!({
            "description_size": self.description().len(), "text_size": self.text.len(),
            "signature_size": self.signature.len(),
            "description": {
                "symbol_size": self.symbol_size, "code": self.code, "repair_percent": self.percent,
                "channels": self.channels.iter().map(channel).collect::<Vec<_>>(), "trailing": hex(&self.trailing),
            },
            "text": String::from_utf8_lossy(&self.text), "signature": hex(&self.signature),
        })
    }
}

/// The members every text has, and others in front of or behind them (`"member":value,` and `,"member":value`).
pub(crate) fn text(object: &Object, before: &str, between: &str, behind: &str) -> String {
    let (digest, name, size) = (hex(&object.digest), object.name, object.bytes.len());
    format!("{{{before}\"blake3\":\"{digest}\"{between},\"name\":\"{name}.bin\",\"size\":{size}{behind}}}")
}
