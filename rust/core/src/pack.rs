//! Named values in one blob: a run's inputs, a task's changes of the context.
//!
//! The format never changes: for each pair the name's length, the name, the value's length plus one (0: no value,
//! the key was removed) and the value; lengths are LEB128. Text stays legible in a hex dump; nothing is escaped.

use std::sync::Arc;

use crate::decode::Damage;
use crate::value::Value;

/// A name and its value; `None` where the key was removed.
pub type Pair = (Arc<str>, Option<Value>);

/// Packs pairs in the order given.
#[must_use]
pub fn pack<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a Value>)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        write_length(&mut out, name.len());
        out.extend_from_slice(name.as_bytes());
        match value {
            None => write_length(&mut out, 0),
            Some(value) => {
                write_length(&mut out, value.as_bytes().len() + 1);
                out.extend_from_slice(value.as_bytes());
            }
        }
    }
    out
}

/// Unpacks what [`pack`] made.
///
/// # Errors
/// Says what is wrong with a mangled blob.
pub fn unpack(mut blob: &[u8]) -> Result<Vec<Pair>, Damage> {
    let mut pairs = Vec::new();
    while !blob.is_empty() {
        let len = read_length(&mut blob)?;
        let name = std::str::from_utf8(take(&mut blob, len)?).map_err(|_| Damage::NameNotUtf8)?;
        let value = match read_length(&mut blob)? {
            0 => None,
            len => Some(Value::new(take(&mut blob, len - 1)?)),
        };
        pairs.push((name.into(), value));
    }
    Ok(pairs)
}

pub(crate) fn write_length(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(crate) fn read_length(blob: &mut &[u8]) -> Result<usize, Damage> {
    let mut n = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let Some((&byte, rest)) = blob.split_first() else { break };
        *blob = rest;
        n |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Damage::LengthCutOff)
}

pub(crate) fn take<'a>(blob: &mut &'a [u8], len: usize) -> Result<&'a [u8], Damage> {
    let (head, rest) = blob.split_at_checked(len).ok_or(Damage::ValueCutOff)?;
    *blob = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_unpacks(pairs: Vec<(String, Option<Vec<u8>>)>) {
            let pairs: Vec<Pair> =
                pairs.into_iter().map(|(name, value)| (name.into(), value.map(|v| Value::new(&v)))).collect();
            let blob = pack(pairs.iter().map(|(name, value)| (&**name, value.as_ref())));
            prop_assert_eq!(unpack(&blob), Ok(pairs));
        }

        #[test]
        fn a_mangled_blob_is_an_error_or_other_pairs_but_never_a_panic(blob: Vec<u8>) {
            let _ = unpack(&blob);
        }
    }
}
