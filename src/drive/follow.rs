//! Follows the interface that was chosen through whatever happens to it: it goes down and comes back, is pulled out and put in again
//! under another number, gets other addresses. The kernel keeps memberships through some of that but tells the network of them only
//! in part, so after each of these changes the groups are joined anew.

use crate::discovery::Family;
use crate::failure::{Failure, describe};
use crate::sys::LinkWatch;
use crate::sys::interface::{self, Interface};

use super::choose::{self, Unusable, addresses_of};

/// What has become of the interface. The texts are for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing that matters.
    None,
    /// Nothing can be heard for now.
    Lost(String),
    /// The groups are to be joined anew.
    Back(String),
    /// Only worth saying.
    Said(String),
}

/// The interface that the user names, or the only one.
#[derive(Debug)]
pub(super) struct Followed {
    asked: Option<String>,
    zone: Option<String>,
    /// The family of the group, where one is known.
    family: Option<Family>,
    watch: Option<LinkWatch>,
    /// The name that it was found by.
    name: Option<String>,
    now: Option<Interface>,
}

impl Followed {
    /// Finds the interface. If it is not there or down, and `wait`, it may come later. Returned with it are warnings.
    pub(super) fn find(
        asked: Option<&str>,
        zone: Option<&str>,
        family: Option<Family>,
        wait: bool,
    ) -> Result<(Self, Vec<String>), Failure> {
        // Before the first look, so that no change is missed.
        let mut warnings = Vec::new();
        let watch = match LinkWatch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                warnings.push(format!("changes of the interface will not be noticed: {}", describe(&error)));
                None
            }
        };
        let owned = |name: Option<&str>| name.map(str::to_owned);
        let mut followed = Self { asked: owned(asked), zone: owned(zone), family, watch, name: None, now: None };
        match choose::find(interface::list()?, asked, zone) {
            Ok(found) => followed.pin(found),
            Err(Unusable::Absent(failure)) if wait => warnings.push(format!("{failure}: waiting for it")),
            Err(unusable) => return Err(unusable.into()),
        }
        Ok((followed, warnings))
    }

    fn pin(&mut self, found: Interface) {
        self.name = Some(found.name.clone());
        self.now = Some(found);
    }

    /// The interface as it is, if it is there and up.
    pub(super) fn usable(&self) -> Option<&Interface> {
        self.now.as_ref().filter(|interface| interface.up)
    }

    /// Whether anything can come by it.
    pub(super) fn can_hear(&self) -> bool {
        self.usable().is_some_and(|interface| interface.running)
    }

    /// What it is called, for people.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().or(self.asked.as_deref()).or(self.zone.as_deref()).unwrap_or("any interface")
    }

    /// What has changed since this was last asked. Costs a system call where nothing has.
    pub(super) fn look(&mut self) -> Result<Change, Failure> {
        let index = self.now.as_ref().map(|interface| interface.index);
        if !self.watch.as_mut().is_some_and(|watch| watch.has_changed(index)) {
            return Ok(Change::None);
        }
        let all = interface::list()?;
        let Some(name) = &self.name else {
            return match choose::find(all, self.asked.as_deref(), self.zone.as_deref()) {
                Ok(found) => {
                    let text = format!("interface {} is there", found.name);
                    self.pin(found);
                    Ok(Change::Back(text))
                }
                Err(Unusable::Absent(_)) => Ok(Change::None),
                Err(unusable) => Err(unusable.into()),
            };
        };
        // By name before number: that of an interface that was put in again is another one. One that was renamed keeps its number.
        let by_name = all.iter().find(|candidate| candidate.name == *name);
        let found = by_name.or_else(|| all.iter().find(|candidate| Some(candidate.index) == index)).cloned();
        let change = compare(name, self.now.as_ref(), found.as_ref(), self.family);
        if let Some(interface) = &found {
            self.name = Some(interface.name.clone());
        }
        self.now = found;
        Ok(change)
    }
}

