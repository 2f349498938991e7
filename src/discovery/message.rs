//! Questions to a DNS server, and what its answers say (RFC 1035, RFC 2782). The crate `domain` reads and writes the format; what is
//! judged here is whether a message answers the question, and with what.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::{FlattenInto, ParsedName};
use domain::base::rdata::ParseRecordData;
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Name, ParsedRecord, ToName};
use domain::rdata::{A, Aaaa, Cname, Soa, Srv, Txt};

use crate::limits::{DNS_ALIAS_COUNT_MAX, DNS_MISSING_TTL_DEFAULT, DNS_RECORD_COUNT_MAX};

/// A name in the DNS, always a complete one. Names that differ in case alone are equal.
pub type HostName = Name<Vec<u8>>;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum QuestionKind {
    /// SRV records.
    Servers,
    /// TXT records.
    Texts,
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl QuestionKind {
    fn record_type(self) -> Rtype {
        match self {
            Self::Servers => Rtype::SRV,
            Self::Texts => Rtype::TXT,
            Self::V4 => Rtype::A,
            Self::V6 => Rtype::AAAA,
        }
    }
}

/// One question.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Question {
    /// Of which name.
    pub name: HostName,
    /// Which records.
    pub kind: QuestionKind,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.kind.record_type())
    }
}

/// One SRV record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerRecord {
    /// The lowest comes first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// The UDP port of the group.
    pub port: u16,
    /// The host; the root if there is no server.
    pub target: HostName,
}

/// The records that were asked for, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Records {
    /// SRV records.
    Servers(Vec<ServerRecord>),
    /// The strings of all TXT records.
    Texts(Vec<Vec<u8>>),
    /// A or AAAA records.
    Addresses(Vec<IpAddr>),
}

/// What a DNS server knows of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// These records.
    Found {
        /// The records.
        records: Records,
        /// The name is an alias (CNAME) of the one that they belong to.
        is_alias: bool,
        /// For how long this is true.
        ttl: Duration,
    },
    /// There are none.
    Missing {
        /// There is not even the name (NXDOMAIN).
        no_name: bool,
        /// For how long this is true.
        ttl: Duration,
    },
}

impl Answer {
    /// For how long it is true.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        match self {
            Self::Found { ttl, .. } | Self::Missing { ttl, .. } => *ttl,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LookupError {
    /// The server could not find out (SERVFAIL).
    ServerFailure,
    /// The server answers with another error.
    Rcode(u8),
    /// The server neither knows nor asks others.
    Lame,
    /// The server's records do not make sense.
    Malformed,
    /// The aliases lead nowhere.
    AliasLoop,
    /// Nothing that answers the question came in time.
    Timeout {
        /// Messages that did not answer it.
        ignored: u32,
    },
    /// The answer is too long for UDP, and TCP did not help.
    Truncated(String),
    /// The server cannot be reached.
    Unreachable(String),
    /// There is nobody to ask.
    NoServer,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerFailure => write!(f, "the DNS server could not find out (SERVFAIL)"),
            Self::Rcode(code) => write!(f, "the DNS server answers {}", Rcode::masked_from_int(*code)),
            Self::Lame => write!(f, "the DNS server neither knows nor asks others (lame)"),
            Self::Malformed => write!(f, "the DNS server's answer is malformed"),
            Self::AliasLoop => write!(f, "its aliases (CNAME) lead in a circle or too far"),
            Self::Timeout { ignored: 0 } => write!(f, "no DNS server answers in time"),
            Self::Timeout { ignored } => {
                write!(f, "no DNS server answers in time, {ignored} messages that fit no question are ignored")
            }
            Self::Truncated(cause) => write!(f, "the answer is too long for UDP, and by TCP: {cause}"),
            Self::Unreachable(cause) => write!(f, "the DNS server cannot be reached: {cause}"),
            Self::NoServer => write!(f, "no DNS server is known (see --dns-server and /etc/resolv.conf)"),
        }
    }
}

/// What a datagram or a message on a stream is to the one who asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// No answer to this question: somebody else's, a forgery, or garbage.
    NotOurs,
    /// An answer that is too long for a datagram (TC).
    Truncated,
    /// The answer.
    Answer(Answer),
    /// An answer that is of no use.
    Error(LookupError),
}

/// The message that asks `question`.
///
/// # Panics
/// Never: a question fits any message.
#[must_use]
pub fn query(id: u16, question: &Question) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((&question.name, question.kind.record_type())).expect("a question fits a message");
    builder.finish()
}

/// Judges `message` as an answer to `question` that was asked with `id`. Never panics, whatever the message.
#[must_use]
pub fn judge(message: &[u8], id: u16, question: &Question) -> Judgement {
    let Ok(message) = Message::from_octets(message) else { return Judgement::NotOurs };
    let header = message.header();
    if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY || !repeats(&message, question) {
        return Judgement::NotOurs;
    }
    if header.tc() {
        return Judgement::Truncated;
    }
    match header.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => match read(&message, question) {
            Ok(judgement) => judgement,
            Err(_) => Judgement::Error(LookupError::Malformed),
        },
        Rcode::SERVFAIL => Judgement::Error(LookupError::ServerFailure),
        other => Judgement::Error(LookupError::Rcode(other.to_int())),
    }
}

