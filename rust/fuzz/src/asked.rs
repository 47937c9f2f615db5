//! Control requests, and the texts that Rust reads: any content is read as it would be written, or refused.

use bide_core::{
    Address, BlockReason, CallbackToken, Cancel, Control, Message, MessageKind, RunId, RunOptions, Time, Value,
};

/// The names of the requests that runs act on, and one that no version of bide knows.
const NAMES: [&str; 9] = ["cancel", "pause", "resume", "retry", "satisfy", "extend", "poll_now", "skip", "unheard of"];

/// Those that the histories of runs tell besides.
const TOLD: [&str; 4] = ["forked_from", "forked_to", "edited", "adopt"];

fn request(name: &str, content: Value) -> Message {
    let address = Address { kind: MessageKind::Control, name: name.into() };
    Message { number: 7, address, id: None, content: Ok(content), sent_at: Time(0) }
}

/// A control request of any kind with any content is read as it would be written, or is none.
pub fn control(data: &[u8]) {
    let Some((name, content)) = data.split_first() else { return };
    let names = || NAMES.into_iter().chain(TOLD);
    let Some(name) = names().nth(usize::from(*name) % names().count()) else { return };
    if let Some(control) = Control::of_message(&request(name, Value::new(content))) {
        assert_eq!(control.ask.name(), name);
        assert_eq!(Control::of_message(&request(name, control.content())), Some(control.clone()));
        let _ = (control.ask.task(), control.ask.other_run(), format!("{control:?}"));
    }
    if let Ok(cancel) = Cancel::from_blob(content) {
        assert_eq!(Cancel::from_blob(&cancel.to_blob()), Ok(cancel.clone()));
        let _ = cancel.text();
    }
}

/// The texts that Rust reads: a reason is kept as it is; a token and tags are read as they are written, or refused.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let reason = BlockReason::from_stored(text.into());
    assert_eq!(reason.to_string(), text);
    let _ = reason.told();
    if let Ok(token) = text.parse::<CallbackToken>() {
        assert_eq!(token.to_string(), text);
    }
    let recorded = Value::tagged(b's', data);
    if let Some(token) = CallbackToken::from_value(RunId(7), &recorded) {
        assert_eq!(token.to_value(), recorded);
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    if let Some(tags) = RunOptions::tags_from(text) {
        let options = RunOptions { tags, ..RunOptions::default() };
        let again = options.tags_json().as_deref().and_then(RunOptions::tags_from).unwrap_or_default();
        assert_eq!(again, options.tags);
    }
}