/// What it means that the interface called `name` was `before` and is `after`.
fn compare(name: &str, before: Option<&Interface>, after: Option<&Interface>, family: Option<Family>) -> Change {
    let is_up = |interface: &&Interface| interface.up;
    match (before.filter(is_up), after.filter(is_up)) {
        (None, None) => Change::None,
        (Some(_), None) if after.is_some() => Change::Lost(format!("interface {name} is down: waiting for it")),
        (Some(_), None) => Change::Lost(format!("interface {name} is gone: waiting for it")),
        (None, Some(_)) => Change::Back(format!("interface {name} is back: joining again")),
        (Some(before), Some(after)) if before.index != after.index => {
            Change::Back(format!("interface {name} is a new one: joining again"))
        }
        (Some(before), Some(after)) => match (before.running, after.running) {
            (true, false) => Change::Lost(format!("interface {name} has lost its carrier: waiting for it")),
            (false, true) => Change::Back(format!("interface {name} has a carrier again: joining again")),
            _ => compare_addresses(name, before, after, family),
        },
    }
}

fn compare_addresses(name: &str, before: &Interface, after: &Interface, family: Option<Family>) -> Change {
    let families = family.map_or(vec![Family::V4, Family::V6], |family| vec![family]);
    for family in families {
        let addresses = |interface| {
            let mut addresses: Vec<_> = addresses_of(interface, family).collect();
            addresses.sort();
            addresses
        };
        let (old, new) = (addresses(before), addresses(after));
        if old == new {
            continue;
        }
        if new.is_empty() {
            return Change::Said(format!("interface {name} has no {family} address any more"));
        }
        return Change::Back(format!("interface {name} has other {family} addresses: joining again"));
    }
    Change::None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0(addresses: &[&str]) -> Interface {
        Interface::ethernet("eth0", 2, addresses)
    }

    fn text(change: Change) -> String {
        match change {
            Change::None => "none".into(),
            Change::Lost(text) => format!("lost: {text}"),
            Change::Back(text) => format!("back: {text}"),
            Change::Said(text) => format!("said: {text}"),
        }
    }

    #[test]
    fn what_happens_to_an_interface_is_told_and_says_whether_to_join_again() {
        let good = eth0(&["192.0.2.1"]);
        let down = Interface { up: false, running: false, ..good.clone() };
        let unplugged = Interface { running: false, ..good.clone() };
        let other = Interface { index: 7, ..good.clone() };
        let faster = Interface { mtu: 9000, ..good.clone() };
        for (before, after, expected) in [
            (Some(&good), Some(&good), "none"),
            (Some(&good), Some(&faster), "none"),
            (Some(&good), Some(&down), "lost: interface eth0 is down: waiting for it"),
            (Some(&good), None, "lost: interface eth0 is gone: waiting for it"),
            (Some(&good), Some(&unplugged), "lost: interface eth0 has lost its carrier: waiting for it"),
            (Some(&down), None, "none"),
            (None, Some(&down), "none"),
            (Some(&down), Some(&good), "back: interface eth0 is back: joining again"),
            (None, Some(&good), "back: interface eth0 is back: joining again"),
            (Some(&good), Some(&other), "back: interface eth0 is a new one: joining again"),
            (Some(&unplugged), Some(&good), "back: interface eth0 has a carrier again: joining again"),
        ] {
            assert_eq!(text(compare("eth0", before, after, Some(Family::V4))), expected);
        }
    }

    #[test]
    fn addresses_of_the_group_s_family_count() {
        let change = |before: &[&str], after: &[&str], family| {
            text(compare("eth0", Some(&eth0(before)), Some(&eth0(after)), family))
        };
        let (v4, v6) = (Some(Family::V4), Some(Family::V6));
        assert_eq!(change(&["192.0.2.1", "fe80::1"], &["fe80::1", "192.0.2.1"], v4), "none");
        assert_eq!(change(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"], v4), "none");
        let said = "back: interface eth0 has other IPv6 addresses: joining again";
        assert_eq!(change(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"], v6), said);
        assert_eq!(change(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"], None), said);
        assert_eq!(change(&["192.0.2.1"], &[], v4), "said: interface eth0 has no IPv4 address any more");
        assert_eq!(
            change(&["192.0.2.1"], &["192.0.2.2"], v4),
            "back: interface eth0 has other IPv4 addresses: joining again"
        );
    }
}
