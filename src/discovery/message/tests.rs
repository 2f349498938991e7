use domain::base::Ttl;
use domain::base::message_builder::AnswerBuilder;
use domain::rdata::Ns;
use proptest::prelude::*;

use super::*;

const ID: u16 = 0x1234;

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn question(kind: QuestionKind) -> Question {
    Question { name: name("_iotupd._udp.updates.test"), kind }
}

/// An answer in the making, to this question.
fn reply(question: &Question) -> AnswerBuilder<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(ID);
    builder.header_mut().set_qr(true);
    builder.header_mut().set_ra(true);
    let mut builder = builder.question();
    builder.push((&question.name, question.kind.record_type())).unwrap();
    builder.answer()
}

fn servers() -> (Question, AnswerBuilder<Vec<u8>>) {
    let question = question(QuestionKind::Servers);
    let mut builder = reply(&question);
    for (ttl, priority, target) in [(60, 10, "a.test"), (30, 20, "b.test")] {
        let data = Srv::new(priority, 5, 4242, name(target));
        builder.push((&question.name, Class::IN, Ttl::from_secs(ttl), data)).unwrap();
    }
    (question, builder)
}

fn found(judgement: Judgement) -> (Records, bool, u64) {
    match judgement {
        Judgement::Answer(Answer::Found { records, is_alias, ttl }) => (records, is_alias, ttl.as_secs()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn query_asks_one_question_recursively() {
    let question = question(QuestionKind::Servers);
    let bytes = query(ID, &question);
    let message = Message::from_octets(bytes.as_slice()).unwrap();
    assert!(message.header().rd() && !message.header().qr() && repeats(&message, &question));
    assert_eq!((message.header().id(), message.header_counts().ancount()), (ID, 0));
    assert_eq!(judge(&bytes, ID, &question), Judgement::NotOurs, "a question is no answer");
}

#[test]
fn servers_are_read_and_the_shortest_time_counts() {
    let (question, builder) = servers();
    let (records, is_alias, ttl) = found(judge(&builder.finish(), ID, &question));
    let record = |priority, target| ServerRecord { priority, weight: 5, port: 4242, target: name(target) };
    assert_eq!(records, Records::Servers(vec![record(10, "a.test"), record(20, "b.test")]));
    assert_eq!((is_alias, ttl), (false, 30));
}

#[test]
fn strings_of_all_text_records_are_read() {
    let question = question(QuestionKind::Texts);
    let mut builder = reply(&question);
    for strings in [b"\x01a\x0bgroup=ff3e:".as_slice(), b"\x00".as_slice()] {
        let data = Txt::from_octets(strings).unwrap();
        builder.push((&question.name, Class::IN, Ttl::from_secs(9), data)).unwrap();
    }
    let (records, ..) = found(judge(&builder.finish(), ID, &question));
    assert_eq!(records, Records::Texts(vec![b"a".to_vec(), b"group=ff3e:".to_vec(), Vec::new()]));
}

#[test]
fn addresses_are_read_through_aliases_that_are_told() {
    let question = Question { name: name("www.test"), kind: QuestionKind::V4 };
    let mut builder = reply(&question);
    // Not in their order.
    builder.push((&name("b.test"), Class::IN, Ttl::from_secs(70), A::new([192, 0, 2, 1].into()))).unwrap();
    builder.push((&name("a.test"), Class::IN, Ttl::from_secs(40), Cname::new(name("B.test")))).unwrap();
    builder.push((&question.name, Class::IN, Ttl::from_secs(50), Cname::new(name("a.test")))).unwrap();
    let address: IpAddr = [192, 0, 2, 1].into();
    assert_eq!(found(judge(&builder.finish(), ID, &question)), (Records::Addresses(vec![address]), true, 40));

    let question = Question { name: name("www.test"), kind: QuestionKind::V6 };
    let mut builder = reply(&question);
    let address: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    builder.push((&question.name, Class::IN, Ttl::from_secs(70), Aaaa::new(address))).unwrap();
    assert_eq!(found(judge(&builder.finish(), ID, &question)), (Records::Addresses(vec![address.into()]), false, 70));
}

#[test]
fn answers_to_others_are_not_ours() {
    let (question, builder) = servers();
    let bytes = builder.finish();
    assert_eq!(judge(&bytes, ID + 1, &question), Judgement::NotOurs, "another id");
    let other = Question { name: name("_iotupd._udp.other.test"), kind: QuestionKind::Servers };
    assert_eq!(judge(&bytes, ID, &other), Judgement::NotOurs, "another name");
    let other = Question { kind: QuestionKind::Texts, ..question.clone() };
    assert_eq!(judge(&bytes, ID, &other), Judgement::NotOurs, "another type");
    let shouted = Question { name: name("_IOTUPD._UDP.UPDATES.TEST"), ..question.clone() };
    assert!(matches!(judge(&bytes, ID, &shouted), Judgement::Answer(_)), "case does not matter");
    for size in 0..12 {
        assert_eq!(judge(&bytes[..size], ID, &question), Judgement::NotOurs, "no header");
    }
    let mut two = bytes.clone();
    two[5] = 2;
    assert_eq!(judge(&two, ID, &question), Judgement::NotOurs, "two questions");
    let mut none = bytes;
    none[5] = 0;
    assert_eq!(judge(&none, ID, &question), Judgement::NotOurs, "no question");
}

#[test]
fn records_of_others_and_of_other_types_are_not_taken() {
    let question = Question { name: name("a.test"), kind: QuestionKind::V4 };
    let mut builder = reply(&question);
    builder.push((&name("b.test"), Class::IN, Ttl::from_secs(70), A::new([192, 0, 2, 1].into()))).unwrap();
    builder.push((&name("a.test"), Class::CH, Ttl::from_secs(70), A::new([192, 0, 2, 2].into()))).unwrap();
    let missing = Answer::Missing { no_name: false, ttl: DNS_MISSING_TTL_DEFAULT };
    assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Answer(missing));
}

#[test]
fn errors_are_told_apart() {
    for (code, error) in [
        (Rcode::SERVFAIL, LookupError::ServerFailure),
        (Rcode::REFUSED, LookupError::Rcode(5)),
        (Rcode::FORMERR, LookupError::Rcode(1)),
    ] {
        let question = question(QuestionKind::Servers);
        let mut builder = reply(&question);
        builder.header_mut().set_rcode(code);
        assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Error(error));
    }
    assert_eq!(LookupError::Rcode(5).to_string(), "the DNS server answers REFUSED");
    let (question, mut builder) = servers();
    builder.header_mut().set_tc(true);
    assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Truncated);
}

