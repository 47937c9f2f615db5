//! Hints to other processes: that there is something to look at. A thread sends them, some together, apart from commits: a
//! notification within a transaction would keep all others from committing until it is durable.
//!
//! A hint may be lost; the rows say what has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_core::record::RunRowId;
use bide_sync::{Condvar, Mutex};

use super::connect::Connections;
use super::session::Text;

/// The shortest time between two notifications.
const REST: Duration = Duration::from_millis(10);

/// How long others tell this process of runs that end after it has looked at one.
const WATCHED: Duration = Duration::from_secs(15);

/// So long after it has said that it watches, a process says it again.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// How many runs a notification names, whose length is limited; of more it only says that there are some.
const NAMED: usize = 400;

const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1::text, $2::text)";

/// Something to tell.
pub(super) enum Hint {
    /// There are rows of changes.
    Look,
    /// These runs have ended or stopped.
    Ended(Vec<RunRowId>),
}

/// What a notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Who has sent it.
    pub(super) process: i64,
    /// There are rows of changes.
    pub(super) look: bool,
    /// The sender wants to be told of runs that end.
    pub(super) watches: bool,
    /// Runs that have ended; `None`: any.
    pub(super) ended: Option<Vec<RunRowId>>,
}

impl Note {
    fn text(&self) -> String {
        let mut text =
            format!("{:x}{}{}", self.process, if self.look { " L" } else { "" }, if self.watches { " W" } else { "" });
        match &self.ended {
            None => text.push_str(" *"),
            Some(runs) => text.extend(runs.iter().map(|run| format!(" {run:x}"))),
        }
        text
    }

    /// Reads one; `None` if it is of another program.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let process = i64::from_str_radix(words.next()?, 16).ok()?;
        let mut note = Self { process, look: false, watches: false, ended: Some(Vec::new()) };
        for word in words {
            match word {
                "L" => note.look = true,
                "W" => note.watches = true,
                "*" => note.ended = None,
                run => {
                    let run = i64::from_str_radix(run, 16).ok()?;
                    if let Some(ended) = &mut note.ended {
                        ended.push(run);
                    }
                }
            }
        }
        Some(note)
    }
}

#[derive(Default)]
struct State {
    look: bool,
    watches: bool,
    ended: Vec<RunRowId>,
    stops: bool,
    /// Until when another process wants to be told of runs that end.
    watched_until: Option<Instant>,
    /// When this one has said that it wants that.
    said: Option<Instant>,
}

/// The thread that sends, and what it is to send.
pub(super) struct Notifier {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

impl Notifier {
    /// Starts the thread.
    pub(super) fn start(connections: Arc<Connections>, channel: String, process: i64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), woken: Condvar::new() });
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("bide-notify".into())
            .spawn(move || of_thread.run(&connections, &channel, process))?;
        Ok(Self { shared })
    }

    pub(super) fn send(&self, hint: Hint) {
        let mut state = self.shared.state.lock();
        match hint {
            Hint::Look => state.look = true,
            Hint::Ended(mut runs) => state.ended.append(&mut runs),
        }
        self.shared.woken.notify_one();
    }

    /// Whether another process wants to be told of runs that end.
    pub(super) fn is_watched(&self) -> bool {
        self.shared.state.lock().watched_until.is_some_and(|until| Instant::now() < until)
    }

    /// Another process wants that.
    pub(super) fn set_watched(&self) {
        self.shared.state.lock().watched_until = Some(Instant::now() + WATCHED);
    }

    /// This one wants to be told of runs that end elsewhere.
    pub(super) fn watch(&self) {
        let mut state = self.shared.state.lock();
        if state.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            state.said = Some(Instant::now());
            state.watches = true;
            self.shared.woken.notify_one();
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.shared.state.lock().stops = true;
        self.shared.woken.notify_one();
    }
}

impl Shared {
    fn run(&self, connections: &Connections, channel: &str, process: i64) {
        loop {
            let note = {
                let mut state = self.state.lock();
                while !(state.look || state.watches || !state.ended.is_empty() || state.stops) {
                    self.woken.wait(&mut state);
                }
                if state.stops && !state.look && state.ended.is_empty() {
                    return;
                }
                let ended = std::mem::take(&mut state.ended);
                Note {
                    process,
                    look: std::mem::take(&mut state.look),
                    watches: std::mem::take(&mut state.watches),
                    ended: Some(ended).filter(|ended| ended.len() <= NAMED),
                }
            };
            let text = note.text();
            // One that is lost is made up for by a look.
            let _ = connections.lease(|session| session.query(NOTIFY, &[&Text::from(channel), &Text::from(&*text)]));
            let mut state = self.state.lock();
            if !state.stops {
                self.woken.wait_for(&mut state, REST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back() {
        for ended in [Some(vec![]), Some(vec![7, i64::MAX]), None] {
            for (look, watches) in [(false, true), (true, false)] {
                let note = Note { process: 31, look, watches, ended: ended.clone() };
                assert_eq!(Note::read(&note.text()), Some(note));
            }
        }
        assert_eq!(Note::read("hello"), None);
        assert_eq!(Note::read("1f zz"), None);
    }
}
