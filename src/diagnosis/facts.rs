//! What is known of a host, of its network, and of what came in the time in which it listened. `None` stands for what is not known.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// All that findings are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The group and port.
    pub group: SocketAddr,
    /// The only sources that are to be heard; none: any.
    pub sources: Vec<IpAddr>,
    /// The interface.
    pub choice: Choice,
    /// What came of listening; `None` if nobody listened.
    pub heard: Option<Heard>,
    /// The same on other interfaces.
    pub others: Vec<Other>,
    /// Who sends to the group, where only `sources` were heard otherwise.
    pub strangers: Vec<IpAddr>,
    /// What a packet socket saw; `None` without one.
    pub wire: Option<Wire>,
    /// The address that packets to the group would have as their source, or why there is no way to it.
    pub route: Option<Result<IpAddr, String>>,
    /// The membership; `None` if nobody tried.
    pub joined: Option<Joined>,
    /// What the interface's bridge says, where it is one, or a port of one.
    pub bridge: Option<Bridge>,
    /// How the kernel routes back to senders.
    pub returns: Returns,
    /// The chains of the firewall through which packets of the group may come or go; `None`: the kernel does not tell.
    pub chains: Option<Vec<Chain>>,
    /// The receive buffer.
    pub buffer: Option<Buffer>,
    /// What the kernel counted meanwhile.
    pub counters: Counters,
    /// It is asked about sending.
    pub is_sender: bool,
    /// What there is to know of that; `None` without an interface.
    pub sending: Option<Sending>,
    /// The manifests that were heard or named.
    pub manifests: Vec<ManifestDates>,
    /// Seconds since 1970, as this host believes.
    pub now: u64,
}

impl Facts {
    /// Facts of a host of which nothing else is known.
    #[must_use]
    pub fn new(group: SocketAddr, choice: Choice) -> Self {
        Self {
            group,
            sources: Vec::new(),
            choice,
            heard: None,
            others: Vec::new(),
            strangers: Vec::new(),
            wire: None,
            route: None,
            joined: None,
            bridge: None,
            returns: Returns::default(),
            chains: None,
            buffer: None,
            counters: Counters::default(),
            is_sender: false,
            sending: None,
            manifests: Vec::new(),
            now: 0,
        }
    }

    /// The interface, if there is one.
    pub(super) fn link(&self) -> Option<&Link> {
        match &self.choice {
            Choice::Link(link) => Some(link),
            Choice::None { .. } => None,
        }
    }

    /// Its name, or a word in its place.
    pub(super) fn interface(&self) -> &str {
        self.link().map_or("IF", |link| link.name.as_str())
    }

    /// Whether anything came to the socket.
    pub(super) fn is_silent(&self) -> bool {
        self.heard.as_ref().is_some_and(|heard| heard.datagrams == 0)
    }
}

/// Which interface is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// This one.
    Link(Link),
    /// None can be chosen.
    None {
        /// Why.
        cause: String,
        /// Interfaces that could be, the better first.
        candidates: Vec<String>,
        /// The only one that could be if it were switched on.
        only_down: Option<String>,
    },
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// It is switched on.
    pub up: bool,
    /// It has a carrier.
    pub running: bool,
    /// It can multicast.
    pub multicast: bool,
    /// It is the loopback interface.
    pub loopback: bool,
    /// It is a radio.
    pub wireless: bool,
    /// Bytes of the longest IP packet.
    pub mtu: u32,
    /// Bits per second, where the driver knows.
    pub speed_bps: Option<u64>,
    /// Its addresses of the group's family.
    pub addresses: Vec<IpAddr>,
    /// IPv6 is switched off on it.
    pub v6_disabled: bool,
}

/// What came to the socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// How long it was listened.
    pub time: Duration,
    /// All datagrams.
    pub datagrams: u64,
    /// Their bytes, with IP and UDP headers.
    pub ip_bytes: u64,
    /// Those that are packets with data.
    pub data: u64,
    /// Those that are other packets.
    pub control: u64,
    /// Packets that were damaged on the way.
    pub damaged: u64,
    /// Who sent the first of them.
    pub senders: Vec<SocketAddr>,
    /// The smallest TTL or hop limit with which one came.
    pub hops_min: Option<u8>,
    /// Bytes of the longest datagram, with IP and UDP headers.
    pub longest: u32,
    /// What manifest packets say of the packets with data.
    pub packing: Option<Packing>,
    /// Buffers that the kernel dropped because the socket was full.
    pub dropped_buffers: u32,
    /// The same of other sockets of this host that hear the group.
    pub dropped_elsewhere: u64,
}

/// How an object is sent, as its manifest packets say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing {
    /// Bytes of a full packet with IP and UDP headers.
    pub ip_size: u32,
    /// Bits per second of all channels, if stated.
    pub rate_bps: Option<u64>,
}

