//! Asks DNS servers, on a thread of its own, because the loop that takes datagrams waits for nobody. Addresses that the host's own table
//! (/etc/hosts) has are taken from there.
//!
//! Every question goes out with a random id and from a socket of its own, so from a random port, connected to the one server
//! that may answer: whoever is not on the way would have to guess all of that. What does not fit the question is ignored, and the answer
//! still waited for. A server that does not help is followed by the next, twice in turn; when to begin anew is `discovery`'s affair.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use resolv_conf::{Config, ScopedIp};

use crate::discovery::{Answer, HostName, Judgement, LookupError, Question, QuestionKind, Records, judge, query};
use crate::failure::{Exit, Failure, describe};
use crate::limits::{DNS_ANSWER_TIMES, DNS_SERVER_COUNT_MAX, DNS_STREAM_TIME};
use crate::sys::{clock, random};
use crate::types::Time;

const PORT: u16 = 53;
/// Where the host's own DNS servers are named (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The host's own table of names (hosts(5)).
const HOSTS: &str = "/etc/hosts";
/// How long an entry of that table is believed before the next look.
const HOSTS_TTL: Duration = Duration::from_secs(60);
/// The longest UDP answer without extensions has 512 bytes; longer ones are taken too.
const DATAGRAM_SIZE_MAX: usize = 4096;

/// A question with what has come of it.
pub(super) type Answered = (Question, Result<Answer, LookupError>);

/// The thread that asks.
#[derive(Debug)]
pub(super) struct Dns {
    questions: mpsc::Sender<Question>,
    answers: mpsc::Receiver<Answered>,
}

