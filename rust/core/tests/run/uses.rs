//! Which record the next use of a step's name gets, against a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use bide_core::event::Wait;
use bide_core::journal::Journal;
use bide_core::{EntryKey, Lookup, Operation, Recall, StepArguments, Time, Uses, Value};
use proptest::prelude::*;

fn proof(argument: u8) -> Arc<[u8]> {
    let digest = [argument; 16];
    let text = format!("argument 1: {argument}");
    [&[2], &digest[..], &[argument; 4], &[text.len() as u8], text.as_bytes()].concat().into()
}

fn asked(argument: u8) -> StepArguments {
    StepArguments { proof: Some(proof(argument)), older: None, advice: "Sort them" }
}

fn recall_next(journal: &Journal, uses: &mut Uses, arguments: StepArguments) -> (EntryKey, Recall) {
    journal.recall_next(uses, &"step".into(), &Lookup::Step(Box::new(arguments)))
}

fn record(journal: &mut Journal, key: EntryKey, proof: Option<Arc<[u8]>>, value: u8) {
    journal.open(Wait { key: key.clone(), operation: Operation::step(proof), timeout: None }, Time(1));
    journal.close(&key, Ok(Value::tagged(b'i', &[value])), true, Time(2)).unwrap();
}

/// The journal after a process died: restored from the store.
fn restored(journal: &Journal, name: &str) -> Journal {
    let mut again = Journal::default();
    let keys = (1..200).map(|n| EntryKey { name: name.into(), n });
    keys.filter_map(|key| journal.get(&key).cloned()).for_each(|entry| again.restore(entry));
    again
}

proptest! {
    /// Each request of a body, on any entry and in any order, gets the result of an equal call that no other use of
    /// this entry has had. A record is never replaced, and only a use in the place of an unused record of something
    /// else is a mismatch.
    #[test]
    fn each_use_gets_an_unused_record_of_its_own_arguments(entries in prop::collection::vec(prop::collection::vec(0_u8..6, 0..12), 1..6)) {
        let mut journal = Journal::default();
        // The record: the argument under each number.
        let mut model: BTreeMap<u32, u8> = BTreeMap::new();
        for arguments in entries {
            journal = restored(&journal, "step");
            let mut uses = Uses::default();
            let mut used: Vec<u32> = Vec::new();
            for (argument, count) in arguments.into_iter().zip(1_u32..) {
                let (key, recall) = recall_next(&journal, &mut uses, asked(argument));
                let mine = |n: &u32| model.get(n) == Some(&argument) && !used.contains(n);
                let expected = Some(count).filter(mine).or_else(|| model.keys().copied().find(|n| mine(n)));
                match (expected, recall) {
                    (Some(n), Recall::Satisfied(value)) => {
                        prop_assert_eq!(key.n, n);
                        prop_assert_eq!(value, Value::tagged(b'i', &[argument]));
                        used.push(n);
                    }
                    (None, Recall::Mismatch(why)) => {
                        let other = model.get(&count).filter(|_| !used.contains(&count));
                        let other = other.expect("a mismatch only in the place of an unused record");
                        let say = format!("argument 1: {other} was recorded, and now it is argument 1: {argument}. Sort");
                        prop_assert!(why.contains(&say), "{}", why);
                        break;
                    }
                    (None, Recall::Ask { .. }) => {
                        prop_assert!(!model.contains_key(&key.n), "a record is replaced");
                        prop_assert!(used.contains(&count) || !model.contains_key(&count), "no mismatch");
                        record(&mut journal, key.clone(), Some(proof(argument)), argument);
                        model.insert(key.n, argument);
                        used.push(key.n);
                    }
                    (expected, recall) => prop_assert!(false, "{:?} instead of {:?}", recall, expected),
                }
            }
        }
    }
}

#[test]
fn a_permuted_loop_that_has_one_more_item_records_it_under_a_new_number() {
    let mut journal = Journal::default();
    let mut uses = Uses::default();
    for argument in [1, 2, 3] {
        let (key, _) = recall_next(&journal, &mut uses, asked(argument));
        record(&mut journal, key, Some(proof(argument)), argument);
    }
    let mut journal = restored(&journal, "step");
    let mut uses = Uses::default();
    let mut numbers = Vec::new();
    for argument in [3, 2, 9, 1, 8] {
        let (key, recall) = recall_next(&journal, &mut uses, asked(argument));
        numbers.push(key.n);
        if matches!(recall, Recall::Ask { .. }) {
            record(&mut journal, key, Some(proof(argument)), argument);
        }
    }
    assert_eq!(numbers, [3, 2, 4, 1, 5]);
}

#[test]
fn a_step_of_the_first_version_is_compared_as_that_compared() {
    let mut first = Journal::default();
    record(&mut first, EntryKey { name: "step".into(), n: 1 }, Some([7; 16].into()), 1);
    assert!(!first.has_older_steps(), "only what a store had can be older");
    let journal = restored(&first, "step");
    assert!(journal.has_older_steps());
    let older = |older: u8| StepArguments { older: Some([older; 16].into()), ..asked(1) };
    let (_, recall) = recall_next(&journal, &mut Uses::default(), older(7));
    assert_eq!(recall, Recall::Satisfied(Value::tagged(b'i', &[1])));
    let (_, recall) = recall_next(&journal, &mut Uses::default(), older(8));
    assert!(matches!(recall, Recall::Mismatch(_)), "{recall:?}");
}

#[test]
fn the_text_of_a_proof_does_not_count() {
    let mut journal = Journal::default();
    let longer: Arc<[u8]> = [&*proof(1), b"\x01\x02\x03\x04\x01x"].concat().into();
    record(&mut journal, EntryKey { name: "step".into(), n: 1 }, Some(longer), 1);
    let (_, recall) = recall_next(&journal, &mut Uses::default(), asked(1));
    assert_eq!(recall, Recall::Satisfied(Value::tagged(b'i', &[1])));
}

#[test]
fn a_wait_does_not_take_the_number_of_a_step_that_came_out_of_turn() {
    let mut journal = Journal::default();
    for argument in [1, 2] {
        let key = EntryKey { name: "step".into(), n: argument.into() };
        record(&mut journal, key, Some(proof(argument)), argument);
    }
    let mut uses = Uses::default();
    let (second, _) = recall_next(&journal, &mut uses, asked(2));
    let (new, _) = recall_next(&journal, &mut uses, asked(3));
    assert_eq!((second.n, new.n), (2, 3));
    record(&mut journal, new, Some(proof(3)), 3);
    let (wait, recall) = journal.recall_next(&mut uses, &"step".into(), &Lookup::Time);
    assert_eq!((wait.n, recall), (4, Recall::Ask { deadline: None }));
}

#[test]
fn a_use_that_is_taken_back_is_the_next_one_again() {
    let (journal, mut uses) = (Journal::default(), Uses::default());
    let next = |uses: &mut Uses| journal.recall_next(uses, &"wait".into(), &Lookup::Time).0;
    let first = next(&mut uses);
    uses.take_back(&first);
    let again = next(&mut uses);
    assert_eq!((first.n, again.n), (1, 1));
    let second = next(&mut uses);
    assert_eq!(second.n, 2);
    // Only the last use can be taken back.
    uses.take_back(&first);
    assert_eq!(next(&mut uses).n, 3);
}