/// What came on another interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Datagrams of the group.
    pub datagrams: u64,
    /// A socket got them, so that it is more than frames that pass by.
    pub is_delivered: bool,
}

/// What a packet socket saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wire {
    /// Frames with datagrams of the group and port that came by the interface. One may hold several.
    pub frames: u64,
    /// Who sent the first of them.
    pub senders: Vec<IpAddr>,
    /// The smallest TTL or hop limit with which one came.
    pub hops_min: Option<u8>,
    /// Our packets that go to another group or port.
    pub strays: Vec<Stray>,
    /// Who asked who has joined, and in which version of IGMP or MLD.
    pub querier: Option<(IpAddr, u8)>,
    /// Reports of this host that left by the interface.
    pub reports: u64,
}

/// Where else packets of ours go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stray {
    /// The group and port.
    pub group: SocketAddr,
    /// The interface by which they came.
    pub interface: String,
}

/// What came of joining.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Why the kernel would not.
    pub refused: Option<JoinRefused>,
    /// Whether the kernel lists the group, and each source of it.
    pub is_listed: Option<bool>,
    /// The version of IGMP or MLD that the kernel speaks on the interface.
    pub version: Option<u8>,
    /// The version that it was told to speak; 0: the best.
    pub forced_version: u8,
}

/// Why the kernel would not join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRefused {
    /// In words.
    pub cause: String,
    /// The sysctl that sets the limit that was met.
    pub limit: Option<String>,
}

/// A bridge of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// It delivers groups only to who has joined.
    pub snoops: bool,
    /// It asks who has joined.
    pub queries: bool,
}

/// How the kernel routes back to senders, and whether it minds what it finds (ip-sysctl.rst, `rp_filter`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Returns {
    /// The filter of IPv4.
    pub filter: Rpf,
    /// The routes to the senders that were heard, seen or named.
    pub routes: Vec<SourceRoute>,
}

/// What the kernel demands of the route back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rpf {
    /// Nothing.
    #[default]
    Off,
    /// That it goes by the same interface.
    Strict,
    /// That there is one.
    Loose,
}

/// The route to a sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceRoute {
    /// The sender.
    pub source: IpAddr,
    /// The interface by which it goes; `None`: there is none.
    pub interface: Option<String>,
    /// The router that it goes to first; `None`: the sender is on the link.
    pub gateway: Option<IpAddr>,
}

/// Where a chain of the firewall stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Before routing, or at the interface.
    Prerouting,
    /// What is for this host.
    Input,
    /// What this host sends.
    Output,
}

/// A chain of nftables at which packets are filtered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// As nft(8) calls it: ip, ip6, inet, netdev.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
    /// Where it stands.
    pub hook: Hook,
}

/// The receive buffer of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Bytes that a receiver asks for.
    pub wanted: u64,
    /// Bytes that this program got, perhaps by privilege.
    pub granted: u64,
    /// Bytes that anybody gets: net.core.rmem_max.
    pub limit: Option<u64>,
    /// Bits per second that are to be expected.
    pub rate_bps: u64,
}

/// What the kernel counted while somebody listened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Multicast packets of the family that were routed to this host. The kernel asks the firewall's input chains after that.
    pub multicast: Option<u64>,
    /// Packets that rp_filter dropped, of all groups and interfaces.
    pub rp_filter: Option<u64>,
    /// Datagrams with a wrong UDP checksum, of all sockets.
    pub bad_checksums: Option<u64>,
    /// Questions of an MLD querier, since the interface came to be.
    pub queries_ever: Option<u64>,
    /// Frames that the interface dropped.
    pub link_drops: Option<u64>,
    /// Frames that it found too long or broken.
    pub link_frame_errors: Option<u64>,
    /// Frames for which it had no room.
    pub link_overruns: Option<u64>,
    /// Packets for which the processors' queues had no room.
    pub backlog_drops: Option<u64>,
}

/// What there is to know of sending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sending {
    /// Why the kernel would not take a packet that was not to leave this host; `Some(None)`: it did; `None`: not known.
    pub refused: Option<Option<String>>,
    /// Bits per second that are asked for.
    pub rate_bps: Option<u64>,
    /// The TTL or hop limit that is asked for.
    pub hops: u8,
    /// Bytes of an IP packet that are asked for.
    pub mtu: Option<u32>,
    /// Whether the kernel cuts messages into datagrams; `None`: not known.
    pub gso: Option<bool>,
    /// Why io_uring cannot be used; `Some(None)`: it can; `None`: not known.
    pub uring: Option<Option<String>>,
    /// The value of kernel.io_uring_disabled.
    pub uring_disabled: Option<u64>,
}

/// When a manifest is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestDates {
    /// The object's name.
    pub name: String,
    /// When it was made.
    pub created: Option<u64>,
    /// Until when it is good.
    pub expires: Option<u64>,
}
