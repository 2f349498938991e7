//! Words to the service manager: datagrams to the socket that the environment names (sd_notify(3)). Without one nothing is said, and
//! nothing here fails or waits: a service manager that does not listen is no reason to stop.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::clock;

/// Whom to tell.
#[derive(Debug)]
pub struct Notifier {
    place: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What the environment says: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    #[must_use]
    pub fn from_environment() -> Self {
        let place = std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name));
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // The variables of another process may have been passed on.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|&micros| micros > 0 && is_ours && place.is_some());
        Self { place, watchdog: interval.map(Duration::from_micros) }
    }

    /// One that tells nobody.
    #[must_use]
    pub fn mute(watchdog: Option<Duration>) -> Self {
        Self { place: None, watchdog }
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.place.is_some()
    }

    /// How long the service manager waits for a sign of life, if it does.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The service does what it is there for.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// It reads what it is to do anew, until [`Self::ready`].
    pub fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::now().as_nanos() / 1000));
    }

    /// It is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// What it does, for people.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", one_line(text)));
    }

    /// A sign of life.
    pub fn watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, text: &str) {
        if let Some((socket, addr)) = &self.place {
            // Nobody there, or no room: there is nobody else to tell.
            let _ = socket.send_to_addr(text.as_bytes(), addr);
        }
    }
}

/// A path, or behind an @ a name that is no file's.
fn open(name: &OsString) -> Option<(UnixDatagram, SocketAddr)> {
    let addr = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
        [b'/', ..] => SocketAddr::from_pathname(name).ok()?,
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, addr))
}

/// Lines are what separates one word from the next.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let size = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..size]).into_owned()
    }

    #[test]
    fn words_reach_a_socket_by_path_or_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("iotup-test-{}", std::process::id());
        let abstract_addr = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [UnixDatagram::bind(&path).unwrap(), UnixDatagram::bind_addr(&abstract_addr).unwrap()];
        for (socket, name) in sockets.iter().zip([path.into_os_string(), format!("@{name}").into()]) {
            let notifier = Notifier { place: open(&name), watchdog: None };
            notifier.ready("two\nlines");
            assert_eq!(heard(socket), "READY=1\nSTATUS=two lines");
            notifier.reloading();
            let said = heard(socket);
            let micros = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() <= clock::now().as_nanos() / 1000);
            notifier.watchdog();
            assert_eq!(heard(socket), "WATCHDOG=1");
        }
    }

    #[test]
    fn nobody_who_listens_is_no_error_and_no_wait() {
        assert!(open(&"vsock:2:1".into()).is_none());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notifier = Notifier { place: open(&path.clone().into_os_string()), watchdog: None };
        notifier.stopping();
        let deaf = UnixDatagram::bind(&path).unwrap();
        (0..10_000).for_each(|_| notifier.watchdog());
        drop(deaf);
        Notifier::mute(None).ready("");
    }
}