fn soa(ttl: u32, minimum: u32) -> (HostName, Class, Ttl, Soa<HostName>) {
    let seconds = Ttl::from_secs;
    let data =
        Soa::new(name("ns.test"), name("me.test"), 1.into(), seconds(1), seconds(1), seconds(1), seconds(minimum));
    (name("test"), Class::IN, seconds(ttl), data)
}

#[test]
fn absence_lasts_as_long_as_its_proof_says() {
    let question = question(QuestionKind::Servers);
    for (code, no_name) in [(Rcode::NXDOMAIN, true), (Rcode::NOERROR, false)] {
        let mut builder = reply(&question).authority();
        builder.header_mut().set_rcode(code);
        builder.push(soa(600, 7)).unwrap();
        let missing = Answer::Missing { no_name, ttl: Duration::from_secs(7) };
        assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Answer(missing));
    }
}

#[test]
fn server_that_sends_us_on_is_lame() {
    let question = question(QuestionKind::Servers);
    let mut builder = reply(&question).authority();
    builder.push((&name("test"), Class::IN, Ttl::from_secs(9), Ns::new(name("ns.test")))).unwrap();
    assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Error(LookupError::Lame));
    let mut builder = reply(&question);
    builder.header_mut().set_ra(false);
    assert_eq!(judge(&builder.finish(), ID, &question), Judgement::Error(LookupError::Lame));
}

#[test]
fn extreme_times_are_zero_or_as_they_are() {
    for (ttl, expected) in [(0, 0), (0x7fff_ffff, 0x7fff_ffff), (0x8000_0000, 0), (u32::MAX, 0)] {
        let question = question(QuestionKind::Servers);
        let mut builder = reply(&question);
        let data = Srv::new(1, 1, 1, name("a.test"));
        builder.push((&question.name, Class::IN, Ttl::from_secs(ttl), data)).unwrap();
        assert_eq!(found(judge(&builder.finish(), ID, &question)).2, expected);
    }
}

