//! The stored formats that Rust reads: values, packed pairs, failures, ids.

use bide_core::pack::{self as packing, Pair};
use bide_core::{Changes, Failure, RunId, Value};

/// Any bytes are a value, and are kept as they are.
pub fn value(data: &[u8]) {
    let value = Value::new(data);
    assert_eq!(value.as_bytes(), data);
    if let Some((tag, payload)) = data.split_first() {
        assert_eq!((value.tag(), value.payload()), (*tag, payload));
        assert_eq!(Value::tagged(*tag, payload), value);
    }
    let _ = format!("{value:?}");
}

/// What unpacks is what packing it again gives, so nothing is read into a blob that is not in it.
pub fn pack(data: &[u8]) {
    let Ok(pairs) = packing::unpack(data) else { return };
    let again = packing::pack(pairs.iter().map(|(name, value): &Pair| (&**name, value.as_ref())));
    assert_eq!(packing::unpack(&again), Ok(pairs));
    assert!(again.len() <= data.len(), "{} bytes were read out of {}", again.len(), data.len());
    if let Ok(changes) = Changes::unpack(data)
        && let Some(blob) = changes.pack()
    {
        assert_eq!(Changes::unpack(&blob), Ok(changes));
    }
}

/// A stored failure is kept as it is, or refused.
pub fn failure(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(failure) = Failure::from_json(text) {
        assert_eq!(failure.as_json(), text);
        let _ = format!("{failure} {failure:?} {} {}", failure.type_name(), failure.message());
    }
}

/// An id is read only from the text that it shows itself as.
pub fn run_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<RunId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
        let _ = id.row();
    }
}
