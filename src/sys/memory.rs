//! How much memory the machine has left.

/// Bytes that programs can still take without swapping, as far as the kernel knows (MemAvailable of proc(5)); `None` where it does
/// not tell.
#[must_use]
pub fn available() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes of a line of the cache, on the processors that matter here.
const CACHE_LINE_SIZE: usize = 64;

/// Asks the processor to bring `bytes` near, and waits for nothing: a copy that follows soon then does not wait for memory.
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(CACHE_LINE_SIZE) {
        prefetch_line(line);
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch_line(line: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86-64, and a prefetch reads nothing that the program sees, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_line: &[u8]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(parse("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(parse("MemTotal: 9 kB\n"), None);
        assert!(available().is_none_or(|bytes| bytes > 0));
    }
}