#[test]
fn aliases_in_a_circle_or_too_many_end() {
    let question = Question { name: name("n0.test"), kind: QuestionKind::V4 };
    let alias = |builder: &mut AnswerBuilder<Vec<u8>>, from: &str, to: &str| {
        builder.push((&name(from), Class::IN, Ttl::from_secs(9), Cname::new(name(to)))).unwrap();
    };
    let mut circle = reply(&question);
    alias(&mut circle, "n0.test", "n1.test");
    alias(&mut circle, "n1.test", "n0.test");
    assert_eq!(judge(&circle.finish(), ID, &question), Judgement::Error(LookupError::AliasLoop));
    let mut long = reply(&question);
    for i in 0..=DNS_ALIAS_COUNT_MAX {
        alias(&mut long, &format!("n{i}.test"), &format!("n{}.test", i + 1));
    }
    assert_eq!(judge(&long.finish(), ID, &question), Judgement::Error(LookupError::AliasLoop));
    let mut dangling = reply(&question);
    alias(&mut dangling, "n0.test", "n1.test");
    assert!(matches!(judge(&dangling.finish(), ID, &question), Judgement::Answer(Answer::Missing { .. })));
}

#[test]
fn names_that_point_at_themselves_are_malformed() {
    let (question, builder) = servers();
    let mut bytes = builder.finish();
    let answer = query(ID, &question).len();
    for pointer in [answer, answer + 1, 0x3fff] {
        bytes[answer..answer + 2].copy_from_slice(&(0xc000 | u16::try_from(pointer).unwrap()).to_be_bytes());
        assert_eq!(judge(&bytes, ID, &question), Judgement::Error(LookupError::Malformed), "{pointer}");
    }
}

#[test]
fn counts_that_cannot_be_are_malformed() {
    let (question, builder) = servers();
    let mut bytes = builder.finish();
    bytes[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(judge(&bytes, ID, &question), Judgement::Error(LookupError::Malformed));
}

#[test]
fn more_records_than_make_sense_are_malformed() {
    let question = Question { name: name("a.test"), kind: QuestionKind::V4 };
    for (count, is_good) in [(DNS_RECORD_COUNT_MAX, true), (DNS_RECORD_COUNT_MAX + 1, false)] {
        let mut builder = reply(&question);
        for i in 0..count {
            let address = A::new(u32::try_from(i).unwrap().into());
            builder.push((&question.name, Class::IN, Ttl::from_secs(9), address)).unwrap();
        }
        assert_eq!(matches!(judge(&builder.finish(), ID, &question), Judgement::Answer(_)), is_good);
    }
}

proptest! {
    #[test]
    fn any_damage_to_an_answer_is_survived(
        changes in proptest::collection::vec((12_usize..200, any::<u8>()), 0..8),
        size in 0_usize..250,
        kind in 0_u8..4,
    ) {
        let (mut question, builder) = servers();
        question.kind = [QuestionKind::Servers, QuestionKind::Texts, QuestionKind::V4, QuestionKind::V6][usize::from(kind)];
        let mut builder = builder.authority();
        builder.push(soa(1, 1)).unwrap();
        let mut bytes = builder.finish();
        // The question's type is that of what is asked, so that the records are looked at.
        let type_at = query(ID, &question).len() - 4;
        bytes[type_at..type_at + 2].copy_from_slice(&question.kind.record_type().to_int().to_be_bytes());
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(size);
        let _ = judge(&bytes, ID, &question);
    }

    #[test]
    fn any_bytes_behind_a_good_question_are_survived(
        flags in any::<u16>(),
        counts in any::<[u8; 6]>(),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let question = question(QuestionKind::Servers);
        let mut bytes = query(ID, &question);
        bytes[2..4].copy_from_slice(&(flags | 0x8000).to_be_bytes());
        bytes[6..12].copy_from_slice(&counts);
        bytes.extend(tail);
        let _ = judge(&bytes, ID, &question);
    }
}
