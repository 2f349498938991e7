//! `--announce`: where manifests alone are sent, for receivers that wait for news.

use std::net::SocketAddr;

use super::group::{self, GroupArg};
use crate::failure::{Exit, Failure};

/// What a user may write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnnounceArg {
    /// Nowhere.
    Off,
    /// On this group, and on the port of the data unless another is written.
    Group(GroupArg),
}

/// What that means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnnouncedOn {
    /// The group that belongs to the one of the data.
    Derived,
    /// This group and port.
    Group(SocketAddr),
    /// Nowhere.
    Nowhere,
}

/// Reads it.
pub(super) fn parse(text: &str) -> Result<AnnounceArg, String> {
    if text == "off" { Ok(AnnounceArg::Off) } else { group::parse(text).map(AnnounceArg::Group) }
}

/// Where announcements of what is sent to `group` go.
///
/// # Errors
/// [`Exit::Usage`] if they cannot go there.
pub fn announced_on(asked: Option<&AnnounceArg>, group: &GroupArg) -> Result<AnnouncedOn, Failure> {
    let asked = match asked {
        None => return Ok(AnnouncedOn::Derived),
        Some(AnnounceArg::Off) => return Ok(AnnouncedOn::Nowhere),
        Some(AnnounceArg::Group(asked)) => asked,
    };
    let port = if asked.has_port { asked.addr.port() } else { group.addr.port() };
    let addr = SocketAddr::new(asked.addr.ip(), port);
    let cause = match () {
        () if asked.zone.is_some() && asked.zone != group.zone => "the interface is that of GROUP",
        () if addr.is_ipv4() != group.addr.is_ipv4() => "GROUP is of the other IP version",
        () if addr == group.addr => "that is where the data goes",
        () if asked.is_source_specific() != group.is_source_specific() => {
            "source-specific is either both or none of the two groups"
        }
        () => return Ok(AnnouncedOn::Group(addr)),
    };
    Err(Failure::new(Exit::Usage, format!("--announce {asked}"), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_go_where_they_are_told_to_and_never_with_the_data() {
        let of = |asked: &str, group: &str| {
            announced_on(Some(&parse(asked).unwrap()), &group::parse(group).unwrap()).map_err(|failure| failure.exit)
        };
        let to = |text: &str| Ok(AnnouncedOn::Group(text.parse().unwrap()));
        assert_eq!(of("off", "239.1.1.1"), Ok(AnnouncedOn::Nowhere));
        assert_eq!(of("239.1.1.9", "239.1.1.1:77"), to("239.1.1.9:77"));
        assert_eq!(of("239.1.1.1:78", "239.1.1.1:77"), to("239.1.1.1:78"));
        assert_eq!(of("ff12::9", "[ff12::1%eth0]:77"), to("[ff12::9]:77"));
        for (asked, group) in [
            ("239.1.1.1", "239.1.1.1"),
            ("239.1.1.1:77", "239.1.1.1:77"),
            ("ff12::1", "239.1.1.1"),
            ("232.1.1.1", "239.1.1.1"),
            ("ff12::9%eth1", "ff12::1%eth0"),
        ] {
            assert_eq!(of(asked, group), Err(Exit::Usage), "{asked} for {group}");
        }
        assert!(parse("on").is_err() && parse("10.0.0.1").is_err());
        assert_eq!(announced_on(None, &group::parse("239.1.1.1").unwrap()).unwrap(), AnnouncedOn::Derived);
    }
}
