//! From a definition to a command on this machine: where the program is, as
//! whom it runs, what its environment is. Reads the machine, starts nothing.
//!
//! Whatever a link on the disk says, program and directory stand inside the
//! live tree: both are resolved first, and what was resolved is what is used.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, geteuid, getgid, getrlimit, getuid};

use super::{
    check::below,
    descriptors,
    passage::{Passage, barrier},
    spec::{Limits, User},
};
use crate::{
    base::SecretName,
    driver::secrets::{self, Secret},
};

/// Where programs are looked for when the member has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of an application, as its definition says how it runs.
#[derive(Clone, Debug)]
pub(in crate::driver) struct Program {
    /// The tree that it is of: its paths are relative to it, and stay in it.
    pub tree: PathBuf,
    /// It, and its words.
    pub run: Vec<String>,
    pub directory: String,
    pub user: Option<User>,
    pub limits: Limits,
    /// Variables of the application: its settings.
    pub settings: BTreeMap<String, String>,
    /// The secrets that it is given.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// Variables of its definition.
    pub env: BTreeMap<String, String>,
    /// What the member tells it: names that begin with `ALTHING_`.
    pub told: Vec<(&'static str, OsString)>,
}

/// A command that can be started, and what it may use.
#[derive(Debug)]
pub(super) struct Prepared {
    pub command: Command,
    pub limits: Vec<(Resource, Rlimit)>,
    /// As whom it runs; none where that is the member's own user.
    pub account: Option<Account>,
    /// What that user may enter from now on, to get to its tree.
    pub opened: Vec<PathBuf>,
}

/// Prepares a command; `passage` lets its user through to its tree. The error says why it can't
/// be started, and what to do.
pub(super) fn prepare(wanted: &Program, passage: Option<&Passage>) -> Result<Prepared, String> {
    let tree = fs::canonicalize(&wanted.tree).map_err(|e| {
        format!("its tree {} can't be read ({e}); publish again", wanted.tree.display())
    })?;
    let first = wanted.run.first().ok_or("run names no program; publish a manifest with one")?;
    let program = if first.contains('/') {
        inside(&tree, first, "run")?.into_os_string()
    } else {
        OsString::from(first)
    };
    let directory = inside(&tree, &wanted.directory, "directory")?;
    if !directory.is_dir() {
        let directory = &wanted.directory;
        return Err(format!("directory = {directory:?} is none; publish one, or name another"));
    }
    let account = wanted.user.as_ref().map(account).transpose()?;
    // Nothing is changed where it is the member's own user: that needs no root.
    let account = account.filter(|account| !account.is_own());
    let opened = match (&account, passage) {
        (Some(account), Some(passage)) => passage.let_through(&tree, account.uid, account.gid)?,
        _ => Vec::new(),
    };
    let mut command = Command::new(program);
    command
        .args(wanted.run.iter().skip(1))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    environment(&mut command, wanted, account.as_ref());
    if let Some(account) = &account {
        command.gid(account.gid).uid(account.uid);
    }
    Ok(Prepared { command, limits: limits(wanted.limits)?, account, opened })
}

/// What keeps `account` from running `command`, where modes and access lists tell that.
pub(super) fn barred(command: &Command, account: &Account) -> Option<String> {
    let Account { uid, gid, .. } = *account;
    let directory = command.get_current_dir()?;
    if let Some(at) = barrier(directory, uid, gid) {
        let (at, directory) = (at.display(), directory.display());
        return Some(format!(
            "its user (uid {uid}) can't enter {at}, on the way to {directory}; let that user \
             through (setfacl -m u:{uid}:x {at}), or give the application a `path` that it can reach"
        ));
    }
    // One without a slash is in PATH, and not ours to look after.
    let program = Some(Path::new(command.get_program())).filter(|program| program.is_absolute())?;
    let at = barrier(program, uid, gid)?;
    Some(format!(
        "its user (uid {uid}) may not enter or execute {}; let others do so (chmod o+x) in what you \
         publish, and publish again",
        at.display()
    ))
}

/// What stands at a path of a definition, links resolved: inside the tree.
fn inside(tree: &Path, text: &str, key: &str) -> Result<PathBuf, String> {
    let path = below(text).map_err(|why| {
        format!("{key} = {text:?} does not stay in the tree, because {why}; correct the manifest")
    })?;
    let path = path.map_or_else(|| tree.to_owned(), |path| tree.join(path.to_path()));
    let real = fs::canonicalize(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{text} is not in this version; publish one that has it, or correct {key}")
        }
        _ => format!("{text} can't be looked at ({error}); look after {}", path.display()),
    })?;
    if !real.starts_with(tree) {
        return Err(format!(
            "{text} is a link that leads out of the tree, to {}; publish the file itself",
            real.display()
        ));
    }
    Ok(real)
}

/// A user of this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    gid: u32,
    home: Option<String>,
}

impl Account {
    fn is_own(&self) -> bool {
        self.uid == getuid().as_raw() && self.gid == getgid().as_raw()
    }
}

