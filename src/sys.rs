//! The kernel: clock, signals, interfaces, sockets, the source file and the receiver's output.
//!
//! All of the project's `unsafe` is here, in the submodules marked so below. Nothing here knows a packet: bytes go in and come
//! out, and `drive` joins them to the protocol. Buffers and header arrays are allocated when a socket is opened; sending and
//! receiving allocate nothing.

#[allow(unsafe_code)]
pub mod child;
pub mod clock;
#[allow(unsafe_code)]
pub mod device;
pub mod error_queue;
pub mod firewall;
#[allow(unsafe_code)]
pub mod interface;
#[allow(unsafe_code)]
mod large_pages;
pub mod link_watch;
#[allow(unsafe_code)]
mod membership;
#[allow(unsafe_code)]
pub mod memory;
mod netlink;
pub mod notify;
pub mod output;
#[allow(unsafe_code)]
pub mod processors;
#[allow(unsafe_code)]
pub mod random;
#[allow(unsafe_code)]
pub mod receive_socket;
pub mod route;
#[allow(unsafe_code)]
pub mod scratch;
#[allow(unsafe_code)]
pub mod send_socket;
#[allow(unsafe_code)]
pub mod signals;
#[allow(unsafe_code)]
pub mod slot_file;
#[allow(unsafe_code)]
mod socket;
#[allow(unsafe_code)]
pub mod source_file;
pub mod tap;
#[allow(unsafe_code)]
pub mod target;
mod unnamed;
#[allow(unsafe_code)]
#[cfg(feature = "sender")]
pub mod uring_socket;

pub use device::{Device, ReadBack};
pub use error_queue::QueuedErrors;
pub use interface::Interface;
pub use link_watch::LinkWatch;
pub use notify::Notifier;
pub use output::{Output, OutputKind};
pub use receive_socket::{ReceiveOptions, ReceiveSocket, Train};
pub use scratch::{Scratch, ScratchSlots, free_space};
pub use send_socket::{Lent, Memory, Message, SendOptions, SendSocket};
pub use signals::StopSignal;
pub use slot_file::SlotFile;
pub use source_file::{FileIdentity, Hold, SourceFile, SourceMap, SourceState};
pub use tap::{Seen, Tap};
pub use target::{Created, Other, PartFile, Spool, Target};
#[cfg(feature = "sender")]
pub use uring_socket::{ImageUsage, UringSocket};
