//! `iotupd` distributes a file over UDP multicast in an endless loop; `iotupc` takes it, however many there are of it.
//!
//! # The idea
//!
//! The server sends every symbol of an object for ever, each in a packet that says what it belongs to, where it goes and how to
//! check it. It accepts nothing and listens on nothing. A receiver joins at any time, writes each symbol to its place, and
//! stops when the digest of every block matches. The bytes are defined in `docs/PROTOCOL.md`.
//!
//! # The floors
//!
//! ```text
//! bin ─► cli, drive ─► sender, receiver ─► wire ─► manifest ─► digest ─► object ─► types, limits, failure
//!               ├────► discovery ───────────────────────────────────────────────► types, limits, failure
//!               ├────► agent ─────────────────────► manifest ───────────────────► types, limits, failure
//!               ├────► diagnosis ───────────────────────────────────────────────► types, limits, failure
//!               ├────► fec ────────────────────────────────────────────► object
//!               └────► sys ──────────────────────────────────────────────────────► types, limits, failure
//! ```
//!
//! A module uses only what is below it, and a test (`tests/floors.rs`) fails on any other import.
//!
//! - The **protocol** (`wire` to `sender` and `receiver`) is sans-I/O: it takes time, bytes and completions as arguments, and
//!   answers with values. It has no clock, socket, file, thread or global, so that any number of senders and receivers can run
//!   in one deterministic simulation (`tests/sim`).
//! - **`discovery`** is sans-I/O as well: DNS answers and what was heard go in, questions and sources to join come out.
//! - **`agent`** is sans-I/O too: announcements and ends of fetches and hooks go in, what to do next and the journal come out.
//! - **`diagnosis`** is a function of facts: why nothing comes, and what mends it. `drive::doctor` gathers the facts.
//! - **`fec`** is the erasure code of one block: repair symbols for the sender, whole blocks for the receiver's workers.
//! - The **kernel** (`sys`) is all that is `unsafe`: sockets, maps, target files, the clock, signals. It knows no packet.
//! - **`drive`** joins the two: one loop that sends, one that receives, and one that only counts what comes (`drive::discard`).
//!
//! # A packet's way
//!
//! `sender::Sender` says which packet is next, and when: positions of a cycle, which `sender::Carousel` maps to symbols, block after
//! block, or in rows over all blocks where there are repair symbols. A server runs several *virtual servers*
//! (`drive::virtual_server`), each a thread with a sender, a socket and an engine of its own; they share the mapped source, the
//! hashes of its payloads and the repair symbols, which `drive::repair` computes in the background. Each composes bursts in
//! one buffer and hands them to io_uring (`sys::UringSocket`) or `sendmmsg` (`sys::SendSocket`), which send equal-sized neighbours as one GSO
//! message. Where asked for, the packets of a cycle are laid out once in a *packet image* (`drive::image`) and go from there without being
//! copied. What the kernel refuses is sent again (`drive::line`); only errors of this host count, not what ICMP claims. All this is one
//! *session*; the main thread watches the file, the signals and the clock, announces what is sent, and can have another session made ready
//! by a thread of its own, which takes over when its object is read and checked.
//!
//! On the other side `sys::ReceiveSocket` fills a batch, `receiver::Receiver` judges every datagram and answers where its payload
//! belongs: a source symbol in its own place, a repair symbol in the place of one that is missing. `drive::receive` writes
//! contiguous runs by one `pwritev`, and tells the machine, which notes in the *slot map* what is where. The map is a mapped
//! file, so a receiver that is killed loses only what had not been written. Worker threads (`drive::workers`) hash the blocks that the
//! machine asks to have verified, and decode those that have enough symbols but not their own; what has been decoded is written only
//! when its digest is right. Only a verified block counts; when all are, the file is synced and renamed into place.
//!
//! Where all this goes (`sys::Output`, and `sys::Target` once it is known what comes) may also be a block device, which is read back past
//! the page cache before a block counts, or an unnamed file, from which `drive::printer` prints verified blocks in order.
//!
//! `drive::listen` holds the sockets of a receiver: one for each group and port. It joins whoever sends, or the sources that
//! `discovery` chooses; `drive::dns` asks its questions on a thread of its own. It follows the interface through the kernel's news
//! (`sys::LinkWatch`), and joins anew when that has come back or changed.
//!
//! `drive::agent` keeps a device at the newest version: it listens to announcements with a `receiver::Receiver` that only watches, fetches by
//! `drive::receive`, and runs the user's command (`drive::hook`), as `agent::Agent` says.
//!
//! What people and programs are told all goes through `drive::Report`: events, the bar, lines in the form that whoever reads standard error
//! takes (`drive::log`), and figures for Prometheus (`drive::metrics`), which a thread of their own writes.
//!
//! # What is written where
//!
//! | file | content | trusted |
//! |---|---|---|
//! | `.NAME.part` | the object as far as it has come, repair symbols among it | nothing, until a block's digest is right |
//! | `.NAME.slots` | which symbol is in which slot, and its hash (`receiver`, module `slots`) | nothing: it says where to look |
//! | `.NAME.object` | which object the two belong to (`sys::target`) | only to set them aside |
//! | `.NAME.ID.part`, `.NAME.ID.slots` | the same of another object, set aside until that comes back | the same |
//! | `.NAME.object.new` | for a moment, the next `.NAME.object` | never read |
//! | the one of `--state-file` | the last version that was taken (`drive::state_file`) | that older versions are old |
//! | digests, in the cache folder | what a server's files were when they were read (`drive::digest_file`) | while the file has not changed |
//! | `lock`, with `--watch`, in `--state-dir` | nothing: it is locked | |
//! | `journal`, with `--watch`, in `--state-dir` | the last version that is done, and what is in place and not done (`agent`) | that older versions are old; what is in place, when its digest is right |
//! | the device, with `--device` | the same as in the `.part` | the same |
//! | `.KERNELNAME.slots`, with `--state-dir` | the same as in `.NAME.slots` | nothing |
//! | unnamed, in the spool folder | the same as in the `.part`, of what goes to standard output | nothing: each block is verified again when it is printed |
//! | unnamed, in the cache folder | payload hashes, repair symbols and packet image of a server | as memory is |
//! | the one of `--metrics`, and `.NAME.tmp` beside it for a moment | figures (`drive::metrics`) | never read |
//!
//! # Features
//!
//! `sender` and `receiver` are the two halves; both are on unless somebody asks for less. What both share is there with either.

#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "sender"),
    allow(dead_code, reason = "what both halves share has parts that only one of them uses")
)]

pub mod failure;
pub mod limits;
pub mod types;

pub mod digest;
pub mod fec;
pub mod manifest;
pub mod object;
pub mod wire;

pub mod agent;
pub mod diagnosis;
pub mod discovery;
pub mod receiver;
#[cfg(feature = "sender")]
pub mod sender;

pub mod sys;

pub mod cli;
pub mod drive;