impl Dns {
    /// Starts the thread, which ends with this value, or when it has done with the last question. `servers`: whom to ask; if there are
    /// none, those of resolv.conf(5), as it is at every question.
    pub(super) fn start(servers: Vec<SocketAddr>) -> Result<Self, Failure> {
        let (questions, asked) = mpsc::channel::<Question>();
        let (answered, answers) = mpsc::channel();
        let run = move || {
            let mut first = 0;
            for question in asked {
                let answer = match known_to_host(&question) {
                    Some(answer) => Ok(answer),
                    None if servers.is_empty() => look_up(&servers_of_host(), &mut first, &question),
                    None => look_up(&servers, &mut first, &question),
                };
                if answered.send((question, answer)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("dns".into())
            .spawn(run)
            .map_err(|error| Failure::io(Exit::Unavailable, "start a thread to ask the DNS", &error))?;
        Ok(Self { questions, answers })
    }

    /// Asks. The answer comes by `take`.
    pub(super) fn ask(&self, question: Question) {
        // The thread lives as long as this value.
        let _ = self.questions.send(question);
    }

    /// The next answer, if there is one.
    pub(super) fn take(&self) -> Option<Answered> {
        self.answers.try_recv().ok()
    }
}

/// What the host's own table says of a name's addresses.
fn known_to_host(question: &Question) -> Option<Answer> {
    // A table that cannot be read has no entries.
    answer_in(&std::fs::read_to_string(HOSTS).ok()?, question)
}

fn answer_in(hosts: &str, question: &Question) -> Option<Answer> {
    let is_wanted = |address: &IpAddr| match question.kind {
        QuestionKind::V4 => address.is_ipv4(),
        QuestionKind::V6 => address.is_ipv6(),
        QuestionKind::Servers | QuestionKind::Texts => false,
    };
    let is_named = |name: &str| name.parse::<HostName>().is_ok_and(|name| name == question.name);
    let address = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok().filter(is_wanted)?;
        words.any(is_named).then_some(address)
    };
    let addresses: Vec<IpAddr> = hosts.lines().filter_map(address).collect();
    let found = |records| Answer::Found { records, is_alias: false, ttl: HOSTS_TTL };
    (!addresses.is_empty()).then(|| found(Records::Addresses(addresses)))
}

/// The servers that the host's configuration names; without any, one on the host itself, as resolv.conf(5) has it.
fn servers_of_host() -> Vec<SocketAddr> {
    servers_in(&std::fs::read(Path::new(RESOLV_CONF)).unwrap_or_default())
}

fn servers_in(config: &[u8]) -> Vec<SocketAddr> {
    // A line that is not understood, as glibc has it, is no reason to ignore the others.
    let (config, _) = Config::parse_with_errors(config);
    config.get_nameservers_or_local().iter().filter_map(server_at).take(DNS_SERVER_COUNT_MAX).collect()
}

fn server_at(address: &ScopedIp) -> Option<SocketAddr> {
    match address {
        ScopedIp::V4(address) => Some(SocketAddr::from((*address, PORT))),
        ScopedIp::V6(address, None) => Some(SocketAddr::from((*address, PORT))),
        ScopedIp::V6(address, Some(scope)) => {
            let scope = scope.parse().or_else(|_| nix::net::if_::if_nametoindex(scope.as_str())).ok()?;
            Some(SocketAddr::V6(SocketAddrV6::new(*address, PORT, 0, scope)))
        }
    }
}

/// Asks the servers in turn, `first` first, until one helps; the next question then goes to that one first.
fn look_up(servers: &[SocketAddr], first: &mut usize, question: &Question) -> Result<Answer, LookupError> {
    let mut error = LookupError::NoServer;
    for time in DNS_ANSWER_TIMES {
        for step in 0..servers.len() {
            let place = (*first + step) % servers.len();
            match ask(servers[place], question, time) {
                Ok(answer) => {
                    *first = place;
                    return Ok(answer);
                }
                // What a server says is worth more than that another says nothing.
                Err(LookupError::Timeout { ignored: 0 }) if error != LookupError::NoServer => {}
                Err(failed) => error = failed,
            }
        }
    }
    Err(error)
}

/// Asks one server, by UDP, and by TCP if the answer is too long for that.
fn ask(server: SocketAddr, question: &Question, time: Duration) -> Result<Answer, LookupError> {
    let unreachable = |error: io::Error| LookupError::Unreachable(format!("{server}: {}", describe(&error)));
    let id = u16::from_ne_bytes(random::bytes().map_err(unreachable)?);
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel chooses the port at random.
    let socket = UdpSocket::bind((any, 0)).map_err(unreachable)?;
    socket.connect(server).map_err(unreachable)?;
    socket.send(&query(id, question)).map_err(unreachable)?;
    let deadline = clock::now().after(time);
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    let mut ignored = 0_u32;
    while let Some(left) = left_until(deadline) {
        socket.set_read_timeout(Some(left)).map_err(unreachable)?;
        let size = match socket.recv(&mut buffer) {
            Ok(size) => size,
            Err(error) if is_no_answer(&error) => continue,
            Err(error) => return Err(unreachable(error)),
        };
        match judge(&buffer[..size], id, question) {
            Judgement::NotOurs => ignored = ignored.saturating_add(1),
            Judgement::Truncated => {
                return ask_by_stream(server, question).map_err(|error| LookupError::Truncated(describe(&error)))?;
            }
            Judgement::Answer(answer) => return Ok(answer),
            Judgement::Error(error) => return Err(error),
        }
    }
    Err(LookupError::Timeout { ignored })
}

/// A time that is over, or a signal.
fn is_no_answer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn left_until(deadline: Time) -> Option<Duration> {
    let left = deadline.since(clock::now());
    // A wait of less than a microsecond would be one without end.
    (left >= Duration::from_micros(1)).then_some(left)
}

/// Asks by TCP (RFC 7766). The outer error is the connection's.
fn ask_by_stream(server: SocketAddr, question: &Question) -> io::Result<Result<Answer, LookupError>> {
    let deadline = clock::now().after(DNS_STREAM_TIME);
    let id = u16::from_ne_bytes(random::bytes()?);
    let mut stream = Timed { stream: TcpStream::connect_timeout(&server, DNS_STREAM_TIME)?, deadline };
    let query = query(id, question);
    let size = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.stream.set_write_timeout(Some(DNS_STREAM_TIME))?;
    stream.stream.write_all(&[&size.to_be_bytes()[..], &query].concat())?;
    let mut size = [0; 2];
    stream.read_exact(&mut size)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(size))];
    stream.read_exact(&mut answer)?;
    Ok(match judge(&answer, id, question) {
        Judgement::Answer(answer) => Ok(answer),
        Judgement::Error(error) => Err(error),
        Judgement::NotOurs | Judgement::Truncated => Err(LookupError::Malformed),
    })
}

/// A stream that is read until a moment and no longer, however slowly it drips.
struct Timed {
    stream: TcpStream,
    deadline: Time,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = left_until(self.deadline).ok_or(io::ErrorKind::TimedOut)?;
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn question() -> Question {
        Question { name: "a.test".parse().unwrap(), kind: QuestionKind::V4 }
    }

    /// The answer to `query`: one address that holds for a minute.
    fn answer_to(query: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        // QR and RA, and one record: a pointer to the question's name, A, IN, 60 s, 4 bytes.
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        answer
    }

    fn expected() -> Result<Answer, LookupError> {
        let records = Records::Addresses(vec![[192, 0, 2, 1].into()]);
        Ok(Answer::Found { records, is_alias: false, ttl: Duration::from_secs(60) })
    }

