//! What a server does where nobody says otherwise.

use super::ServeOptions;
use crate::failure::{Exit, Failure};
use crate::limits::{RATE_BPS_DEFAULT, VIRTUAL_SERVER_COUNT_MAX, VIRTUAL_SERVER_RATE_BPS};
use crate::sender::Pacing;
use crate::sys::Interface;
use crate::types::RateBps;

/// RFC 8085, section 4.1.1, asks for restraint where nothing tells of congestion.
pub(super) fn default_pacing(interface: &Interface) -> Result<Pacing, Failure> {
    if interface.wireless {
        let what = format!("choose a rate for {}", interface.name);
        let cause = "multicast on wireless goes at the slowest rate, which is not known";
        return Err(Failure::new(Exit::Usage, what, cause).remedy("give --rate, such as 2M"));
    }
    let half_link = interface.speed_bps.map_or(u64::MAX, |speed| speed / 2);
    let rate = RateBps::new(RATE_BPS_DEFAULT.min(half_link).max(1)).expect("100 Mbit/s or less");
    Ok(Pacing::DefaultRate(rate))
}

/// How many virtual servers there are unless the user says: what one core is known to send, on as many cores as there are.
pub(super) fn virtual_server_count(options: &ServeOptions, pacing: Pacing, processors: usize) -> u32 {
    let processors = u32::try_from(processors).unwrap_or(u32::MAX).max(1);
    options.virtual_servers.unwrap_or_else(|| match pacing {
        Pacing::PacketDelay(_) => 1,
        Pacing::Unpaced => processors.min(VIRTUAL_SERVER_COUNT_MAX),
        Pacing::Rate(rate) | Pacing::DefaultRate(rate) => {
            let needed = rate.bits_per_second().div_ceil(VIRTUAL_SERVER_RATE_BPS);
            u32::try_from(needed).unwrap_or(u32::MAX).min(processors).min(VIRTUAL_SERVER_COUNT_MAX)
        }
    })
}

/// Servers on different hosts start at different places without being told to.
pub(super) fn start_of_host(object: &[u8; 12], interface: &str) -> u32 {
    let host = std::fs::read("/etc/machine-id").or_else(|_| std::fs::read("/proc/sys/kernel/hostname"));
    let seed = [object, interface.as_bytes(), &host.unwrap_or_default()].concat();
    let place = xxhash_rust::xxh3::xxh3_64(&seed) % 1_000_000;
    u32::try_from(place).expect("less than a million")
}
