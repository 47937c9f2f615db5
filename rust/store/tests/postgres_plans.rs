//! The guarantee that cost does not grow with the tables: no statement on PostgreSQL walks one, but for those named here.
//! The statements are those that the checks of the contract have executed.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use bide_store::postgres::Options;
use bide_store::{PostgresStore, Store};
use bide_testkit::conformance::*;
use bide_testkit::postgres::Schema;

/// The tables that grow with what was executed.
const GROWING: &[&str] = &["run", "task", "journal", "message", "answer", "event", "progress", "run_tag", "made"];

/// Indexes that are as small as what is under way, or that a listing walks from its end to its limit.
const SMALL: &[&str] = &["run_free", "run_owned", "run_open", "run_failed", "journal_open", "task_marked"];

/// What may walk a table, and why.
const MAY_WALK: &[(&str, &str)] = &[
    ("SELECT seq, run, pg_current_snapshot()", "the first look of a runner at the messages that there are"),
    ("WITH l AS MATERIALIZED (SELECT r.* FROM", "listings go from the newest run to their limit"),
];

const CHECKS: &[fn(&dyn Store)] = &[
    a_key_names_one_run_of_its_workflow,
    a_creation_of_unknown_outcome_can_be_repeated,
    runs_are_created_and_written_to_in_one_commit,
    a_later_row_or_entry_replaces_the_earlier,
    a_journal_is_read_in_order_and_loses_what_is_dropped,
    a_lapsed_lease_is_taken_over_and_its_holder_fenced,
    a_claim_sets_marks_aside_and_blames_nobody,
    versions_are_listed_and_a_run_moves_to_the_one_it_goes_on_with,
    unowned_runs_are_listed_by_version,
    runs_are_listed_newest_first_and_filtered,
    runs_are_found_by_tags_keys_and_parents,
    a_purge_deletes_what_ended_before_and_nothing_else,
    events_are_read_from_the_row_that_has_the_next_one,
    a_channel_that_keeps_the_last_events_forgets_the_others,
    progress_is_read_with_its_run_and_replaces_the_earlier,
    a_message_is_consumed_from_its_place_on,
    one_id_is_one_message_of_its_run,
    a_message_is_refused_where_nobody_can_take_it,
    an_answer_reads_back_and_the_first_one_stands,
    a_purge_takes_a_parent_with_however_many_children,
    a_control_request_stays_once_the_run_has_acted_on_it,
    a_request_of_a_parent_reopens_its_child,
    a_run_that_nobody_executes_can_be_ended,
    the_elements_of_a_task_are_dropped_with_their_journals,
    a_run_that_nobody_executes_moves_to_another_version,
    a_fork_stands_in_the_history_of_the_run_it_was_made_from,
    open_waits_are_listed_oldest_first_and_in_pages,
    what_has_not_ended_is_read_without_the_rest,
    the_control_requests_of_a_run_are_listed,
];

/// The table that a line of a plan reads, and the index.
fn reads(line: &str) -> Option<(&str, Option<&str>)> {
    let line = line.trim_start().trim_start_matches("-> ").trim_start();
    let is_scan = line.starts_with("Seq Scan") || line.starts_with("Index ") || line.starts_with("Bitmap Heap Scan");
    let rest = line.split_once(" on ").filter(|_| is_scan)?.1;
    let table = rest.split([' ', '(']).next()?;
    let index = line.split_once(" using ").and_then(|(_, rest)| rest.split(' ').next());
    Some((table.rsplit('.').next()?, index))
}

#[test]
fn no_statement_walks_a_table_but_those_that_are_named() {
    if Schema::new().is_none() {
        return;
    }
    let mut plans = BTreeMap::new();
    for check in CHECKS {
        let schema = Schema::new().unwrap();
        let store = PostgresStore::open(&Options::parse(&schema.url()).unwrap()).unwrap();
        check(&*store);
        let named = store.plans().unwrap().into_iter();
        plans.extend(named.map(|(sql, plan)| (sql.replace(schema.name(), "bide"), plan)));
    }
    assert!(plans.len() > 80, "the statements are not found any more: {:#?}", plans.keys());
    let (mut walks, mut judged) = (Vec::new(), 0);
    for (sql, plan) in &plans {
        if MAY_WALK.iter().any(|(known, _)| sql.starts_with(known)) {
            continue;
        }
        for (at, line) in plan.iter().enumerate() {
            let Some((table, index)) = reads(line) else { continue };
            judged += usize::from(GROWING.contains(&table));
            let is_small = index.is_some_and(|index| SMALL.contains(&index));
            let has_condition = plan.get(at + 1).is_some_and(|next| next.contains("Index Cond"));
            let is_bitmap = line.contains("Bitmap Heap Scan");
            if GROWING.contains(&table) && !is_small && !has_condition && !is_bitmap {
                walks.push(format!("{sql}\n{}", plan.join("\n")));
            }
        }
    }
    assert!(judged > 100, "the plans are not understood any more: {plans:#?}");
    assert!(walks.is_empty(), "{} statements walk a table:\n{}", walks.len(), walks.join("\n\n"));
    for (known, why) in MAY_WALK {
        assert!(plans.keys().any(|sql| sql.starts_with(known)), "no statement is like this any more: {known} ({why})");
    }
}
