//! The digest of a file by all cores, and a cache of it, so that a server starts at once with a file that it has seen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::end;
use super::report::{self, Report, Standing};
use crate::digest::{ObjectTree, block_value, zero_block_value};
use crate::failure::{Exit, Failure, describe, shown};
use crate::limits::BLOCK_SIZE;
use crate::object::block_size;
use crate::sys::{FileIdentity, SourceFile, clock, signals};
use crate::types::{BlockIndex, Digest, ObjectSize};

/// The first bytes of a cache file; the last digit is the version of its form.
const CACHE_MAGIC: &[u8; 8] = b"iotupdg1";
/// A file younger than this may change again without a new time stamp: its digest is not cached.
const SETTLED: Duration = Duration::from_secs(2);
/// Between two looks at progress and signals.
const POLL: Duration = Duration::from_millis(50);

/// Where digests are cached.
#[derive(Clone, Debug, Default)]
pub struct CacheFolder {
    /// The folder; `None`: nowhere.
    pub folder: Option<PathBuf>,
    /// The user named it, and is told if it cannot be used.
    pub is_asked_for: bool,
}

/// The tree over `file`, from the cache or by reading the file.
pub fn tree(
    file: &SourceFile,
    path: &Path,
    cache_folder: &CacheFolder,
    report: &mut Report,
) -> Result<ObjectTree, Failure> {
    // What shows no changes cannot be recognised.
    let folder = cache_folder.folder.as_ref().filter(|_| file.shows_changes());
    let cache = folder.map(|folder| Cache::new(folder, file.identity()));
    // From before reading on: a second change within one tick of the file system's clock must not go unnoticed.
    let now = i128::from(clock::unix_seconds()) * 1_000_000_000;
    if let Some(tree) = cache.as_ref().and_then(|cache| cache.load(file.size())) {
        return Ok(tree);
    }
    let tree = read(file, path, report)?;
    let settled = now - file.identity().mtime_ns.max(file.identity().ctime_ns) > SETTLED.as_nanos() as i128;
    if settled && let Some(cache) = cache {
        // A cache that cannot be written costs the next start some time and nothing else.
        if let Err(error) = cache.save(&tree)
            && cache_folder.is_asked_for
        {
            let text = format!("cannot keep the digest in {}: {}", shown(&cache.path), describe(&error));
            report.notice("warning", &text);
        }
    }
    Ok(tree)
}

/// Where digests are cached if the user names no folder: what systemd gives, else the user's cache folder.
#[must_use]
pub fn default_cache_dir() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("CACHE_DIRECTORY")
        .or_else(|| folder("XDG_CACHE_HOME").map(|base| base.join("iotupd")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache").join("iotupd")))
}

/// What all threads of one reading share.
struct Reading<'a> {
    file: &'a SourceFile,
    next: AtomicU32,
    done_bytes: AtomicU64,
    stop: AtomicBool,
    found: Mutex<BTreeMap<u32, (Digest, bool)>>,
    error: Mutex<Option<io::Error>>,
}

fn read(file: &SourceFile, path: &Path, report: &mut Report) -> Result<ObjectTree, Failure> {
    let size = file.size();
    let reading = Reading {
        file,
        next: AtomicU32::new(0),
        done_bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        found: Mutex::default(),
        error: Mutex::default(),
    };
    report.restart(clock::now());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let what = format!("read {}", shown(path));
    let stopped_by = thread::scope(|scope| {
        let readers: Vec<_> = (0..cores).map(|_| scope.spawn(|| reading.run())).collect();
        while !readers.iter().all(thread::ScopedJoinHandle::is_finished) {
            if let Some(signal) = signals::pending() {
                reading.stop.store(true, Ordering::Relaxed);
                return Some(signal);
            }
            show(report, reading.done_bytes.load(Ordering::Relaxed), size);
            clock::sleep_until(clock::now().after(POLL));
        }
        None
    });
    report.clear();
    if let Some(signal) = stopped_by {
        return Err(end::interrupted(&what, signal));
    }
    if let Some(error) = reading.error.into_inner().expect("no reader panics") {
        return Err(Failure::io(Exit::NoInput, what, &error));
    }
    if !file.identity_now().is_ok_and(|now| now.same_content(file.identity())) {
        let failure = Failure::new(Exit::Io, what, "it was changed while it was being read");
        return Err(failure.remedy("start again when it is complete"));
    }
    let found = reading.found.into_inner().expect("no reader panics");
    let (values, zero) = found.into_values().unzip();
    Ok(ObjectTree::new(size, values, zero))
}

fn show(report: &mut Report, done: u64, size: ObjectSize) {
    let now = clock::now();
    if report.is_due(now) {
        let standing = Standing {
            name: "hashing",
            fields: json!({ "done": done, "size": size.bytes() }),
            position: done,
            length: size.bytes(),
            headline: format!("reading: {} of {}", report::bytes(done), report::bytes(size.bytes())),
            details: String::new(),
        };
        report.progress(now, standing);
    }
}