fn account(user: &User) -> Result<Account, String> {
    // A machine without the file has users all the same, by number.
    let listed = fs::read("/etc/passwd").unwrap_or_default();
    let account = find(user, &String::from_utf8_lossy(&listed))?;
    if !account.is_own() && !geteuid().is_root() {
        return Err(format!(
            "it should run as user {}, and only a member that runs as root can do that; run the \
             member as root, or leave out `user`",
            String::from(user.clone())
        ));
    }
    Ok(account)
}

/// Looks a user up in the text of `/etc/passwd`. Other directories of users
/// are asked by libraries that would be loaded into the member: they are not.
fn find(user: &User, passwd: &str) -> Result<Account, String> {
    let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6
            && match user {
                User::Name(name) => fields[0] == name,
                User::Id { uid, .. } => fields[2] == uid.to_string(),
            }
    });
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n != u32::MAX);
    let known = line.and_then(|fields| {
        let home = Some(fields[5].to_owned()).filter(|home| !home.is_empty());
        Some(Account { uid: number(fields[2])?, gid: number(fields[3])?, home })
    });
    match (user, known) {
        (User::Id { uid, gid: Some(gid) }, known) => {
            Ok(Account { uid: *uid, gid: *gid, home: known.and_then(|k| k.home) })
        }
        (_, Some(known)) => Ok(known),
        (User::Name(name), None) => Err(format!(
            "this machine's /etc/passwd has no user {name}; add the user on every member, or \
             write uid:gid"
        )),
        (User::Id { uid, gid: None }, None) => Err(format!(
            "this machine's /etc/passwd has no user {uid}, so its group is not known; write \
             uid:gid"
        )),
    }
}

/// Nothing of the member's environment but what programs can't do without. `account` is another
/// user than the member's.
fn environment(command: &mut Command, wanted: &Program, account: Option<&Account>) {
    command.env_clear();
    command.env("PATH", env::var_os("PATH").unwrap_or_else(|| PATH.into()));
    let home = match account {
        Some(account) => Some(account.home.as_deref().unwrap_or("/").into()),
        None => env::var_os("HOME"),
    };
    command.envs(home.map(|home| ("HOME", home)));
    command.envs(env::var_os("LANG").map(|lang| ("LANG", lang)));
    command.envs(&wanted.settings);
    let secrets = wanted.secrets.iter();
    command.envs(secrets.map(|(name, secret)| (secrets::env_name(name), secret.expose())));
    command.envs(&wanted.env);
    command.envs(wanted.told.iter().map(|(name, value)| (name, value)));
}

/// The limits as the system knows them. One above the member's own is refused
/// here, where it can be said which.
fn limits(limits: Limits) -> Result<Vec<(Resource, Rlimit)>, String> {
    let all = [
        (Resource::Nofile, "files", limits.files),
        (Resource::As, "memory", limits.memory),
        (Resource::Nproc, "processes", limits.processes),
    ];
    let own = descriptors::inherited().filter(|_| limits.files.is_none());
    let mut given: Vec<_> = own.map(|own| (Resource::Nofile, own)).into_iter().collect();
    for (resource, key, value) in all {
        let Some(value) = value else { continue };
        let own = getrlimit(resource).maximum;
        if own.is_some_and(|own| value > own) && !geteuid().is_root() {
            return Err(format!(
                "limits.{key} is more than the member itself may use ({}); lower it, or raise \
                 the member's own limit",
                own.unwrap_or_default()
            ));
        }
        given.push((resource, Rlimit { current: Some(value), maximum: Some(value) }));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n\
                          www-data:x:33:34:www-data:/var/www:/usr/sbin/nologin\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let www = Account { uid: 33, gid: 34, home: Some("/var/www".to_owned()) };
        let named = |name: &str| find(&User::Name(name.to_owned()), PASSWD);
        let numbered = |uid, gid| find(&User::Id { uid, gid }, PASSWD);
        assert_eq!(named("www-data"), Ok(www));
        assert_eq!(numbered(33, None).unwrap().gid, 34);
        assert_eq!(numbered(33, Some(7)).unwrap().gid, 7);
        assert_eq!(numbered(99, Some(7)), Ok(Account { uid: 99, gid: 7, home: None }));
        assert!(numbered(99, None).unwrap_err().contains("uid:gid"));
        assert!(named("nobody").unwrap_err().contains("/etc/passwd"));
        assert!(named("broken").is_err());
    }

    #[test]
    fn links_and_paths_that_lead_out_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().canonicalize().unwrap().join("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/api"), "").unwrap();
        std::os::unix::fs::symlink("bin/api", tree.join("in")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", tree.join("out")).unwrap();
        std::os::unix::fs::symlink("..", tree.join("up")).unwrap();
        assert_eq!(inside(&tree, "./in", "run"), Ok(tree.join("bin/api")));
        assert_eq!(inside(&tree, ".", "directory"), Ok(tree.clone()));
        for bad in ["./out", "up", "up/tree/bin/../..", "../x", "/bin/sh", "bin/gone", ""] {
            assert!(inside(&tree, bad, "run").is_err(), "{bad}");
        }
        assert!(inside(&tree, "./out", "run").unwrap_err().contains("leads out"));
    }
}
