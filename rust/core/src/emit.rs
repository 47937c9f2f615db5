//! What a live run shows: the events that its bodies emit, and how far its tasks have come, as a store keeps them.
//!
//! Events of one body that follow each other in a channel are one row, a [`NewEvents`]: 100,000 small events are some
//! hundred rows. The format of their values never changes: for each event the microseconds since the first one, the
//! length of its value, both LEB128, and the value.
//!
//! Not here: what is emitted and not committed yet (`outbox.rs`).

use std::sync::Arc;

use crate::decode::Damage;
use crate::id::{NO_MAP, TaskId};
use crate::pack::{read_length, take, write_length};
use crate::record::RunRowId;
use crate::time::Time;
use crate::value::Value;

/// The channel of an `emit` that names none.
pub const DEFAULT_CHANNEL: &str = "events";

/// Events to be appended to a channel of a run. Their offsets are given by the store, in the order of the commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvents {
    /// The run.
    pub run: RunRowId,
    /// The channel.
    pub channel: Arc<str>,
    /// How many of the last events the channel keeps; `None`: all. With a number there is one event in here.
    pub keep: Option<u32>,
    /// How many events before these were emitted and are not kept: they have offsets, but no rows.
    pub skipped: u64,
    /// How many there are.
    pub count: u32,
    /// The number of the task whose body emitted them.
    pub task: TaskId,
    /// Its map index, or [`NO_MAP`].
    pub map: i32,
    /// Its attempt.
    pub attempt: u32,
    /// The name of the step or wait within which they were emitted.
    pub entry: Option<Arc<str>>,
    /// When the first one was emitted.
    pub emitted_at: Time,
    /// The values, packed.
    pub packed: Vec<u8>,
}

/// Events as they are read: all of one body, and with offsets that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvents {
    /// The offset of the first one in its channel, from 1.
    pub first: u64,
    /// How many there are.
    pub count: u32,
    /// The name of the task whose body emitted them.
    pub task: Arc<str>,
    /// Its map index, or [`NO_MAP`].
    pub map: i32,
    /// Its attempt.
    pub attempt: u32,
    /// The name of the step or wait within which they were emitted.
    pub entry: Option<Arc<str>>,
    /// When the first one was emitted.
    pub emitted_at: Time,
    /// The values, packed.
    pub packed: Vec<u8>,
}

/// One event of a [`StoredEvents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its offset in the channel, from 1.
    pub offset: u64,
    /// When it was emitted.
    pub at: Time,
    /// What was emitted.
    pub value: Value,
}

impl StoredEvents {
    /// The offset of the last one.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }

    /// The events one by one.
    ///
    /// # Errors
    /// Says what is wrong with mangled values.
    pub fn events(&self) -> Result<Vec<StoredEvent>, Damage> {
        let mut rest = &*self.packed;
        let mut events = Vec::new();
        while !rest.is_empty() {
            let after = read_length(&mut rest)?;
            let length = read_length(&mut rest)?;
            let value = Value::new(take(&mut rest, length)?);
            let at = Time(self.emitted_at.0.saturating_add_unsigned(after as u64));
            events.push(StoredEvent { offset: self.first.saturating_add(events.len() as u64), at, value });
        }
        if events.len() == self.count as usize { Ok(events) } else { Err(Damage::OtherCount(self.count)) }
    }

    /// The name of the task, with the index of an element of a mapped task.
    #[must_use]
    pub fn task_name(&self) -> String {
        if self.map == NO_MAP { self.task.to_string() } else { format!("{}[{}]", self.task, self.map) }
    }
}

/// Adds an event to packed ones: `after` is how many microseconds after the first it was emitted.
pub(crate) fn pack_event(packed: &mut Vec<u8>, after: u64, value: &[u8]) {
    write_length(packed, usize::try_from(after).unwrap_or(usize::MAX));
    write_length(packed, value.len());
    packed.extend_from_slice(value);
}

/// How far a task has come, as its body said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// How much is done.
    pub done: f64,
    /// How much there is to do, if that is known.
    pub total: Option<f64>,
    /// What it is doing.
    pub message: Option<Arc<str>>,
    /// When the body said so.
    pub said_at: Time,
}

/// The progress of a task of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressRow {
    /// The run.
    pub run: RunRowId,
    /// The task's number in this store.
    pub task: TaskId,
    /// Map index, or [`NO_MAP`].
    pub map: i32,
    /// How far it has come.
    pub progress: Progress,
}

/// Numbers of progress are finite, so that equality is total.
impl Eq for Progress {}
impl Eq for ProgressRow {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(count: u32, packed: Vec<u8>) -> StoredEvents {
        let (task, emitted_at) = ("fetch".into(), Time(1_000_000));
        StoredEvents { first: 7, count, task, map: NO_MAP, attempt: 1, entry: None, emitted_at, packed }
    }

    proptest! {
        #[test]
        fn events_that_are_packed_unpack(events: Vec<(u32, Vec<u8>)>) {
            let mut packed = Vec::new();
            for (after, value) in &events {
                pack_event(&mut packed, u64::from(*after), value);
            }
            let expected: Vec<StoredEvent> = (events.iter().zip(7..))
                .map(|((after, value), offset)| {
                    StoredEvent { offset, at: Time(1_000_000 + i64::from(*after)), value: Value::new(value) }
                })
                .collect();
            let read = stored(events.len() as u32, packed);
            prop_assert_eq!(read.events(), Ok(expected));
            prop_assert_eq!(read.last(), 6 + events.len() as u64);
        }

        #[test]
        fn mangled_events_are_an_error_or_other_events_but_never_a_panic(count: u32, packed: Vec<u8>) {
            let _ = stored(count, packed).events();
        }
    }

    #[test]
    fn a_count_that_is_not_that_of_the_values_is_damage() {
        let mut packed = Vec::new();
        pack_event(&mut packed, 0, b"t");
        assert_eq!(stored(2, packed).events(), Err(Damage::OtherCount(2)));
    }
}
