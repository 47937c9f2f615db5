use super::*;

fn at(text: &str) -> Time {
    let moment = chrono::DateTime::parse_from_rfc3339(text).expect(text);
    Time(moment.timestamp_micros())
}

fn cron(expression: &str, zone: &str) -> Timetable {
    Timetable::new(&When::Cron { expression: expression.into(), zone: zone.into() }).expect(expression)
}

fn ticks(table: &Timetable, since: &str, most: usize) -> Vec<String> {
    let mut last = at(since);
    let next = std::iter::from_fn(|| {
        last = table.next_after(last)?;
        Some(moment_text(last))
    });
    next.take(most).collect()
}

#[test]
fn ticks_when_clocks_are_set_are_those_of_vixie_cron() {
    // Clocks go from 02:00 to 03:00 (Berlin: 2026-03-29 01:00Z; New York: 2026-03-08 07:00Z) and back from 03:00 to
    // 02:00 (2026-10-25 01:00Z) or from 02:00 to 01:00 (2026-11-01 06:00Z). Lord Howe: by half an hour, back from 02:00
    // to 01:30 (2026-04-04 15:00Z), on from 02:00 to 02:30 (2026-10-03 15:30Z).
    const BERLIN: &str = "Europe/Berlin";
    const NEW_YORK: &str = "America/New_York";
    const LORD_HOWE: &str = "Australia/Lord_Howe";
    let table: &[(&str, &str, &str, &[&str])] = &[
        // A time that is left out: at the first moment afterwards, and the next day as always.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]),
        ("10 2 * * *", LORD_HOWE, "2026-10-03T00:00:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]),
        // Several of them: one tick.
        ("0,30 2 * * *", BERLIN, "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]),
        // And the time at which clocks go on is one of the ticks.
        ("0 2,3 * * *", BERLIN, "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]),
        // A time that comes twice: the first one.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00:00Z", &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T00:00:00Z", &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]),
        // Asked within the second one.
        ("30 2 * * *", BERLIN, "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]),
        ("0 3 * * *", BERLIN, "2026-10-25T01:10:00Z", &["2026-10-25T02:00:00Z"]),
        // Once a day.
        ("@daily", BERLIN, "2026-03-28T12:00:00Z", &["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"]),
        ("@daily", BERLIN, "2026-10-24T12:00:00Z", &["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]),
        ("@daily", NEW_YORK, "2026-11-01T00:00:00Z", &["2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"]),
        // Every so often: by the clock, without what is left out, and with both of what comes twice.
        ("*/30 * * * *", BERLIN, "2026-03-29T00:15:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"]),
        ("*/5 2 * * *", BERLIN, "2026-03-28T12:00:00Z", &["2026-03-30T00:00:00Z"]),
        (
            "0 * * * *",
            NEW_YORK,
            "2026-11-01T04:30:00Z",
            &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"],
        ),
        (
            "*/20 2 * * *",
            BERLIN,
            "2026-10-25T00:05:00Z",
            &[
                "2026-10-25T00:20:00Z",
                "2026-10-25T00:40:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:20:00Z",
                "2026-10-25T01:40:00Z",
                "2026-10-26T01:00:00Z",
            ],
        ),
        (
            "*/15 * * * *",
            LORD_HOWE,
            "2026-04-04T14:40:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:15:00Z"],
        ),
        // Once a year, with clocks set in between.
        ("0 12 1 12 *", BERLIN, "2026-01-01T00:00:00Z", &["2026-12-01T11:00:00Z", "2027-12-01T11:00:00Z"]),
    ];
    for (expression, zone, since, expected) in table {
        let found = ticks(&cron(expression, zone), since, expected.len());
        assert_eq!(found, *expected, "{expression} in {zone} after {since}");
    }
}

#[test]
fn five_minutes_are_always_five_minutes_apart() {
    for zone in ["Europe/Berlin", "America/New_York", "Asia/Tehran"] {
        let table = cron("*/5 * * * *", zone);
        for since in ["2026-03-07T00:00:00Z", "2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z", "2026-10-31T00:00:00Z"] {
            let mut last = at(since);
            for _ in 0..700 {
                let next = table.next_after(last).expect("a tick");
                assert_eq!(next.0 - last.0, 300_000_000, "{zone} after {}", moment_text(last));
                last = next;
            }
        }
    }
}

#[test]
fn the_newest_tick_is_the_last_of_all_that_there_are() {
    for table in [cron("*/7 3 * * 1-5", "Europe/Berlin"), cron("0 0 29 2 *", "UTC"), cron("* * * * *", "UTC")] {
        for hours in [0, 1, 5, 24, 24 * 9] {
            let (after, until) =
                (at("2026-10-20T00:00:30Z"), Time(at("2026-10-20T00:00:30Z").0 + hours * 3_600_000_000));
            let all = table.between(Time(after.0 + 1), until, usize::MAX).expect("no limit");
            assert_eq!(table.newest(after, until), all.last().copied(), "{table:?} {hours}");
        }
    }
}

#[test]
fn equal_distances_are_counted_from_the_anchor_in_both_directions() {
    let table =
        Timetable::new(&When::Every { micros: 600_000_000, anchor: at("2026-01-01T00:03:00Z") }).expect("a table");
    assert_eq!(ticks(&table, "2026-01-01T00:03:00Z", 2), ["2026-01-01T00:13:00Z", "2026-01-01T00:23:00Z"]);
    assert_eq!(ticks(&table, "2025-12-31T23:50:00Z", 2), ["2025-12-31T23:53:00Z", "2026-01-01T00:03:00Z"]);
    assert_eq!(table.newest(at("2025-12-01T00:00:00Z"), at("2026-01-01T00:12:59Z")), Some(at("2026-01-01T00:03:00Z")));
    assert_eq!(table.newest(at("2026-01-01T00:03:00Z"), at("2026-01-01T00:12:59Z")), None);
    assert_eq!(table.between(at("2026-01-01T00:03:00Z"), at("2026-01-01T00:23:00Z"), 2), Err(TooManyTicks));
    assert_eq!(
        table.between(at("2026-01-01T00:03:00Z"), at("2026-01-01T00:23:00Z"), 3).map(|ticks| ticks.len()),
        Ok(3)
    );
}

#[test]
fn what_cannot_be_read_says_what_is_wrong_with_it() {
    let refused = |expression: &str, zone: &str| {
        Timetable::new(&When::Cron { expression: expression.into(), zone: zone.into() })
            .expect_err(expression)
            .to_string()
    };
    assert_eq!(
        refused("0 2 * * *", "Europe/Berlni"),
        "there is no time zone 'Europe/Berlni'; did you mean 'Europe/Berlin'? (zones have names such as 'Europe/Berlin' or \
         'UTC')"
    );
    for (expression, part) in
        [("0 2 * *", "five fields are needed"), ("61 2 * * *", "61"), ("a b c d e", "'a b c d e'")]
    {
        assert!(refused(expression, "UTC").contains(part), "{}", refused(expression, "UTC"));
    }
    assert!(Timetable::new(&When::Every { micros: 999, anchor: Time(0) }).is_err());
    assert_eq!(cron("0 0 30 2 *", "UTC").next_after(at("2026-01-01T00:00:00Z")), None);
}

fn schedule(on_miss: OnMiss, overlap: Overlap) -> Schedule {
    Schedule {
        name: "nightly".into(),
        workflow: "work".into(),
        version: (1, 1),
        when: When::Cron { expression: "30 2 * * *".into(), zone: "UTC".into() },
        inputs: Arc::new([]),
        moment: MomentInput::None,
        on_miss,
        overlap,
        jitter: 0,
        timeout: None,
        created_at: Time(0),
        paused_at: None,
        decided: at("2026-06-01T02:30:00Z"),
        last: None,
        queue: Vec::new(),
        open: Vec::new(),
    }
}

fn due_of(schedule: &Schedule, now: &str, serving: &str) -> Due {
    let table = Timetable::new(&schedule.when).expect("a table");
    due(schedule, &table, At { now: at(now), serving: at(serving) })
}

#[test]
fn a_tick_is_due_at_its_moment_and_never_before() {
    for on_miss in OnMiss::ALL {
        let schedule = schedule(*on_miss, Overlap::Allow);
        let tick = at("2026-06-02T02:30:00Z");
        let early = due_of(&schedule, "2026-06-02T02:29:59.999999Z", "2026-06-01T00:00:00Z");
        assert_eq!(early, Due::Nothing(Some(tick)));
        let due = due_of(&schedule, "2026-06-02T02:30:00Z", "2026-06-01T00:00:00Z");
        assert_eq!(due, Due::Ticks { ticks: vec![tick], decided: tick, missed: None });
    }
}

#[test]
fn after_a_week_without_a_runner_on_miss_says_which_ticks_start_runs() {
    let (now, days) = ("2026-06-08T12:00:00Z", ["02", "03", "04", "05", "06", "07", "08"]);
    let ticks: Vec<Time> = days.iter().map(|day| at(&format!("2026-06-{day}T02:30:00Z"))).collect();
    let (first, last, decided) = (ticks[0], ticks[5], ticks[6]);
    for (on_miss, expected, missed) in [
        (OnMiss::Latest, vec![decided], Some((first, last))),
        (OnMiss::All, ticks.clone(), None),
        (OnMiss::Skip, vec![], Some((first, decided))),
    ] {
        // A runner that begins, once it has left the ticks to others for a moment; and a machine that has slept.
        for serving in ["2026-06-08T11:59:59Z", "2026-06-01T00:00:00Z"] {
            let due = due_of(&schedule(on_miss, Overlap::Allow), now, serving);
            assert_eq!(due, Due::Ticks { ticks: expected.clone(), decided, missed }, "{on_miss}, {serving}");
        }
    }
}

#[test]
fn a_runner_that_begins_leaves_a_tick_to_others_before_it_skips_it() {
    let schedule = schedule(OnMiss::Skip, Overlap::Allow);
    let serving = "2026-06-02T02:30:00.005Z";
    let settled = at("2026-06-02T02:30:01.005Z");
    assert_eq!(due_of(&schedule, serving, serving), Due::Nothing(Some(settled)));
    let tick = at("2026-06-02T02:30:00Z");
    let due = due_of(&schedule, "2026-06-02T02:30:01.005Z", serving);
    assert_eq!(due, Due::Ticks { ticks: vec![], decided: tick, missed: Some((tick, tick)) });
}

#[test]
fn a_long_time_without_a_runner_is_made_up_for_in_parts() {
    let minutely = Schedule {
        when: When::Every { micros: 60_000_000, anchor: Time(0) },
        decided: Time(0),
        ..schedule(OnMiss::All, Overlap::Allow)
    };
    let table = Timetable::new(&minutely.when).expect("a table");
    let found = due(&minutely, &table, At { now: at("2026-01-01T00:00:00Z"), serving: Time(0) });
    let decided = Time(60_000_000 * MOST_STARTED as i64);
    assert!(matches!(found, Due::Ticks { ticks, decided: to, .. } if ticks.len() == MOST_STARTED && to == decided));
}

#[test]
fn overlap_says_what_a_tick_does_while_a_run_has_not_ended() {
    let [first, second] = ["2026-06-02T02:30:00Z", "2026-06-03T02:30:00Z"].map(at);
    let (free, busy): (&[RunId], &[RunId]) = (&[], &[RunId(7)]);
    let planned = |starts: &[Time], queue: &[Time], cancels, dropped| Plan {
        starts: starts.to_vec(),
        queue: queue.to_vec(),
        cancels,
        dropped,
    };
    for (overlap, open, expected) in [
        (Overlap::Allow, busy, planned(&[first, second], &[], false, 0)),
        (Overlap::Skip, busy, planned(&[], &[], false, 2)),
        (Overlap::Skip, free, planned(&[first], &[], false, 1)),
        (Overlap::Queue, busy, planned(&[], &[first, second], false, 0)),
        (Overlap::Queue, free, planned(&[first], &[second], false, 0)),
        (Overlap::Cancel, busy, planned(&[], &[second], true, 1)),
        (Overlap::Cancel, free, planned(&[second], &[], false, 1)),
    ] {
        assert_eq!(plan(&schedule(OnMiss::All, overlap), &[first, second], open), expected, "{overlap}");
    }
    let waiting = Schedule { queue: vec![first], ..schedule(OnMiss::All, Overlap::Queue) };
    assert_eq!(plan(&waiting, &[second], free), planned(&[first], &[second], false, 0));
}

#[test]
fn jitter_is_the_same_everywhere_and_within_its_bound() {
    let schedule = Schedule { jitter: 30_000_000, ..schedule(OnMiss::Latest, Overlap::Allow) };
    let delays: Vec<i64> = (0..200).map(|day| schedule.delay(Time(day * 86_400_000_000))).collect();
    assert!(delays.iter().all(|delay| (0..=30_000_000).contains(delay)), "{delays:?}");
    assert!(delays.iter().min() < Some(&3_000_000) && delays.iter().max() > Some(&27_000_000), "{delays:?}");
    assert_eq!(schedule.delay(Time(0)), schedule.clone().delay(Time(0)));
    let tick = at("2026-06-02T02:30:00Z");
    let early = due_of(&schedule, "2026-06-02T02:30:00Z", "2026-06-01T00:00:00Z");
    assert_eq!(early, Due::Nothing(Some(schedule.due_at(tick))));
}

#[test]
fn a_run_gets_the_moment_of_its_tick_beside_its_inputs() {
    let [zone, area] = [Value::tagged(b's', b"eu"), Value::tagged(b'i', b"3")];
    let inputs = pack::pack([("area", Some(&area)), ("zone", Some(&zone))]);
    let with = |moment| Schedule { moment, inputs: inputs.clone().into(), ..schedule(OnMiss::Latest, Overlap::Allow) };
    let tick = Time(at("2026-06-02T02:30:00Z").0 + 250);
    let unpacked = |moment| pack::unpack(&with(moment).inputs_at(tick).expect("inputs")).expect("pairs");
    assert_eq!(unpacked(MomentInput::None).len(), 2);
    for (moment, value) in [
        (MomentInput::Datetime, &br#"j"2026-06-02T02:30:00.000250Z""#[..]),
        (MomentInput::Text, b"s2026-06-02T02:30:00.000250Z"),
    ] {
        let expected: Vec<pack::Pair> = vec![
            ("area".into(), Some(area.clone())),
            (MOMENT_INPUT.into(), Some(Value::new(value))),
            ("zone".into(), Some(zone.clone())),
        ];
        assert_eq!(unpacked(moment), expected);
    }
    assert_eq!(&*run_key("nightly", at("2026-06-02T02:30:00Z")), "nightly@2026-06-02T02:30:00Z");
}
