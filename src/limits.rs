//! Every bound of the project, with the reason for its value, and the relations between them checked when compiling.
//!
//! Wire sizes are those of docs/PROTOCOL.md.

use std::time::Duration;

/// Bytes of a source block: small enough to hash and decode in cache, large enough for FEC to average losses.
pub const BLOCK_SIZE: u64 = 1 << 20;
/// The largest object: the wire has 48 bits for its size.
pub const OBJECT_SIZE_MAX: u64 = (1 << 48) - 1;
/// The largest position: the wire has 48 bits for it.
pub const POSITION_MAX: u64 = (1 << 48) - 1;
/// The smallest symbol: fits the 576-byte datagrams that every IPv4 host must take, but for headers.
pub const SYMBOL_SIZE_MIN: u16 = 512;
/// The largest symbol: fills an MTU of 9000.
pub const SYMBOL_SIZE_MAX: u16 = 8896;
/// Bytes of the packet header.
pub const HEADER_SIZE: usize = 44;
/// The longest datagram a sender may send.
pub const DATAGRAM_SIZE_MAX: usize = HEADER_SIZE + SYMBOL_SIZE_MAX as usize;
/// Repair symbols in percent of source symbols at most: bounds the memory that one forged packet can make a decoder ask for.
pub const REPAIR_PERCENT_MAX: u16 = 300;
/// Repair symbols in percent of source symbols where none is asked for: a third of the packets may be lost.
pub const FEC_PERCENT_DEFAULT: u16 = 50;
/// Repair symbols in percent that a user may ask for.
pub const FEC_PERCENT_MAX: u16 = 100;
/// Symbols of a block before the next block's turn: short enough that a burst of loss is spread over many blocks, long enough that
/// a receiver writes more than single symbols.
pub const RUN_DEFAULT: u16 = 16;
/// The longest run: all source symbols of the largest block.
pub const RUN_MAX: u16 = 2048;
/// Threads that compute repair symbols at most: together faster than most storage is read.
pub const ENCODER_THREAD_COUNT_MAX: usize = 8;
/// An object of which no more is sent is one window, unless another window is asked for.
pub const WINDOW_WHOLE_SIZE_MAX: u64 = 1 << 30;
/// The window of larger objects: a receiver keeps it in memory while it is written.
pub const WINDOW_SIZE_DEFAULT: u64 = 256 << 20;
/// A visit to a window takes so much more than K of each block: what may be lost without waiting for the next visit.
pub const VISIT_EXCESS_PERCENT: u64 = 3;
/// Visits before the order begins again, at most: the more, the closer is each to what is wanted.
pub const VISIT_COUNT_MAX: u64 = 64;

/// Bytes of a manifest packet's payload at most: fits an IPv6 packet of 1280 with the header.
pub const MANIFEST_PAYLOAD_SIZE_MAX: usize = 1152;
/// Bytes of a manifest's text and signature together at most: what eight channels leave.
pub const MANIFEST_SIGNED_SIZE_MAX: usize = 880;
/// Bytes of a manifest's display name at most.
pub const MANIFEST_NAME_SIZE_MAX: usize = 128;
/// Nesting of a manifest's JSON at most.
pub const MANIFEST_DEPTH_MAX: usize = 8;
/// Bytes of a signature beside its trusted comment.
pub const SIGNATURE_FIXED_SIZE: usize = 138;
/// Bytes of a signature's trusted comment at most.
pub const TRUSTED_COMMENT_SIZE_MAX: usize = 256;
/// Public keys that a receiver can be given: more than a rotation needs.
pub const PUBLIC_KEY_COUNT_MAX: usize = 16;
/// Channels of one session at most.
pub const CHANNEL_COUNT_MAX: usize = 8;
/// The logarithm of the largest group of a hashes packet.
pub const GROUP_LOG2_MAX: u8 = 4;
/// Siblings on the path of a group at most: 2^28 blocks and groups of one.
pub const PATH_LENGTH_MAX: usize = 28;

