//! Standard output: verified blocks in their order, each read, verified once more and printed by a thread of its own, so that whoever
//! reads may be slow. What is printed is forgotten by the spool.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::digest::block_value;
use crate::failure::{Exit, Failure};
use crate::limits::BLOCK_SIZE;
use crate::object::block_size;
use crate::receiver::Receiver;
use crate::sys::{Target, signals};
use crate::types::{BlockIndex, Digest, ObjectSize};

/// Between two looks at signals while the last blocks are printed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const WHAT: &str = "write to standard output";

/// The thread, and what it has been given.
#[derive(Debug)]
pub(super) struct Printer {
    /// The next block to be printed.
    next: BlockIndex,
    verified: mpsc::Sender<(BlockIndex, Digest)>,
    ended: mpsc::Receiver<Result<(), Failure>>,
}

impl Printer {
    /// One for the object of `size` bytes that comes together in `target`, if that is for standard output, in place of `before`.
    ///
    /// # Errors
    /// The one before has printed a part of another object.
    pub(super) fn after(before: Option<Self>, target: &Arc<Target>, size: ObjectSize) -> Result<Option<Self>, Failure> {
        if before.is_some_and(|before| before.has_begun()) {
            return Err(Failure::new(Exit::Incomplete, WHAT, "a part of another object has been printed already"));
        }
        match **target {
            Target::File(_) | Target::Device(_) => return Ok(None),
            Target::Spool(_) => {}
        }
        let out = io::stdout().as_fd().try_clone_to_owned();
        let printer = out.and_then(|out| Self::to(out.into(), target, size));
        printer.map(Some).map_err(|error| Failure::io(Exit::Io, WHAT, &error))
    }

    fn to(mut out: File, target: &Arc<Target>, size: ObjectSize) -> io::Result<Self> {
        let (verified, source) = mpsc::channel();
        let (sink, ended) = mpsc::channel();
        let target = Arc::clone(target);
        let run = move || {
            let result = source.iter().try_for_each(|(block, value)| print(&mut out, &target, size, block, value));
            // Whoever waits for the end may then have the target alone.
            drop(target);
            let _ = sink.send(result);
        };
        thread::Builder::new().name("print".into()).spawn(run)?;
        Ok(Self { next: BlockIndex(0), verified, ended })
    }

    /// Whether something may have been printed.
    fn has_begun(&self) -> bool {
        self.next.0 > 0
    }

    /// Hands over what has been verified and has nothing missing before it.
    ///
    /// # Errors
    /// [`Exit::Io`]: printing has failed.
    pub(super) fn advance(&mut self, receiver: &Receiver) -> Result<(), Failure> {
        self.hand_over(|block| receiver.verified_value(block))
    }

    fn hand_over(&mut self, value_of: impl Fn(BlockIndex) -> Option<Digest>) -> Result<(), Failure> {
        while let Some(value) = value_of(self.next) {
            if self.verified.send((self.next, value)).is_err() {
                break;
            }
            self.next.0 += 1;
        }
        match self.ended.try_recv() {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(())) | Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => panic!("the printing thread has ended"),
        }
    }

    /// Waits until all that was handed over is printed.
    ///
    /// # Errors
    /// [`Exit::Io`], or that of a signal to stop that came while somebody was slow to read.
    pub(super) fn finish(self) -> Result<(), Failure> {
        drop(self.verified);
        loop {
            match self.ended.recv_timeout(LOOK_INTERVAL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the printing thread has ended"),
            }
            if let Some(signal) = signals::pending() {
                return Err(super::end::interrupted(WHAT, signal));
            }
        }
    }
}

