//! A configuration into its file, and what is run before and after: as a whole or not at all,
//! so that a balancer that starts at any moment finds one that works.
//!
//! Beside FILE there may be FILE.new (being made), FILE.before (what it was), FILE.refused (what
//! the check refused) and FILE.unloaded (an empty mark: the command to reload has not ended well
//! since FILE was changed, and is owed).

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{fs::OpenOptionsExt, fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group},
};

use super::{MARK, options::Options};
use crate::base::{Reason, Refusal};

/// For a command of the operator's, after which it is killed.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// How much of what a command says is repeated: the last so many bytes.
const SAID_MAX: u64 = 2_000;
/// A larger file is not one of ours.
const FILE_MAX: u64 = 256 << 20;

/// Where to, and how.
#[derive(Clone, Debug)]
pub(super) struct Target {
    file: PathBuf,
    check: Option<String>,
    reload: Option<String>,
}

/// What was done.
#[derive(Debug)]
pub(super) struct Delivered {
    pub file: PathBuf,
    /// Whether it is another one than before.
    pub changed: bool,
    /// How the command to reload ended, if it was run.
    pub reload: Option<Result<(), Refusal>>,
}

impl Target {
    /// None if nothing is to be written.
    pub fn of(options: &Options) -> Result<Option<Self>, Refusal> {
        let Some(out) = &options.out else { return Ok(None) };
        let (check, reload) = (options.check.clone(), options.reload.clone());
        // A link is followed once: what it leads to is replaced, and not the link.
        let file = match fs::canonicalize(out) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::path::absolute(out).map_err(|e| unwritable(out, &e))?
            }
            Err(error) => return Err(unwritable(out, &error)),
        };
        Ok(Some(Self { file, check, reload }))
    }

    /// Puts it in place if it is not what is there. An error means that the file is what it was.
    pub async fn deliver(&self, text: &str) -> Result<Delivered, Refusal> {
        let failed = |error: io::Error| unwritable(&self.file, &error);
        let standing = self.standing()?;
        let changed = standing.as_ref().is_none_or(|(found, _)| found != text.as_bytes());
        if changed {
            let mode = standing.as_ref().map_or(0o644, |(_, mode)| *mode);
            write_synced(&self.beside("new"), text, mode).map_err(failed)?;
            self.check().await?;
            self.swap(standing.is_some()).map_err(failed)?;
        }
        let reload = match &self.reload {
            Some(reload) if changed || self.beside("unloaded").exists() => {
                Some(self.reload(reload).await)
            }
            _ => None,
        };
        Ok(Delivered { file: self.file.clone(), changed, reload })
    }

    /// What is there, and its permissions.
    fn standing(&self) -> Result<Option<(Vec<u8>, u32)>, Refusal> {
        let failed = |error: io::Error| unwritable(&self.file, &error);
        let metadata = match fs::metadata(&self.file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let foreign = |why: &str| {
            Refusal::new(
                Reason::Conflict,
                "The configuration was not written.",
                format!("{} {why}.", self.file.display()),
                "Name another file with --out, or move that one away.",
            )
        };
        if !metadata.is_file() {
            return Err(foreign("is no file"));
        }
        let mut found = Vec::new();
        let file = File::open(&self.file).map_err(failed)?;
        file.take(FILE_MAX).read_to_end(&mut found).map_err(failed)?;
        if !found.is_empty() && !found.starts_with(MARK.as_bytes()) {
            return Err(foreign("was not written by this command, and would be lost"));
        }
        Ok(Some((found, metadata.permissions().mode() & 0o7777)))
    }

    /// FILE.what
    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".");
        name.push(what);
        name.into()
    }

    async fn check(&self) -> Result<(), Refusal> {
        let Some(check) = &self.check else { return Ok(()) };
        let new = self.beside("new");
        let command = check.replace("{}", &quoted(&new.display().to_string()));
        let Err(why) = run(&command).await else { return Ok(()) };
        let refused = self.beside("refused");
        // To look at; if it can't be kept, that is not what matters now.
        let _kept = fs::rename(&new, &refused);
        Err(Refusal::new(
            Reason::Failed,
            format!("The new configuration was refused, and {} is as it was.", self.file.display()),
            format!("`{command}` {why}."),
            format!("Look at {}, and at what the command says.", refused.display()),
        ))
    }

    fn swap(&self, is_there: bool) -> io::Result<()> {
        let (new, before) = (self.beside("new"), self.beside("before"));
        if self.reload.is_some() {
            File::create(self.beside("unloaded"))?;
        }
        if is_there {
            remove(&before)?;
            fs::hard_link(&self.file, &before)
                .or_else(|_no_links| fs::copy(&self.file, &before).map(|_length| ()))?;
        }
        fs::rename(&new, &self.file)?;
        File::open(self.file.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    async fn reload(&self, reload: &str) -> Result<(), Refusal> {
        match run(reload).await {
            Ok(()) => remove(&self.beside("unloaded")).map_err(|e| unwritable(&self.file, &e)),
            Err(why) => Err(Refusal::new(
                Reason::Failed,
                format!("{} is new, and was not taken up.", self.file.display()),
                format!("`{reload}` {why}."),
                format!(
                    "Put right what it says, and run this again; what was before is {}.",
                    self.beside("before").display()
                ),
            )),
        }
    }
}

fn unwritable(file: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The configuration was not written.",
        format!("{} or a file beside it can't be read or written: {error}.", file.display()),
        "See that the directory is there, that this user may write in it, and that there is room.",
    )
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // What a killed run left behind, or whatever somebody put there.
    remove(path)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask takes away of it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A path as a word of a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    match path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// Runs a command in a shell, and says how it failed. What it prints goes to memory and not to
/// a pipe: a balancer that it starts may keep that open for ever.
async fn run(command: &str) -> Result<(), String> {
    let started = |error: io::Error| format!("can't be run: {error}");
    let said = memfd_create("said", MemfdFlags::CLOEXEC).map_err(|e| started(e.into()))?;
    let mut said = File::from(said);
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(started)?)
        .stderr(said.try_clone().map_err(started)?)
        .process_group(0)
        .spawn()
        .map_err(started)?;
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    let how = match tokio::time::timeout(COMMAND_MAX, child.wait()).await {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => ended(status),
        Ok(Err(error)) => return Err(started(error)),
        Err(_too_long) => {
            // It may end at this very moment.
            let _gone = group.map(|group| kill_process_group(group, Signal::KILL));
            let _reaped = child.wait().await;
            format!("took longer than {} seconds", COMMAND_MAX.as_secs())
        }
    };
    match last_words(&mut said) {
        Ok(words) if words.is_empty() => Err(how),
        Ok(words) => Err(format!("{how}, and said: {words}")),
        Err(_unread) => Err(how),
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    }
}

