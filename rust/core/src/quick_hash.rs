//! A fast hash for maps in memory: names and keys that code of the user gives, and ids. It starts from a number that
//! nobody outside the process knows, since a key may be text that a stranger has sent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// Makes [`QuickHasher`]s.
#[derive(Clone, Copy, Debug)]
pub struct QuickHash(u64);

impl Default for QuickHash {
    fn default() -> Self {
        Self(*SEED)
    }
}

/// Multiplies and folds eight bytes at a time.
#[derive(Debug)]
pub struct QuickHasher(u64);

impl BuildHasher for QuickHash {
    type Hasher = QuickHasher;

    fn build_hasher(&self) -> QuickHasher {
        QuickHasher(self.0)
    }
}

impl Hasher for QuickHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.write_u64(u64::from_le_bytes(*chunk));
        }
        if rest.is_empty() {
            return;
        }
        // The last eight bytes, of which some are hashed for the second time: so their number counts too.
        let last = match bytes.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last).rotate_left(rest.len() as u32),
            None => rest.iter().fold(rest.len() as u64, |all, byte| all << 8 | u64::from(*byte)),
        };
        self.write_u64(last);
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most of the hashes that share their upper seven bits, and the most that share their lower ten.
    fn crowds(hashes: &[u64]) -> (usize, usize) {
        let (mut upper, mut lower) = ([0; 128], [0; 1024]);
        for hash in hashes {
            upper[(hash >> 57) as usize] += 1;
            lower[(hash % 1024) as usize] += 1;
        }
        (upper.into_iter().max().unwrap_or(0), lower.into_iter().max().unwrap_or(0))
    }

    #[test]
    fn names_and_numbers_that_follow_each_other_spread_over_a_table() {
        let hash = QuickHash::default();
        let names: Vec<u64> = (0..10_000).map(|n| hash.hash_one(("child one", n))).collect();
        let texts: Vec<u64> = (0..10_000).map(|n| hash.hash_one(format!("order-{n}"))).collect();
        let ids: Vec<u64> = (0..10_000_u128).map(|n| hash.hash_one(n << 64)).collect();
        for hashes in [names, texts, ids] {
            // On average 78 and 10.
            let (upper, lower) = crowds(&hashes);
            assert!(upper < 160 && lower < 40, "{upper}, {lower}");
        }
    }

    #[test]
    fn another_seed_gives_other_hashes() {
        assert_ne!(QuickHash(1).hash_one("a name"), QuickHash(2).hash_one("a name"));
    }
}
