//! Who serves what: so far, who holds which virtual address.

pub mod lease;
