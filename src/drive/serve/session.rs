//! One object that is sent: read, checked, and its virtual servers in threads of their own, which wait for the start. So another one can be
//! made ready while the first is being sent, and nothing stands still when it takes the place of that.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{Builder, JoinHandle, Scope};
use std::time::Duration;

use super::announcer::Announcer;
use super::defaults::{start_of_host, virtual_server_count};
use super::{ImageChoice, Plan, ServeOptions, changed, manifest_members};
use crate::digest::ObjectTree;
use crate::drive::image::{self, ImageMaker};
use crate::drive::manifest_file::ManifestFile;
use crate::drive::repair::Repair;
use crate::drive::report::Report;
use crate::drive::virtual_server::{self, Common, Event, Published, Recipe, Trouble};
use crate::drive::{choose, digest_file};
use crate::failure::{Exit, Failure, shown};
use crate::limits::{MTU_DEFAULT_MAX, MTU_ROUTED, PACKET_OVERHEAD, SYMBOL_SIZE_MIN};
use crate::sender::{Pacing, Sender, SenderConfig, Share, Unsendable};
use crate::sys::{Interface, Scratch, SendOptions, SendSocket, SourceFile, clock, processors};
use crate::types::SymbolSize;

/// Where and how objects are sent, whichever.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) options: ServeOptions,
    pub(super) interface: Interface,
    pub(super) pacing: Pacing,
}

impl Site {
    /// A socket to `group`.
    pub(super) fn open_socket(&self, group: SocketAddr) -> Result<SendSocket, Failure> {
        SendSocket::open(&SendOptions {
            group,
            interface_index: self.interface.index,
            bind_addr: self.options.bind_addr.or_else(|| choose::source_address(&self.interface, group)),
            hops: self.options.hops,
        })
    }

    /// What cannot be sent, in packets of which size.
    fn unsendable(&self, unsendable: &Unsendable) -> Failure {
        self.cannot(match unsendable {
            Unsendable::ManifestTooLarge { needed, room } => {
                format!("the manifest needs {needed} bytes, {room} are left")
            }
            Unsendable::HashesTooLarge { room } => {
                format!("the proofs of a file so large need more than {room} bytes")
            }
        })
    }

    fn mtu(&self) -> u32 {
        let bound = if self.options.hops > 1 { MTU_ROUTED } else { MTU_DEFAULT_MAX };
        self.options.mtu.unwrap_or(self.interface.mtu.min(bound))
    }

    fn cannot(&self, cause: String) -> Failure {
        let what = format!("send {} in packets of {} bytes", shown(&self.options.file), self.mtu());
        Failure::new(Exit::Usage, what, cause).remedy("see --mtu")
    }

    fn sender_config(&self, manifest: &ManifestFile) -> Result<SenderConfig, Failure> {
        let (options, mtu) = (&self.options, self.mtu());
        if mtu > self.interface.mtu {
            return Err(self.cannot(format!("interface {} takes {} at most", self.interface.name, self.interface.mtu)));
        }
        let payload_size_max = mtu.saturating_sub(PACKET_OVERHEAD);
        let symbol_size = SymbolSize::largest_within(payload_size_max).ok_or_else(|| {
            self.cannot(format!("the smallest packet has {} bytes", PACKET_OVERHEAD + u32::from(SYMBOL_SIZE_MIN)))
        })?;
        let symbol_size = manifest.check_session(symbol_size, options.fec.percent)?;
        let start_of_host = || start_of_host(&manifest.manifest.key().id.0, &self.interface.name);
        Ok(SenderConfig {
            symbol_size,
            payload_size_max,
            ip_overhead: if options.group.is_ipv4() { 28 } else { 48 },
            pacing: self.pacing,
            start_ppm: options.start_ppm.unwrap_or_else(start_of_host),
            fec: options.fec,
            passes: options.passes,
            manifest_text: manifest.text.clone(),
            manifest_signature: manifest.signature.clone(),
        })
    }

    fn senders(&self, tree: &Arc<ObjectTree>, config: &SenderConfig) -> Result<Vec<Sender>, Failure> {
        let unsendable = |cause| self.unsendable(&cause);
        let count = virtual_server_count(&self.options, self.pacing, processors::allowed().len());
        let first = Sender::new(Arc::clone(tree), config).map_err(unsendable)?;
        // None would be left with nothing to send.
        let count = count.min(u32::try_from(first.carousel().round_length()).unwrap_or(u32::MAX)).max(1);
        let shares = (0..count).filter_map(|index| Share::new(index, count));
        shares.map(|share| Sender::with_share(Arc::clone(tree), config, share).map_err(unsendable)).collect()
    }