/// Whether the message has this one question and no other.
fn repeats(message: &Message<&[u8]>, question: &Question) -> bool {
    message.sole_question().is_ok_and(|asked| {
        asked.qtype() == question.kind.record_type()
            && asked.qclass() == Class::IN
            && asked.qname().name_eq(&question.name)
    })
}

type Parsed<'a> = ParsedRecord<'a, &'a [u8]>;

fn read<'a>(message: &'a Message<&'a [u8]>, question: &Question) -> Result<Judgement, ParseError> {
    let mut parsed = Vec::new();
    for record in message.answer()? {
        if parsed.len() == DNS_RECORD_COUNT_MAX {
            return Ok(Judgement::Error(LookupError::Malformed));
        }
        parsed.push(record?);
    }
    parsed.retain(|record: &Parsed<'_>| record.class() == Class::IN);
    let record_type = question.kind.record_type();
    let mut owner: HostName = question.name.clone();
    let mut ttl = Duration::MAX;
    for alias_count in 0..=DNS_ALIAS_COUNT_MAX {
        let mut own = parsed.iter().filter(|record| record.owner().name_eq(&owner));
        let found: Vec<_> = own.clone().filter(|record| record.rtype() == record_type).collect();
        if !found.is_empty() {
            let ttl = found.iter().map(|record| seconds(record.ttl().as_secs())).fold(ttl, Duration::min);
            let records = records(question.kind, &found)?;
            return Ok(Judgement::Answer(Answer::Found { records, is_alias: alias_count > 0, ttl }));
        }
        let Some(alias) = own.find(|record| record.rtype() == Rtype::CNAME) else {
            return missing(message, alias_count > 0);
        };
        ttl = ttl.min(seconds(alias.ttl().as_secs()));
        owner = data::<Cname<ParsedName<&[u8]>>>(alias)?.into_cname().flatten_into();
    }
    Ok(Judgement::Error(LookupError::AliasLoop))
}

/// There is no such record; `by_alias`: of the name that the question's is an alias of.
fn missing<'a>(message: &'a Message<&'a [u8]>, by_alias: bool) -> Result<Judgement, ParseError> {
    let header = message.header();
    let no_name = header.rcode() == Rcode::NXDOMAIN;
    let (mut ttl, mut refers) = (None, false);
    for record in message.authority()?.take(DNS_RECORD_COUNT_MAX) {
        let record = record?;
        refers |= record.rtype() == Rtype::NS;
        if record.rtype() == Rtype::SOA {
            // RFC 2308, section 5: for how long there is none.
            let minimum = data::<Soa<ParsedName<&[u8]>>>(&record)?.minimum();
            ttl = Some(seconds(record.ttl().as_secs()).min(seconds(minimum.as_secs())));
        }
    }
    let is_authority = header.aa() || header.ra() || ttl.is_some();
    if !no_name && !by_alias && (!is_authority || (refers && ttl.is_none() && !header.aa())) {
        return Ok(Judgement::Error(LookupError::Lame));
    }
    Ok(Judgement::Answer(Answer::Missing { no_name, ttl: ttl.unwrap_or(DNS_MISSING_TTL_DEFAULT) }))
}

fn records(kind: QuestionKind, found: &[&Parsed<'_>]) -> Result<Records, ParseError> {
    Ok(match kind {
        QuestionKind::Servers => Records::Servers(found.iter().map(|record| server(record)).collect::<Result<_, _>>()?),
        QuestionKind::Texts => {
            let mut texts = Vec::new();
            for record in found {
                texts.extend(data::<Txt<&[u8]>>(record)?.iter().map(<[u8]>::to_vec));
            }
            Records::Texts(texts)
        }
        QuestionKind::V4 => {
            let address = |record: &&Parsed<'_>| Ok(data::<A>(record)?.addr().into());
            Records::Addresses(found.iter().map(address).collect::<Result<_, ParseError>>()?)
        }
        QuestionKind::V6 => {
            let address = |record: &&Parsed<'_>| Ok(data::<Aaaa>(record)?.addr().into());
            Records::Addresses(found.iter().map(address).collect::<Result<_, ParseError>>()?)
        }
    })
}

fn server(record: &Parsed<'_>) -> Result<ServerRecord, ParseError> {
    let server = data::<Srv<ParsedName<&[u8]>>>(record)?;
    let target = server.target().flatten_into();
    Ok(ServerRecord { priority: server.priority(), weight: server.weight(), port: server.port(), target })
}

/// What the record holds, which is of the type that its header says.
fn data<'a, Data: ParseRecordData<'a, &'a [u8]>>(record: &Parsed<'a>) -> Result<Data, ParseError> {
    let read = record.clone().into_record::<Data>()?;
    Ok(read.ok_or(ParseError::form_error("data of another type"))?.into_data())
}

/// A TTL with its highest bit set counts as 0 (RFC 2181, section 8).
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl.into() })
}

#[cfg(test)]
mod tests;
