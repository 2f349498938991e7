//! The output of a receiver: opened, and if it is a device, only after somebody has agreed to lose what is on it.

use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::receive::ReceiveFileOptions;
use super::report::{self, Report};
use crate::failure::{Exit, Failure, shown};
use crate::limits::BLOCK_SIZE;
use crate::sys::{Device, Output, OutputKind, ReadBack, memory, signals};

/// Memory for the bookkeeping of one block with the smallest symbols, rounded up.
const BYTES_PER_BLOCK: u64 = 2048;

/// Opens what the options name.
pub(super) fn open(options: &ReceiveFileOptions, report: &mut Report) -> Result<Output, Failure> {
    let output = Output::open(&options.file, &options.output)?;
    match &output {
        Output::File { .. } => {}
        Output::Device { device, .. } => {
            let what = format!(
                "overwrite {} ({}, {})",
                shown(device.path()),
                report::bytes(device.size()),
                device.description()
            );
            agree(&what, options.assume_yes)?;
            tell(device, &what, report);
        }
        Output::Stdout { .. } if std::io::stdout().is_terminal() => {
            return Err(Failure::new(Exit::Usage, "write to standard output", "it is a terminal")
                .remedy("redirect it, or name a file"));
        }
        Output::Stdout { .. } => {}
    }
    Ok(output)
}

fn tell(device: &Device, what: &str, report: &mut Report) {
    report.notice("device", &format!("will {what}"));
    if device.read_back() == ReadBack::Forgotten {
        let text = "the device refuses O_DIRECT: what is written is read back after the page cache was told to drop it";
        report.notice("warning", text);
    }
}

/// What the output is called in messages.
pub(super) fn name(options: &ReceiveFileOptions) -> String {
    match options.output {
        OutputKind::Stdout { .. } => "standard output".into(),
        OutputKind::File { .. } | OutputKind::Device { .. } => shown(&options.file),
    }
}

/// Bytes of the largest object that is accepted: what there is room for, whatever the user allows on a device; but no object whose
/// bookkeeping would take more than a quarter of the memory that is free now, because anybody on the network can announce one.
pub(super) fn size_max(output: &Output, asked: Option<u64>) -> Result<u64, Failure> {
    match (output, asked) {
        (Output::Device { device, .. }, Some(size)) => Ok(size.min(device.size())),
        (_, Some(size)) => Ok(size),
        (_, None) => {
            let blocks = memory::available().map_or(u64::MAX, |bytes| bytes / 4 / BYTES_PER_BLOCK);
            Ok(output.room()?.min(blocks.saturating_mul(BLOCK_SIZE)))
        }
    }
}

/// Asks whether to do `what`, unless that has been answered.
fn agree(what: &str, assume_yes: bool) -> Result<(), Failure> {
    if assume_yes {
        return Ok(());
    }
    let (input, mut terminal) = (std::io::stdin(), std::io::stderr());
    if !input.is_terminal() || !terminal.is_terminal() {
        let cause = "there is no terminal to ask whether its content may be lost";
        return Err(Failure::new(Exit::Usage, what, cause).remedy("give --yes if it may"));
    }
    let _ =
        write!(terminal, "iotupc: {what}? Its content is lost. Type yes to go on: ").and_then(|()| terminal.flush());
    wait_for(&input, what)?;
    let mut answer = String::new();
    let _ = input.lock().read_line(&mut answer);
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::new(Exit::CannotCreate, what, "the answer was not yes, and nothing has been written")),
    }
}

/// Waits for a line, or a signal to stop.
fn wait_for(input: &impl AsFd, what: &str) -> Result<(), Failure> {
    loop {
        if let Some(signal) = signals::pending() {
            return Err(super::end::interrupted(what, signal));
        }
        let mut sources = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        // A signal that comes between the question and the wait is noticed at its end.
        match poll(&mut sources, PollTimeout::from(500_u16)) {
            Ok(0) | Err(Errno::EINTR) => {}
            _ => return Ok(()),
        }
    }
}
