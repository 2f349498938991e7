//! Commands that must fail, what is said, and with which code they end.

use crate::Case;

/// Makes a test of each case, and a table of all.
macro_rules! cases {
    ($table:ident: $($name:ident $about:literal $command:literal => $exit:literal $says:literal;)*) => {
        pub(crate) const $table: &[Case] =
            &[$(Case { name: stringify!($name), about: $about, command: $command, exit: $exit, says: $says },)*];
        $(#[test]
        fn $name() {
            $table.iter().find(|case| case.name == stringify!($name)).expect("it is in the table").check();
        })*
    };
}

cases! { COMMAND_LINE:
    group_is_missing "" "iotupd file" => 64 "<GROUP>";
    third_word "" "iotupd file 239.77.1.1 extra" => 64 "unexpected argument 'extra'";
    unknown_option "" "iotupc --fast copy 239.77.1.1" => 64 "unexpected argument '--fast'";
    option_twice "" "iotupd --rate 1M --rate 2M file 239.77.1.1" => 64 "cannot be used multiple times";
    bytes_that_are_no_text "" "iotupd --rate=\"$(printf '\\377')\" file 239.77.1.1" => 64 "invalid UTF-8";
    unicast_group "" "iotupd file 10.1.2.3" => 64 "10.1.2.3 is not a multicast group";
    unicast_group_of_ipv6 "" "iotupc copy ::1" => 64 "::1 is not a multicast group";
    broadcast_group "" "iotupc copy 255.255.255.255" => 64 "not a multicast group";
    group_of_the_link_s_own_protocols "" "iotupd file 224.0.0.1" => 64 "reserved for the link's own protocols";
    group_of_all_nodes "" "iotupd file ff02::1" => 64 "the group of all nodes";
    port_zero "" "iotupd file 239.77.1.1:0" => 64 "has port 0";
    port_too_large "" "iotupc copy 239.77.1.1:70000" => 64 "70000 is not a port";
    bracket_that_is_not_closed "" "iotupd file [ff12::42" => 64 "a ']' is missing";
    zone_without_interface "" "iotupd file ff12::42%" => 64 "an interface is missing after '%'";
    host_name_as_group "" "iotupc copy example.org" => 64 "example.org is not an address";
    source_specific_group_alone "" "iotupc copy 232.1.1.1" => 64 "cannot be joined without its source";
    source_specific_group_of_ipv6_alone "" "iotupc copy ff3e::8000:1" => 64 "cannot be joined without its source";
    source_that_is_a_group "" "iotupc --source 239.1.1.1 copy 239.77.1.1" => 64 "239.1.1.1 is a multicast group";
    source_of_the_other_family "" "iotupc --source ::1 copy 239.77.1.1"
        => 64 "the source is an IPv6 address, and the group an IPv4 one";
    too_many_sources "" "iotupc copy 239.77.1.1 $(seq -f --source=10.0.0.%g 65)" => 64 "more than 64 sources";
    domain_that_is_an_address "" "iotupc copy --srv 192.0.2.1" => 64 "not the name of a domain";
    domain_and_source "" "iotupc copy --srv a.test --source 192.0.2.1" => 64 "cannot be used with";
    dns_server_by_name "" "iotupc copy --srv a.test --dns-server b.test" => 64 "not an address, with or without a port";
    rate_of_nothing "" "iotupd --rate 0 file 239.77.1.1" => 64 "a rate is from 1k to 281T";
    rate_below_zero "" "iotupd --rate=-1 file 239.77.1.1" => 64 "-1 is not a unit of a rate";
    rate_beyond_every_number "" "iotupd --rate 99999999999999999999T file 239.77.1.1"
        => 64 "is not a rate, such as 100M";
    rate_of_unknown_unit "" "iotupd --rate 10X file 239.77.1.1" => 64 "X is not a unit of a rate";
    rate_and_delay "" "iotupd --rate 1M --pkt-delay 10 file 239.77.1.1" => 64 "cannot be used with '--pkt-delay";
    delay_too_long "" "iotupd --pkt-delay 2h file 239.77.1.1" => 64 "a packet delay is at most 3600 s";
    more_repair_than_possible "" "iotupd --fec 301 file 239.77.1.1" => 64 "301 is not a whole number of percent";
    half_a_percent_of_repair "" "iotupd --fec 12.5% file 239.77.1.1" => 64 "12.5% is not a whole number of percent";
    run_of_nothing "" "iotupd --run 0 file 239.77.1.1" => 64 "0 is not in 1..=";
    window_too_large "" "iotupd --window 300T file 239.77.1.1" => 64 "a size is less than 256 TiB";
    window_of_nothing "" "iotupd --window 0 file 239.77.1.1" => 64 "a window is at least 1M";
    no_virtual_server "" "iotupd --virtual-servers 0 file 239.77.1.1" => 64 "0 is not in 1..=";
    offset_of_the_whole "" "iotupd --start-offset 100% file 239.77.1.1" => 64 "100% is not from 0% to less than 100%";
    no_cycle "" "iotupd --cycles 0 file 239.77.1.1" => 64 "0 is not in 1..";
    packets_too_small "" "iotupd --mtu 100 file 239.77.1.1" => 64 "100 is not in 604..=";
    no_hop "" "iotupd --hops 0 file 239.77.1.1" => 64 "0 is not in 1..=255";
    beyond_the_link_without_a_rate "" "iotupd --hops 2 file 239.77.1.1"
        => 64 "nothing else keeps the path from being flooded";
    address_of_somebody_else "" "iotupd --bind-addr 192.0.2.1 file 239.77.1.1" => 64 "not an address of this host";
    address_of_the_other_family "" "iotupd --bind-addr ::1 file 239.77.1.1" => 64 "of the other IP version";
    unknown_engine "" "iotupd --engine dpdk file 239.77.1.1" => 64 "possible values: auto, uring, sendmmsg";
    image_without_io_uring "" "iotupd --image on --engine sendmmsg file 239.77.1.1"
        => 64 "only io_uring sends without copying";
    interface_that_is_not_there "" "iotupd -i nope0 file 239.77.1.1" => 64 "use interface nope0: no such device";
    interface_without_a_name "" "iotupc -i '' copy 239.77.1.1" => 64 "no such device";
    deadline_of_nothing "" "iotupc --timeout 0 copy 239.77.1.1" => 64 "the time must be more than 0";
    deadline_of_unknown_unit "" "iotupc --timeout 3parsecs copy 239.77.1.1" => 64 "parsecs is not a unit of time";
    size_of_unknown_unit "" "iotupc --max-size 1Q copy 239.77.1.1" => 64 "Q is not a unit of size";
    version_without_a_key "" "iotupc --min-version 3 copy 239.77.1.1" => 64 "--pubkey";
    nothing_it_could_be_compatible_with "" "iotupc --pubkey first.pub --compatible '' copy 239.77.1.1"
        => 64 "not 1 to 128 bytes without control characters";
    too_many_keys "" "iotupc copy 239.77.1.1 $(yes -- --pubkey=first.pub | head -n 17)"
        => 64 "take 17 public keys: at most 16 are possible";
    agreement_without_a_device "" "iotupc --yes copy 239.77.1.1" => 64 "--device";
    device_that_is_to_be_kept "" "iotupc --device --no-clobber copy 239.77.1.1"
        => 64 "cannot be used with '--no-clobber'";
    events_into_the_object "" "iotupc --json - 239.77.1.1" => 64 "obey --json: the file is to go to standard output";
    spool_for_nothing "" "iotupc --spool-dir folder copy 239.77.1.1"
        => 64 "obey --spool-dir: nothing is to go to standard output";
    measuring_a_file "" "iotupc --discard copy" => 64 "copy is not an address";
    measuring_what_is_signed "" "iotupc --discard --pubkey first.pub 239.77.1.1" => 64 "cannot be used with '--pubkey";
    diagnosis_without_a_source "" "iotup doctor 232.77.1.1" => 64 "cannot be joined without its source";
    diagnosis_at_no_rate "" "iotup doctor 239.77.1.1 --rate max" => 64 "max is no number";
    unknown_tool "" "iotup frobnicate" => 64 "unrecognized subcommand 'frobnicate'";
    day_that_does_not_exist "" "iotup manifest file --expires 2027-02-30" => 64 "2027-02-30 is not a moment";
    end_before_the_beginning "" "iotup manifest file --created 2027-01-01 --expires 2026-01-01"
        => 64 "member expires has a value that is not allowed";
    version_beyond_json "" "iotup manifest file --version 9007199254740992" => 64 "9007199254740992 is not in 0..";
    name_with_an_escape "" "iotup manifest file --name \"$(printf 'a\\033[1m')\""
        => 64 "not 1 to 128 bytes without control characters";
    name_too_long "" "iotup manifest file --name $(printf %0129d 1)"
        => 64 "not 1 to 128 bytes without control characters";
}

