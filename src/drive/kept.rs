//! Symbols that wait in memory because no slot of their block is free that they fit into: at most one a block, in bounded memory.

use std::collections::BTreeMap;

use crate::limits::KEPT_SIZE_MAX;
use crate::receiver::{Kept, Receiver};

/// The symbols, by block.
#[derive(Debug, Default)]
pub(super) struct KeptSymbols {
    payloads: BTreeMap<Kept, Vec<u8>>,
    size: usize,
    /// Symbols to refuse before it is worth looking again for what is no longer of use.
    refusals_left: usize,
}

impl KeptSymbols {
    /// Keeps a copy of a payload. Whether there is room, after what is no longer of use has been dropped.
    pub(super) fn keep(&mut self, receiver: &Receiver, kept: Kept, payload: &[u8]) -> bool {
        if self.size + payload.len() > KEPT_SIZE_MAX && self.refusals_left == 0 {
            self.payloads.retain(|&old, _| receiver.keeps(old));
            self.size = self.payloads.values().map(Vec::len).sum();
            // So a look costs no more for each packet than the packet itself.
            self.refusals_left = self.payloads.len();
        }
        let has_room = self.size + payload.len() <= KEPT_SIZE_MAX;
        if has_room {
            let replaced = self.payloads.insert(kept, payload.to_vec());
            self.size = self.size + payload.len() - replaced.map_or(0, |old| old.len());
        } else {
            self.refusals_left = self.refusals_left.saturating_sub(1);
        }
        has_room
    }

    /// The payload, which is then no longer here.
    pub(super) fn take(&mut self, kept: Kept) -> Option<Vec<u8>> {
        let payload = self.payloads.remove(&kept)?;
        self.size -= payload.len();
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::ReceiverConfig;
    use crate::types::{BlockIndex, Esi, Time};

    #[test]
    fn memory_is_bounded_and_what_is_of_no_use_makes_room() {
        let config = ReceiverConfig { size_max: 0, timeout: None, idle_timeout: None, decode: true };
        let receiver = Receiver::new(Time::default(), config);
        let mut symbols = KeptSymbols::default();
        let payload = vec![7; 8896];
        for block in 0..2 * (KEPT_SIZE_MAX / payload.len()) {
            let kept = Kept { block: BlockIndex(u32::try_from(block).unwrap()), esi: Esi(1) };
            // A receiver without an object needs none of them.
            assert!(symbols.keep(&receiver, kept, &payload));
            assert!(symbols.size <= KEPT_SIZE_MAX);
            assert_eq!(symbols.size, symbols.payloads.len() * payload.len());
        }
        let mut symbols = KeptSymbols::default();
        let [first, second] = [1, 2].map(|block| Kept { block: BlockIndex(block), esi: Esi(1) });
        assert!(symbols.keep(&receiver, first, &payload) && symbols.keep(&receiver, second, &payload));
        assert!(symbols.keep(&receiver, first, &payload[1..]), "one that comes again replaces the one before");
        assert_eq!((symbols.take(first).unwrap().len(), symbols.size), (8895, 8896));
        assert_eq!(symbols.take(first), None);
        // It has just been looked at, and all were of use.
        (symbols.size, symbols.refusals_left) = (KEPT_SIZE_MAX, 2);
        let kept = [(); 3].map(|()| symbols.keep(&receiver, first, &payload));
        assert_eq!((kept, symbols.size), ([false, false, true], 8896), "not looked at again for each");
        assert!(!symbols.keep(&receiver, first, &vec![0; KEPT_SIZE_MAX + 1]));
    }
}
