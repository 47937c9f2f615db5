//! The targets with random bytes, and each column of each table with wrong values.

use bide_fuzz::{Mangled, TARGETS, rows};
use proptest::prelude::*;
use rusqlite::types::Value;

proptest! {
    #[test]
    fn stored_formats_survive_any_bytes(data: Vec<u8>) {
        for (name, target) in TARGETS {
            if name != "rows" {
                target(&data);
            }
        }
    }

    #[test]
    fn failures_survive_any_text(text in r#"\{("kind"|"type"|"message"|[a-z,:" \\\[\]{}0-9]){0,12}\}?"#) {
        bide_fuzz::failure(text.as_bytes());
    }

    #[test]
    fn rows_survive_any_change(data in proptest::collection::vec(any::<u8>(), 4..80)) {
        rows(&data);
    }
}

/// Possible values in a column of a file that another program changed.
fn strangers() -> Vec<Value> {
    let numbers = [i64::MIN, -1, 0, 2, 7, i64::from(u32::MAX), i64::MAX];
    let texts = ["", r#"[[0, "a", ["a"]]]"#, r#"{"type": 1, "message": 2}"#];
    let blobs: [&[u8]; 3] = [b"", b"\xff", b"\x05a"];
    let mut all = vec![Value::Null, Value::Real(f64::INFINITY)];
    all.extend(numbers.map(Value::Integer));
    all.extend(texts.map(|text| Value::Text(text.to_owned())));
    all.extend(blobs.map(|blob| Value::Blob(blob.to_vec())));
    all
}

#[test]
fn no_column_makes_bide_panic_for_any_content() {
    let file = Mangled::new();
    assert_eq!(file.play(&[]), Vec::<String>::new(), "a clean file is fine");
    let mut said = std::collections::BTreeSet::new();
    for column in file.columns() {
        for stranger in strangers() {
            for error in file.play(&[(column, None, stranger)]) {
                said.insert(format!("{}.{}", column.table, column.name));
                let whose = error.contains("bide.db") || error.contains("runner");
                assert!(whose, "{column:?}: the message does not say whose file it is: {error}");
            }
        }
    }
    // Checks that damage is noticed at all: everything reads these columns.
    for column in ["run.uuid", "run.status", "version.tasks", "task.status"] {
        assert!(said.contains(column), "{column} may be anything: {said:?}");
    }
}
