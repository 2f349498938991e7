//! Numbers that nobody can guess.

use std::io;

/// So many bytes of the kernel's random number generator (getrandom(2)).
///
/// # Errors
/// What the kernel says; it knows no reason to once it has started.
pub fn bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    // Longer requests may be cut short by a signal.
    const { assert!(COUNT <= 256) };
    let mut bytes = [0; COUNT];
    // SAFETY: the pointer and size are those of an array that outlives the call.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), COUNT, 0) };
    match usize::try_from(filled) {
        Ok(filled) if filled == COUNT => Ok(bytes),
        Ok(_) => Err(io::Error::other("fewer random bytes than asked for")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ_from_call_to_call() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
    }
}
