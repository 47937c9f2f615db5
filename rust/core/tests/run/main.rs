//! The run machine against simple oracles, driven by a small harness that acts as executor and store.
#![expect(clippy::unwrap_used, reason = "tests")]

mod children;
mod combine;
mod control;
mod crashes;
mod failure;
mod harness;
mod journal;
mod mail;
mod maps;
mod plan;
mod properties;
mod reopened;
mod requests;
mod schedule;
mod script;
mod show;
mod steps;
mod store;
mod uses;
mod waits;