    /// Who announces what `sender` sends, if anybody is to.
    fn announcer(
        &self,
        manifest: &ManifestFile,
        sender: &Sender,
        config: &SenderConfig,
    ) -> Result<Option<Announcer>, Failure> {
        let options = &self.options;
        let Some(group) = options.announce.group(options.group, manifest.key_id().is_some())? else { return Ok(None) };
        let packet = sender
            .announcement(config, options.group)
            .map_err(|cause| self.unsendable(&cause).remedy("see --mtu, or give --announce off"))?;
        Ok(Some(Announcer::new(group, self.open_socket(group)?, packet)))
    }

    /// Room for the hash of every payload, where there is any: without it they are computed for every packet.
    fn room_for_hashes(&self, sender: &Sender) -> Option<Scratch> {
        let count = usize::try_from(sender.carousel().round_length()).ok()?;
        Scratch::new(&self.folder()?, count).or_else(|_| Scratch::new(&std::env::temp_dir(), count)).ok()
    }

    fn folder(&self) -> Option<std::path::PathBuf> {
        self.options.cache_dir.clone().or_else(digest_file::default_cache_dir)
    }

    /// Who tries whether an image pays, where that is to be found out.
    fn image_maker(&self, sender: &Sender) -> Option<ImageMaker> {
        let pacing = self.options.pacing.filter(|pacing| virtual_server::is_worthwhile(*pacing));
        let is_asked_for = self.options.image == ImageChoice::Auto && image::is_of_use(sender.carousel());
        pacing.filter(|_| is_asked_for).map(|_| ImageMaker::new(self.folder(), sender.carousel().clone()))
    }
}

/// An object that waits to be sent, or is being sent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) file: SourceFile,
    pub(super) plan: Plan,
    pub(super) published: Arc<[Published]>,
    pub(super) announcer: Option<Announcer>,
    /// The engine that the virtual servers begin with.
    pub(super) engine: &'static str,
    pub(super) crew: Crew,
}

impl Session {
    /// Reads the file and what lies beside it, and has everything ready that is needed to send it.
    ///
    /// # Errors
    /// Whatever is wrong with the file, its manifest, the interface, or the room for what is computed of the file.
    pub(super) fn open(site: &Arc<Site>, report: &mut Report) -> Result<Self, Failure> {
        let options = &site.options;
        let file = SourceFile::open(&options.file)?.set_aside();
        let mut sockets = vec![site.open_socket(options.group)?];
        // Before the file is read, which may take long.
        let found = ManifestFile::beside(&options.file)?;
        let cache = digest_file::CacheFolder { folder: site.folder(), is_asked_for: options.cache_dir.is_some() };
        let tree = Arc::new(digest_file::tree(&file, &options.file, &cache, report)?);
        let manifest = match found {
            Some(found) => {
                found.check_object(&options.file, &tree)?;
                found.warn(clock::unix_seconds(), report);
                found
            }
            None => ManifestFile::of(&options.file, &manifest_members(&file, &options.file, &tree))?,
        };
        let config = site.sender_config(&manifest)?;
        let senders = site.senders(&tree, &config)?;
        let announcer = site.announcer(&manifest, &senders[0], &config)?;
        while sockets.len() < senders.len() {
            sockets.push(site.open_socket(options.group)?);
        }
        let plan = Plan::of(&senders, &sockets, &manifest, announcer.as_ref());
        let (crew, published) = Crew::start(site, &file, senders, sockets)?;
        let engine = crew.wait_until_ready(published.len()).map_err(|trouble| match trouble {
            Trouble::Torn => changed(&file, &options.file),
            Trouble::Failed(failure) => failure,
        })?;
        Ok(Self { file, plan, published, announcer, engine, crew })
    }
}