impl Reading<'_> {
    fn run(&self) {
        let mut buffer = vec![0; BLOCK_SIZE as usize];
        let mut found = Vec::new();
        let size = self.file.size();
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= size.block_count() {
                break;
            }
            match self.block(BlockIndex(index), &mut buffer) {
                Ok(value) => found.push((index, value)),
                Err(error) => {
                    *self.error.lock().expect("no reader panics") = Some(error);
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
        }
        self.found.lock().expect("no reader panics").extend(found);
    }

    /// The value of a block, and whether it is all zeroes. A hole is not read: that would fill the page cache with nothing.
    fn block(&self, block: BlockIndex, buffer: &mut [u8]) -> io::Result<(Digest, bool)> {
        let size = self.file.size();
        let bytes = &mut buffer[..block_size(size, block) as usize];
        let end = block.offset() + bytes.len() as u64;
        self.done_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.file.hole_at(block.offset()).is_some_and(|hole_end| hole_end >= end) {
            return Ok((zero_block_value(size, block), true));
        }
        self.file.read_exact_at(block.offset(), bytes)?;
        Ok((block_value(size, block, bytes), is_zero(bytes)))
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|part| part.iter().fold(0, |seen, &byte| seen | byte) == 0)
}

/// The cached tree of one file.
struct Cache {
    path: PathBuf,
    key: Vec<u8>,
}

impl Cache {
    fn new(folder: &Path, identity: &FileIdentity) -> Self {
        let FileIdentity { device, inode, size, mtime_ns, ctime_ns } = identity;
        let mut key = CACHE_MAGIC.to_vec();
        [device, inode, size].iter().for_each(|field| key.extend(field.to_be_bytes()));
        [mtime_ns, ctime_ns].iter().for_each(|field| key.extend(field.to_be_bytes()));
        // A file that has changed takes the place of what it was.
        Self { path: folder.join(format!("{device:x}-{inode:x}.digest")), key }
    }

    /// `None` unless the cache holds the whole tree of this very file, undamaged.
    fn load(&self, size: ObjectSize) -> Option<ObjectTree> {
        let count = size.block_count() as usize;
        let expected = self.key.len() + 33 * count + 32;
        let mut bytes = Vec::new();
        File::open(&self.path).ok()?.take(expected as u64 + 1).read_to_end(&mut bytes).ok()?;
        let (content, checksum) = bytes.split_last_chunk::<32>()?;
        let entries = content.strip_prefix(self.key.as_slice())?;
        if bytes.len() != expected || blake3::hash(content).as_bytes() != checksum {
            return None;
        }
        let (entries, _) = entries.as_chunks::<33>();
        let values = entries.iter().map(|[_, value @ ..]| Digest(*value)).collect();
        let zero = entries.iter().map(|entry| entry[0] == 1).collect();
        Some(ObjectTree::new(size, values, zero))
    }

    fn save(&self, tree: &ObjectTree) -> io::Result<()> {
        let mut content = self.key.clone();
        for (value, block) in tree.values().iter().zip(0..) {
            content.push(u8::from(tree.is_zero(BlockIndex(block))));
            content.extend(value.0);
        }
        let checksum = blake3::hash(&content);
        content.extend(checksum.as_bytes());
        if let Some(folder) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let temporary = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&content))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn open(path: &Path) -> SourceFile {
        SourceFile::open(path).unwrap()
    }

    fn read_quietly(path: &Path) -> ObjectTree {
        read(&open(path), path, &mut Report::new("test", false)).unwrap()
    }

    #[test]
    fn digest_of_a_file_is_that_of_its_bytes_with_holes_and_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let file = File::create(&path).unwrap();
        file.set_len((4 << 20) + 5).unwrap();
        file.write_all_at(b"something", (1 << 20) + 77).unwrap();
        file.write_all_at(&[0; 1 << 20], 3 << 20).unwrap();
        let tree = read_quietly(&path);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(tree.digest(), Digest(blake3::hash(&bytes).into()));
        let zero: Vec<_> = (0..5).map(|block| tree.is_zero(BlockIndex(block))).collect();
        assert_eq!(zero, [true, false, true, true, true]);
    }

    #[test]
    fn cache_gives_back_what_was_saved_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        fs::write(&path, vec![7; 3 << 20]).unwrap();
        let file = open(&path);
        let tree = read_quietly(&path);
        let cache_dir = folder.path().join("cache");
        let cache = Cache::new(&cache_dir, file.identity());
        assert_eq!(cache.load(file.size()), None);
        cache.save(&tree).unwrap();
        assert_eq!(cache.load(file.size()), Some(tree));

        let mut touched = file.identity().clone();
        touched.mtime_ns += 1;
        assert_eq!(Cache::new(&cache_dir, &touched).load(file.size()), None, "another state of the file");
        let mut damaged = fs::read(&cache.path).unwrap();
        damaged[100] ^= 1;
        fs::write(&cache.path, &damaged).unwrap();
        assert_eq!(cache.load(file.size()), None, "a damaged entry");
        fs::write(&cache.path, &damaged[..50]).unwrap();
        assert_eq!(cache.load(file.size()), None, "a short entry");
    }
}
