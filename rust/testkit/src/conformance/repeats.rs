//! Calls that are made again because the connection was lost: for stores that say so.

use bide_core::{Address, Message};
use bide_store::Sent;

use super::*;

pub fn a_repeated_commit_is_made_once(store: &dyn Store) {
    if !store.may_repeat() {
        return;
    }
    let desk = Desk::new(store);
    let ended = desk.create(START, None);
    let new = [desk.new_run(START, None), desk.new_run(START, Some("key"))];
    let batch = vec![done(new[0].id, 0, b"t"), update(ended, RunStatus::Completed, Some(later(1)))];
    let id = CommitId::unique();
    for round in 0..3 {
        let mut batch = batch.clone();
        let written = ok(store.write(desk.lease, &mut Commit::new(id, &[&new], &mut batch)));
        assert_eq!(written.creations, [[Creation::Created, Creation::Created]]);
        assert_eq!(desk.load(new[0].id).rows.len(), 1);
        if round == 1 {
            // What came later is not undone.
            assert!(ok(store.delete(ended)));
        }
    }
    assert_eq!(ok(store.load(ended)), None);
    // Under another id it is another commit.
    let mut again = vec![done(new[0].id, 0, b"t")];
    assert!(matches!(store.commit(desk.lease, &mut again), Err(StoreError::Corrupt(_))));
}

pub fn a_repeated_claim_is_made_once(store: &dyn Store) {
    if !store.may_repeat() {
        return;
    }
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..3).map(|at| desk.create(later(at), None)).collect();
    ok(store.leave(desk.lease));
    let claimer = Desk::new(store);
    let claim = |id| ok(store.claim_once(id, claimer.lease, &[claimer.version], at(START), 2));
    let first = CommitId::unique();
    assert_eq!(claim(first), runs[..2]);
    assert_eq!(claim(first), runs[..2]);
    assert_eq!(claim(CommitId::unique()), runs[2..]);
}

pub fn a_repeated_message_is_sent_once(store: &dyn Store) {
    if !store.may_repeat() {
        return;
    }
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    for id in [None, Some("x")] {
        let content = Ok(Value::tagged(b'i', b"1"));
        let number = fresh_id(START).row();
        let message =
            Message { number, address: Address::signal("go"), id: id.map(Into::into), content, sent_at: START };
        assert_eq!(ok(store.send(run, &message)), Sent::Stored);
        assert_eq!(ok(store.send(run, &message)), Sent::Stored);
        assert_eq!(ok(store.messages(run, 0)).iter().filter(|stored| !stored.consumed).count(), 1);
        // What a wait has consumed meanwhile does not come again.
        desk.commit(vec![Write::Consumed { run: run.row(), number, id: message.id.clone(), from: 0 }]);
        assert_eq!(ok(store.send(run, &message)), Sent::Stored);
        assert!(ok(store.messages(run, 0)).iter().all(|stored| stored.consumed));
    }
}
