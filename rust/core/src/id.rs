//! Identities: of runs (UUIDv7), of tasks within a workflow and within a store.

use std::fmt;
use std::str::FromStr;

use crate::value::Value;

/// A run's id: a UUIDv7. Its first 63 significant bits double as the run's row number, so that a look-up by id
/// needs no index of its own and rows of later runs come later in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// What waits for a run would have to be aligned to 16 bytes, and many wait at once.
#[repr(C, packed(8))]
pub struct RunId(pub u128);

/// Bits of the row number below the millisecond: 12 of `rand_a` and the first 9 of `rand_b`.
const ROW_LOW_BITS: u32 = 21;

impl RunId {
    /// Builds an id from Unix milliseconds, a counter (12 bits are used) and random bits (62 are used).
    #[must_use]
    pub const fn new(unix_ms: u64, counter: u16, random: u64) -> Self {
        let ms = (unix_ms as u128 & 0xffff_ffff_ffff) << 80;
        let a = (counter as u128 & 0xfff) << 64;
        let b = random as u128 & ((1 << 62) - 1);
        Self(ms | 0x7 << 76 | a | 0b10 << 62 | b)
    }

    /// The row number: 42 bits of milliseconds, then counter and the first random bits. Positive until the year 2109.
    #[must_use]
    pub const fn row(self) -> i64 {
        let ms = (self.0 >> 80) & ((1 << 42) - 1);
        let a = (self.0 >> 64) & 0xfff;
        let b = (self.0 >> 53) & 0x1ff;
        ((ms << ROW_LOW_BITS) | (a << 9) | b) as i64
    }

    /// The row numbers that ids from one to another can have: none is left out, whatever the bits are that a row number
    /// does not hold.
    #[must_use]
    pub const fn rows_between(first: Self, last: Self) -> (i64, i64) {
        // A millisecond of more than 42 bits is after the year 2109.
        match (first.0 >> 122, last.0 >> 122) {
            (0, 0) => (first.row(), last.row()),
            (0, _) => (first.row(), i64::MAX),
            _ => (i64::MAX, 0),
        }
    }

    /// The smallest row number that a run created at this Unix millisecond can have.
    #[must_use]
    pub const fn first_row_at(unix_ms: i64) -> i64 {
        if unix_ms < 0 { 0 } else { (unix_ms & ((1 << 42) - 1)) << ROW_LOW_BITS }
    }
}

impl RunId {
    /// As a body's journal keeps it.
    #[must_use]
    pub fn to_value(self) -> Value {
        Value::tagged(b's', &self.text())
    }

    /// From what [`RunId::to_value`] made.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        Self::parse(value.payload())
    }

    /// The text of the id: 32 hexadecimal digits in five groups.
    fn text(self) -> [u8; 36] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        for (byte, at) in self.0.to_be_bytes().into_iter().zip(PAIRS) {
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 0xf)];
        }
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; 36] = text.try_into().ok()?;
        if DASHES.iter().any(|at| text[*at] != b'-') {
            return None;
        }
        let (mut id, mut all) = ([0; 16], 0);
        for (byte, at) in id.iter_mut().zip(PAIRS) {
            let (upper, lower) = (VALUES[usize::from(text[at])], VALUES[usize::from(text[at + 1])]);
            all |= upper | lower;
            *byte = upper << 4 | lower;
        }
        (all < 16).then_some(Self(u128::from_be_bytes(id)))
    }
}

/// Where the dashes are in the text of an id, and where the two digits of each byte begin.
const DASHES: [usize; 4] = [8, 13, 18, 23];
const PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The value of each character that is a hexadecimal digit; 255 for any other.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut digit = 0;
    while digit < 10 {
        values[(b'0' + digit) as usize] = digit;
        digit += 1;
    }
    while digit < 16 {
        values[(b'a' + digit - 10) as usize] = digit;
        values[(b'A' + digit - 10) as usize] = digit;
        digit += 1;
    }
    values
};

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::parse(text.as_bytes()).ok_or(())
    }
}

/// A task's position in its workflow's graph, in declaration order.
pub type TaskIx = u32;

/// A task of a run: its position, and the map index of the child (`NO_MAP` for a task that is not mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// Position in the graph.
    pub ix: TaskIx,
    /// Map index, or `NO_MAP`.
    pub map: i32,
}

/// The map index of a task that is not mapped.
pub const NO_MAP: i32 = -1;

impl TaskRef {
    /// A task that is not mapped.
    #[must_use]
    pub const fn plain(ix: TaskIx) -> Self {
        Self { ix, map: NO_MAP }
    }
}

/// A task's number in a store: dense within its workflow, from 0; the same for a task's name in every version.
pub type TaskId = i64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_orders_by_time() {
        let a = RunId::new(1_790_000_000_123, 7, u64::MAX);
        let b = RunId::new(1_790_000_000_124, 0, 0);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert_eq!(a.to_string().as_bytes()[14], b'7');
        assert!(a.row() < b.row() && a.row() > 0);
        assert!(RunId::first_row_at(1_790_000_000_124) <= b.row());
        assert!(RunId::first_row_at(1_790_000_000_124) > a.row());
        assert_eq!(a.to_string().to_uppercase().parse(), Ok(a));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let id = "01990000-0000-7000-8000-000000000000";
        assert!(id.parse::<RunId>().is_ok());
        // Each character in turn, one less, and one more.
        for at in 0..id.len() {
            for wrong in ["g", "-", "0", "/", ":", "@", "`", "é"] {
                let is_dash = DASHES.contains(&at);
                if (wrong == "-" && is_dash) || (wrong == "0" && !is_dash) {
                    continue;
                }
                let text = format!("{}{wrong}{}", &id[..at], &id[at + 1..]);
                assert!(text.parse::<RunId>().is_err(), "{text}");
            }
        }
        assert!(id[1..].parse::<RunId>().is_err() && format!("{id}0").parse::<RunId>().is_err());
    }
}
