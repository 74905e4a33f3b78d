//! The keeper: a thread that has on the interfaces what it is told to, until it is told
//! otherwise or the time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    announce::Announcer,
    guard::{Guard, this_program},
    netlink::{Interface, Netlink},
};
use crate::base::VirtualAddress;

/// After how long the kernel takes an address off by itself, whole seconds.
const LIFETIME: Duration = Duration::from_secs(2);
/// How often that is begun anew.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How soon after the first time the neighbours are told again: frames get lost, and
/// in a planned hand-over the one before may have answered somebody meanwhile.
const TELL_AGAIN_MS: [u64; 6] = [25, 75, 200, 500, 1_000, 3_000];
/// How often they are told after that: a switch or a router may have been away.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often is looked whether what could not be done can be done now.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a keeper is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where other members reach this one: an address that is on no interface's network goes
    /// where this is.
    pub own: IpAddr,
    /// Whether a guard is started: this program has to have its command.
    pub guard: bool,
    /// A file in which is kept what is on the interfaces.
    pub file: PathBuf,
}

enum Order {
    Define(BTreeSet<VirtualAddress>),
    Hold(BTreeMap<VirtualAddress, Instant>),
}

/// The way to the thread; it is started when there is something to do.
pub struct Keeper {
    config: Config,
    report: Option<Box<dyn Fn(Option<String>) + Send>>,
    thread: Option<(mpsc::Sender<Order>, JoinHandle<()>)>,
}

impl Keeper {
    /// Takes off what an earlier run has left on the interfaces. `report` is told
    /// whether addresses can be held here, at first and when that changes: a sentence without
    /// its point that says why not.
    pub fn new(config: Config, report: impl Fn(Option<String>) + Send + 'static) -> Self {
        if let Ok(text) = fs::read_to_string(&config.file) {
            match Netlink::open() {
                Ok(mut netlink) => take_off_leftovers(&mut netlink, &text),
                Err(error) => tracing::warn!(%error, "what was left on interfaces stays there"),
            }
            let _gone = fs::remove_file(&config.file);
        }
        Self { config, report: Some(Box::new(report)), thread: None }
    }

    /// These are all that may ever have to be held.
    pub fn define(&mut self, addresses: BTreeSet<VirtualAddress>) {
        if !addresses.is_empty() {
            self.start();
        }
        self.order(Order::Define(addresses));
    }

    /// Exactly these are held, each until its time.
    pub fn hold(&mut self, addresses: BTreeMap<VirtualAddress, Instant>) {
        self.order(Order::Hold(addresses));
    }

    /// Takes everything off, and ends. Blocks for some milliseconds.
    pub fn close(&mut self) {
        if let Some((orders, thread)) = self.thread.take() {
            drop(orders);
            let _panic_was_told_of = thread.join();
        }
    }

    fn start(&mut self) {
        let Some(report) = self.report.take() else { return };
        let (orders, queue) = mpsc::channel();
        let mut work = Work::new(self.config.clone(), report);
        let builder = std::thread::Builder::new().name("addresses".to_owned());
        match builder.spawn(move || work.run(&queue)) {
            Ok(thread) => self.thread = Some((orders, thread)),
            Err(error) => tracing::error!(%error, "no addresses are held: there is no thread"),
        }
    }

