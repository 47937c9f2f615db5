//! What the bodies of a run have shown and is not committed yet: events, in the order of each channel, and the last
//! progress of each task. Taken as a whole by the next commit of the run.
//!
//! An event is packed when it is emitted, so that many of them take few allocations.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::emit::{Progress, pack_event};
use crate::id::TaskRef;
use crate::time::Time;

/// How often the progress of a task is written.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// One row gets no more bytes of values than this, so that a reader need not take much at once.
const LONGEST: usize = 64 * 1024;

/// And no more events.
const MOST: u32 = 4096;

/// A channel as the code that emits declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its name, unique within the run.
    pub name: Arc<str>,
    /// The type of its values, as messages show it. Empty: it is used by its name alone.
    pub type_name: Arc<str>,
    /// How many of the last events are kept; `None`: all.
    pub keep: Option<u32>,
}

/// Where events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The task whose body emits.
    pub task: TaskRef,
    /// Its attempt.
    pub attempt: u32,
    /// The name of the step or wait within which it emits.
    pub entry: Option<Arc<str>>,
}

/// Events of one origin that follow each other in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The channel.
    pub channel: Arc<str>,
    /// See [`Channel::keep`].
    pub keep: Option<u32>,
    /// How many events before these are not kept.
    pub skipped: u64,
    /// How many there are.
    pub count: u32,
    /// Where they come from.
    pub origin: Origin,
    /// When the first one was emitted.
    pub at: Time,
    /// The values.
    pub packed: Vec<u8>,
}

impl Chunk {
    /// Whether it can have one more event.
    fn takes(&self, origin: &Origin, value: &[u8]) -> bool {
        let room = self.count < MOST && self.packed.len() + value.len() < LONGEST;
        room && self.keep.is_none() && self.origin == *origin
    }

    /// About how much memory and disk it takes.
    fn bytes(&self) -> usize {
        64 + self.packed.len()
    }
}

/// What an outbox has after an event was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The event is the first one that waits: have it committed before long.
    pub first: bool,
    /// About how many bytes of events wait: with too many, commit them before more are added.
    pub bytes: usize,
}

/// What a commit takes of an outbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The events, in the order of each channel.
    pub events: Vec<Chunk>,
    /// The progress of tasks, with the attempt whose body said so.
    pub progress: Vec<(TaskRef, u32, Progress)>,
}

/// What the bodies of one run have shown.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The channels that this process has used in the run.
    channels: Vec<Used>,
    /// Their positions by name.
    by_name: HashMap<Arc<str>, usize>,
    /// The position of the channel used last: most bodies use one.
    last: usize,
    /// About how many bytes of events wait to be committed; 0: there are no events.
    bytes: usize,
    /// How far tasks have come.
    progress: HashMap<TaskRef, Said>,
    /// The tasks whose progress is not committed.
    unsaid: usize,
}

/// A channel in use.
#[derive(Debug)]
struct Used {
    /// As it was first used.
    channel: Channel,
    /// What waits to be committed.
    chunks: VecDeque<Chunk>,
}

/// The progress of a task.
#[derive(Debug)]
struct Said {
    /// The attempt whose body said so; 0: an earlier process.
    attempt: u32,
    /// What it said last.
    progress: Progress,
    /// It is not committed.
    is_new: bool,
    /// When it was taken for a commit last, by the steady clock.
    taken: Option<Duration>,
}

impl Outbox {
    /// Adds an event.
    ///
    /// # Errors
    /// The name of the type with which the channel was used before, if that is another.
    pub fn emit(&mut self, channel: &Channel, origin: Origin, value: &[u8], now: Time) -> Result<Fill, Arc<str>> {
        let at = self.position(channel);
        let used = &mut self.channels[at];
        if used.channel.type_name != channel.type_name {
            return Err(Arc::clone(&used.channel.type_name));
        }
        let first = self.bytes == 0;
        match used.chunks.back_mut().filter(|chunk| channel.keep.is_none() && chunk.takes(&origin, value)) {
            Some(chunk) => {
                let before = chunk.packed.len();
                let after = u64::try_from(now.0.saturating_sub(chunk.at.0)).unwrap_or(0);
                pack_event(&mut chunk.packed, after, value);
                chunk.count += 1;
                self.bytes += chunk.packed.len() - before;
            }
            None => {
                let mut packed = Vec::with_capacity(value.len() + 8);
                pack_event(&mut packed, 0, value);
                let (name, keep) = (Arc::clone(&used.channel.name), channel.keep);
                let chunk = Chunk { channel: name, keep, skipped: 0, count: 1, origin, at: now, packed };
                self.bytes += chunk.bytes();
                used.chunks.push_back(chunk);
                if let Some(keep) = keep {
                    self.bytes -= used.forget(keep as usize);
                }
            }
        }
        Ok(Fill { first, bytes: self.bytes })
    }

