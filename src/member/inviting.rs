//! Invitations that are open: as people see them, and which one they mean.
//!
//! An invitation is named by its public key, which is in the catalog that all members have.
//! What lets somebody in is the private half, in a token that no member keeps: nothing here
//! could show it.

use super::{Member, view::InviteView};
use crate::base::{
    PublicKey, Reason, Refusal,
    catalog::{Catalog, Invite},
};

/// An invitation's id as people see it.
pub(super) fn short(key: &PublicKey) -> String {
    key.to_string().chars().take(Invite::ID_SHOWN).collect()
}

impl Member {
    /// Those that somebody can still join with, oldest first.
    pub(super) fn invite_views(&self, catalog: &Catalog) -> Vec<InviteView> {
        let view = |invite: &Invite| InviteView {
            id: invite.id(),
            by: self.name_of(invite.issued_by),
            uses_left: invite.uses_left,
            expires_ms: invite.expires_at.0,
            expires: invite.expires_at.to_string(),
        };
        catalog.invites.iter().filter(|invite| invite.is_open(self.wall)).map(view).collect()
    }

    /// The invitation whose id begins with `id`, none for all; and what its withdrawal is, in a
    /// sentence.
    pub(super) fn withdrawn(
        &self,
        id: Option<&str>,
    ) -> Result<(Option<PublicKey>, String), Refusal> {
        let refuse = |reason, why: String| {
            Err(Refusal::new(
                reason,
                "No invitation was withdrawn.",
                why,
                "See `althing invites` for those that are open.",
            ))
        };
        let open = self.catalog().invites.iter().filter(|invite| invite.is_open(self.wall));
        let Some(id) = id else {
            let text = match open.count() {
                0 => "no invitation is open".to_owned(),
                1 => "1 invitation is withdrawn".to_owned(),
                count => format!("{count} invitations are withdrawn"),
            };
            return Ok((None, text));
        };
        let id = id.to_ascii_lowercase();
        let least = Invite::ID_PREFIX_MIN;
        if id.len() < least || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let why =
                format!("Of an id at least {least} digits are given, from 0 to 9 and a to f.");
            return refuse(Reason::Invalid, why);
        }
        let meant: Vec<PublicKey> =
            open.filter(|invite| invite.id().starts_with(&id)).map(|invite| invite.key).collect();
        match meant.as_slice() {
            [key] => Ok((Some(*key), format!("invitation {} is withdrawn", short(key)))),
            [] => refuse(
                Reason::NotFound,
                "No invitation that is open has an id that begins like that.".to_owned(),
            ),
            several => refuse(
                Reason::Invalid,
                format!("{} ids begin like that: more of it is needed.", several.len()),
            ),
        }
    }
}