    fn order(&self, order: Order) {
        if let Some((orders, _)) = &self.thread {
            // A thread that is gone has panicked, which was told.
            let _sent = orders.send(order);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

/// One address that is on an interface.
struct Have {
    index: u32,
    hardware: Option<[u8; 6]>,
    routed: bool,
    until: Instant,
    renewed: Instant,
    /// How often the neighbours were told, and when they are told again.
    told: usize,
    tell_at: Instant,
}

struct Work {
    config: Config,
    report: Box<dyn Fn(Option<String>) + Send>,
    defined: BTreeSet<VirtualAddress>,
    have: BTreeMap<VirtualAddress, Have>,
    netlink: Option<Netlink>,
    announcer: Option<Announcer>,
    guard: Option<Guard>,
    /// What was reported last.
    reported: Option<Option<String>>,
    look_at: Instant,
}

impl Work {
    fn new(config: Config, report: Box<dyn Fn(Option<String>) + Send>) -> Self {
        Self {
            config,
            report,
            defined: BTreeSet::new(),
            have: BTreeMap::new(),
            netlink: None,
            announcer: None,
            guard: None,
            reported: None,
            look_at: Instant::now(),
        }
    }

    fn run(&mut self, queue: &mpsc::Receiver<Order>) {
        loop {
            let now = Instant::now();
            let times = self.have.values().map(|have| have.until.min(have.tell_at));
            let looks = (!self.defined.is_empty()).then_some(self.look_at);
            let next = times.chain(looks).min();
            let wait =
                next.map_or(Duration::from_secs(3_600), |at| at.saturating_duration_since(now));
            match queue.recv_timeout(wait) {
                Ok(Order::Define(addresses)) => {
                    self.defined = addresses;
                    self.look_at = Instant::now();
                }
                Ok(Order::Hold(addresses)) => self.hold(&addresses),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.on_time();
        }
        self.hold(&BTreeMap::new());
        if let Some(guard) = self.guard.take() {
            guard.end();
        }
    }

    fn hold(&mut self, wanted: &BTreeMap<VirtualAddress, Instant>) {
        // What another has now goes first.
        let gone: Vec<_> =
            self.have.keys().copied().filter(|address| !wanted.contains_key(address)).collect();
        for address in gone {
            self.take_off(address);
        }
        for (address, until) in wanted {
            if *until <= Instant::now() {
                continue; // what was told late is over
            }
            let result = if self.have.contains_key(address) {
                self.renew(*address, *until)
            } else {
                self.put_on(*address, *until)
            };
            if let Err(why) = result {
                self.take_off(*address);
                self.say(Some(why));
            }
        }
    }

    /// What is due by the clock.
    fn on_time(&mut self) {
        let now = Instant::now();
        let over = self.have.iter().filter(|(_, have)| have.until <= now);
        for address in over.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.take_off(address);
        }
        let due = self.have.iter().filter(|(_, have)| have.tell_at <= now);
        for address in due.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.tell_neighbours(address);
        }
        if now >= self.look_at && !self.defined.is_empty() {
            self.look_at = now + LOOK_EVERY;
            let result = self.look();
            self.say(result.err());
        }
    }

    /// Whether addresses can be held here. Readies what is needed for it.
    fn look(&mut self) -> Result<(), String> {
        missing_capabilities()?;
        self.ready()?;
        let interfaces = self.interfaces()?;
        match self.defined.iter().find(|a| self.place(&interfaces, **a).is_none()) {
            None => Ok(()),
            Some(address) => {
                Err(format!("no interface of this server is in the network of {address}"))
            }
        }
    }

    fn ready(&mut self) -> Result<(), String> {
        if self.netlink.is_none() {
            let opened = Netlink::open().map_err(|e| format!("the kernel can't be asked: {e}"))?;
            self.netlink = Some(opened);
        }
        if self.announcer.is_none() {
            let opened = Announcer::open();
            let opened =
                opened.map_err(|e| format!("neighbours can't be told of addresses: {e}"))?;
            self.announcer = Some(opened);
        }
        if self.guard.is_none() && self.config.guard {
            match Guard::start(&this_program()) {
                Ok(guard) => self.guard = Some(guard),
                // There are two others that do what it does.
                Err(error) => tracing::warn!("there is no guard for addresses: {error}"),
            }
        }
        Ok(())
    }

    fn interfaces(&mut self) -> Result<Vec<Interface>, String> {
        let netlink = self.netlink.as_mut().ok_or("the kernel can't be asked")?;
        netlink.interfaces().map_err(|e| format!("the interfaces can't be listed: {e}"))
    }

    /// The interface for `address`, and whether its network has a route there already.
    fn place<'a>(
        &self,
        interfaces: &'a [Interface],
        address: VirtualAddress,
    ) -> Option<(&'a Interface, bool)> {
        let is_own = |ip: IpAddr| self.defined.iter().any(|defined| defined.ip() == ip);
        let beside = |i: &&Interface| {
            let mut theirs = i.addresses.iter().filter(|(ip, _)| !is_own(*ip));
            theirs.any(|(ip, prefix)| address.is_beside(*ip) && *prefix == address.prefix())
        };
        let near = |i: &&Interface| {
            i.addresses.iter().any(|(ip, _)| address.is_beside(*ip) && !is_own(*ip))
        };
        let own = |i: &&Interface| i.addresses.iter().any(|(ip, _)| *ip == self.config.own);
        let find = |by: &dyn Fn(&&Interface) -> bool| interfaces.iter().find(by);
        find(&beside)
            .map(|interface| (interface, true))
            .or_else(|| find(&near).or_else(|| find(&own)).map(|interface| (interface, false)))
    }

    fn put_on(&mut self, address: VirtualAddress, until: Instant) -> Result<(), String> {
        self.ready()?;
        let interfaces = self.interfaces()?;
        let (interface, routed) = self
            .place(&interfaces, address)
            .ok_or_else(|| format!("no interface of this server is in the network of {address}"))?;
        let (index, hardware) = (interface.index, interface.hardware);
        // Kept and guarded first: whatever happens between, somebody takes it off.
        let now = Instant::now();
        let have = Have { index, hardware, routed, until, renewed: now, told: 0, tell_at: now };
        self.have.insert(address, have);
        self.keep();
        self.guard_it(address, until);
        self.add(address)?;
        self.tell_neighbours(address);
        Ok(())
    }

    fn renew(&mut self, address: VirtualAddress, until: Instant) -> Result<(), String> {
        let Some(have) = self.have.get_mut(&address) else { return Ok(()) };
        have.until = until;
        self.guard_it(address, until);
        let now = Instant::now();
        let have = self.have.get_mut(&address).filter(|have| now - have.renewed >= RENEW_EVERY);
        if let Some(have) = have {
            have.renewed = now;
            self.add(address)?;
        }
        Ok(())
    }

    fn add(&mut self, address: VirtualAddress) -> Result<(), String> {
        let (Some(netlink), Some(have)) = (&mut self.netlink, self.have.get(&address)) else {
            return Ok(());
        };
        let pair = (address.ip(), address.prefix());
        netlink
            .add(have.index, pair, LIFETIME, have.routed)
            .map_err(|error| format!("{address} can't be put on an interface: {error}"))
    }

    fn guard_it(&mut self, address: VirtualAddress, until: Instant) {
        let (Some(guard), Some(have)) = (&mut self.guard, self.have.get(&address)) else { return };
        if guard.hold(have.index, address, until).is_err() {
            // Somebody ended it: another one is told of everything.
            if let Some(guard) = self.guard.take() {
                guard.end();
            }
            let _without = self.ready();
            if let Some(guard) = &mut self.guard {
                for (address, have) in &self.have {
                    let _next_time = guard.hold(have.index, *address, have.until);
                }
            }
        }
    }

    fn take_off(&mut self, address: VirtualAddress) {
        let Some(have) = self.have.remove(&address) else { return };
        let pair = (address.ip(), address.prefix());
        if let Some(netlink) = &mut self.netlink
            && let Err(error) = netlink.remove(have.index, pair)
        {
            // The kernel does by itself, in a moment.
            tracing::warn!(%address, %error, "the address could not be taken off");
            return;
        }
        if let Some(guard) = &mut self.guard {
            let _gone = guard.drop(address);
        }
        self.keep();
    }

    fn tell_neighbours(&mut self, address: VirtualAddress) {
        let Some(have) = self.have.get_mut(&address) else { return };
        let after =
            TELL_AGAIN_MS.get(have.told).map_or(TELL_EVERY, |ms| Duration::from_millis(*ms));
        have.told += 1;
        have.tell_at = Instant::now() + after;
        if let (Some(announcer), Some(hardware)) = (&self.announcer, have.hardware)
            && let Err(error) = announcer.announce(have.index, hardware, address.ip())
        {
            tracing::debug!(%address, %error, "the neighbours were not told");
        }
    }

    fn say(&mut self, why_not: Option<String>) {
        if self.reported.as_ref() != Some(&why_not) {
            (self.report)(why_not.clone());
            self.reported = Some(why_not);
        }
    }

    /// Keeps what is on the interfaces, for the next start.
    fn keep(&self) {
        let mut text = String::new();
        for (address, have) in &self.have {
            // A String takes everything.
            let _written = writeln!(text, "{} {address}", have.index);
        }
        let kept = if text.is_empty() {
            fs::remove_file(&self.config.file)
        } else {
            fs::write(&self.config.file, text)
        };
        if let Err(error) =
            kept.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        {
            tracing::debug!(%error, "what is on the interfaces could not be noted");
        }
    }
}

fn take_off_leftovers(netlink: &mut Netlink, text: &str) {
    for line in text.lines() {
        let Some((index, address)) = line.split_once(' ') else { continue };
        let (Ok(index), Ok(address)) = (index.parse(), address.parse::<VirtualAddress>()) else {
            continue;
        };
        match netlink.remove(index, (address.ip(), address.prefix())) {
            Ok(()) => tracing::info!(%address, "taken off: an earlier run had it"),
            Err(error) => tracing::warn!(%address, %error, "left over, and can't be taken off"),
        }
    }
}

/// Which capabilities this process lacks, as a sentence without its point.
fn missing_capabilities() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(has) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Ok(()); // it shows when it is tried
    };
    // capabilities(7)
    let all = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13)];
    let lacks: Vec<&str> =
        all.iter().filter(|(_, bit)| has >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(format!(
        "it lacks {}; a systemd unit gives them with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
        lacks.join(" and ")
    ))
}