/// The end of what was said, on one line.
fn last_words(said: &mut File) -> io::Result<String> {
    let length = said.metadata()?.len();
    said.seek(SeekFrom::Start(length.saturating_sub(SAID_MAX)))?;
    let mut bytes = Vec::new();
    said.take(SAID_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join(" / ").trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(dir: &Path, check: Option<&str>, reload: Option<&str>) -> Target {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Target { file: dir.join("b.cfg"), check: owned(check), reload: owned(reload) }
    }

    fn text(what: &str) -> String {
        format!("{MARK} x`\n{what}\n")
    }

    #[tokio::test]
    async fn a_file_is_changed_as_a_whole_and_only_if_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let reload = format!("echo x >> {}", count.display());
        let target = target(dir.path(), Some("grep -q Written {}"), Some(&reload));
        let first = target.deliver(&text("1")).await.unwrap();
        assert!(first.changed && first.reload == Some(Ok(())));
        let again = target.deliver(&text("1")).await.unwrap();
        assert!(!again.changed && again.reload.is_none());
        fs::set_permissions(&target.file, fs::Permissions::from_mode(0o640)).unwrap();
        target.deliver(&text("2")).await.unwrap();
        assert_eq!(fs::read_to_string(&target.file).unwrap(), text("2"));
        assert_eq!(fs::read_to_string(target.beside("before")).unwrap(), text("1"));
        assert_eq!(fs::metadata(&target.file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&count).unwrap(), "x\nx\n");
        assert!(!target.beside("new").exists() && !target.beside("unloaded").exists());
    }

    #[tokio::test]
    async fn what_the_check_refuses_is_not_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        target(dir.path(), None, None).deliver(&text("1")).await.unwrap();
        let strict = target(dir.path(), Some("grep 1 {} || { echo no such; exit 3; }"), None);
        let refusal = strict.deliver(&text("2")).await.unwrap_err();
        assert!(refusal.why.ends_with("ended with 3, and said: no such."), "{refusal}");
        assert_eq!(fs::read_to_string(&strict.file).unwrap(), text("1"));
        assert_eq!(fs::read_to_string(strict.beside("refused")).unwrap(), text("2"));
    }

    #[tokio::test]
    async fn a_reload_that_failed_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let failing = target(dir.path(), None, Some("exit 7"));
        let first = failing.deliver(&text("1")).await.unwrap();
        assert!(first.reload.unwrap().unwrap_err().why.contains("ended with 7"));
        let working = target(dir.path(), None, Some("true"));
        let again = working.deliver(&text("1")).await.unwrap();
        assert!(!again.changed && again.reload == Some(Ok(())));
        assert!(working.deliver(&text("1")).await.unwrap().reload.is_none());
    }

    #[tokio::test]
    async fn a_file_of_somebody_else_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path(), None, None);
        fs::write(&target.file, "global\n").unwrap();
        let refusal = target.deliver(&text("1")).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Conflict);
        assert_eq!(fs::read_to_string(&target.file).unwrap(), "global\n");
        let directory = Target { file: dir.path().to_owned(), check: None, reload: None };
        assert_eq!(directory.deliver("x").await.unwrap_err().reason, Reason::Conflict);
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quoted("/etc/a-b_c.cfg"), "/etc/a-b_c.cfg");
        assert_eq!(quoted("/a b/'c"), r"'/a b/'\''c'");
    }
}
