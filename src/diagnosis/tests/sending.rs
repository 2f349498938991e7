//! Hosts that send, each with one fault.

use super::*;

#[test]
fn faults_of_senders_are_found() {
    let sent = |change: fn(&mut Sending)| with_sending(sending(), change);
    judge(vec![
        (
            "no route",
            Facts { route: Some(Err("network is unreachable".into())), ..sending() },
            Check::Route,
            Status::Fail,
            "ip route add 239.1.1.1/32 dev eth0",
        ),
        (
            "no address",
            with_link(sending(), |link| link.addresses.clear()),
            Check::Address,
            Status::Fail,
            "ip address add ADDRESS/PREFIX dev eth0",
        ),
        (
            "firewall",
            sent(|sending| sending.refused = Some(Some("operation not permitted".into()))),
            Check::Firewall,
            Status::Fail,
            "nft insert rule inet filter some ip daddr 239.1.1.1 udp dport 4242 accept",
        ),
        (
            "too fast",
            sent(|sending| sending.rate_bps = Some(10_000_000_000)),
            Check::Rate,
            Status::Fail,
            "iotupd -i eth0 --rate 500M FILE 239.1.1.1:4242",
        ),
        (
            "radio",
            with_link(sent(|sending| sending.rate_bps = None), |link| link.wireless = true),
            Check::Rate,
            Status::Fail,
            "iotupd -i eth0 --rate 2M FILE 239.1.1.1:4242",
        ),
        ("too long", sent(|sending| sending.mtu = Some(9000)), Check::Mtu, Status::Fail, "ip link set eth0 mtu 9000"),
        (
            "longer than usual",
            with_link(sent(|sending| sending.mtu = Some(9000)), |link| link.mtu = 9000),
            Check::Mtu,
            Status::Warn,
            "iotupd -i eth0 --mtu 1500 FILE 239.1.1.1:4242",
        ),
        (
            "no ring",
            sent(|sending| (sending.uring, sending.uring_disabled) = (Some(Some("not permitted".into())), Some(2))),
            Check::Engine,
            Status::Warn,
            "iotupd --engine sendmmsg -i eth0 FILE 239.1.1.1:4242",
        ),
        ("no GSO", sent(|sending| sending.gso = Some(false)), Check::Gso, Status::Warn, "uname -r"),
    ]);
}

/// The receiver would overwrite the file that is to be sent.
#[test]
fn sender_is_never_told_to_receive() {
    for candidates in [vec!["eth0".to_owned()], Vec::new()] {
        let choice = Choice::None { cause: "no".into(), candidates, only_down: None };
        let findings = diagnose(&Facts { choice, sending: None, route: None, ..sending() });
        let said: Vec<_> = findings.iter().filter_map(|finding| finding.remedy.as_ref()).collect();
        assert!(said.iter().all(|remedy| !remedy.command.contains("iotupc")), "{said:?}");
    }
    let choice = Choice::None { cause: "several".into(), candidates: vec!["eth0".into()], only_down: None };
    let findings = diagnose(&Facts { choice, sending: None, route: None, ..sending() });
    let remedy = findings[0].remedy.as_ref().map(|remedy| remedy.command.as_str());
    assert_eq!((findings.len(), remedy), (1, Some("iotupd -i eth0 FILE 239.1.1.1:4242")));
}