/// The threads that send one object. They are told to stop when this is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) common: Arc<Common>,
    /// What the virtual servers have to tell.
    pub(super) inbox: mpsc::Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    fn start(
        site: &Arc<Site>,
        file: &SourceFile,
        senders: Vec<Sender>,
        sockets: Vec<SendSocket>,
    ) -> Result<(Self, Arc<[Published]>), Failure> {
        let common = Arc::new(Common {
            content: file.map()?,
            repair: Repair::new(&senders, site.folder())?,
            hashes: site.room_for_hashes(&senders[0]),
            image: image::made(site.options.image, site.folder(), senders[0].carousel())?,
            stop: AtomicBool::new(false),
            start: OnceLock::new(),
        });
        let published: Arc<[Published]> = senders.iter().map(|_| Published::default()).collect();
        let (events, inbox) = mpsc::channel();
        let maker = site.image_maker(&senders[0]);
        let muster =
            Muster { site: Arc::clone(site), common: Arc::clone(&common), published: Arc::clone(&published), events };
        let thread = Builder::new().name("session".into()).spawn(move || muster.run(senders, sockets, maker));
        let thread = thread.map_err(|error| Failure::io(Exit::Unavailable, "start the thread of a session", &error))?;
        Ok((Self { common, inbox, thread: Some(thread) }, published))
    }

    /// Waits until so many virtual servers have an engine, and answers with the name of one.
    fn wait_until_ready(&self, count: usize) -> Result<&'static str, Trouble> {
        let (mut engine, mut ready) = ("none", 0);
        while ready < count {
            match self.inbox.recv() {
                Ok(Event::Ready(name)) => (engine, ready) = (name, ready + 1),
                Ok(Event::Ended(Err(trouble))) => return Err(trouble),
                Ok(Event::Warning(_) | Event::Tried(..) | Event::Ended(Ok(()))) => {}
                Err(mpsc::RecvError) => {
                    let cause = "its threads have ended";
                    return Err(Failure::new(Exit::Unavailable, "start virtual servers", cause).into());
                }
            }
        }
        Ok(engine)
    }

    /// Tells all of them to stop, and waits until they have.
    pub(super) fn end(&mut self) {
        self.common.stop();
        if let Some(thread) = self.thread.take() {
            // One that has panicked has ended the program.
            let _ = thread.join();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.common.stop();
    }
}

/// What the thread needs that starts all others and waits for their end.
struct Muster {
    site: Arc<Site>,
    common: Arc<Common>,
    published: Arc<[Published]>,
    events: mpsc::Sender<Event>,
}

impl Muster {
    fn run(self, senders: Vec<Sender>, sockets: Vec<SendSocket>, maker: Option<ImageMaker>) {
        std::thread::scope(|scope| {
            if let Err(failure) = self.spawn(scope, senders, sockets, maker) {
                // Nobody listens any more only if the program is ending.
                let _ = self.events.send(Event::Ended(Err(failure.into())));
                self.common.stop();
            }
        });
    }

    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        senders: Vec<Sender>,
        sockets: Vec<SendSocket>,
        mut maker: Option<ImageMaker>,
    ) -> Result<(), Failure> {
        let (count, options) = (senders.len(), &self.site.options);
        let processors = processors::allowed();
        let what = format!("send to {} on {}", options.group, self.site.interface.name);
        for (index, (sender, socket)) in senders.into_iter().zip(sockets).enumerate() {
            let part = Share::new(u32::try_from(index).unwrap_or(0), u32::try_from(count).unwrap_or(1));
            let burst_ns = u64::try_from(sender.pacer().burst_duration().as_nanos()).unwrap_or(u64::MAX);
            let recipe = Recipe {
                delay: Duration::from_nanos(part.map_or(0, |part| part.start_of(burst_ns))),
                sender,
                socket,
                engine: options.engine,
                needs_image: self.common.image.get().is_some(),
                trial: maker.as_mut().and_then(ImageMaker::take_trial),
                what: what.clone(),
                processor: (count > 1).then(|| processors[index % processors.len()]),
            };
            let events = self.events.clone();
            let thread = Builder::new().name(format!("server {index}"));
            let run = move || virtual_server::run(recipe, &self.common, &self.published[index], &events);
            thread.spawn_scoped(scope, run).map_err(|error| {
                Failure::io(Exit::Unavailable, format!("start the thread of virtual server {index}"), &error)
            })?;
        }
        if let Some(maker) = maker {
            let events = self.events.clone();
            scope.spawn(move || maker.run(&self.common.image, &self.common.stop, &events));
        }
        self.common.repair.spawn(scope, &self.common.content, &self.common.stop, count)
    }
}
