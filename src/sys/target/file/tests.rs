//! The target against a folder of its own.

use std::os::unix::fs::symlink;
use std::sync::atomic::Ordering;

use super::*;
use crate::sys::SlotFile;
use crate::sys::large_pages::tests as large_pages;

/// Ids of two objects.
const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbb";

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.img");
    (folder, path)
}

/// The cause for which the target cannot be created.
fn refusal(result: Result<impl Sized, Failure>) -> String {
    let failure = result.err().expect("it is refused");
    assert_eq!(failure.exit, Exit::CannotCreate);
    failure.to_string().rsplit(": ").next().unwrap().to_owned()
}

fn first_byte(target: &PartFile) -> u8 {
    let mut byte = [0];
    target.read_exact_at(0, &mut byte).unwrap();
    byte[0]
}

/// Stores the first byte of an object, and stops.
fn store(path: &Path, size: u64, object: &str) {
    PartFile::create(path, size, object)
        .unwrap()
        .target
        .write_run(0, &[IoSlice::new(&object.as_bytes()[..1])])
        .unwrap();
}

/// The names in a folder.
fn listing(folder: &tempfile::TempDir) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path()).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn committed_target_has_its_name_and_no_part() {
    let (folder, path) = folder();
    PartFile::check(&path).unwrap();
    let Created { target, reused, set_aside } = PartFile::create(&path, 6, A).unwrap();
    assert_eq!((reused, set_aside), (false, None));
    assert_eq!(target.part_path(), folder.path().join(".out.img.part"));
    target.write_run(1, &[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")]).unwrap();
    let mut all = [9; 6];
    target.read_exact_at(0, &mut all).unwrap();
    target.commit().unwrap();
    assert_eq!((&all, fs::read(&path).unwrap().as_slice()), (b"\0abc\0\0", &b"\0abc\0\0"[..]));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    PartFile::check(&path).unwrap();
}

#[test]
fn part_of_the_object_is_reused_if_it_holds_bytes() {
    let (folder, path) = folder();
    assert!(!PartFile::create(&path, 6, A).unwrap().reused);
    assert!(!PartFile::create(&path, 6, A).unwrap().reused, "it holds nothing");
    assert_eq!(fs::read(folder.path().join(".out.img.object")).unwrap(), format!("{A} 6\n").as_bytes());
    store(&path, 6, A);
    let again = PartFile::create(&path, 6, A).unwrap();
    assert_eq!((again.reused, again.set_aside, first_byte(&again.target)), (true, None, b'a'));
}

#[test]
fn part_without_bytes_is_given_to_another_object() {
    let (folder, path) = folder();
    drop(PartFile::create(&path, 6, A).unwrap());
    let other = PartFile::create(&path, 7, B).unwrap();
    assert_eq!((other.reused, other.set_aside, other.target.file.metadata().unwrap().len()), (false, None, 7));
    assert_eq!(listing(&folder), [".out.img.object", ".out.img.part"]);
}

#[test]
fn part_of_another_object_is_set_aside_and_taken_back() {
    let (folder, path) = folder();
    store(&path, 6, A);
    let aside = folder.path().join(format!(".out.img.{A}.part"));
    // Of the same size, too: it is the record that tells.
    let other = PartFile::create(&path, 6, B).unwrap();
    assert_eq!((other.reused, other.set_aside.as_ref(), first_byte(&other.target)), (false, Some(&aside), 0));
    assert_eq!(fs::read(&aside).unwrap(), b"a\0\0\0\0\0");
    other.target.write_run(0, &[IoSlice::new(b"b")]).unwrap();
    drop(other);
    let back = PartFile::create(&path, 6, A).unwrap();
    let other_aside = folder.path().join(format!(".out.img.{B}.part"));
    assert_eq!((back.reused, back.set_aside.as_ref(), first_byte(&back.target)), (true, Some(&other_aside), b'a'));
    assert!(!aside.exists());
    assert_eq!(refusal(PartFile::create(&path, 6, A)), "another iotupc is writing it");
    back.target.commit().unwrap();
    assert_eq!((fs::read(&path).unwrap()[0], listing(&folder).len()), (b'a', 2), "the output, and the other's part");
}

#[test]
fn part_of_another_object_that_nobody_wants_leaves_nothing() {
    let (folder, path) = folder();
    store(&path, 6, A);
    drop(SlotFile::open(&path, 3).unwrap());
    let created = PartFile::create_over(&path, 6, B, Other::Remove).unwrap();
    assert_eq!((created.reused, created.set_aside, first_byte(&created.target)), (false, None, 0));
    assert_eq!(listing(&folder), [".out.img.object", ".out.img.part"]);
    assert_eq!(fs::read(folder.path().join(".out.img.object")).unwrap(), format!("{B} 6\n").as_bytes());
    created.target.write_run(0, &[IoSlice::new(b"b")]).unwrap();
    drop(created.target);
    // Its own is as dear as ever.
    let again = PartFile::create_over(&path, 6, B, Other::Remove).unwrap();
    assert_eq!((again.reused, first_byte(&again.target)), (true, b'b'));
}

#[test]
fn slot_map_goes_with_its_part_and_ends_with_it() {
    let (folder, path) = folder();
    let at = |name: &str| folder.path().join(name);
    let note = |word| SlotFile::open(&path, 3).unwrap().words()[2].store(word, Ordering::Relaxed);
    let noted = || SlotFile::open(&path, 3).unwrap().words()[2].load(Ordering::Relaxed);
    store(&path, 6, A);
    note(1);
    store(&path, 6, B);
    assert!(at(&format!(".out.img.{A}.slots")).exists() && !at(".out.img.slots").exists());
    note(2);
    let back = PartFile::create(&path, 6, A).unwrap();
    assert_eq!((noted(), at(&format!(".out.img.{B}.slots")).exists()), (1, true));
    assert!(!at(&format!(".out.img.{A}.slots")).exists());
    back.target.commit().unwrap();
    assert!(!at(".out.img.slots").exists());
    store(&path, 6, B);
    assert_eq!(noted(), 2, "that of B is taken back with its part");
}

#[test]
fn slot_map_that_cannot_be_moved_is_removed_or_left_alone() {
    let (folder, path) = folder();
    let (slots, aside) = (folder.path().join(".out.img.slots"), folder.path().join(format!(".out.img.{A}.slots")));
    fs::create_dir(&aside).unwrap();
    store(&path, 6, A);
    drop(SlotFile::open(&path, 3).unwrap());
    store(&path, 6, B);
    assert!(aside.is_dir() && !slots.exists(), "not taken for that of B");
}

#[test]
fn part_set_aside_that_is_not_of_the_size_or_not_ours_stays_where_it_is() {
    let (folder, path) = folder();
    let aside = folder.path().join(format!(".out.img.{A}.part"));
    fs::write(&aside, b"12345").unwrap();
    assert!(!PartFile::create(&path, 6, A).unwrap().reused);
    assert_eq!(fs::read(&aside).unwrap(), b"12345");
    fs::write(folder.path().join("other"), b"123456").unwrap();
    fs::remove_file(&aside).unwrap();
    symlink(folder.path().join("other"), &aside).unwrap();
    assert!(!PartFile::create(&path, 6, A).unwrap().reused);
    assert!(aside.is_symlink());
}

#[test]
fn nothing_is_overwritten_by_what_is_set_aside() {
    let (folder, path) = folder();
    let aside = folder.path().join(format!(".out.img.{A}.part"));
    fs::write(&aside, b"precious").unwrap();
    store(&path, 6, A);
    let second = folder.path().join(format!(".out.img.{A}.2.part"));
    assert_eq!(PartFile::create(&path, 6, B).unwrap().set_aside, Some(second));
    assert_eq!(fs::read(&aside).unwrap(), b"precious");
}

#[test]
fn part_without_a_record_is_reused_if_it_has_the_length_and_else_set_aside() {
    let (folder, path) = folder();
    let part = folder.path().join(".out.img.part");
    fs::write(&part, b"123456").unwrap();
    let reused = PartFile::create(&path, 6, A).unwrap();
    assert_eq!((reused.reused, first_byte(&reused.target)), (true, b'1'));
    drop(reused);
    fs::remove_file(folder.path().join(".out.img.object")).unwrap();
    let unknown = folder.path().join(".out.img.unknown.part");
    assert_eq!(PartFile::create(&path, 7, A).unwrap().set_aside.as_ref(), Some(&unknown));
    assert_eq!(fs::read(&unknown).unwrap(), b"123456");
}

#[test]
fn record_of_another_size_is_that_of_another_object() {
    let (folder, path) = folder();
    store(&path, 6, A);
    let aside = folder.path().join(format!(".out.img.{A}.part"));
    assert_eq!(PartFile::create(&path, 7, A).unwrap().set_aside, Some(aside));
}

#[test]
fn part_that_was_cut_off_is_reused_if_the_record_says_so() {
    let (folder, path) = folder();
    store(&path, 6, A);
    fs::OpenOptions::new().write(true).open(folder.path().join(".out.img.part")).unwrap().set_len(3).unwrap();
    let created = PartFile::create(&path, 6, A).unwrap();
    assert_eq!((created.reused, created.target.file.metadata().unwrap().len()), (true, 6));
}

#[test]
fn malformed_or_foreign_record_is_none() {
    let (folder, path) = folder();
    let record = folder.path().join(".out.img.object");
    let other = folder.path().join("other");
    let part = folder.path().join(".out.img.part");
    fs::write(&part, b"123456").unwrap();
    for text in ["", "nonsense", "../../x 6\n", &format!("{B} 6"), &"b".repeat(10_000)] {
        fs::write(&record, text).unwrap();
        assert!(PartFile::create(&path, 6, A).unwrap().reused, "{text}");
    }
    fs::write(&other, format!("{B} 6\n")).unwrap();
    for link in [symlink::<&Path, &Path>, fs::hard_link] {
        fs::remove_file(&record).unwrap();
        link(&other, &record).unwrap();
        assert!(PartFile::create(&path, 6, A).unwrap().reused);
        assert_eq!(fs::read_to_string(&other).unwrap(), format!("{B} 6\n"), "what is linked to is not written to");
    }
    fs::write(&record, format!("{B} 6\n")).unwrap();
    assert!(!PartFile::create(&path, 6, A).unwrap().reused, "a good one counts");
}

#[test]
fn record_left_half_written_by_a_crash_is_in_nobodys_way() {
    let (folder, path) = folder();
    fs::write(folder.path().join(".out.img.object.new"), b"aaa").unwrap();
    drop(PartFile::create(&path, 6, A).unwrap());
    assert_eq!(listing(&folder), [".out.img.object", ".out.img.part"]);
}

#[test]
#[should_panic(expected = "24 hexadecimal digits")]
fn object_that_is_no_id_is_a_broken_invariant() {
    let (_folder, path) = folder();
    let _ = PartFile::create(&path, 6, "../../etc");
}

#[test]
fn locked_part_is_left_alone() {
    let (folder, path) = folder();
    store(&path, 6, A);
    let writer = PartFile::create(&path, 6, A).unwrap();
    let before = listing(&folder);
    assert_eq!(refusal(PartFile::create(&path, 7, B)), "another iotupc is writing it");
    assert_eq!(refusal(PartFile::check(&path)), "another iotupc is writing it");
    assert_eq!((listing(&folder), first_byte(&writer.target)), (before, b'a'));
    assert_eq!(fs::read(folder.path().join(".out.img.object")).unwrap(), format!("{A} 6\n").as_bytes());
    drop(writer);
    PartFile::check(&path).unwrap();
    PartFile::check(&path).unwrap();
}

#[test]
fn name_too_long_for_its_part_is_found_beforehand() {
    let (folder, _) = folder();
    let cause = "file name too long (choose a shorter name for the output)";
    assert_eq!(refusal(PartFile::check(&folder.path().join("n".repeat(250)))), cause);
    assert_eq!(refusal(PartFile::check(&folder.path().join("n".repeat(244)))), cause);
    let longest = folder.path().join("n".repeat(243));
    PartFile::check(&longest).unwrap();
    PartFile::create(&longest, 6, A).unwrap().target.commit().unwrap();
}

#[test]
fn part_and_record_that_could_not_be_created_are_found_beforehand() {
    let (folder, path) = folder();
    let part = folder.path().join(".out.img.part");
    fs::create_dir(&part).unwrap();
    assert_eq!(refusal(PartFile::check(&path)), "is not a regular file (remove it)");
    fs::remove_dir(&part).unwrap();
    let record = folder.path().join(".out.img.object");
    fs::create_dir(&record).unwrap();
    assert_eq!(refusal(PartFile::check(&path)), "is a directory (remove it)");
    fs::remove_dir(&record).unwrap();
    PartFile::check(&path).unwrap();
    assert!(listing(&folder).is_empty());
}

#[test]
fn failed_sync_is_told_with_what_not_to_trust() {
    let (_folder, path) = folder();
    let target = PartFile::create(&path, 6, A).unwrap().target;
    let failure = target.sync_failure(&io::Error::from_raw_os_error(libc::EIO));
    assert_eq!(failure.exit, Exit::Io);
    assert!(failure.to_string().ends_with(
        ".out.img.part: I/O error (the disk may be failing: do not trust this file, the next run verifies its blocks again)"
    ));
}

#[test]
fn path_with_a_line_feed_is_told_on_one_line() {
    let (folder, _) = folder();
    let failure = PartFile::check(&folder.path().join("missing\n/x")).unwrap_err();
    assert!(!failure.to_string().contains('\n'));
}

#[test]
fn more_parts_than_one_call_takes_are_written() {
    let (_folder, path) = folder();
    let bytes: Vec<u8> = (0..3_000_u32).map(|i| (i % 251) as u8).collect();
    let parts: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
    let target = PartFile::create(&path, 3_000, A).unwrap().target;
    target.write_run(0, &parts).unwrap();
    let mut all = vec![0; 3_000];
    target.read_exact_at(0, &mut all).unwrap();
    assert_eq!(all, bytes);
}

#[test]
#[should_panic(expected = "a range is within the target")]
fn run_beyond_the_target_is_a_broken_invariant() {
    let (_folder, path) = folder();
    let _ = PartFile::create(&path, 6, A).unwrap().target.write_run(5, &[IoSlice::new(b"ab")]);
}

#[test]
fn zeroed_range_reads_as_zeroes_and_nothing_else_does() {
    let (_folder, path) = folder();
    let target = PartFile::create(&path, 100_000, A).unwrap().target;
    target.write_run(0, &[IoSlice::new(&[7; 100_000])]).unwrap();
    target.zero(10, 90_000).unwrap();
    target.zero(99_999, 0).unwrap();
    let mut all = vec![0; 100_000];
    target.read_exact_at(0, &mut all).unwrap();
    assert!(all.iter().enumerate().all(|(i, &byte)| byte == if (10..90_010).contains(&i) { 0 } else { 7 }));
    assert_eq!(target.file.metadata().unwrap().len(), 100_000);
}

/// Bytes of storage that the file takes up.
fn stored(target: &PartFile) -> u64 {
    target.file.sync_all().unwrap();
    target.file.metadata().unwrap().blocks() * 512
}

#[test]
fn room_is_taken_block_by_block_and_given_back_with_a_hole() {
    let (_folder, path) = folder();
    let size = 130 * BLOCK_SIZE + 5;
    let target = PartFile::create(&path, size, A).unwrap().target;
    assert_eq!(stored(&target), 0, "nothing before the first byte");
    target.write_run(3 * BLOCK_SIZE + 77, &[IoSlice::new(b"x")]).unwrap();
    if !target.room.is_supported.load(Ordering::Relaxed) {
        return;
    }
    assert!((BLOCK_SIZE..BLOCK_SIZE + 65_536).contains(&stored(&target)));
    target.write_run(130 * BLOCK_SIZE, &[IoSlice::new(b"abcde")]).unwrap();
    target.write_run(65 * BLOCK_SIZE - 1, &[IoSlice::new(b"two blocks")]).unwrap();
    assert!((3 * BLOCK_SIZE..3 * BLOCK_SIZE + 131_072).contains(&stored(&target)));
    assert_eq!(target.file.metadata().unwrap().len(), size);
    for block in [3, 64, 65] {
        assert!(target.room.is_taken(block));
        target.zero(block * BLOCK_SIZE, BLOCK_SIZE).unwrap();
        assert!(!target.room.is_taken(block));
    }
    assert!(stored(&target) < BLOCK_SIZE / 2);
    target.write_run(64 * BLOCK_SIZE, &[IoSlice::new(b"again")]).unwrap();
    assert!((BLOCK_SIZE..BLOCK_SIZE + 131_072).contains(&stored(&target)));
}

#[test]
fn last_block_takes_no_room_beyond_the_end() {
    let (_folder, path) = folder();
    let target = PartFile::create(&path, BLOCK_SIZE + 1, A).unwrap().target;
    target.write_run(BLOCK_SIZE, &[IoSlice::new(b"x")]).unwrap();
    assert_eq!(target.file.metadata().unwrap().len(), BLOCK_SIZE + 1);
    assert!(stored(&target) <= 65_536);
}

#[test]
fn target_without_fallocate_is_written_all_the_same() {
    let (_folder, path) = folder();
    let target = PartFile::create(&path, 3 * BLOCK_SIZE, A).unwrap().target;
    target.room.is_supported.store(false, Ordering::Relaxed);
    target.write_run(BLOCK_SIZE, &[IoSlice::new(b"x")]).unwrap();
    assert!(!target.room.is_taken(1));
    assert!(stored(&target) <= 65_536);
    target.zero(0, 3 * BLOCK_SIZE).unwrap();
    assert_eq!(first_byte(&target), 0);
}

#[test]
fn part_that_somebody_else_could_have_prepared_is_refused() {
    let (folder, path) = folder();
    let (part, other) = (folder.path().join(".out.img.part"), folder.path().join("other"));
    fs::write(&other, b"precious").unwrap();
    symlink(&other, &part).unwrap();
    assert_eq!(refusal(PartFile::create(&path, 8, A)), "is a symbolic link (remove it)");
    assert_eq!(refusal(PartFile::check(&path)), "is a symbolic link (remove it)");
    fs::remove_file(&part).unwrap();
    fs::hard_link(&other, &part).unwrap();
    assert_eq!(refusal(PartFile::create(&path, 8, A)), "has another name too (remove it)");
    assert_eq!(refusal(PartFile::check(&path)), "has another name too (remove it)");
    fs::remove_file(&part).unwrap();
    nix::unistd::mkfifo(&part, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(PartFile::create(&path, 8, A)), "is not a regular file (remove it)");
    assert_eq!(refusal(PartFile::check(&path)), "is not a regular file (remove it)");
    assert_eq!(fs::read(&other).unwrap(), b"precious");
}

#[test]
fn part_of_another_user_is_refused() {
    if !geteuid().is_root() {
        return;
    }
    let (folder, path) = folder();
    let part = folder.path().join(".out.img.part");
    fs::write(&part, b"").unwrap();
    std::os::unix::fs::chown(&part, Some(65_534), None).unwrap();
    assert_eq!(refusal(PartFile::create(&path, 8, A)), "belongs to another user (remove it)");
    assert_eq!(refusal(PartFile::check(&path)), "belongs to another user (remove it)");
}

#[test]
fn part_that_another_is_writing_is_refused() {
    let (_folder, path) = folder();
    let writer = PartFile::create(&path, 8, A).unwrap();
    assert_eq!(refusal(PartFile::create(&path, 8, A)), "another iotupc is writing it");
    drop(writer);
    assert!(PartFile::create(&path, 8, A).is_ok());
}

#[test]
fn replaced_part_is_not_committed() {
    let (_folder, path) = folder();
    let target = PartFile::create(&path, 8, A).unwrap().target;
    fs::remove_file(target.part_path()).unwrap();
    fs::write(target.part_path(), b"impostor").unwrap();
    assert_eq!(target.commit().unwrap_err().exit, Exit::CannotCreate);
    assert!(!path.exists());
}

#[test]
fn output_that_cannot_be_is_refused_beforehand() {
    let (folder, path) = folder();
    let at = |name: &str| folder.path().join(name);
    symlink(&path, at("link")).unwrap();
    fs::write(at("file"), b"").unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(PartFile::check(folder.path())), "is a directory");
    assert_eq!(refusal(PartFile::check(&at("name/"))), "not the name of a file");
    assert_eq!(refusal(PartFile::check(&at(".."))), "not the name of a file");
    assert_eq!(refusal(PartFile::check(Path::new(""))), "not the name of a file");
    assert_eq!(refusal(PartFile::check(&at("missing/name"))), "no such file or directory");
    assert_eq!(refusal(PartFile::check(&at("file/name"))), "not a directory");
    assert_eq!(refusal(PartFile::check(&at("link"))), "is a symbolic link (name the file it points to)");
    assert_eq!(refusal(PartFile::check(&at("fifo"))), "is not a regular file");
}

#[test]
fn folder_that_may_not_be_written_to_is_refused() {
    if geteuid().is_root() {
        return;
    }
    let (folder, path) = folder();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    assert_eq!(refusal(PartFile::check(&path)), "permission denied");
}

#[test]
fn free_space_is_that_of_the_folder() {
    let (_folder, path) = folder();
    assert!(PartFile::free_space(&path).unwrap() > 0);
    assert!(PartFile::free_space(Path::new("name-in-the-working-folder")).is_ok());
}

#[test]
fn targets_can_be_shared_among_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PartFile>();
}

#[test]
fn room_in_memory_is_taken_for_what_is_expected_but_not_where_zeroes_are() {
    let folder = tempfile::tempdir_in(large_pages::MEMORY).unwrap();
    let (path, room) = (folder.path().join("out.img"), 2 << 20);
    let target = PartFile::create(&path, 2 * room, A).unwrap().target;
    let occupied = || PartFile::occupied(&path);
    target.zero(room / 2, room / 2).unwrap();
    target.expect(0, room / 2);
    assert_eq!(occupied(), 0);
    target.expect(2 * room - room / 2, room / 2);
    if large_pages::is_possible() {
        assert_eq!(occupied(), room);
    }
    target.write_run(2 * room - 1, &[IoSlice::new(b"x")]).unwrap();
    // What turns out to be zero later gives its room back, also if it is a part of a large page.
    target.leave_hole(room, room / 2);
    assert!((1..=room / 2).contains(&occupied()), "{}", occupied());
    let mut last = [0];
    target.read_exact_at(2 * room - 1, &mut last).unwrap();
    assert_eq!(&last, b"x");
}