    /// Notes how far a task has come. Answers after which time it may be written: at once, or once the last write is
    /// [`PROGRESS_EVERY`] old; `None` if an earlier call has been told already.
    pub fn progress(&mut self, task: TaskRef, attempt: u32, progress: Progress, now: Duration) -> Option<Duration> {
        let said = self.progress.entry(task).or_insert_with(|| Said {
            attempt,
            progress: progress.clone(),
            is_new: false,
            taken: None,
        });
        (said.attempt, said.progress) = (attempt, progress);
        if std::mem::replace(&mut said.is_new, true) {
            return None;
        }
        self.unsaid += 1;
        Some(said.taken.map_or(Duration::ZERO, |taken| PROGRESS_EVERY.saturating_sub(now.saturating_sub(taken))))
    }

    /// The progress of a task that an earlier process has recorded.
    pub fn restore(&mut self, task: TaskRef, progress: Progress) {
        self.progress.insert(task, Said { attempt: 0, progress, is_new: false, taken: None });
    }

    /// How far each task and element has come that has said so, in no order.
    pub fn progress_of_all(&self) -> impl Iterator<Item = (TaskRef, &Progress)> {
        self.progress.iter().map(|(task, said)| (*task, &said.progress))
    }

    /// Whether events wait to be committed.
    #[must_use]
    pub const fn has_events(&self) -> bool {
        self.bytes > 0
    }

    /// Takes the events, and the progress that may be written by now: its last write is old enough, or it is of the
    /// task that `ends`. `None` if there is nothing.
    pub fn take(&mut self, ends: Option<TaskRef>, now: Duration) -> Option<Published> {
        let mut published = Published::default();
        if self.has_events() {
            self.bytes = 0;
            for used in &mut self.channels {
                published.events.extend(used.chunks.drain(..));
            }
        }
        if self.unsaid > 0 {
            for (task, said) in &mut self.progress {
                let old = said.taken.is_none_or(|taken| now.saturating_sub(taken) >= PROGRESS_EVERY);
                if said.is_new && (old || ends == Some(*task)) {
                    (said.is_new, said.taken) = (false, Some(now));
                    self.unsaid -= 1;
                    published.progress.push((*task, said.attempt, said.progress.clone()));
                }
            }
        }
        (!published.events.is_empty() || !published.progress.is_empty()).then_some(published)
    }

    fn position(&mut self, channel: &Channel) -> usize {
        if self.channels.get(self.last).is_some_and(|used| used.channel.name == channel.name) {
            return self.last;
        }
        let next = self.channels.len();
        self.last = *self.by_name.entry(Arc::clone(&channel.name)).or_insert(next);
        if self.last == next {
            self.channels.push(Used { channel: channel.clone(), chunks: VecDeque::new() });
        }
        self.last
    }
}

