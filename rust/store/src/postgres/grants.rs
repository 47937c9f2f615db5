//! Grants of the shares of limits: what a runner tells and asks, in one transaction that reads and writes everything of all
//! its lines at once. See [`crate::Limits`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;

use bide_core::Time;
use bide_core::limits::{LimitSpec, Rank, Room, Used};

use super::PostgresStore;
use super::error::Failed;
use super::limits::{ShareColumns, count, idle, release_attempts, spec};
use super::session::{Session, Text};
use crate::limits::{Given, Shares, answer};
use crate::{Lease, LimitCall, LineAnswers, LineClaims, Moved, ShareId, StoreError};

const FENCE: &str = "SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR KEY SHARE";
/// Nobody else grants anything of these, nor releases without looking who waits, until this is committed.
const LOCK: &str = "SELECT k.name, k.executing, k.in_flight, k.rate_count, k.rate_span, k.of, k.id, k.key FROM \
     (SELECT s.name, s.executing, s.in_flight, s.rate_count, s.rate_span, s.key AS of, k.id, k.key \
     FROM unnest($1::text[], $2::text[]) u(name, key) JOIN bide.limit_key k ON k.name = u.name AND k.key = u.key \
     JOIN bide.limit_spec s ON s.name = u.name) k JOIN bide.limit_key l ON l.id = k.id ORDER BY l.id FOR UPDATE OF l";
const NEW_KEYS: &str = "INSERT INTO bide.limit_key (name, key) SELECT u.name, u.key \
     FROM unnest($1::text[], $2::text[]) u(name, key) JOIN bide.limit_spec s ON s.name = u.name \
     ORDER BY u.name, u.key ON CONFLICT (name, key) DO NOTHING";
/// Starts that do not count any more are deleted on the way.
const USED: &str = "WITH u AS MATERIALIZED (SELECT * FROM unnest($1::int8[], $2::bool[], $3::bool[], $4::int8[]) \
     u(line, executing, in_flight, since)), \
     old AS (DELETE FROM bide.limit_start t USING u WHERE t.line = u.line AND t.latest < u.since) SELECT u.line, \
     CASE WHEN u.executing THEN (SELECT count(*) FROM bide.limit_share s WHERE s.line = u.line AND s.executing) ELSE 0 END, \
     CASE WHEN u.in_flight THEN (SELECT count(*) FROM bide.limit_share s WHERE s.line = u.line) ELSE 0 END, \
     coalesce(t.started, 0)::int8, t.oldest \
     FROM u LEFT JOIN LATERAL (SELECT sum(t.count) AS started, min(t.latest) AS oldest FROM bide.limit_start t \
     WHERE t.line = u.line AND t.latest >= u.since AND t.count > 0) t ON true";
const OTHERS: &str =
    "SELECT line, priority, age FROM bide.limit_line WHERE line = ANY ($1::int8[]) AND runner <> $2::int8";
/// What attempts have, and whether they are the holder's and have not ended.
const ATTEMPTS: &str = "SELECT u.run, u.task, u.map, s.line, s.executing, \
     EXISTS (SELECT 1 FROM bide.run r WHERE r.id = u.run AND r.status < 3 AND r.runner = $4::int8) \
     AND NOT EXISTS (SELECT 1 FROM bide.task t WHERE t.run = u.run AND t.task = u.task AND t.map = u.map AND t.status >= 3) \
     FROM unnest($1::int8[], $2::int8[], $3::int8[]) u(run, task, map) \
     LEFT JOIN bide.limit_share s ON s.run = u.run AND s.task = u.task AND s.map = u.map";
const GIVE: &str = "INSERT INTO bide.limit_share (run, task, map, line, runner, executing) \
     SELECT u.run, u.task, u.map, u.line, $5::int8, true \
     FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[]) u(run, task, map, line) \
     ON CONFLICT (run, task, map) DO UPDATE SET line = excluded.line, runner = excluded.runner, executing = true";
const STARTS: &str = "SELECT t.line, t.latest, t.count FROM unnest($1::int8[], $2::int8[]) u(line, latest) \
     JOIN bide.limit_start t ON t.line = u.line AND t.latest = u.latest";
const SET_STARTS: &str = "INSERT INTO bide.limit_start (line, latest, count) \
     SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[]) u(line, latest, count) \
     ON CONFLICT (line, latest) DO UPDATE SET count = excluded.count";