/// A cycle has at least so many positions, so that tiny objects too can show loss.
pub const CYCLE_LENGTH_MIN: u64 = 4096;
/// A packet at most so far behind the expected position is late, not the sign of a restart.
pub const REORDER_WINDOW: u64 = 256;
/// A longer step forward, or one of more than a quarter of the cycle, is taken for a restart.
pub const LOSS_STEP_MAX: u64 = 65_536;

/// Data packets between two manifest packets at most (1 %).
pub const MANIFEST_EVERY: u64 = 100;
/// Data packets between two hashes packets at most (1 %).
pub const HASHES_EVERY: u64 = 100;
/// Every round carries each hashes packet at least so often.
pub const HASHES_PER_ROUND: u64 = 2;
/// Time between two manifest packets at least: one a millisecond is enough at any rate.
pub const MANIFEST_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Between two announcements of one server: what a device that waits for news is woken for, and longer than which it waits for nothing.
pub const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// A round takes at least this long unless a rate was asked for: a file of one byte must not flood.
pub const ROUND_DURATION_MIN: Duration = Duration::from_millis(10);
/// The rate where none is asked for (RFC 8085, section 4.1.1: be conservative without feedback).
pub const RATE_BPS_DEFAULT: u64 = 100_000_000;
/// A burst lasts at most so long at the rate asked for. `sender::pacer` says what it costs to make it shorter.
pub const BURST_DURATION: Duration = Duration::from_millis(1);
/// The same where the time between packets was asked for: whoever does so wants gaps. At rates at which more than
/// [`BURST_SIZE_MAX`] goes in this time, a burst holds that, because so many sleeps would cost more than the packets.
pub const BURST_DURATION_SHORT: Duration = Duration::from_micros(200);
/// Bytes of a burst at most, at other rates: what one GSO message can hold.
pub const BURST_SIZE_MAX: u64 = 65_536;
/// Virtual servers of one program at most: more cores than a host has, and threads that a mistyped number can start.
pub const VIRTUAL_SERVER_COUNT_MAX: u32 = 256;
/// Another virtual server is started for each so many bits per second of the rate.
pub const VIRTUAL_SERVER_RATE_BPS: u64 = 10_000_000_000;
/// Below this rate it is not measured whether to send from a packet image: there is little to gain.
pub const RATE_BPS_IMAGE_MIN: u64 = 1_000_000_000;
/// The longest PKT_DELAY.
pub const PKT_DELAY_MAX: Duration = Duration::from_secs(3600);

/// Bytes of the network interface's MTU used at most without being asked for.
pub const MTU_DEFAULT_MAX: u32 = 1500;
/// The MTU beyond the first router: what every IPv6 link carries.
pub const MTU_ROUTED: u32 = 1280;
/// The largest MTU that can be asked for: 9000 filled by the largest symbol.
pub const MTU_MAX: u32 = 9216;

/// Bytes of packets kept while no manifest has been accepted.
pub const WAITING_SIZE_MAX: usize = 8 << 20;
/// Bytes of symbols kept because no slot of their block is free that they fit into.
pub const KEPT_SIZE_MAX: usize = 16 << 20;
/// Sender addresses (with port) that a receiver keeps account of.
pub const SENDER_COUNT_MAX: usize = 64;
/// Descriptions (symbol size and code) that a receiver remembers.
pub const DESCRIPTION_COUNT_MAX: usize = 4;
/// The accepted object has been silent so long, while another lives: give up.
pub const OBJECT_SILENCE_MAX: Duration = Duration::from_secs(30);
/// The locked description has been silent so long, while another's packets come: try that one.
pub const DESCRIPTION_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Nothing has come for so long: say so and name the likely causes.
pub const SILENCE_NOTICE: Duration = Duration::from_secs(5);

