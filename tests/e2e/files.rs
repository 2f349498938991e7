//! The files that are sent, and whether two files are the same.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::lab::Lab;

pub(crate) const MIB: u64 = 1 << 20;
const PIECE_SIZE: usize = 1 << 18;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// So many bytes that look like noise; the seed makes them different from another file's.
    Random { size: u64, seed: u8 },
    /// So many zero bytes that take up room on the disk.
    Zeroes { size: u64 },
    /// A hole of so many bytes with a little noise in `SPARSE_EXTENTS`.
    Sparse { size: u64 },
}

/// Where a sparse file has data: its first byte, within a block, across the edge of two blocks, and its last byte.
fn sparse_extents(size: u64) -> [(u64, u64); 4] {
    [(0, 5_000), (700 * MIB + 123_456, 200_000), (3_000 * MIB - 50_000, 100_000), (size - 70_001, 70_001)]
}

/// The source blocks that have data in a sparse file of any size used here.
pub(crate) const SPARSE_BLOCK_COUNT: u64 = 5;

/// Makes a file in the lab's folder.
pub(crate) fn make(lab: &Lab, name: &str, content: Content) -> PathBuf {
    let path = lab.path(name);
    let file = File::create_new(&path).expect("create the source file");
    match content {
        Content::Random { size, seed } => write_noise(&file, 0, size, seed),
        Content::Zeroes { size } => write_zeroes(&file, size),
        Content::Sparse { size } => {
            file.set_len(size).expect("extend the source file");
            for (offset, length) in sparse_extents(size) {
                write_noise(&file, offset, length, 0);
            }
        }
    }
    path
}

fn write_noise(file: &File, offset: u64, size: u64, seed: u8) {
    let mut noise = blake3::Hasher::new().update(&[seed]).finalize_xof();
    let mut piece = vec![0; PIECE_SIZE];
    let mut done = 0;
    while done < size {
        let length = usize::try_from((size - done).min(PIECE_SIZE as u64)).expect("a piece fits memory");
        noise.fill(&mut piece[..length]);
        file.write_all_at(&piece[..length], offset + done).expect("write the source file");
        done += length as u64;
    }
}

fn write_zeroes(file: &File, size: u64) {
    let piece = vec![0; PIECE_SIZE];
    for offset in (0..size).step_by(PIECE_SIZE) {
        let length = usize::try_from((size - offset).min(PIECE_SIZE as u64)).expect("a piece fits memory");
        file.write_all_at(&piece[..length], offset).expect("write the source file");
    }
}

/// Fails unless both files have the same bytes.
///
/// Holes are compared as holes: only what one of the two has on disk is read.
pub(crate) fn assert_same(copy: &Path, original: &Path) {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let (first, second) = (open(copy), open(original));
    let size = first.metadata().expect("size of the copy").len();
    assert_eq!(size, second.metadata().expect("size of the original").len(), "size of {}", copy.display());
    let (mut ours, mut theirs) = (vec![0; PIECE_SIZE], vec![0; PIECE_SIZE]);
    let mut offset = 0;
    while let Some(start) = next_data(&first, offset).into_iter().chain(next_data(&second, offset)).min() {
        let length = usize::try_from((size - start).min(PIECE_SIZE as u64)).expect("a piece fits memory");
        first.read_exact_at(&mut ours[..length], start).expect("read the copy");
        second.read_exact_at(&mut theirs[..length], start).expect("read the original");
        assert!(ours[..length] == theirs[..length], "{} differs between {start} and {length} on", copy.display());
        offset = start + length as u64;
    }
}

/// The first byte at or after `offset` that is not in a hole.
fn next_data(file: &File, offset: u64) -> Option<u64> {
    let offset = i64::try_from(offset).expect("an offset fits i64");
    match lseek(file.as_fd(), offset, Whence::SeekData) {
        Ok(start) => Some(u64::try_from(start).expect("an offset is not negative")),
        Err(Errno::ENXIO) => None,
        Err(errno) => panic!("look for data at {offset}: {}", io::Error::from(errno)),
    }
}

/// Bytes that the file takes up on disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file exists").blocks() * 512
}
