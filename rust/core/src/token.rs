//! The token of a callback: a text, safe in a URL, by which its holder answers without knowing run or task.
//!
//! It is the run's id (16 bytes), a secret of 128 random bits and a checksum (4 bytes), in URL-safe base64: 48
//! characters. The checksum tells a mistyped token from a foreign one. The secret is recorded in the body's journal,
//! and is the name in the [`Address`] of the answer.

use std::fmt;
use std::str::FromStr;

use crate::id::RunId;
use crate::message::{Address, MessageKind};
use crate::value::Value;

/// What names a callback to the outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CallbackToken {
    /// The run whose body has made the callback.
    pub run: RunId,
    /// What nobody else can know.
    secret: u128,
}

impl CallbackToken {
    /// Of a callback of this run, with random bits as its secret.
    #[must_use]
    pub const fn new(run: RunId, secret: u128) -> Self {
        Self { run, secret }
    }

    /// Of the callback that a body of this run has recorded.
    #[must_use]
    pub fn from_value(run: RunId, recorded: &Value) -> Option<Self> {
        let digits = std::str::from_utf8(recorded.payload()).ok().filter(|digits| digits.len() == 32)?;
        let token = Self { run, secret: u128::from_str_radix(digits, 16).ok()? };
        // A sign, say, or a capital letter is not what a body records.
        (token.to_value() == *recorded).then_some(token)
    }

    /// What a body records of it.
    #[must_use]
    pub fn to_value(self) -> Value {
        Value::tagged(b's', format!("{:032x}", self.secret).as_bytes())
    }

    /// Where its answer goes.
    #[must_use]
    pub fn address(self) -> Address {
        Address { kind: MessageKind::Answer, name: format!("{:032x}", self.secret).into() }
    }

    fn bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.run.0.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.secret.to_be_bytes());
        let checksum = checksum(&bytes[..32]);
        bytes[32..].copy_from_slice(&checksum);
        bytes
    }
}

const BYTES: usize = 36;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The token as text.
impl fmt::Display for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.bytes().chunks_exact(3).fold(String::with_capacity(48), |mut text, three| {
            let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            text.extend((0..4).rev().map(|at| char::from(DIGITS[(bits >> (6 * at) & 0x3f) as usize])));
            text
        });
        f.write_str(&digits)
    }
}

/// A log is no place for the secret.
impl fmt::Debug for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackToken(run {})", self.run)
    }
}

impl FromStr for CallbackToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.as_bytes();
        if text.len() != 48 {
            return Err(());
        }
        let mut bytes = [0; BYTES];
        for (three, four) in bytes.chunks_exact_mut(3).zip(text.chunks_exact(4)) {
            let mut bits = 0_u32;
            for digit in four {
                let six = DIGITS.iter().position(|known| known == digit).ok_or(())?;
                bits = bits << 6 | six as u32;
            }
            three.copy_from_slice(&bits.to_be_bytes()[1..]);
        }
        let (run, rest) = bytes.split_first_chunk().ok_or(())?;
        let secret = rest.first_chunk().ok_or(())?;
        let token = Self { run: RunId(u128::from_be_bytes(*run)), secret: u128::from_be_bytes(*secret) };
        if token.bytes() == bytes { Ok(token) } else { Err(()) }
    }
}

/// `BLAKE2b` with a digest of four bytes and the personalisation `bide token`, of at most one block.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut block = [0; 128];
    block[..bytes.len()].copy_from_slice(bytes);
    let mut words = [0_u64; 16];
    for (word, eight) in words.iter_mut().zip(block.chunks_exact(8)) {
        *word = eight.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    let mut state = IV;
    // The length of the digest, no key, and no tree.
    state[0] ^= 0x0101_0004;
    state[6] ^= u64::from_le_bytes(*b"bide tok");
    state[7] ^= u64::from_le_bytes(*b"en\0\0\0\0\0\0");
    let mut v = [0; 16];
    v[..8].copy_from_slice(&state);
    v[8..].copy_from_slice(&IV);
    v[12] ^= bytes.len() as u64;
    // This block is the last one.
    v[14] = !v[14];
    for round in 0..12 {
        let order = &SIGMA[round % 10];
        for (at, [a, b, c, d]) in MIXED.into_iter().enumerate() {
            let (x, y) = (words[order[2 * at]], words[order[2 * at + 1]]);
            v[a] = v[a].wrapping_add(v[b]).wrapping_add(x);
            v[d] = (v[d] ^ v[a]).rotate_right(32);
            v[c] = v[c].wrapping_add(v[d]);
            v[b] = (v[b] ^ v[c]).rotate_right(24);
            v[a] = v[a].wrapping_add(v[b]).wrapping_add(y);
            v[d] = (v[d] ^ v[a]).rotate_right(16);
            v[c] = v[c].wrapping_add(v[d]);
            v[b] = (v[b] ^ v[c]).rotate_right(63);
        }
    }
    let first = (state[0] ^ v[0] ^ v[8]).to_le_bytes();
    [first[0], first[1], first[2], first[3]]
}

/// The fractional parts of the square roots of the first eight primes.
const IV: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Which words of the state are mixed together: columns, then diagonals.
const MIXED: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

/// The order of the message's words in each round.
const SIGMA: [[usize; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> CallbackToken {
        CallbackToken::new(RunId(0x0199_0000_0000_7000_8000_0000_0000_0001), 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)
    }

    #[test]
    fn a_token_is_the_same_text_in_every_release() {
        assert_eq!(token().to_string(), "AZkAAAAAcACAAAAAAAAAAQARIjNEVWZ3iJmqu8zd7v8jIG1O");
        let highest = CallbackToken::new(RunId(u128::MAX), u128::MAX);
        assert_eq!(highest.to_string(), "___________________________________________6ATq8");
    }

    #[test]
    fn a_token_reads_back_and_a_mistyped_one_does_not() {
        let text = token().to_string();
        assert_eq!(text.parse(), Ok(token()));
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'x' { "y" } else { "x" };
            let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(mistyped.parse::<CallbackToken>(), Err(()), "{mistyped}");
        }
        for wrong in ["", &text[1..], "é".repeat(24).as_str(), &format!("{}=", &text[1..])] {
            assert_eq!(wrong.parse::<CallbackToken>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn what_is_recorded_of_a_token_gives_it_back_and_a_log_does_not_show_it() {
        let recorded = token().to_value();
        assert_eq!(recorded.payload(), b"00112233445566778899aabbccddeeff");
        assert_eq!(CallbackToken::from_value(token().run, &recorded), Some(token()));
        for wrong in [b"+0".as_slice(), b"+0112233445566778899aabbccddeeff", b"00112233445566778899AABBCCDDEEFF"] {
            assert_eq!(CallbackToken::from_value(token().run, &Value::tagged(b's', wrong)), None);
        }
        assert_eq!(&*token().address().name, "00112233445566778899aabbccddeeff");
        assert!(!format!("{:?}", token()).contains("ccddeeff"));
    }
}
