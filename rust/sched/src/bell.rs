//! Who waits for something to happen elsewhere, and is woken by it: a bell that rings when there may be something new
//! to read, and an answer that comes once. Neither knows a store: what happens is committed first, and told here then.
//!
//! No wake is lost. One who waits for news asks how often the bell has rung, then looks, and then waits for one more
//! ring: what is committed after the look rings after it, and a ring counts also if nobody waits yet. One who waits for
//! an answer waits under the lock under which the answer is put.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

type Callback = Box<dyn FnOnce() + Send>;

/// Where those wait who look again and again.
#[derive(Default)]
pub struct Bell {
    /// How often it has rung, and who is called back.
    state: Mutex<BellState>,
    /// Notified when it rings.
    changed: Condvar,
}

#[derive(Default)]
struct BellState {
    rings: u64,
    /// Called when it rings the next time.
    callbacks: Vec<Callback>,
}

impl Bell {
    fn ring(&self) {
        let callbacks = {
            let mut state = self.state.lock();
            state.rings += 1;
            std::mem::take(&mut state.callbacks)
        };
        self.changed.notify_all();
        for callback in callbacks {
            callback();
        }
    }

    /// How often it has rung: ask before you look at the store.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.state.lock().rings
    }

    /// Waits until it has rung more often than `seen`, at most for a span. Blocks.
    pub fn wait(&self, seen: u64, span: Duration) {
        let mut state = self.state.lock();
        if state.rings == seen {
            self.changed.wait_for(&mut state, span);
        }
    }

    /// Calls back once it has rung more often than `seen`. The callback must not block.
    pub fn on_ring(&self, seen: u64, callback: Callback) {
        let mut state = self.state.lock();
        if state.rings == seen {
            state.callbacks.push(callback);
            return;
        }
        drop(state);
        callback();
    }
}

/// The bells of what is looked at here, by key.
pub struct Bells<K>(Mutex<Known<K>>);

struct Known<K> {
    by_key: HashMap<K, Weak<Bell>>,
    /// With this many, those that nobody waits for any more are dropped.
    most: usize,
}

impl<K> Default for Bells<K> {
    fn default() -> Self {
        Self(Mutex::new(Known { by_key: HashMap::new(), most: 0 }))
    }
}

impl<K: Copy + Eq + Hash> Bells<K> {
    /// The bell of a key: all who wait for it share one.
    #[must_use]
    pub fn bell(&self, key: K) -> Arc<Bell> {
        let known = &mut *self.0.lock();
        if let Some(bell) = known.by_key.get(&key).and_then(Weak::upgrade) {
            return bell;
        }
        if known.by_key.len() >= known.most {
            known.by_key.retain(|_, bell| bell.strong_count() > 0);
            known.most = 2 * known.by_key.len() + 16;
        }
        let bell = Arc::new(Bell::default());
        known.by_key.insert(key, Arc::downgrade(&bell));
        bell
    }

    /// There may be something new under a key, and it can be read.
    pub fn ring(&self, key: K) {
        let bell = self.0.lock().by_key.get(&key).and_then(Weak::upgrade);
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// The same for all keys of which this holds.
    pub fn ring_where(&self, may_have_changed: impl Fn(&K) -> bool) {
        let bells: Vec<Arc<Bell>> = {
            let known = self.0.lock();
            let changed = known.by_key.iter().filter(|(key, _)| may_have_changed(key));
            changed.filter_map(|(_, bell)| bell.upgrade()).collect()
        };
        bells.iter().for_each(|bell| bell.ring());
    }
}

/// Something that comes once, for a thread that waits for it.
pub struct Once<T> {
    /// What has come.
    value: Mutex<Option<T>>,
    /// Notified when it comes.
    came: Condvar,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), came: Condvar::new() }
    }
}

impl<T: Clone> Once<T> {
    /// It has come. Only the first counts.
    pub fn put(&self, value: &T) {
        self.value.lock().get_or_insert_with(|| value.clone());
        self.came.notify_all();
    }

    /// What has come, if it has.
    #[must_use]
    pub fn get(&self) -> Option<T> {
        self.value.lock().clone()
    }

    /// Waits for it, at most for a span. Blocks.
    #[expect(clippy::disallowed_methods, reason = "a caller's patience is not the engine's time")]
    pub fn wait(&self, span: Duration) -> Option<T> {
        let begun = Instant::now();
        let mut value = self.value.lock();
        while value.is_none() {
            let remaining = span.saturating_sub(begun.elapsed());
            if remaining.is_zero() {
                break;
            }
            self.came.wait_for(&mut value, remaining);
        }
        value.clone()
    }
}
