//! The host's network interfaces as they are now. Which of them to use is decided elsewhere.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::net::if_::InterfaceFlags;

use crate::failure::{Exit, Failure};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The name, such as `eth0`.
    pub name: String,
    /// The kernel's number of it in this network namespace, at least 1.
    pub index: u32,
    /// The longest IP packet it sends, in bytes.
    pub mtu: u32,
    /// It has been switched on.
    pub up: bool,
    /// It has a carrier.
    pub running: bool,
    /// It can multicast. Linux does not say so of the loopback interface, which can none the less.
    pub multicast: bool,
    /// It is the loopback interface.
    pub loopback: bool,
    /// Its addresses, those of IPv6's link-local scope included, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// The link's speed in bits per second, if the driver knows it.
    pub speed_bps: Option<u64>,
    /// It is a radio.
    pub wireless: bool,
}

#[cfg(test)]
impl Interface {
    /// A network card that is in order, for tests.
    pub(crate) fn ethernet(name: &str, index: u32, addresses: &[&str]) -> Self {
        Self {
            name: name.into(),
            index,
            mtu: 1500,
            up: true,
            running: true,
            multicast: true,
            loopback: false,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            speed_bps: None,
            wireless: false,
        }
    }
}

/// All interfaces of this network namespace, those without addresses included, sorted by index.
///
/// # Errors
/// [`Exit::Unavailable`] if the kernel will not list them.
pub fn list() -> Result<Vec<Interface>, Failure> {
    let failure = |error: io::Error| Failure::io(Exit::Unavailable, "list network interfaces", &error);
    let any_socket = UnixDatagram::unbound().map_err(failure)?;
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs().map_err(|errno| failure(errno.into()))? {
        // An IPv4 address can have a label of its own, `eth0:1`.
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        let position = match interfaces.iter().position(|known| known.name == name) {
            Some(position) => position,
            None => {
                // What has gone since the list was made is left out.
                let Some(interface) = describe(name, entry.flags, any_socket.as_fd()) else { continue };
                interfaces.push(interface);
                interfaces.len() - 1
            }
        };
        let v4 = entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|v4| IpAddr::V4(v4.ip()));
        let v6 = entry.address.as_ref().and_then(|address| address.as_sockaddr_in6()).map(|v6| IpAddr::V6(v6.ip()));
        interfaces[position].addresses.extend(v4.or(v6));
    }
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

fn describe(name: &str, flags: InterfaceFlags, any_socket: BorrowedFd<'_>) -> Option<Interface> {
    let index = nix::net::if_::if_nametoindex(name).ok()?;
    let folder = folder(name, index);
    Some(Interface {
        name: name.to_owned(),
        index,
        mtu: mtu(name, any_socket).ok()?,
        up: flags.contains(InterfaceFlags::IFF_UP),
        running: flags.contains(InterfaceFlags::IFF_RUNNING),
        multicast: flags.contains(InterfaceFlags::IFF_MULTICAST),
        loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK),
        addresses: Vec::new(),
        speed_bps: folder.as_deref().and_then(speed_bps),
        wireless: folder.is_some_and(|at| ["wireless", "phy80211"].iter().any(|entry| at.join(entry).exists())),
    })
}

/// The interface's folder in sysfs. A sysfs mounted in another network namespace shows that one's interfaces, so the folder
/// counts only if it has the right index.
fn folder(name: &str, index: u32) -> Option<PathBuf> {
    let folder = Path::new("/sys/class/net").join(name);
    (number_in(&folder.join("ifindex"))? == i64::from(index)).then_some(folder)
}

fn speed_bps(folder: &Path) -> Option<u64> {
    // A driver that does not know says -1, or as much in 32 bits.
    let megabits = number_in(&folder.join("speed")).filter(|&megabits| (1..i64::from(i32::MAX)).contains(&megabits))?;
    Some(u64::try_from(megabits).ok()? * 1_000_000)
}

fn number_in(file: &Path) -> Option<i64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn mtu(name: &str, any_socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 } };
    // The last byte stays 0 and ends the name.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFMTU reads the name from and writes the MTU into `request`, which outlives the call.
    let result = unsafe { libc::ioctl(any_socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just written this variant, and before that it was initialised with 0.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed_with_its_mtu() {
        let interfaces = list().unwrap();
        let loopback = interfaces.iter().find(|interface| interface.loopback).expect("every namespace has one");
        assert_eq!((loopback.name.as_str(), loopback.wireless, loopback.speed_bps), ("lo", false, None));
        assert!(loopback.mtu >= 1280);
        assert!(interfaces.is_sorted_by_key(|interface| interface.index));
        assert_eq!(interfaces.iter().filter(|interface| interface.name == "lo").count(), 1);
    }

    #[test]
    fn speed_is_read_only_where_it_is_known() {
        let folder = tempfile::tempdir().unwrap();
        for (text, speed) in [("10000\n", Some(10_000_000_000)), ("-1\n", None), ("4294967295\n", None), ("", None)] {
            fs::write(folder.path().join("speed"), text).unwrap();
            assert_eq!(speed_bps(folder.path()), speed, "{text:?}");
        }
    }

    #[test]
    fn interface_that_does_not_exist_has_no_mtu() {
        let socket = UnixDatagram::unbound().unwrap();
        assert_eq!(mtu("no-such-device", socket.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