const ADD_STARTS: &str = "INSERT INTO bide.limit_start AS t (line, latest, count) \
     SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[]) u(line, latest, count) \
     ON CONFLICT (line, latest) DO UPDATE SET count = t.count + excluded.count";
const LINES: &str = "INSERT INTO bide.limit_line (line, runner, count, priority, age) \
     SELECT u.line, $2::int8, u.count, u.priority, u.age \
     FROM unnest($1::int8[], $3::int8[], $4::int8[], $5::int8[]) u(line, count, priority, age) \
     ON CONFLICT (line, runner) DO UPDATE SET count = excluded.count, priority = excluded.priority, age = excluded.age";
const NO_LINES: &str = "DELETE FROM bide.limit_line WHERE line = ANY ($1::int8[]) AND runner = $2::int8";

/// What is known of an attempt.
#[derive(Clone, Copy)]
struct Attempt {
    /// Of which limit and value of its key it has a share, and whether that counts as executing.
    share: Option<(i64, bool)>,
    /// It belongs to the holder and has not ended.
    is_current: bool,
}

/// What all lines of a call write.
#[derive(Default)]
struct Written {
    given: ShareColumns,
    given_lines: Vec<i64>,
    start_lines: Vec<i64>,
    starts: Vec<i64>,
    start_counts: Vec<i64>,
    lines: Vec<i64>,
    counts: Vec<i64>,
    priorities: Vec<i64>,
    ages: Vec<i64>,
    no_lines: Vec<i64>,
    /// Of these a share is free, because its attempt has one of another limit now.
    freed: Vec<i64>,
}

/// The shares of one limit and one value of its key.
struct OfLine<'a> {
    line: i64,
    attempts: &'a mut HashMap<ShareId, Attempt>,
    written: &'a mut Written,
}

impl Shares for OfLine<'_> {
    type Error = Infallible;

    fn held(&mut self, share: ShareId) -> Result<Option<bool>, Infallible> {
        let known = self.attempts.get(&share).and_then(|attempt| attempt.share);
        Ok(known.filter(|(line, _)| *line == self.line).map(|(_, executing)| executing))
    }

    fn give(&mut self, share: ShareId, any: bool) -> Result<Given, Infallible> {
        let held = self.held(share)?;
        let Some(attempt) = self.attempts.get_mut(&share).filter(|attempt| any || held.is_some() || attempt.is_current)
        else {
            return Ok(if any { Given::New } else { Given::Gone });
        };
        if held != Some(true) {
            if let Some((other, _)) = attempt.share.filter(|(line, _)| *line != self.line) {
                self.written.freed.push(other);
            }
            attempt.share = Some((self.line, true));
            self.written.given.push(share);
            self.written.given_lines.push(self.line);
        }
        Ok(Given::of_holder(held))
    }

    fn start(&mut self, latest: Time, count: u32) -> Result<(), Infallible> {
        self.written.start_lines.push(self.line);
        self.written.starts.push(latest.0);
        self.written.start_counts.push(count.into());
        Ok(())
    }
}

/// A limit and a value of its key, locked.
struct Line {
    id: i64,
    spec: LimitSpec,
    used: Used,
    /// The first ones that wait at other runners.
    others: Vec<Rank>,
}

/// By the limit's name and the value of its key.
type Lines<'c> = HashMap<(&'c str, &'c str), Line>;

/// Locks what a call is about: what is not here is not limited, or not used and not asked for.
fn lock<'c>(session: &mut Session<'_>, lines: &'c [LineClaims]) -> Result<Lines<'c>, Failed> {
    let mut locked = find(session, lines)?;
    let is_missing = |line: &&LineClaims| !line.claims.is_empty() && !locked.contains_key(&(&*line.limit, &*line.key));
    let missing: Vec<&LineClaims> = lines.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let names: Vec<Text<'_>> = missing.iter().map(|line| Text::from(&*line.limit)).collect();
        let keys: Vec<Text<'_>> = missing.iter().map(|line| Text::from(&*line.key)).collect();
        session.execute(NEW_KEYS, &[&names, &keys])?;
        // Also those that another runner has made just now.
        locked = find(session, lines)?;
    }
    Ok(locked)
}

