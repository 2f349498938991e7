//! Another object under the same name: asked for by SIGHUP, or seen in the folder; read and made ready in a thread of its own while the one
//! before is sent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::session::{Session, Site};
use crate::drive::manifest_file::{manifest_path, signature_path};
use crate::drive::report::Report;
use crate::failure::{Exit, Failure};
use crate::sys::{FileIdentity, signals};
use crate::types::Time;

/// A file and its manifest that have been as they are for so long are taken to belong together.
const SETTLED: Duration = Duration::from_secs(1);

/// The file, its manifest and the signature of that, as they are in the folder.
type Look = [Option<FileIdentity>; 3];

/// Whether there is something new in the folder.
#[derive(Debug)]
struct News {
    paths: [PathBuf; 3],
    /// What there was when it was last read.
    known: Look,
    /// What there was at the last look, and since when.
    seen: Look,
    since: Time,
}

impl News {
    fn new(file: &Path, now: Time) -> Self {
        let manifest = manifest_path(file);
        let paths = [file.to_owned(), signature_path(&manifest), manifest];
        let known = look(&paths);
        Self { seen: known.clone(), known, paths, since: now }
    }

    /// What is there now is about to be read.
    fn note_reading(&mut self) {
        self.known = look(&self.paths);
    }

    /// Whether what is there has not been read, and has stood still for a while. Without a file there is nothing to read.
    fn are_there(&mut self, now: Time) -> bool {
        let found = look(&self.paths);
        if !are_same(&found, &self.seen) {
            (self.seen, self.since) = (found, now);
        }
        self.seen[0].is_some() && !are_same(&self.seen, &self.known) && now.since(self.since) >= SETTLED
    }
}

fn look(paths: &[PathBuf; 3]) -> Look {
    paths.each_ref().map(|path| FileIdentity::at(path))
}

fn are_same(first: &Look, second: &Look) -> bool {
    first.iter().zip(second).all(|pair| match pair {
        (Some(first), Some(second)) => first.same_content(second),
        (None, None) => true,
        _ => false,
    })
}

/// What has become of it.
#[derive(Debug)]
pub(super) enum Reloaded {
    /// Nothing.
    No,
    /// It has been asked for, and begins.
    Begun,
    /// It can be sent.
    Ready(Box<Session>),
    /// It cannot.
    Failed(Failure),
}

/// Looks for something else to send.
#[derive(Debug)]
pub(super) struct Reloader {
    site: Arc<Site>,
    news: News,
    is_asked_for: bool,
    under_way: Option<mpsc::Receiver<Result<Session, Failure>>>,
}

impl Reloader {
    /// To be made before anything is read.
    pub(super) fn new(site: &Arc<Site>, now: Time) -> Self {
        let news = News::new(&site.options.file, now);
        Self { site: Arc::clone(site), news, is_asked_for: false, under_way: None }
    }

    /// To be asked often. What is asked for while another is under way comes after it.
    pub(super) fn look(&mut self, now: Time, report: &Report) -> Reloaded {
        self.is_asked_for |= signals::take_reload();
        if let Some(outcome) = &self.under_way {
            return match outcome.try_recv() {
                Err(mpsc::TryRecvError::Empty) => Reloaded::No,
                Ok(Ok(session)) => self.end(Reloaded::Ready(Box::new(session))),
                Ok(Err(failure)) => self.end(Reloaded::Failed(failure)),
                Err(mpsc::TryRecvError::Disconnected) => self.end(Reloaded::No),
            };
        }
        let are_there = self.site.options.watch && self.news.are_there(now);
        if !are_there && !self.is_asked_for {
            return Reloaded::No;
        }
        self.is_asked_for = false;
        self.news.note_reading();
        match self.begin(report.sibling()) {
            Ok(outcome) => self.under_way = Some(outcome),
            Err(failure) => return Reloaded::Failed(failure),
        }
        Reloaded::Begun
    }

    fn end(&mut self, outcome: Reloaded) -> Reloaded {
        self.under_way = None;
        outcome
    }

    fn begin(&self, mut report: Report) -> Result<mpsc::Receiver<Result<Session, Failure>>, Failure> {
        let (outcome, inbox) = mpsc::channel();
        let site = Arc::clone(&self.site);
        let read = move || {
            // Nobody listens any more only if the program is ending.
            let _ = outcome.send(Session::open(&site, &mut report));
        };
        let thread = std::thread::Builder::new().name("reload".into()).spawn(read);
        thread.map_err(|error| Failure::io(Exit::Unavailable, "start a thread to reload", &error))?;
        Ok(inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::default().after(Duration::from_millis(millis))
    }

    #[test]
    fn news_count_when_they_have_stood_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "one").unwrap();
        let mut news = News::new(&file, at(0));
        assert!(!news.are_there(at(5000)));
        std::fs::write(folder.path().join("new"), "two!").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        assert!(!news.are_there(at(5100)) && !news.are_there(at(6000)));
        std::fs::write(folder.path().join("file.manifest"), "text").unwrap();
        assert!(!news.are_there(at(6100)), "the manifest comes after the file");
        std::fs::write(folder.path().join("file.manifest.minisig"), "signature").unwrap();
        assert!(!news.are_there(at(6500)) && !news.are_there(at(7400)) && news.are_there(at(7500)));
        news.note_reading();
        assert!(!news.are_there(at(9000)), "whatever comes of reading it");
        std::fs::remove_file(&file).unwrap();
        assert!(!news.are_there(at(9100)) && !news.are_there(at(19_000)), "nothing is no news");
    }
}