/// Servers of one domain that are used, the best first: more would be tried one after another for too long. IPv4 takes no more than 10
/// sources of one group unless the kernel is told otherwise.
pub const SERVER_COUNT_MAX: usize = 8;
/// Addresses of one name that are used, of each family.
pub const ADDRESS_COUNT_MAX: usize = 4;
/// Sources that can be named on the command line: as many as IPv6 takes of one group.
pub const SOURCE_COUNT_MAX: usize = 64;
/// A source of which nothing useful has come for so long is silent, and the next is joined. With a look at it every tenth of a second that
/// is within 5 s.
pub const SOURCE_SILENCE_MAX: Duration = Duration::from_secs(3);
/// A better source must have been heard for so long before a worse one is left.
pub const SOURCE_RETURN_MIN: Duration = Duration::from_secs(1);
/// Between two attempts to join a source that could not be joined.
pub const JOIN_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Records of one DNS answer at most: more than any server has use for.
pub const DNS_RECORD_COUNT_MAX: usize = 256;
/// Aliases (CNAME) that are followed within one answer.
pub const DNS_ALIAS_COUNT_MAX: usize = 8;
/// DNS servers that are asked, as many as resolv.conf(5) may name.
pub const DNS_SERVER_COUNT_MAX: usize = 3;
/// How long a DNS server may take to answer, the first time it is asked and the second.
pub const DNS_ANSWER_TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// How long a DNS server may take for everything that TCP needs.
pub const DNS_STREAM_TIME: Duration = Duration::from_secs(3);
/// A TTL of 0 asks for this one instead: whoever uses records for a while cannot ask all the time.
pub const DNS_TTL_ZERO: Duration = Duration::from_secs(5);
/// Records are asked for again at least so often.
pub const DNS_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long it is believed that there is no record where the answer does not say (RFC 2308 has it say so).
pub const DNS_MISSING_TTL_DEFAULT: Duration = Duration::from_secs(30);
/// How long it is believed at most, whatever the answer says: receivers wait for the record.
pub const DNS_MISSING_TTL_MAX: Duration = Duration::from_secs(300);
/// Before a lookup that failed is tried again the first time; then twice as long each time.
pub const DNS_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest such wait.
pub const DNS_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Failed lookups of one question before a receiver that knows no source gives up.
pub const DNS_ATTEMPT_COUNT_MAX: u32 = 3;

/// Of the manifests from addresses that have sent an authentic one, and of all others, one each is verified in so long: 200 a second
/// together, which is 1 to 2 % of a core of a server, and a third of one of a small device.
pub const VERIFY_INTERVAL: Duration = Duration::from_millis(10);
/// Manifests of each of the two kinds that wait to be verified.
pub const UNVERIFIED_COUNT_MAX: usize = 32;
/// Authentic manifests that are recognised when they come again.
pub const AUTHENTIC_COUNT_MAX: usize = 32;
/// False signatures that are recognised when they come again.
pub const FALSE_SIGNATURE_COUNT_MAX: usize = 1024;
/// Addresses that are remembered to have sent an authentic manifest.
pub const VOUCHED_ADDR_COUNT_MAX: usize = 16;
/// After the first acceptable manifest others have so long to show that they are newer.
pub const CHOICE_TIME: Duration = Duration::from_millis(50);
/// The same while packets of objects come whose manifests have not been judged: at 1 Mbit/s one comes every 1.2 s.
pub const CHOICE_TIME_MAX: Duration = Duration::from_secs(2);
/// Objects of which packets came, and whose manifests have not been judged, that are waited for.
pub const RIVAL_COUNT_MAX: usize = 4;
/// The accepted object has been silent so long, while a newer one lives: go over to that.
pub const SUCCESSION_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Bytes of an agent's journal at most: one manifest and little else.
pub const JOURNAL_SIZE_MAX: usize = 2048;
/// Before an agent tries again what it could not fetch, the first time; then twice as long each time.
pub const FETCH_RETRY_MIN: Duration = Duration::from_secs(5);
/// The longest such wait.
pub const FETCH_RETRY_MAX: Duration = Duration::from_secs(600);
/// An agent leaves the data of an object that is not complete after so long, and comes back later.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// The same where nothing comes for so long.
pub const FETCH_IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// The same where nothing that it would accept has come after so long: at 10 kbit/s a manifest comes every 2 minutes.
pub const FETCH_ACCEPT_TIME_MAX: Duration = Duration::from_secs(300);
/// Before an agent listens again, where it could not.
pub const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Between a hook that failed and the next attempt, the first time, where nothing else is asked for; then twice as long each time.
pub const HOOK_RETRY_DEFAULT: Duration = Duration::from_secs(10);
/// The longest such wait.
pub const HOOK_RETRY_MAX: Duration = Duration::from_secs(3600);
/// A hook may take so long where nothing else is asked for.
pub const HOOK_TIME_DEFAULT: Duration = Duration::from_secs(3600);
/// An agent that is to stop waits so long for its hook.
pub const HOOK_GRACE: Duration = Duration::from_secs(30);
/// A hook that was asked to end is killed after so long.
pub const HOOK_KILL_DELAY: Duration = Duration::from_secs(5);