fn find<'c>(session: &mut Session<'_>, lines: &'c [LineClaims]) -> Result<Lines<'c>, Failed> {
    let names: Vec<Text<'_>> = lines.iter().map(|line| Text::from(&*line.limit)).collect();
    let keys: Vec<Text<'_>> = lines.iter().map(|line| Text::from(&*line.key)).collect();
    let mut locked = Lines::new();
    for row in session.query(LOCK, &[&names, &keys])? {
        let key: Text<'_> = row.try_get(7)?;
        let spec = spec(&row, 0)?;
        let asked = lines.iter().find(|line| line.limit == spec.name && *line.key == *key.0);
        if let Some(asked) = asked {
            let line = Line { id: row.try_get(6)?, spec, used: Used::default(), others: Vec::new() };
            locked.insert((&*asked.limit, &*asked.key), line);
        }
    }
    Ok(locked)
}

/// Counts starts as they have happened. Returns of which limits there is more room.
fn moves(session: &mut Session<'_>, lines: &[LineClaims], locked: &Lines<'_>) -> Result<Vec<i64>, Failed> {
    let of = |line: &LineClaims| locked.get(&(&*line.limit, &*line.key)).map(|locked| locked.id);
    let moved: Vec<(i64, Moved)> = lines
        .iter()
        .filter_map(|line| Some((of(line)?, line)))
        .flat_map(|(id, line)| line.moved.iter().map(move |moved| (id, *moved)))
        .collect();
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    let (mut at_lines, mut at) = (Vec::new(), Vec::new());
    for (id, Moved { latest, to, .. }) in &moved {
        for time in [Some(*latest), *to].into_iter().flatten() {
            at_lines.push(*id);
            at.push(time.0);
        }
    }
    let mut counts: HashMap<(i64, i64), i64> = HashMap::new();
    for row in session.query(STARTS, &[&at_lines, &at])? {
        counts.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    let mut freed = Vec::new();
    for (id, Moved { latest, count, to }) in moved {
        let count = i64::from(count);
        let Some(known) = counts.get_mut(&(id, latest.0)).filter(|known| **known >= count) else { continue };
        *known -= count;
        if let Some(to) = to {
            *counts.entry((id, to.0)).or_default() += count;
        }
        freed.push(id);
    }
    let (mut set_lines, mut set, mut set_counts) = (Vec::new(), Vec::new(), Vec::new());
    for ((line, latest), count) in counts {
        set_lines.push(line);
        set.push(latest);
        set_counts.push(count);
    }
    session.execute(SET_STARTS, &[&set_lines, &set, &set_counts])?;
    Ok(freed)
}

/// Reads what is used of the lines, and who waits elsewhere.
fn read_used(session: &mut Session<'_>, runner: i64, now: Time, locked: &mut Lines<'_>) -> Result<(), Failed> {
    let mut by_id: HashMap<i64, &mut Line> = locked.values_mut().map(|line| (line.id, line)).collect();
    let (mut ids, mut executing, mut in_flight, mut since) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, Line { spec, .. }) in &by_id {
        ids.push(*id);
        executing.push(spec.executing.is_some());
        in_flight.push(spec.in_flight.is_some());
        since.push(Room::counts_since(spec, now).0);
    }
    for row in session.query(USED, &[&ids, &executing, &in_flight, &since])? {
        let Some(line) = by_id.get_mut(&row.try_get::<_, i64>(0)?) else { continue };
        let oldest = row.try_get::<_, Option<i64>>(4)?.map(Time);
        line.used = Used { executing: count(&row, 1)?, in_flight: count(&row, 2)?, started: count(&row, 3)?, oldest };
        if line.spec.rate.is_none() {
            line.used.started = 0;
            line.used.oldest = None;
        }
    }
    for row in session.query(OTHERS, &[&ids, &runner])? {
        let Some(line) = by_id.get_mut(&row.try_get::<_, i64>(0)?) else { continue };
        line.others.push(Rank { priority: row.try_get(1)?, age: Time(row.try_get(2)?) });
    }
    Ok(())
}

/// Reads what is known of the attempts that a call asks about.
fn read_attempts(
    session: &mut Session<'_>,
    runner: i64,
    call: &LimitCall,
) -> Result<HashMap<ShareId, Attempt>, Failed> {
    let mut asked = ShareColumns::default();
    call.lines.iter().flat_map(|line| &line.claims).for_each(|claim| asked.push(claim.share));
    let mut attempts = HashMap::with_capacity(asked.runs.len());
    if asked.runs.is_empty() {
        return Ok(attempts);
    }
    for row in session.query(ATTEMPTS, &[&asked.runs, &asked.tasks, &asked.maps, &runner])? {
        let map: i64 = row.try_get(2)?;
        let share = ShareId {
            run: row.try_get(0)?,
            task: row.try_get(1)?,
            map: i32::try_from(map).unwrap_or(bide_core::NO_MAP),
        };
        let held = row.try_get::<_, Option<i64>>(3)?.zip(row.try_get::<_, Option<bool>>(4)?);
        attempts.insert(share, Attempt { share: held, is_current: row.try_get(5)? });
    }
    Ok(attempts)
}

