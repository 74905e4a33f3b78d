//! F1, balance: who is asked. Pure.

pub mod choice;
