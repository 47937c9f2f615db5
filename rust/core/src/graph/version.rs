//! The hash that identifies the graph with which a run was created. It is the same in every release and on every
//! platform.
//!
//! It covers, in declaration order, each task's name, the sorted names of its dependencies, its `run_if`, and of a
//! mapped task what it is mapped over. It does not cover bodies, retries, timeouts, gates, `fail_fast` and how many
//! elements may fail: those may change while a run is unfinished.

use super::{RunIf, TaskSpec};

/// The first byte that is hashed. A change of what is hashed needs another value.
const FORMAT: u8 = 1;

/// A bit in the byte of a mapped task's `run_if`.
const MAPPED: u8 = 0x10;

pub(super) fn version(specs: &[TaskSpec]) -> Box<str> {
    let mut hash = Fnv::new();
    hash.bytes(&[FORMAT]);
    let mut dependencies = Vec::new();
    for spec in specs {
        hash.text(&spec.name);
        let run_if = match spec.run_if {
            RunIf::Succeeded => 0,
            RunIf::Failed => 1,
            RunIf::Done => 2,
            RunIf::NoneFailed => 3,
        };
        hash.bytes(&[if spec.map.is_some() { run_if | MAPPED } else { run_if }]);
        dependencies.clear();
        dependencies.extend(spec.dependencies.iter().map(|name| &**name));
        dependencies.sort_unstable();
        hash.length(dependencies.len());
        dependencies.iter().for_each(|name| hash.text(name));
        if let Some(map) = &spec.map {
            let over = map.over_names();
            hash.length(over.len());
            over.iter().for_each(|name| hash.text(name));
        }
    }
    format!("{:032x}", hash.finish()).into()
}

/// FNV-1a with 128 bits.
struct Fnv(u128);

impl Fnv {
    const PRIME: u128 = (1 << 88) + 0x13b;

    const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Self::PRIME);
        }
    }

    fn length(&mut self, len: usize) {
        self.bytes(&(len as u64).to_le_bytes());
    }

    /// Length first, so that no two lists of texts are the same bytes.
    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }

    /// Some more rounds, so that the last bytes affect the first digits, which messages show.
    fn finish(mut self) -> u128 {
        self.bytes(&[0; 16]);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MapSpec, Over, Tolerated};
    use super::*;

    #[test]
    fn it_is_the_published_fnv_1a() {
        let mut hash = Fnv::new();
        hash.bytes(b"foobar");
        assert_eq!(hash.0, 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn a_hash_that_was_once_written_stays() {
        let wait = TaskSpec::new("wait_for_data");
        let process = TaskSpec { dependencies: vec!["wait_for_data".into()], ..TaskSpec::new("process_data") };
        assert_eq!(&*version(&[wait.clone(), process.clone()]), "2a60aa255a15eaf9eef4ab438fadf81b");
        let over = vec![Over::Task("wait_for_data".into())];
        let mapped = TaskSpec { map: Some(Box::new(MapSpec { over, tolerate: Tolerated::NONE })), ..process };
        assert_ne!(&*version(&[wait, mapped]), "2a60aa255a15eaf9eef4ab438fadf81b", "being mapped is part of the shape");
    }
}
