//! F4, the shell: one task owns the member and carries out its effects.

pub mod content;
pub mod transfer;
