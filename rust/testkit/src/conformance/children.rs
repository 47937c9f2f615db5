//! Child runs: kept with their parents.

use bide_core::record::Parent;

use super::*;

impl Desk<'_> {
    pub(super) fn child_of(&self, parent: RunId, depth: u32) -> NewRun {
        let key = EntryKey { name: "inner".into(), n: 2 };
        self.new_run(START, None).with_parent(Some(Arc::new(Parent { run: parent, task: 1, map: NO_MAP, key, depth })))
    }

    fn create_child(&self, parent: RunId, depth: u32) -> RunId {
        let new = self.child_of(parent, depth);
        assert_eq!(ok(self.store.create(self.lease, std::slice::from_ref(&new))), [Creation::Created]);
        new.id
    }
}

pub fn a_child_names_its_parent_and_is_among_its_children(store: &dyn Store) {
    let desk = Desk::new(store);
    let parent = desk.create(START, None);
    let (first, second) = (desk.create_child(parent, 1), desk.create_child(parent, 1));
    let below = desk.create_child(first, 2);
    desk.end(second, later(1));
    let expected = [(first, RunStatus::Running), (second, RunStatus::Completed)];
    assert_eq!(ok(store.children(parent)), expected);
    assert_eq!(desk.load(parent).children, expected);
    assert_eq!((desk.load(parent).run.parent, desk.load(parent).run.depth), (None, 0));
    assert_eq!((desk.load(first).run.parent, desk.load(first).run.depth), (Some(parent), 1));
    assert_eq!((desk.load(below).run.parent, desk.load(below).run.depth), (Some(first), 2));
    assert_eq!(ok(store.children(second)), []);
    let listed = ok(store.list(&RunFilter::default()));
    assert!(listed.iter().all(|stored| stored.children.is_empty()));
    let parents: Vec<Option<RunId>> = listed.iter().rev().map(|stored| stored.run.parent).collect();
    assert_eq!(parents, [None, Some(parent), Some(parent), Some(first)]);
}

pub fn a_child_and_the_record_of_its_start_are_one_commit(store: &dyn Store) {
    let (desk, loser) = (Desk::new(store), Desk::new(store));
    let parent = desk.create(START, None);
    let new = [desk.child_of(parent, 1)];
    let mut batch = vec![entry(parent, "inner", 2, 1)];
    let requests: [&[NewRun]; 1] = [&new];
    let mut commit = Commit::new(CommitId::unique(), &requests, &mut batch);
    ok(store.leave(loser.lease));
    fenced(store.write(loser.lease, &mut commit), loser.lease);
    assert!(desk.load(parent).children.is_empty() && desk.load(parent).entries.is_empty());
    let written = ok(store.write(desk.lease, &mut commit));
    assert_eq!(written.creations, [[Creation::Created]]);
    assert_eq!((desk.load(parent).children.len(), desk.load(parent).entries.len()), (1, 1));
}

pub fn a_child_goes_with_its_parent_and_not_before(store: &dyn Store) {
    let desk = Desk::new(store);
    let parent = desk.create(START, None);
    let child = desk.create_child(parent, 1);
    let below = desk.create_child(child, 2);
    let other = desk.create(START, None);
    for run in [parent, child, other] {
        desk.commit(vec![done(run, 0, b"n")]);
        desk.end(run, later(1));
    }
    assert!(!ok(store.delete(child)), "its parent is there");
    assert!(!ok(store.delete(parent)), "one below it has not ended");
    assert_eq!(purge_all(store, later(2)), 1, "only the other one");
    desk.end(below, later(5));
    assert!(!ok(store.delete(child)));
    assert!(ok(store.delete(parent)));
    for run in [parent, child, below] {
        assert_eq!(ok(store.load(run)), None);
    }
    assert_eq!(ok(store.children(parent)), []);
}

pub fn a_purge_takes_a_parent_with_however_many_children(store: &dyn Store) {
    let desk = Desk::new(store);
    let (parent, kept) = (desk.create(START, None), desk.create(START, None));
    let of_kept = desk.create_child(kept, 1);
    for _ in 0..300 {
        let child = desk.create_child(parent, 1);
        desk.end(child, later(1));
    }
    desk.end(parent, later(1));
    desk.end(of_kept, later(1));
    desk.end(kept, later(10));
    assert_eq!(purge_all(store, later(5)), 301);
    assert_eq!(ok(store.list(&RunFilter::default())).len(), 2);
    assert_eq!(ok(store.children(kept)), [(of_kept, RunStatus::Completed)]);
}
