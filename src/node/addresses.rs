//! Virtual addresses on this member: what the live versions define is told to the member,
//! and what the member says that it holds to the keeper.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{content::Content, services::Live};
use crate::{
    base::{AppName, Time, VirtualAddress},
    gateway::vip::Keeper,
    member::Input,
};

/// How soon what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Which addresses each application has.
pub(super) type Defined = BTreeMap<AppName, BTreeSet<VirtualAddress>>;

/// Reads what the live versions define, whenever others are live, and tells of what changed.
pub(super) async fn run(
    content: Content,
    mut live: watch::Receiver<Option<Live>>,
    tell: impl Fn(Defined),
    stopping: CancellationToken,
) {
    let (mut read, mut told) = (BTreeMap::new(), Defined::new());
    loop {
        let wanted = live.borrow_and_update().clone().unwrap_or_default();
        read.retain(|app, _| wanted.contains_key(app));
        let mut failed = false;
        for (app, version) in wanted {
            if read.get(&app).is_some_and(|(of, _)| *of == version) {
                continue;
            }
            let (content, name) = (content.clone(), app.clone());
            let defined = tokio::task::spawn_blocking(move || content.defined(&name)).await;
            match defined {
                Ok(Ok(Some((active, defined)))) => {
                    let addresses: BTreeSet<_> = defined.addresses.0.into_iter().collect();
                    read.insert(app, ((active.version, active.root), addresses));
                }
                // Switched off just now: that is told as well.
                Ok(Ok(None)) => {}
                // What was read before stays; why is told by what runs services.
                Ok(Err(_)) | Err(_) => failed = true,
            }
        }
        let has = |(app, (_, all)): (&AppName, &(_, BTreeSet<VirtualAddress>))| {
            (!all.is_empty()).then(|| (app.clone(), all.clone()))
        };
        let all: Defined = read.iter().filter_map(has).collect();
        if all != told {
            tell(all.clone());
            told = all;
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = live.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// What the loop knows of addresses.
pub(super) struct Addresses {
    keeper: Keeper,
    defined: Defined,
    /// None before the keeper has looked.
    unable: Option<Option<String>>,
}

impl Addresses {
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper, defined: Defined::new(), unable: None }
    }

    /// The live versions define these: what the member is told, once it is known whether it
    /// can hold any.
    pub fn defined(&mut self, defined: Defined) -> Option<Input> {
        self.keeper.define(defined.values().flatten().copied().collect());
        self.defined = defined;
        self.input()
    }

    /// Whether addresses can be held here, and if not, why.
    pub fn able(&mut self, unable: Option<String>) -> Option<Input> {
        self.unable = Some(unable);
        self.input()
    }

    fn input(&self) -> Option<Input> {
        let unable = self.unable.clone()?;
        Some(Input::Addresses { defined: self.defined.clone(), unable })
    }

    /// These are held, until then by the loop's clock, which began at `started`.
    pub fn hold(&mut self, held: BTreeMap<VirtualAddress, Time>, started: Instant) {
        let at = |time: Time| (started + Duration::from_micros(time.0)).into_std();
        let held = held.into_iter().map(|(address, until)| (address, at(until))).collect();
        self.keeper.hold(held);
    }

    /// Takes everything off.
    pub async fn close(mut self) {
        // A panic in there has been told of.
        let _ended = tokio::task::spawn_blocking(move || self.keeper.close()).await;
    }
}
