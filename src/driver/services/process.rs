//! One process of ours: how it is made and how it is let go of. The only file
//! with `unsafe`: something has to happen between fork and exec, and the
//! runtime wants a promise about the descriptor that it watches.
//!
//! A thread of its own starts all processes and lives as long as anybody may
//! start one. The kernel's "kill it when its parent dies" means the *thread*
//! that forked: a worker of the runtime, or one that blocking work was lent,
//! may end while the member lives on, and would take the services with it.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, pidfd_open,
        set_parent_process_death_signal, setrlimit, setsid,
    },
    thread::clear_ambient_capability_set,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use super::{
    What,
    group::{self, Groups},
    passage::Passage,
    prepare::{Prepared, Program, barred, prepare},
};
use crate::base::{AppName, ServiceName};

/// The thread, as those see it who want something started.
#[derive(Debug)]
pub(super) struct Spawner {
    log_dir: PathBuf,
    /// What every program is told.
    told: Vec<(&'static str, OsString)>,
    /// How other users get to their trees.
    passage: Option<Passage>,
    groups: Arc<Groups>,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
}

#[derive(Debug)]
enum Order {
    Start {
        program: Box<Program>,
        record: PathBuf,
        answer: oneshot::Sender<Result<Started, String>>,
    },
    /// The group is gone: nothing of it can be left over.
    Forget(PathBuf),
}

/// A process that was just started, with what it prints.
#[derive(Debug)]
pub(super) struct Started {
    pub process: Process,
    pub out: ChildStdout,
    pub err: ChildStderr,
    /// That its user had to be let through to its tree.
    pub let_through: Option<What>,
}

/// A first process of a group. Dropped, it takes its whole group with it.
#[derive(Debug)]
pub(super) struct Process {
    pub pid: Pid,
    /// Taken when it is waited for.
    child: Option<Child>,
    exit: Option<OwnedFd>,
    groups: Arc<Groups>,
}

/// Tells when a process has ended. It is not waited for yet, so its number
/// still is its own.
#[derive(Debug)]
pub(super) struct Exit(AsyncFd<OwnedFd>);

impl Spawner {
    /// Nothing is started, not even the thread.
    pub(super) fn new(
        log_dir: PathBuf,
        told: Vec<(&'static str, OsString)>,
        passage: Option<Passage>,
        groups: Arc<Groups>,
    ) -> Self {
        Self { log_dir, told, passage, groups, orders: Mutex::new(None) }
    }

    /// Starts a program, and keeps at `record` which group it is. The error says why
    /// not, and what to do.
    pub(super) async fn start(
        &self,
        mut program: Program,
        record: &Path,
    ) -> Result<Started, String> {
        program.told.extend(self.told.iter().cloned());
        let (answer, answered) = oneshot::channel();
        let order = Order::Start { program: Box::new(program), record: record.to_owned(), answer };
        self.order(order).map_err(|e| format!("no thread can be started for it ({e})"))?;
        answered.await.unwrap_or_else(|_| Err("the member is stopping".to_owned()))
    }

    /// Forgets the group that is kept at `record` and has ended.
    pub(super) fn forget(&self, record: &Path) {
        if let Err(error) = self.order(Order::Forget(record.to_owned())) {
            tracing::debug!("a record of a group is left: {error}");
        }
    }

    /// Where it is kept which group a program of `app` is. Those that run at the same time
    /// have different `slot`s.
    pub(super) fn record(&self, app: &AppName, name: &ServiceName, slot: u64) -> PathBuf {
        group::record_path(&self.log_dir, app.as_str(), name.as_str(), slot)
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &*orders {
            Some(sender) => sender,
            None => {
                let (sender, receiver) = mpsc::channel();
                let (passage, groups) = (self.passage.clone(), self.groups.clone());
                std::thread::Builder::new()
                    .name("althing-spawn".into())
                    .spawn(move || obey(&receiver, passage.as_ref(), &groups))?;
                orders.insert(sender)
            }
        };
        sender.send(order).map_err(|_| io::Error::other("the thread that starts them is gone"))
    }
}

/// The thread. It ends with the last spawner.
fn obey(orders: &mpsc::Receiver<Order>, passage: Option<&Passage>, groups: &Arc<Groups>) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Start { program, record, answer } => {
                let started = start(&program, passage, groups);
                if let Ok(started) = &started {
                    group::record(&record, started.process.pid);
                }
                // Nobody waits any more: dropped, the process ends.
                let _ = answer.send(started);
            }
            Order::Forget(record) => {
                // It may never have been written.
                let _ = std::fs::remove_file(record);
            }
        }
    }
}