    /// A DNS server of one question, whose answers are those of `answers`.
    fn server(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (size, from) = socket.recv_from(&mut buffer).unwrap();
            for answer in answers(&buffer[..size]) {
                socket.send_to(&answer, from).unwrap();
            }
        });
        address
    }

    #[test]
    fn answer_among_forgeries_is_found() {
        let server = server(|query| {
            let good = answer_to(query);
            let mut other_id = good.clone();
            other_id[0] ^= 1;
            let mut other_name = good.clone();
            other_name[13] ^= 1;
            vec![Vec::new(), b"garbage".to_vec(), other_id, other_name, good]
        });
        assert_eq!(ask(server, &question(), Duration::from_secs(5)), expected());
    }

    #[test]
    fn forgeries_alone_are_silence_and_counted() {
        let server = server(|query| {
            let mut other_id = answer_to(query);
            other_id[1] ^= 1;
            vec![other_id.clone(), other_id]
        });
        let error = LookupError::Timeout { ignored: 2 };
        // All of it is waited for; within it the other thread must have had its turn.
        assert_eq!(ask(server, &question(), Duration::from_secs(1)), Err(error));
    }

    #[test]
    fn server_that_nobody_runs_is_passed_over_and_the_next_remembered() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let good = server(|query| vec![answer_to(query)]);
        let mut first = 0;
        assert_eq!((look_up(&[closed, good], &mut first, &question()), first), (expected(), 1));
        let refused = look_up(&[closed], &mut 0, &question()).unwrap_err();
        assert_eq!(refused.to_string(), format!("the DNS server cannot be reached: {closed}: connection refused"));
        assert_eq!(look_up(&[], &mut 0, &question()), Err(LookupError::NoServer));
    }

    #[test]
    fn truncated_answer_is_asked_for_by_tcp_and_its_absence_is_an_error() {
        let truncated = |query: &[u8]| {
            let mut answer = query.to_vec();
            answer[2] = 0x82 | 1;
            vec![answer]
        };
        let socket = server(truncated);
        let refused = ask(socket, &question(), Duration::from_secs(5)).unwrap_err();
        assert_eq!(refused.to_string(), "the answer is too long for UDP, and by TCP: connection refused");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut size = [0; 2];
            stream.read_exact(&mut size).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(size))];
            stream.read_exact(&mut query).unwrap();
            let answer = answer_to(&query);
            // One byte at a time: a stream has no messages.
            for byte in [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat() {
                stream.write_all(&[byte]).unwrap();
            }
        });
        assert_eq!(ask_by_stream(address, &question()).unwrap(), expected());
    }

    #[test]
    fn thread_answers_questions_and_ends_with_its_owner() {
        let dns = Dns::start(vec![server(|query| vec![answer_to(query)])]).unwrap();
        dns.ask(question());
        let answered = dns.answers.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(answered, (question(), expected()));
        assert!(dns.take().is_none());
    }

    #[test]
    fn table_of_the_host_is_read_for_addresses_of_the_family() {
        let hosts = "# x\n127.0.0.1 localhost\n192.0.2.1\tA.test b # a.test\n\n192.0.2.2 a.test\n2001:db8::1 a.test c\nnonsense a.test\n";
        let addresses = |name: &str, kind| {
            let answer = answer_in(hosts, &Question { name: name.parse().unwrap(), kind })?;
            match answer {
                Answer::Found { records: Records::Addresses(addresses), .. } => Some(addresses),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(addresses("a.test", QuestionKind::V4).unwrap(), [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from));
        assert_eq!(addresses("a.test", QuestionKind::V6).unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("c", QuestionKind::V4), None);
        assert_eq!(addresses("x", QuestionKind::V4), None);
        assert_eq!(addresses("a.test", QuestionKind::Servers), None);
    }

    #[test]
    fn servers_of_the_host_are_read_as_far_as_they_are_understood() {
        let config = b"# x\nnonsense here\nnameserver 192.0.2.1\nnameserver fe80::1%lo\nnameserver fe80::1%nowhere9\n\
            nameserver 2001:db8::1\nnameserver 192.0.2.2\noptions rotate\n";
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let link_local = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, lo));
        assert_eq!(
            servers_in(config),
            ["192.0.2.1:53".parse().unwrap(), link_local, "[2001:db8::1]:53".parse().unwrap()]
        );
        assert_eq!(servers_in(b"")[0], "127.0.0.1:53".parse().unwrap());
        assert!(servers_in(&[0xff; 100]).len() <= DNS_SERVER_COUNT_MAX);
    }
}
