use super::*;
use crate::sys::{Memory, ReceiveOptions, ReceiveSocket, ScratchSlots, SendOptions};

/// A line on the loopback interface and a receiver at its end, or `None` where the kernel forbids the engine.
fn open(choice: EngineChoice, group: &str) -> Option<(Line, ReceiveSocket, u16)> {
    let (group, interface_index) = (group.parse().unwrap(), nix::net::if_::if_nametoindex("lo").unwrap());
    let bind_addr = Some([127, 0, 0, 1].into());
    let socket = SendSocket::open(&SendOptions { group, interface_index, bind_addr, hops: 1 }).unwrap();
    let port = socket.local_addr().port();
    let (receiver, _) = ReceiveSocket::open(&ReceiveOptions { group, interface_index }).unwrap();
    let line = Line::new(socket, choice, "send".into()).ok()?;
    Some((line, receiver, port))
}

fn received(receiver: &mut ReceiveSocket, from_port: u16, count: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let deadline = clock::now().after(Duration::from_secs(5));
    while datagrams.len() < count && clock::now() < deadline {
        receiver.receive(deadline).unwrap();
        let ours = receiver.datagrams().filter(|(from, _)| from.port() == from_port);
        datagrams.extend(ours.map(|(_, datagram)| datagram.to_vec()));
    }
    datagrams
}

#[test]
fn message_that_the_kernel_does_not_cut_is_cut_here_once_and_for_all() {
    for (choice, group) in [(EngineChoice::Uring, "239.77.9.2:47912"), (EngineChoice::Sendmmsg, "239.77.9.3:47913")] {
        let Some((mut line, mut receiver, port)) = open(choice, group) else { continue };
        assert!(line.gso());
        // More datagrams than any kernel makes of one message (EINVAL).
        let (buffer, messages) =
            ((0..200).collect(), vec![Message { start: 0, size: 200, segment_size: 1, memory: Memory::Buffer }]);
        line.retry = Some(Retry { buffer, messages, refusals: Refusals::default() });
        let deadline = clock::now().after(Duration::from_secs(5));
        while !line.drain().unwrap() && clock::now() < deadline {}
        let expected: Vec<_> = (0..200).map(|byte| vec![byte]).collect();
        assert_eq!(received(&mut receiver, port, 200), expected, "all, once and in order");
        assert_eq!((line.engine_name(), line.gso()), ("sendmmsg", false));
        assert!(line.take_warning().unwrap().contains("refuses segmentation offload"));
        assert_eq!((line.take_warning(), line.counts().refused), (None, 3));
    }
}

/// What lies in an image is far beyond the end of any buffer.
#[test]
fn message_of_an_image_that_the_kernel_does_not_cut_is_cut_here_too() {
    const START: usize = 700_000;
    let folder = tempfile::tempdir().unwrap();
    // Cut within a slot, and at the ends of slots.
    for (choice, memory, slot_size, group) in [
        (EngineChoice::Uring, Memory::Image, 100_000, "239.77.9.6:47916"),
        (EngineChoice::Uring, Memory::Image, 1, "239.77.9.9:47919"),
        (EngineChoice::Uring, Memory::ImageToCopy, 100_000, "239.77.9.7:47917"),
        (EngineChoice::Sendmmsg, Memory::Image, 100_000, "239.77.9.8:47918"),
    ] {
        let Some((mut line, mut receiver, port)) = open(choice, group) else { continue };
        let slots = Arc::new(ScratchSlots::new(folder.path(), 900_000 / slot_size, slot_size).unwrap());
        for slot in START / slot_size..(START + 200).div_ceil(slot_size) {
            slots.fill(slot, |bytes| {
                let first = slot * slot_size - START;
                bytes.iter_mut().zip(first..200).for_each(|(byte, index)| *byte = index as u8);
                true
            });
        }
        let _ = line.set_image(&slots);
        line.image.slots = Some(slots);
        let messages = vec![Message { start: START, size: 200, segment_size: 1, memory }];
        let buffer = vec![255; 1000].into();
        line.retry = Some(Retry { buffer, messages, refusals: Refusals::default() });
        let deadline = clock::now().after(Duration::from_secs(5));
        while !line.drain().unwrap() && clock::now() < deadline {}
        let expected: Vec<_> = (0..200).map(|byte| vec![byte]).collect();
        assert_eq!(
            received(&mut receiver, port, 200),
            expected,
            "{choice:?} {memory:?} {slot_size}: all, once and in order"
        );
        assert_eq!((line.engine_name(), line.gso()), ("sendmmsg", false));
    }
}

#[test]
fn burst_that_can_never_be_sent_is_a_failure_with_its_remedy() {
    for (choice, group) in [(EngineChoice::Uring, "239.77.9.4:47914"), (EngineChoice::Sendmmsg, "239.77.9.5:47915")] {
        let Some((mut line, _, _)) = open(choice, group) else { continue };
        // Longer than any datagram.
        let (buffer, messages) =
            (vec![0; 65_530], vec![Message { start: 0, size: 65_530, segment_size: 65_530, memory: Memory::Buffer }]);
        line.retry = Some(Retry { buffer: buffer.into(), messages, refusals: Refusals::default() });
        let failure = loop {
            match line.drain() {
                Ok(is_drained) => assert!(!is_drained),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.exit, Exit::Io);
        assert!(failure.to_string().contains("give --mtu"), "{failure}");
    }
}