cases! { FILES:
    source_that_is_missing "" "iotupd nothing 239.77.1.1" => 66 "open nothing: no such file or directory";
    source_that_is_a_folder "" "iotupd folder 239.77.1.1" => 66 "open folder: is a directory";
    source_that_is_a_fifo "FILE is a FIFO that nobody writes to" "iotupd fifo 239.77.1.1" => 66 "open fifo: is a fifo";
    source_that_is_a_dangling_link "FILE is a link to nothing" "iotupd dangling 239.77.1.1"
        => 66 "open dangling: no such file or directory";
    source_that_is_a_character_device "" "iotupd /dev/null 239.77.1.1" => 66 "is a character device";
    name_with_a_line_feed "" "iotupd \"$(printf 'a\\nb')\" 239.77.1.1" => 66 "open a\\nb: no such file or directory";
    manifest_too_large "its manifest has 881 bytes" "iotupd large 239.77.1.1" => 65 "has more than 880 bytes";
    manifest_of_another_size "its manifest says another size" "iotupd too-short 239.77.1.1"
        => 65 "says 5001 bytes, but too-short has 5000";
    manifest_of_another_file "its manifest says another digest" "iotupd other 239.77.1.1" => 65 "says blake3";
    manifest_with_a_line_feed "its manifest ends with a line feed" "iotupd padded 239.77.1.1" => 65 "canonical form";
    member_twice "its manifest names a member twice" "iotupd twice 239.77.1.1" => 65 "read twice.manifest: ";
    critical_member "its manifest demands what nobody knows" "iotupd critical 239.77.1.1"
        => 65 "read critical.manifest: ";
    symbols_that_do_not_fit "its manifest allows only symbols that do not fit" "iotupd --mtu 1500 symbols 239.77.1.1"
        => 65 "allows only symbols of 8896 bytes, which do not fit the packets";
    more_repair_than_allowed "its manifest allows 10 % of repair" "iotupd --fec 50% sparing 239.77.1.1"
        => 65 "allows at most 10 % of repair symbols";
    manifest_that_is_a_folder "its manifest is a directory" "iotupd unwanted 239.77.1.1"
        => 66 "read unwanted.manifest: is a directory";
    manifest_that_is_a_fifo "its manifest is a FIFO" "iotupd stuck 239.77.1.1"
        => 66 "read stuck.manifest: is not a regular file";
    signature_alone "a signature without its manifest" "iotupd lonely 239.77.1.1"
        => 65 "there is no lonely.manifest, which it signs";
    signature_of_the_legacy_kind "signed with `minisign -l`" "iotupd legacy 239.77.1.1" => 65 "not prehashed";
    comment_too_long "a trusted comment of 257 bytes" "iotupd talkative 239.77.1.1" => 65 "257 bytes, at most 256";
    signature_that_is_empty "the signature is an empty file" "iotupd blank 239.77.1.1" => 65 "not a minisign signature";
    signature_that_is_scribble "the signature's lines are too short" "iotupd scribbled 239.77.1.1"
        => 65 "not a minisign signature";
    signature_that_is_endless "the signature has 9000 bytes" "iotupd endless 239.77.1.1"
        => 65 "has more than 8192 bytes";
    verified_without_a_signature "" "iotup verify unsigned.manifest --pubkey first.pub"
        => 77 "it has no signature beside it";
    verified_by_another_key ""
        "iotup verify signed.manifest --pubkey RWSjdiEfpjgMDd+4Sbag55fVYL+KD25N51rl2YtcbQp90RIYkbcZvfoO"
        => 77 "key";
    verified_with_another_text "the manifest was changed after it was signed"
        "iotup verify altered.manifest --pubkey first.pub"
        => 77 "verify altered.manifest: ";
    verified_after_its_time "the manifest has expired" "iotup verify expired.manifest --pubkey first.pub"
        => 77 "it has expired";
    verified_what_is_no_manifest "" "iotup verify note" => 65 "canonical form";
    diagnosis_of_what_is_no_manifest "" "iotup doctor 239.77.1.1 --manifest note" => 65 "canonical form";
    verified_fifo "" "iotup verify fifo" => 66 "read fifo: is not a regular file";
    digest_of_a_folder "" "iotup digest folder" => 66 "open folder: is a directory";
    key_that_is_missing "" "iotupc --pubkey none.pub copy 239.77.1.1" => 66 "neither a minisign public key nor a file";
    key_file_without_a_key "" "iotupc --pubkey note copy 239.77.1.1" => 65 "the file holds no minisign public key";
    secret_key_as_public_key "" "iotupc --pubkey secret.key copy 239.77.1.1"
        => 65 "the file holds no minisign public key";
    key_that_is_a_folder "" "iotupc --pubkey folder copy 239.77.1.1" => 66 "read folder: is a directory";
    key_that_is_a_fifo "" "iotupc --pubkey fifo copy 239.77.1.1" => 66 "read fifo: is not a regular file";
    key_without_end "" "iotupc --pubkey /dev/zero copy 239.77.1.1" => 66 "read /dev/zero: is not a regular file";
    state_that_is_garbage "" "iotupc --pubkey first.pub --state-file note copy 239.77.1.1"
        => 65 "it is damaged, or not written by iotupc";
    state_of_a_newer_form "the state file is of a form to come"
        "iotupc --pubkey first.pub --state-file newer-state copy 239.77.1.1"
        => 65 "it is damaged, or not written by iotupc";
    state_that_is_empty "" "iotupc --pubkey first.pub --state-file empty copy 239.77.1.1"
        => 65 "it is damaged, or not written by iotupc";
    state_that_is_a_link "" "iotupc --pubkey first.pub --state-file dangling copy 239.77.1.1"
        => 65 "it is a symbolic link";
    state_that_is_a_fifo "" "iotupc --pubkey first.pub --state-file fifo copy 239.77.1.1"
        => 65 "it is not a regular file";
    state_in_no_folder "" "iotupc --pubkey first.pub --state-file nowhere/state copy 239.77.1.1"
        => 73 "its folder nowhere: no such file or directory";
    output_that_is_a_folder "" "iotupc folder 239.77.1.1" => 73 "create folder: is a directory";
    output_in_no_folder "" "iotupc nowhere/copy 239.77.1.1"
        => 73 "create nowhere/copy in nowhere: no such file or directory";
    output_below_a_file "" "iotupc note/copy 239.77.1.1" => 73 "create note/copy in note: not a directory";
    output_without_a_name "" "iotupc .. 239.77.1.1" => 73 "create ..: not the name of a file";
    output_with_too_long_a_name "" "iotupc $(printf %0250d 1) 239.77.1.1" => 73 "file name too long";
    output_that_is_a_fifo "" "iotupc fifo 239.77.1.1" => 73 "create fifo: is not a regular file";
    output_that_is_a_character_device "" "iotupc /dev/null 239.77.1.1" => 73 "create /dev/null: is not a regular file";
    output_that_is_to_be_kept "" "iotupc --no-clobber note 239.77.1.1"
        => 73 "is there already, and --no-clobber keeps it";
    link_that_is_to_be_kept "FILE is a link to nothing" "iotupc --no-clobber dangling 239.77.1.1"
        => 73 "is there already, and --no-clobber keeps it";
    device_that_is_a_file "" "iotupc --device --yes note 239.77.1.1" => 73 "overwrite note: is not a block device";
    device_that_is_missing "" "iotupc --device --yes nothing 239.77.1.1"
        => 73 "overwrite nothing: no such file or directory";
    spool_in_no_folder "" "iotupc --spool-dir nowhere - 239.77.1.1"
        => 73 "create a temporary file in nowhere: no such file or directory";
    cache_that_is_a_file "" "iotupd --cache-dir note file 239.77.1.1"
        => 73 "keep repair symbols in note: not a directory";
    image_in_a_file "" "iotupd --cache-dir note --fec 0 --image on file 239.77.1.1"
        => 73 "keep a packet image in note: not a directory";
}

