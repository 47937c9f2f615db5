//! Runs in memory: what one is, which workflows it may have, how it is submitted, and how it is recovered.

pub(crate) mod answers;
pub(crate) mod children;
pub(crate) mod convert;
pub(crate) mod explain;
pub(crate) mod follow;
pub(crate) mod fork;
pub(crate) mod live;
pub(crate) mod live_output;
pub(crate) mod local_watch;
pub(crate) mod looks;
pub(crate) mod mail;
pub(crate) mod polls;
pub(crate) mod recover;
pub(crate) mod registry;
pub(crate) mod requests;
pub(crate) mod run;
pub(crate) mod schedules;
pub(crate) mod settled;
pub(crate) mod sharing;
pub(crate) mod sources;
pub(crate) mod submit;
pub(crate) mod suspects;
pub(crate) mod unobserved;
pub(crate) mod watch;
pub(crate) mod watched;
pub(crate) mod watches;