fn print(out: &mut File, target: &Target, size: ObjectSize, block: BlockIndex, value: Digest) -> Result<(), Failure> {
    let mut bytes = vec![0; block_size(size, block) as usize];
    let unreadable = |error: io::Error| Failure::io(Exit::Io, format!("read {}", target.name()), &error);
    target.read_exact_at(block.offset(), &mut bytes).map_err(unreadable)?;
    if block_value(size, block, &bytes) != value {
        return Err(unreadable(io::Error::other("it has changed since it was verified")));
    }
    write_all(out, &bytes).map_err(|error| Failure::io(Exit::Io, WHAT, &error))?;
    if let Target::Spool(spool) = target {
        spool.forget(block.offset(), BLOCK_SIZE.min(bytes.len() as u64));
    }
    Ok(())
}

/// Writes all of it, even to what somebody has made non-blocking.
fn write_all(out: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut sinks = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut sinks, PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};

    use super::*;
    use crate::sys::Spool;

    const SIZE: u64 = 2 * BLOCK_SIZE + 77;

    struct Bench {
        _folder: tempfile::TempDir,
        target: Arc<Target>,
        size: ObjectSize,
        content: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let spool = Spool::create(folder.path(), SIZE).unwrap();
            let content: Vec<u8> = (0..SIZE).map(|i| (i * 31 + i / 1000) as u8).collect();
            let target = Arc::new(Target::Spool(spool));
            target.write_run(0, &[IoSlice::new(&content)]).unwrap();
            Self { _folder: folder, target, size: ObjectSize::new(SIZE).unwrap(), content }
        }

        fn value(&self, block: BlockIndex) -> Option<Digest> {
            let bytes = self.content.chunks(BLOCK_SIZE as usize).nth(block.0 as usize)?;
            Some(block_value(self.size, block, bytes))
        }

        fn printer(&self) -> (Printer, File) {
            let (reader, writer) = io::pipe().unwrap();
            let (reader, writer) = (std::os::fd::OwnedFd::from(reader), std::os::fd::OwnedFd::from(writer));
            (Printer::to(writer.into(), &self.target, self.size).unwrap(), reader.into())
        }
    }

    #[test]
    fn blocks_are_printed_in_order_as_soon_as_nothing_is_missing_before_them() {
        let bench = Bench::new();
        let (mut printer, mut reader) = bench.printer();
        let only_later = |block: BlockIndex| bench.value(block).filter(|_| block.0 > 0);
        printer.hand_over(only_later).unwrap();
        assert!(!printer.has_begun());
        printer.hand_over(|block| bench.value(block).filter(|_| block.0 < 1)).unwrap();
        let mut first = vec![0; BLOCK_SIZE as usize];
        reader.read_exact(&mut first).unwrap();
        assert!(first == bench.content[..BLOCK_SIZE as usize]);
        printer.hand_over(|block| bench.value(block)).unwrap();
        let rest = thread::spawn(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).map(|_| rest)
        });
        printer.finish().unwrap();
        assert!(rest.join().unwrap().unwrap() == bench.content[BLOCK_SIZE as usize..]);
        assert_eq!(Arc::strong_count(&bench.target), 1, "the target is free when the printer has finished");
    }

    #[test]
    fn bytes_that_changed_after_they_were_verified_are_not_printed() {
        let bench = Bench::new();
        let (mut printer, mut reader) = bench.printer();
        bench.target.write_run(5, &[IoSlice::new(b"x")]).unwrap();
        // Which of the two is told depends on who is faster.
        let handed_over = printer.hand_over(|block| bench.value(block).filter(|_| block.0 < 1));
        let failure = handed_over.and_then(|()| printer.finish()).unwrap_err();
        assert!(failure.exit == Exit::Io && failure.to_string().contains("changed since it was verified"), "{failure}");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "nothing was printed");
    }

    #[test]
    fn reader_that_has_gone_is_a_failure() {
        let bench = Bench::new();
        let (mut printer, reader) = bench.printer();
        drop(reader);
        // Which of the two is told depends on who is faster.
        let handed_over = printer.hand_over(|block| bench.value(block));
        let failure = handed_over.and_then(|()| printer.finish()).unwrap_err();
        assert_eq!((failure.exit, failure.to_string().as_str()), (Exit::Io, "write to standard output: broken pipe"));
    }
}
