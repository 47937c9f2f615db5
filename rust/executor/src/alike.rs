//! Names and proofs of conditions, of which many bodies that wait have the same: they share it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bide_sync::Mutex;

/// How many are kept; each has one place.
const PLACES: usize = 16;

/// What is longer is not looked for.
const LONGEST: usize = 64;

/// The last ones that were seen.
#[derive(Debug)]
pub struct Alike<T: ?Sized>(Mutex<[Option<Arc<T>>; PLACES]>);

impl<T: ?Sized + Hash + PartialEq> Default for Alike<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ?Sized + Hash + PartialEq> Alike<T> {
    /// Without any.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new([const { None }; PLACES]))
    }

    /// A shared one that is equal.
    pub fn shared(&self, one: &T) -> Arc<T>
    where
        Arc<T>: for<'a> From<&'a T>,
    {
        if size_of_val(one) > LONGEST {
            return one.into();
        }
        let mut hasher = DefaultHasher::new();
        one.hash(&mut hasher);
        let place = hasher.finish() as usize % PLACES;
        let mut places = self.0.lock();
        match &places[place] {
            Some(known) if **known == *one => Arc::clone(known),
            _ => Arc::clone(places[place].insert(one.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_is_shared_unless_it_is_long() {
        let alike = Alike::<str>::new();
        let (first, second) = (alike.shared("is_there"), alike.shared("is_there"));
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..100 {
            assert_eq!(&*alike.shared(&number.to_string()), number.to_string());
        }
        let long = "x".repeat(LONGEST + 1);
        assert!(!Arc::ptr_eq(&alike.shared(&long), &alike.shared(&long)));
    }
}
