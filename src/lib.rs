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
//!               └────► sys ──────────────────────────────────────────────────► types, limits, failure
//! ```
//!
//! A module uses only what is below it, and a test (`tests/floors.rs`) fails on any other import.
//!
//! - The **protocol** (`wire` to `sender` and `receiver`) is sans-I/O: it takes time, bytes and completions as arguments, and
//!   answers with values. It has no clock, socket, file, thread or global, so that any number of senders and receivers can run
//!   in one deterministic simulation (`tests/sim`).
//! - **`fec`** is the erasure code of one block: repair symbols for the sender, whole blocks for the receiver's workers.
//! - The **kernel** (`sys`) is all that is `unsafe`: sockets, maps, target files, the clock, signals. It knows no packet.
//! - **`drive`** joins the two: one loop that sends, one that receives.
//!
//! # A packet's way
//!
//! `sender::Sender` says which packet is next, and when. `drive::serve` composes bursts of them in one buffer and hands them to
//! io_uring (`sys::UringSocket`) or `sendmmsg` (`sys::SendSocket`), which send equal-sized neighbours as one GSO message. On the other
//! side `sys::ReceiveSocket` fills a batch, `receiver::Receiver` judges every datagram and answers where its payload belongs,
//! `drive::receive` writes contiguous runs by one `pwritev`, and worker threads hash the blocks that the machine asks to have
//! verified. Only a verified block counts; when all are, the file is synced and renamed into place.

#![deny(unsafe_code)]

pub mod failure;
pub mod limits;
pub mod types;

pub mod digest;
pub mod fec;
pub mod manifest;
pub mod object;
pub mod wire;

pub mod receiver;
pub mod sender;

pub mod sys;

pub mod cli;
pub mod drive;