impl Used {
    /// Drops events that the channel will not keep. Answers how many bytes they had.
    fn forget(&mut self, keep: usize) -> usize {
        let mut bytes = 0;
        while self.chunks.len() > keep.max(1) {
            let Some(old) = self.chunks.pop_front() else { break };
            bytes += old.bytes();
            if let Some(next) = self.chunks.front_mut() {
                next.skipped += old.skipped + u64::from(old.count);
            }
        }
        bytes
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn channel(name: &str, keep: Option<u32>) -> Channel {
        Channel { name: name.into(), type_name: "".into(), keep }
    }

    fn origin(ix: u32, entry: Option<&str>) -> Origin {
        Origin { task: TaskRef::plain(ix), attempt: 1, entry: entry.map(Into::into) }
    }

    fn take(outbox: &mut Outbox) -> Vec<(String, u64, u32)> {
        let published = outbox.take(None, Duration::ZERO).unwrap_or_default();
        published.events.iter().map(|chunk| (chunk.channel.to_string(), chunk.skipped, chunk.count)).collect()
    }

    #[test]
    fn events_of_one_origin_in_one_channel_share_a_chunk_and_others_do_not() {
        let (mut outbox, a, b) = (Outbox::default(), channel("a", None), channel("b", None));
        for (channel, origin) in [
            (&a, origin(0, None)),
            (&b, origin(0, None)),
            (&a, origin(0, None)),
            (&a, origin(1, None)),
            (&a, origin(1, Some("step"))),
            (&a, origin(0, None)),
        ] {
            outbox.emit(channel, origin, b"t", Time(0)).unwrap();
        }
        let chunk = |name: &str, count| (name.to_owned(), 0, count);
        assert_eq!(take(&mut outbox), [chunk("a", 2), chunk("a", 1), chunk("a", 1), chunk("a", 1), chunk("b", 1)]);
        assert_eq!(take(&mut outbox), []);
    }

    #[test]
    fn the_first_event_after_a_commit_says_so_and_the_bytes_add_up() {
        let (mut outbox, a) = (Outbox::default(), channel("a", None));
        let first = outbox.emit(&a, origin(0, None), &[b's'; 1000], Time(0)).unwrap();
        let second = outbox.emit(&a, origin(0, None), &[b's'; 1000], Time(0)).unwrap();
        assert!(first.first && !second.first && second.bytes > 2000 && second.bytes < 2200, "{first:?} {second:?}");
        take(&mut outbox);
        let third = outbox.emit(&a, origin(0, None), b"t", Time(0)).unwrap();
        assert!(third.first && third.bytes < 100, "{third:?}");
    }

    #[test]
    fn a_channel_that_keeps_the_last_ones_forgets_the_others_before_they_are_written() {
        let (mut outbox, state) = (Outbox::default(), channel("state", Some(2)));
        let mut bytes = 0;
        for _ in 0..1000 {
            bytes = outbox.emit(&state, origin(0, None), b"t", Time(0)).unwrap().bytes;
        }
        assert!(bytes < 200, "{bytes}");
        assert_eq!(take(&mut outbox), [("state".to_owned(), 998, 1), ("state".to_owned(), 0, 1)]);
        assert!(outbox.emit(&state, origin(0, None), b"t", Time(0)).unwrap().first);
    }

    #[test]
    fn a_chunk_is_limited_in_events_and_in_bytes() {
        let (mut outbox, a) = (Outbox::default(), channel("a", None));
        for _ in 0..MOST + 1 {
            outbox.emit(&a, origin(0, None), b"t", Time(0)).unwrap();
        }
        for _ in 0..3 {
            outbox.emit(&a, origin(0, None), &[b's'; LONGEST / 2], Time(0)).unwrap();
        }
        let counts: Vec<u32> = take(&mut outbox).iter().map(|(.., count)| *count).collect();
        assert_eq!(counts, [MOST, 2, 1, 1]);
    }

    #[test]
    fn a_channel_has_one_type() {
        let (mut outbox, plain) = (Outbox::default(), channel("a", None));
        let typed = Channel { type_name: "State".into(), ..plain.clone() };
        outbox.emit(&typed, origin(0, None), b"t", Time(0)).unwrap();
        assert_eq!(outbox.emit(&plain, origin(0, None), b"t", Time(0)), Err("State".into()));
        take(&mut outbox);
        assert_eq!(outbox.emit(&plain, origin(0, None), b"t", Time(0)), Err("State".into()));
    }

    #[test]
    fn progress_is_taken_once_a_second_and_at_the_end_of_its_task() {
        let (mut outbox, task) = (Outbox::default(), TaskRef::plain(3));
        let at = Duration::from_millis;
        let say = |outbox: &mut Outbox, done, ms| {
            let progress = Progress { done, total: None, message: None, said_at: Time(0) };
            outbox.progress(task, 1, progress, at(ms))
        };
        let taken = |outbox: &mut Outbox, ends, ms| -> Option<f64> {
            let published = outbox.take(ends, at(ms))?;
            Some(published.progress[0].2.done)
        };
        assert_eq!(say(&mut outbox, 1.0, 0), Some(at(0)));
        assert_eq!(say(&mut outbox, 2.0, 5), None);
        assert_eq!(taken(&mut outbox, None, 20), Some(2.0));
        assert_eq!(say(&mut outbox, 3.0, 120), Some(at(900)));
        assert_eq!(taken(&mut outbox, None, 1019), None);
        assert_eq!(say(&mut outbox, 4.0, 1019), None);
        assert_eq!(taken(&mut outbox, None, 1020), Some(4.0));
        assert_eq!(say(&mut outbox, 5.0, 1030), Some(at(990)));
        assert_eq!(taken(&mut outbox, Some(TaskRef::plain(2)), 1040), None);
        assert_eq!(taken(&mut outbox, Some(task), 1040), Some(5.0));
        assert_eq!(outbox.progress_of_all().next().unwrap().1.done, 5.0);
    }
}