impl PostgresStore {
    pub(super) fn grant_limits(
        &self,
        lease: Lease,
        now: Time,
        call: &LimitCall,
    ) -> Result<Vec<LineAnswers>, StoreError> {
        // Before there are any: no attempt that has one ends before this returns.
        self.has_shares.store(true, Ordering::Relaxed);
        let (answers, others_wait) = self.connections.lease(|session| {
            self.check_history(lease)?;
            session.transact(|session| {
                if session.query_opt(FENCE, &[&lease.runner, &lease.epoch])?.is_none() {
                    return Err(StoreError::Fenced { runner: lease.runner }.into());
                }
                self.grant(session, lease, now, call)
            })
        })?;
        if others_wait {
            self.limits_released()?;
        }
        Ok(answers)
    }

    fn grant(
        &self,
        session: &mut Session<'_>,
        lease: Lease,
        now: Time,
        call: &LimitCall,
    ) -> Result<(Vec<LineAnswers>, bool), Failed> {
        let runner = lease.runner;
        let mut freed = Vec::new();
        // Before anything is locked that a release locks after its shares.
        if !call.released.is_empty() {
            freed.extend(release_attempts(session, &ShareColumns::of(&call.released), &[], &[])?);
        }
        if !call.idle.is_empty() {
            freed.extend(idle(session, &ShareColumns::of(&call.idle))?);
        }
        let mut answers = Vec::with_capacity(call.lines.len());
        if !call.lines.is_empty() {
            let mut locked = lock(session, &call.lines)?;
            freed.extend(moves(session, &call.lines, &locked)?);
            read_used(session, runner, now, &mut locked)?;
            let mut attempts = read_attempts(session, runner, call)?;
            let mut written = Written::default();
            for line in &call.lines {
                answers.push(answer_line(&locked, line, &mut attempts, &mut written, now));
            }
            freed.append(&mut written.freed);
            write(session, runner, &written)?;
        }
        let others_wait = self.announce_released(session, lease, &freed)?;
        Ok((answers, others_wait))
    }
}

/// Answers the claims of a line.
fn answer_line(
    locked: &Lines<'_>,
    line: &LineClaims,
    attempts: &mut HashMap<ShareId, Attempt>,
    written: &mut Written,
    now: Time,
) -> LineAnswers {
    let Some(Line { id, spec, used, others }) = locked.get(&(&*line.limit, &*line.key)) else {
        // Nobody has defined it, or nothing is asked.
        return LineAnswers::unlimited(line);
    };
    let mut shares = OfLine { line: *id, attempts, written };
    let Ok(answers) = answer(&mut shares, spec, line, (*used, others), now);
    match line.waiting(&answers.claims) {
        Some((count, Rank { priority, age })) => {
            written.lines.push(*id);
            written.counts.push(i64::try_from(count).unwrap_or(i64::MAX));
            written.priorities.push(priority.into());
            written.ages.push(age.0);
        }
        None => written.no_lines.push(*id),
    }
    // No commit here answers claims.
    LineAnswers { may_pass_on: false, ..answers }
}

/// Writes what the answers say.
fn write(session: &mut Session<'_>, runner: i64, written: &Written) -> Result<(), Failed> {
    let Written {
        given,
        given_lines,
        start_lines,
        starts,
        start_counts,
        lines,
        counts,
        priorities,
        ages,
        no_lines,
        ..
    } = written;
    if !given_lines.is_empty() {
        session.execute(GIVE, &[&given.runs, &given.tasks, &given.maps, given_lines, &runner])?;
    }
    if !starts.is_empty() {
        session.execute(ADD_STARTS, &[start_lines, starts, start_counts])?;
    }
    if !lines.is_empty() {
        session.execute(LINES, &[lines, &runner, counts, priorities, ages])?;
    }
    if !no_lines.is_empty() {
        session.execute(NO_LINES, &[no_lines, &runner])?;
    }
    Ok(())
}