/// IPv6, UDP and packet headers. IPv4's are smaller, but symbol sizes are the same for both, so that their sessions can be mixed.
pub const PACKET_OVERHEAD: u32 = 40 + 8 + HEADER_SIZE as u32;

/// Blocks that a receiver puts together in memory at most, while they are filled, hashed and written.
pub const ASSEMBLY_BLOCKS: usize = 8;
/// Datagrams taken from the kernel by one system call.
pub const RECEIVE_BATCH: usize = 4;
/// Bytes of one receive buffer: what GRO may hand over at once.
pub const RECEIVE_BUFFER_SIZE: usize = 65_536;
/// The socket's receive buffer that is asked for: 64 MiB hold some 30 ms at 10 Gbit/s, as the kernel counts, and
/// none of it is taken before it is needed. With 16 MiB a receiver on two busy cores lost a tenth at that rate, with 64 MiB nothing.
pub const SOCKET_RECEIVE_BUFFER_SIZE: usize = 64 << 20;
/// Groups and ports that a receiver hears at once: each server of a domain may have its own of each family.
pub const RECEIVE_SOCKET_COUNT_MAX: usize = 2 * SERVER_COUNT_MAX;
/// Segments of one GSO message at most (UDP_MAX_SEGMENTS of Linux 5.x is 64; 6.9 and later take 128).
pub const GSO_SEGMENT_COUNT_MAX: usize = 64;
/// Payload bytes of one GSO message at most: an IPv6 datagram's worth.
pub const GSO_MESSAGE_SIZE_MAX: usize = 65_487;

const _: () = assert!(SYMBOL_SIZE_MAX.is_multiple_of(64) && SYMBOL_SIZE_MIN.is_multiple_of(64));
const _: () = assert!(DATAGRAM_SIZE_MAX <= RECEIVE_BUFFER_SIZE && DATAGRAM_SIZE_MAX <= GSO_MESSAGE_SIZE_MAX);
const _: () = assert!(BLOCK_SIZE.div_ceil(SYMBOL_SIZE_MIN as u64) * (100 + REPAIR_PERCENT_MAX as u64) / 100 < 65_535);
const _: () = assert!(BLOCK_SIZE.div_ceil(SYMBOL_SIZE_MIN as u64) <= RUN_MAX as u64 && RUN_DEFAULT <= RUN_MAX);
const _: () = assert!(FEC_PERCENT_DEFAULT <= FEC_PERCENT_MAX && FEC_PERCENT_MAX <= REPAIR_PERCENT_MAX);
// The longest cycle: all rounds of the largest object.
const _: () =
    assert!((BLOCK_SIZE.div_ceil(SYMBOL_SIZE_MIN as u64) * 4 * VISIT_COUNT_MAX) << PATH_LENGTH_MAX <= POSITION_MAX);
const _: () = assert!(REORDER_WINDOW * 4 < CYCLE_LENGTH_MIN);
const _: () = assert!(8 + 8 + 32 * CHANNEL_COUNT_MAX + MANIFEST_SIGNED_SIZE_MAX <= MANIFEST_PAYLOAD_SIZE_MAX);
const _: () = assert!(1 << PATH_LENGTH_MAX >= OBJECT_SIZE_MAX.div_ceil(BLOCK_SIZE));
const _: () = assert!(MANIFEST_SIGNED_SIZE_MAX + 256 <= JOURNAL_SIZE_MAX);
const _: () = assert!(MANIFEST_PAYLOAD_SIZE_MAX + HEADER_SIZE + 48 <= MTU_ROUTED as usize);
const _: () = assert!(WAITING_SIZE_MAX > DATAGRAM_SIZE_MAX && KEPT_SIZE_MAX > SYMBOL_SIZE_MAX as usize);
