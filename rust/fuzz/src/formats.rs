//! The stored formats that Rust reads: values, packed pairs, failures, ids, events, journal entries, messages.

use bide_core::pack::{self as packing, Pair};
use bide_core::{
    Address, Changes, EntryKind, Failure, Message, MessageKind, NO_MAP, Operation, RunId, StoredEvents, Time, Value,
};

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

/// Packed events are read one by one, each value from its own bytes; or they are refused.
pub fn events(data: &[u8]) {
    let Some((count, packed)) = data.split_first() else { return };
    let (first, count) = (u64::from(*count) * (u64::MAX / 255), u32::from(*count));
    let stored = StoredEvents {
        first,
        count,
        task: "task".into(),
        map: NO_MAP,
        attempt: 1,
        entry: None,
        emitted_at: Time(i64::MAX - 1),
        packed: packed.to_vec(),
    };
    let _ = stored.last();
    let Ok(events) = stored.events() else { return };
    assert_eq!(events.len(), count as usize);
    let read: usize = events.iter().map(|event| event.value.as_bytes().len()).sum();
    assert!(read + 2 * events.len() <= packed.len(), "{read} bytes were read out of {}", packed.len());
    assert!(events.iter().all(|event| event.at >= stored.emitted_at && event.offset >= first));
}

/// What is recorded of a wait or step is read as it is stored, or refused.
pub fn operation(data: &[u8]) {
    let Some((code, rest)) = data.split_first() else { return };
    let Some(kind) = EntryKind::from_code(i64::from(*code) % 16) else { return };
    let (proof, due) =
        (rest.split_first().map(|(_, proof)| proof.into()), rest.first().map(|due| Time(i64::from(*due))));
    let Ok(operation) = Operation::from_stored(kind, proof, due) else { return };
    assert_eq!(operation.kind(), kind);
    let stored = operation.stored_proof().map(|proof| (&*proof).into());
    assert_eq!(Operation::from_stored(kind, stored, operation.due()), Ok(operation.clone()));
    let _ = format!("{operation:?} {:?}", operation.members());
}

/// A message with any content, to any address.
pub fn message(data: &[u8]) {
    let [kind, length, rest @ ..] = data else { return };
    let Some(kind) = MessageKind::from_code(i64::from(*kind) % 4) else { return };
    let (name, content) = rest.split_at(usize::from(*length).min(rest.len()));
    let Ok(name) = std::str::from_utf8(name) else { return };
    let value = Value::new(content);
    let address = Address { kind, name: name.into() };
    let _ = address.entry_kind();
    let message = Message { number: -1, address, id: Some(name.into()), content: Ok(value.clone()), sent_at: Time(0) };
    assert!(message.repeats(&message));
    // Of a request it has the number in front.
    let delivered = message.delivered().map(|delivered| delivered.as_bytes().ends_with(content));
    assert_eq!(delivered, Ok(true));
    let _ = RunId::from_value(&value);
}
