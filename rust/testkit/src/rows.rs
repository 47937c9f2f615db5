//! Rows of every shape that can be stored, for property tests.

use std::sync::Arc;

use bide_core::record::{DoneRow, Mark, RunUpdate};
use bide_core::{
    Address, BlockReason, Cancel, Entry, EntryKey, EntryKind, EntryState, Failure, FailureKind, MessageKind, NO_MAP,
    Operation, RecordKind, RunId, RunStatus, SubStatus, TaskRow, TaskStatus, Time, Value,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// Any time from 1970 on.
pub fn times() -> impl Strategy<Value = Time> {
    prop_oneof![Just(Time(0)), Just(Time::NEVER), (0..2_000_000_000_000_000_i64).prop_map(Time)]
}

/// Names and words of every plane of Unicode.
pub fn texts() -> impl Strategy<Value = Arc<str>> {
    any::<String>().prop_map(Into::into)
}

/// Blobs, empty ones too.
pub fn blobs() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..200).prop_map(Into::into)
}

/// Encoded values, short and long.
pub fn values() -> impl Strategy<Value = Value> {
    (select(&b"ntfidsjpb"[..]), vec(any::<u8>(), 0..100)).prop_map(|(tag, payload)| Value::tagged(tag, &payload))
}

/// Stored failures.
pub fn failures() -> impl Strategy<Value = Failure> {
    (select(&[FailureKind::Raised, FailureKind::WaitTimeout, FailureKind::Serialization][..]), texts(), texts())
        .prop_map(|(kind, name, message)| Failure::new(kind, &name, &message))
}

/// Map indexes, mostly none.
pub fn maps() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(NO_MAP), 1 => 0..i32::MAX]
}

/// Short rows of the run with row number 0.
pub fn done_rows() -> impl Strategy<Value = DoneRow> {
    (0..50_i64, maps(), values(), times(), times()).prop_map(|(task, map, output, started_at, ended_at)| DoneRow {
        map,
        ..DoneRow::new(0, task, output, started_at, ended_at)
    })
}

/// Marks that are not set, that are, and that are set aside.
fn marks() -> impl Strategy<Value = Mark> {
    let code = prop_oneof![3 => Just(0), 1 => -i64::from(i32::MAX)..=i64::from(i32::MAX)];
    code.prop_map(|code| Mark::from_code(code).unwrap_or_default())
}

/// Whole rows of the run with row number 0.
pub fn task_rows() -> impl Strategy<Value = TaskRow> {
    let place = (0..50_i64, maps());
    let status = (select(TaskStatus::ALL), of(select(SubStatus::ALL)), any::<u32>(), marks(), of(any::<u32>()));
    let content = (of(values()), of(blobs()), of(failures()), of(texts()));
    let when = (of(times()), of(times()), of(times()), of(times()), 0..i64::MAX);
    (place, status, content, when).prop_map(|(place, status, content, when)| TaskRow {
        run: 0,
        task: place.0,
        map: place.1,
        length: status.4,
        status: status.0,
        sub_status: status.1,
        attempts: status.2,
        mark: status.3,
        output: content.0,
        changes: content.1,
        failure: content.2,
        first_started_at: when.0,
        started_at: when.1,
        ended_at: when.2,
        waited: when.4,
        retry_at: when.3,
        blocked_by: content.3,
    })
}

/// Journal entries.
pub fn entries() -> impl Strategy<Value = Entry> {
    let key = (texts(), any::<u32>(), any::<u32>());
    let state = (operations(), select(EntryState::ALL));
    let content = (of(values()), of(failures()));
    let when = (of(times()), times(), of(times()));
    (key, state, content, when).prop_map(|((name, n, seq), (operation, state), content, when)| Entry {
        key: EntryKey { name, n },
        seq,
        operation,
        state,
        deadline: when.0,
        value: content.0,
        failure: content.1.map(Box::new),
        opened_at: when.1,
        closed_at: when.2,
    })
}

/// Waits and steps of every kind.
fn operations() -> impl Strategy<Value = Operation> {
    let keys = vec((texts(), any::<u32>()).prop_map(|(name, n)| EntryKey { name, n }), 0..4);
    (select(EntryKind::ALL), of(blobs()), times(), texts(), keys).prop_map(
        |(kind, proof, due, name, keys)| match kind {
            EntryKind::Condition => Operation::Condition { proof },
            EntryKind::Time => Operation::Time { due },
            EntryKind::Signal => Operation::Message(Address { kind: MessageKind::Signal, name }),
            EntryKind::Request => Operation::Message(Address { kind: MessageKind::Request, name }),
            EntryKind::Answer => Operation::Message(Address { kind: MessageKind::Answer, name }),
            EntryKind::Step => Operation::Step { proof, due: Some(due) },
            EntryKind::Any => Operation::Any { members: keys.into() },
            EntryKind::All => Operation::All { members: keys.into() },
            EntryKind::Start => Operation::Start { proof },
            EntryKind::Child => Operation::Child { run: RunId(due.0 as u128) },
            EntryKind::Callback => Operation::Record(RecordKind::Callback),
            EntryKind::Checkpoint => Operation::Record(RecordKind::Checkpoint),
            EntryKind::Reply => Operation::Record(RecordKind::Reply),
        },
    )
}

/// Updates of the run with row number 0.
pub fn run_updates() -> impl Strategy<Value = RunUpdate> {
    (select(RunStatus::ALL), of(failures()), of(times()), of(reasons()), any::<u32>(), of(cancels())).prop_map(
        |(status, failure, ended_at, blocked_by, crashes, cancel)| RunUpdate {
            failure,
            ended_at,
            blocked_by,
            crashes,
            cancel: cancel.map(Arc::new),
            ..RunUpdate::new(0, status)
        },
    )
}

/// Cancellations with and without words.
fn cancels() -> impl Strategy<Value = Cancel> {
    (of(texts()), of(texts()), times()).prop_map(|(by, reason, at)| Cancel { by, reason, at })
}

/// Reasons of every kind for which a run is paused.
fn reasons() -> impl Strategy<Value = BlockReason> {
    prop_oneof![
        texts().prop_map(BlockReason::from_stored),
        texts().prop_map(|what| BlockReason::Mismatch { what }),
        (any::<u32>(), texts()).prop_map(|(times, tasks)| BlockReason::Crashes { times, tasks }),
        texts().prop_map(|who| BlockReason::Requested { who }),
    ]
}