cases! { ENVIRONMENT:
    delay_that_is_empty "" "PKT_DELAY= iotupd file 239.77.1.1" => 64 "PKT_DELAY= in the environment: ";
    delay_that_is_a_word "" "PKT_DELAY=soon iotupd file 239.77.1.1"
        => 64 "PKT_DELAY=soon in the environment: soon is not a unit of time";
    delay_below_zero "" "PKT_DELAY=-1 iotupd file 239.77.1.1" => 64 "PKT_DELAY=-1 in the environment: ";
    delay_beyond_every_number "" "PKT_DELAY=99999999999999999999 iotupd file 239.77.1.1"
        => 64 "is not a time, such as 10us";
    delay_that_is_no_text "" "PKT_DELAY=$(printf '\\377') iotupd file 239.77.1.1" => 64 "in the environment: ";
    temporary_folder_that_is_missing "" "TMPDIR=/nowhere iotupc - 239.77.1.1"
        => 73 "create a temporary file in /nowhere: no such file or directory";
    cache_folder_that_is_a_file "" "XDG_CACHE_HOME=$PWD/note iotupd file 239.77.1.1"
        => 73 "/note/iotupd: not a directory";
    standard_output_that_is_full "" "iotup digest file >/dev/full"
        => 74 "write to standard output: no space left on device";
    help_that_cannot_be_printed "" "iotupc --help >/dev/full" => 74 "write to standard output: no space left on device";
    server_without_descriptors "" "ulimit -n 4; iotupd file 239.77.1.1"
        => 69 "list network interfaces: too many open files";
    receiver_without_descriptors "" "ulimit -n 5; iotupc copy 239.77.1.1"
        => 69 "list network interfaces: too many open files";
}
