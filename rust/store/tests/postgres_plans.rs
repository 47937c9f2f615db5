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
const GROWING: &[&str] = &[
    "run",
    "task",
    "journal",
    "message",
    "answer",
    "event",
    "progress",
    "run_tag",
    "made",
    "change",
    "limit_key",
    "limit_share",
    "limit_start",
    "limit_line",
    "watch_key",
];

/// Indexes that are as small as what is under way, or that a listing walks from its end to its limit.
const SMALL: &[&str] = &["run_free", "run_owned", "run_open", "run_failed", "journal_open", "task_marked"];

/// What may walk a table, and why.
const MAY_WALK: &[(&str, &str)] = &[
    ("SELECT seq, run, pg_current_snapshot()", "the first look of a runner at the messages that there are"),
    ("WITH l AS MATERIALIZED (SELECT r.* FROM", "listings go from the newest run to their limit"),
    ("SELECT 1 FROM bide.limit_key LIMIT 1", "whether there are limits: the first row says it"),
    ("SELECT 1 FROM bide.limit_share LIMIT 1", "whether there are shares: the first row says it"),
    (
        "SELECT id FROM bide.limit_key k WHERE NOT EXISTS",
        "a purge deletes the values of keys that were not used since the last",
    ),
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
    a_limit_is_defined_once_and_its_newest_definition_counts,
    a_share_is_released_by_the_commit_that_ends_its_attempt,
    behind_one_that_starts_and_is_held_so_are_others_but_none_that_has_a_share,
    a_batch_that_fails_releases_no_share,
    a_body_that_waits_does_not_execute_and_takes_that_again,
    each_value_of_a_key_has_shares_of_its_own,
    starts_count_for_the_span_of_their_rate,
    what_is_not_used_of_a_limit_is_forgotten,
    a_runner_that_is_gone_executes_nothing_and_what_waits_keeps_its_share,
    another_runner_that_waits_gets_its_turn_and_is_told,
    a_share_moves_with_its_task_to_another_version,
    a_schedule_reads_back_until_it_is_removed,
    of_two_changes_of_a_schedule_the_first_stands_with_its_runs,
    a_tick_whose_key_names_a_run_starts_no_other,
    a_row_number_in_use_changes_no_schedule,
    a_purge_leaves_schedules,
    a_watch_reads_back_until_it_is_removed,
    each_key_of_a_watch_starts_one_run,
    of_two_changes_of_a_watch_the_first_stands_with_its_runs,
    an_item_whose_key_names_a_run_starts_no_other,
    a_row_number_in_use_changes_no_watch,
    an_item_of_a_watch_ends_waits_for_changes_and_a_purge_leaves_its_key,
    a_child_and_the_record_of_its_start_are_one_commit,
    a_child_goes_with_its_parent_and_not_before,
    what_a_run_has_of_tasks_that_are_gone_is_deleted,
    a_run_moves_to_another_workflow_unless_its_key_is_taken_there,
    the_first_answer_to_a_callback_stands,
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
        let quoted = format!("\"{}\"", schema.name());
        plans.extend(named.map(|(sql, plan)| (sql.replace(&quoted, "bide"), plan)));
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
    assert!(judged > 50, "the plans are not understood any more: {plans:#?}");
    assert!(walks.is_empty(), "{} statements walk a table:\n{}", walks.len(), walks.join("\n\n"));
    for (known, why) in MAY_WALK {
        assert!(plans.keys().any(|sql| sql.starts_with(known)), "no statement is like this any more: {known} ({why})");
    }
}
