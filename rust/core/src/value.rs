//! A value as bide stores it: bytes with a codec tag. What the bytes mean is the host language's business.

use std::fmt;
use std::sync::Arc;

/// Bytes that fit beside the length without an allocation.
const INLINE: usize = 22;

/// An encoded value: one tag byte and a payload.
///
/// The tags are part of the stored format and never change: `n` none, `t` true, `f` false,
/// `i` decimal integer, `d` finite float, `s` UTF-8 text, `j` JSON text, `m` JSON text after a line of notes on it,
/// `p` pickle, `b` raw bytes of a Rust body.
/// Small values live inline, large ones are shared, so that a clone is always cheap.
#[derive(Clone)]
pub struct Value(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE]),
    Shared(Arc<[u8]>),
}

impl Value {
    /// The value that stands for "nothing": tag `n`.
    pub const NONE: Value = {
        let mut bytes = [0; INLINE];
        bytes[0] = b'n';
        Value(Repr::Inline(1, bytes))
    };

    /// Wraps encoded bytes: the tag first, then the payload.
    #[must_use]
    pub fn new(encoded: &[u8]) -> Self {
        if encoded.len() <= INLINE {
            let mut bytes = [0; INLINE];
            bytes[..encoded.len()].copy_from_slice(encoded);
            return Self(Repr::Inline(encoded.len() as u8, bytes));
        }
        Self(Repr::Shared(encoded.into()))
    }

    /// Builds a value from its tag and payload.
    #[must_use]
    pub fn tagged(tag: u8, payload: &[u8]) -> Self {
        if payload.len() < INLINE {
            let mut bytes = [0; INLINE];
            bytes[0] = tag;
            bytes[1..=payload.len()].copy_from_slice(payload);
            return Self(Repr::Inline(payload.len() as u8 + 1, bytes));
        }
        let mut all = Vec::with_capacity(payload.len() + 1);
        all.push(tag);
        all.extend_from_slice(payload);
        Self(Repr::Shared(all.into()))
    }

    /// Tag and payload together, as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The codec tag, or 0 for an empty (corrupt) value.
    #[must_use]
    pub fn tag(&self) -> u8 {
        self.as_bytes().first().copied().unwrap_or(0)
    }

    /// The bytes after the tag.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.as_bytes().get(1..).unwrap_or(&[])
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_inline_and_shared() {
        for len in [0, 1, INLINE - 2, INLINE - 1, INLINE, INLINE + 1, 5000] {
            let payload = vec![b'x'; len];
            let value = Value::tagged(b's', &payload);
            assert_eq!(value.tag(), b's');
            assert_eq!(value.payload(), payload);
            assert_eq!(Value::new(value.as_bytes()), value);
        }
        assert_eq!(size_of::<Value>(), 24);
    }
}
