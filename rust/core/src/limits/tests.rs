#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const fn spec(executing: Option<u32>, in_flight: Option<u32>) -> (Option<u32>, Option<u32>) {
    (executing, in_flight)
}

fn limit((executing, in_flight): (Option<u32>, Option<u32>), rate: Option<(u32, u64)>) -> LimitSpec {
    let rate = rate.map(|(count, micros)| Rate { count, span: Duration::from_micros(micros) });
    LimitSpec { name: "api".into(), executing, in_flight, rate, key: None }
}

const fn rank(priority: i32, age: i64) -> Rank {
    Rank { priority, age: Time(age) }
}

const fn new(rank: Rank) -> Need {
    Need { rank, share: true, executing: true, start: true }
}

fn held(verdict: Verdict) -> Option<Counted> {
    match verdict {
        Verdict::Granted => None,
        Verdict::Held { counted, .. } => Some(counted),
    }
}

#[test]
fn what_is_used_up_says_so() {
    let (now, first) = (Time(1_000), rank(0, 0));
    let cases = [
        (limit(spec(Some(2), None), None), (2, 9), Some(Counted::Executing)),
        (limit(spec(Some(2), None), None), (1, 9), None),
        (limit(spec(None, Some(2)), None), (0, 2), Some(Counted::InFlight)),
        (limit(spec(Some(9), Some(2)), None), (0, 1), None),
    ];
    for (limit, used, expected) in cases {
        let mut room = Room::new(&limit, used, Vec::new(), &[], now);
        assert_eq!(held(room.ask(&new(first), now)), expected, "{limit:?} {used:?}");
    }
}

#[test]
fn a_body_that_resumes_needs_no_share_and_one_that_is_entered_again_is_no_start() {
    let limit = limit(spec(Some(3), Some(1)), Some((1, 100)));
    let mut room = Room::new(&limit, (1, 1), vec![(Time(990), 1)], &[], Time(1_000));
    let resumes = Need { share: false, start: false, ..new(rank(0, 0)) };
    assert_eq!(room.ask(&resumes, Time(1_000)), Verdict::Granted);
    assert_eq!(held(room.ask(&new(rank(0, 0)), Time(1_000))), Some(Counted::InFlight));
    assert_eq!(room.ask(&resumes, Time(1_000)), Verdict::Granted);
    assert_eq!(held(room.ask(&resumes, Time(1_000))), Some(Counted::Executing));
}

#[test]
fn a_full_rate_says_when_the_oldest_start_counts_no_more() {
    let limit = limit(spec(None, None), Some((2, 100)));
    let mut room = Room::new(&limit, (0, 0), vec![(Time(950), 1), (Time(899), 7)], &[], Time(1_000));
    assert_eq!(room.ask(&new(rank(0, 0)), Time(1_010)), Verdict::Granted);
    let full = Verdict::Held { counted: Counted::Rate, until: Some(Time(1_051)) };
    assert_eq!(room.ask(&new(rank(0, 0)), Time(1_010)), full);
}

#[test]
fn a_share_is_left_to_each_runner_at_which_somebody_goes_first() {
    let limit = limit(spec(None, Some(3)), None);
    let others = [rank(0, 5), rank(0, 50), rank(9, 99)];
    let mut room = Room::new(&limit, (0, 0), Vec::new(), &others, Time(0));
    assert_eq!(room.ask(&new(rank(0, 10)), Time(0)), Verdict::Granted);
    assert_eq!(held(room.ask(&new(rank(0, 10)), Time(0))), Some(Counted::InFlight));
    assert_eq!(room.ask(&new(rank(0, 1)), Time(0)), Verdict::Granted, "older than one of them");
    assert_eq!(room.ask(&new(rank(10, 99)), Time(0)), Verdict::Granted, "before all of them");
}

#[test]
fn resumed_bodies_go_first_one_in_eight_is_new_and_both_go_by_priority_and_age() {
    let mut line = Line::default();
    for n in 0..20 {
        line.push(true, rank(0, 100 - n), ());
    }
    for (priority, age) in [(0, 7), (3, 9), (0, 5), (3, 8)] {
        line.push(false, rank(priority, age), ());
    }
    let order: Vec<Place> = line.first(usize::MAX).map(|(place, ())| place).collect();
    let new: Vec<usize> = (0..order.len()).filter(|at| !order[*at].0).collect();
    assert_eq!(new, [7, 15, 22, 23]);
    let ranks: Vec<Rank> = order.iter().filter(|place| !place.0).map(|place| place.1).collect();
    assert_eq!(ranks, [rank(3, 8), rank(3, 9), rank(0, 5), rank(0, 7)]);
    assert!(order.iter().filter(|place| place.0).is_sorted_by_key(|place| place.1.age));
    // What was granted counts for the next look.
    for place in &order[..6] {
        line.granted(*place).unwrap();
    }
    assert!(line.first(1).all(|((resumed, ..), ())| resumed));
    line.granted(order[6]).unwrap();
    assert!(line.first(1).all(|((resumed, ..), ())| !resumed));
    assert_eq!(line.position(order[15]), 13 + 2);
}

#[test]
fn values_that_differ_have_different_keys() {
    let value = |tag, payload: &[u8]| key_text(Some(&Value::tagged(tag, payload)));
    assert_eq!(&*value(b's', b"7"), "\"7\"");
    assert_eq!(&*value(b'i', b"7"), "7");
    assert_eq!(&*value(b'j', b"{\"a\":1}"), "{\"a\":1}");
    assert_eq!(key_text(Some(&Value::NONE)), key_text(None));
    assert_ne!(value(b'p', b"\xff\x00"), value(b'p', b"\xfe\x00"));
}

proptest! {
    /// Bodies are entered at any moment up to the one that their grant allows, and no span has more starts.
    #[test]
    fn the_starts_never_exceed_the_rate_in_any_span(
        count in 1..5_u32,
        span in 1..200_i64,
        asks in proptest::collection::vec((0..60_i64, 0..40_i64, 0..100_i64), 1..120),
    ) {
        let limit = limit(spec(None, None), Some((count, span.unsigned_abs())));
        let (mut now, mut granted, mut entered) = (1_000, Vec::<Starts>::new(), Vec::new());
        for (pass, patience, queued) in asks {
            now += pass;
            let latest = Time(now + patience);
            let mut room = Room::new(&limit, (0, 0), granted.clone(), &[], Time(now));
            if room.ask(&new(rank(0, 0)), latest) == Verdict::Granted {
                granted.push((latest, 1));
                entered.push(now + queued * patience / 100);
            }
        }
        entered.sort_unstable();
        for window in entered.windows(count as usize + 1) {
            prop_assert!(window[count as usize] - window[0] > span, "{window:?}");
        }
    }
}
