//! F1, balance: who is asked for what, and who holds which virtual address. Pure.

pub mod choice;
pub mod lease;