fn start(
    program: &Program,
    passage: Option<&Passage>,
    groups: &Arc<Groups>,
) -> Result<Started, String> {
    let Prepared { mut command, limits, account, opened } = prepare(program, passage)?;
    let let_through = account.as_ref().filter(|_| !opened.is_empty()).map(|account| account.uid);
    let let_through = let_through.map(|uid| What::LetThrough { uid, directories: opened });
    confine(&mut command, limits);
    let spawned = command.spawn();
    let mut child = spawned.map_err(|error| {
        let refused = error.raw_os_error() == Some(Errno::ACCESS.raw_os_error());
        let barred = account.filter(|_| refused).and_then(|account| barred(&command, &account));
        let why = barred.unwrap_or_else(|| why(&error, program));
        // What was done is told all the same.
        let_through.as_ref().map_or_else(|| why.clone(), |done| format!("{why}. It {done}"))
    })?;
    let pid = Pid::from_child(&child);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let exit = pidfd_open(pid, PidfdFlags::empty());
    let admitted = groups.admit(pid);
    let mut process = Process { pid, child: Some(child), exit: None, groups: groups.clone() };
    match (exit, out, err) {
        (Ok(exit), Some(out), Some(err)) if admitted => {
            process.exit = Some(exit);
            Ok(Started { process, out, err, let_through })
        }
        (Err(error), ..) => Err(format!(
            "this system gives no descriptor of a process ({error}); run Linux 5.6 or later, or \
             allow pidfd_open in the sandbox"
        )),
        _ => Err("the member is stopping".to_owned()),
    }
}

/// What the child does between fork and exec: a session of its own, so that
/// neither a terminal's Ctrl-C nor the member's group reaches it; no
/// capabilities beside those of its user; its end with the member's; its limits.
/// By then it is its user already.
fn confine(command: &mut Command, limits: Vec<(Resource, Rlimit)>) {
    let parent = getpid();
    let between = move || -> io::Result<()> {
        setsid()?;
        // What a unit gives the member beside its user's rights (AmbientCapabilities=) is for its
        // ports and addresses, and not for programs of applications.
        match clear_ambient_capability_set() {
            // A system that does not know of any has none to take away.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before that was asked for.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        for (resource, most) in &limits {
            setrlimit(*resource, *most)?;
        }
        Ok(())
    };
    // SAFETY: the child of a process with threads may only do what is
    // async-signal-safe until exec. `between` makes system calls, without
    // libc's locks (rustix makes them itself), reads memory that was allocated
    // before the fork, and builds errors from numbers: it allocates nothing,
    // frees nothing and takes no lock.
    unsafe {
        command.pre_exec(between);
    }
}

/// Why the system did not start a program, for somebody who wrote a manifest.
fn why(error: &io::Error, program: &Program) -> String {
    let program = program.run.first().map_or("", String::as_str);
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) if program.contains('/') => format!(
            "{program} needs an interpreter that this machine does not have; install it, or \
             publish a program that runs here"
        ),
        Some(Errno::NOENT) => {
            format!("there is no program {program} in PATH; install it, or correct run")
        }
        Some(Errno::ACCESS) => format!(
            "{program} may not be run; make it executable (chmod +x) and publish again, or look \
             whether its user may reach it and whether its disk is mounted noexec"
        ),
        Some(Errno::NOEXEC) => format!(
            "{program} is no program for this machine; publish one that is, or begin the script \
             with #!"
        ),
        Some(Errno::AGAIN | Errno::NOMEM) => format!(
            "the system has no room for one more process ({error}); free some memory, or raise \
             limits.processes"
        ),
        _ => format!("the system refused to run {program} ({error}); look after it there"),
    }
}

impl Process {
    /// What tells that it has ended.
    pub(super) fn exit(&mut self) -> io::Result<Exit> {
        let exit = self.exit.take().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: the descriptor is open and owned by the `OwnedFd`, which
        // stays inside, as it is, for as long as it is registered.
        let exit = unsafe { AsyncFd::register_with_interest(exit, Interest::READABLE)? };
        Ok(Exit(exit))
    }

    /// Signals the whole group.
    pub(super) fn signal(&self, signal: Signal) {
        self.groups.signal(self.pid, signal);
    }

    /// Kills what is left of the group and waits for the first process, which
    /// has ended.
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.groups.retire(self.pid);
        match self.child.take() {
            Some(mut child) => child.wait(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        self.groups.retire(self.pid);
        // It was killed, and may take a moment: nobody has to wait for that. A
        // system that gives no thread has a dead process more for a while.
        let _ = std::thread::Builder::new().name("althing-reap".into()).spawn(move || child.wait());
    }
}

impl Exit {
    /// Returns when the process has ended, each time it is asked.
    pub(super) async fn ended(&self) {
        // It fails only where the runtime ends, and this with it.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
