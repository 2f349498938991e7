//! End-to-end tests: the real binaries, on real kernels' networks.
//!
//! Every test makes network namespaces of its own (`lab`), starts `iotupd` and `iotupc` in them (`run`), and takes all down
//! again, even when it panics. They need root and `ip`, `tc`, `nft`, `ethtool`, `python3`, `setpriv`, `losetup`, `fincore`, `mkfs.btrfs`, `cc`, `minisign`,
//! `dnsmasq`, `smcrouted`, `sysctl`, `prometheus-node-exporter` and python3's `jsonschema`, and
//! fail where these are missing: `scripts/test` installs and runs them. Lines that begin with `figure |` are what `scripts/measure` prints.

// These tests live in real time: they wait for real processes.
#![allow(clippy::disallowed_methods)]

mod agent;
mod changes;
mod deaf;
mod devices;
mod discard;
mod dns;
mod doctor;
mod errors;
mod fallback;
mod fec;
mod figures;
mod files;
mod forger;
mod garbage;
mod icmp;
mod image;
mod interfaces;
mod lab;
mod loss;
mod metrics;
mod no_cache;
mod output;
mod readme;
mod reload;
mod resume;
mod run;
mod schema;
mod servers;
mod signed;
#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "../keys/signer.rs"]
mod signer;
mod snooping;
mod source;
mod srv;
mod ssm;
mod stdout;
mod targets;
mod transfer;
mod virtual_servers;
mod wiring;
