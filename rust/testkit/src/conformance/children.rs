//! Child runs: kept with their parents.

use bide_core::RunOptions;
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

pub fn many_children_are_created_together_or_not_at_all(store: &dyn Store) {
    let desk = Desk::new(store);
    let (parent, other) = (desk.create(START, None), desk.create(START, None));
    let mut new: Vec<NewRun> = (0..40).map(|_| desk.child_of(parent, 1)).collect();
    // One has the row number of another run.
    let free = std::mem::replace(&mut new[20].id, RunId(other.0 ^ 1));
    let made = ok(store.create(desk.lease, &new));
    for (at, creation) in made.iter().enumerate() {
        let expected = if at == 20 { Creation::NumberTaken } else { Creation::Created };
        assert_eq!(*creation, expected, "child {at}");
    }
    assert!(desk.load(parent).children.is_empty());
    new[20].id = free;
    new[30] = new[30].clone().with_options(Some(Box::new(RunOptions { priority: 3, ..RunOptions::default() })));
    // The second time they are there already.
    for _ in 0..2 {
        assert_eq!(ok(store.create(desk.lease, &new)), vec![Creation::Created; 40]);
        let mut children: Vec<RunId> = desk.load(parent).children.into_iter().map(|(child, _)| child).collect();
        let mut ids: Vec<RunId> = new.iter().map(|new| new.id).collect();
        children.sort_unstable();
        ids.sort_unstable();
        assert_eq!(children, ids);
    }
    let priority = |at: usize| desk.load(new[at].id).run.options.priority;
    assert_eq!((priority(29), priority(30)), (0, 3));
    assert_eq!((desk.load(new[7].id).run.parent, desk.load(new[7].id).run.depth), (Some(parent), 1));
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
