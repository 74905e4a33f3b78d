//! Althing: many ordinary servers that behave as one machine, with no fixed
//! controller.
#![warn(missing_docs)]

pub mod admin;
pub mod base;
pub mod cli;
pub mod driver;
pub mod gateway;
pub mod member;
pub mod net;
pub mod node;
pub mod proto;
pub mod sim;
pub mod store;
