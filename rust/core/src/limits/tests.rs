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

const fn used(executing: u64, in_flight: u64) -> Used {
    Used { executing, in_flight, started: 0, oldest: None }
}

/// What is used up for an attempt; if nothing is, it takes what it needs.
fn held(room: &mut Room<'_>, need: &Need) -> Option<Counted> {
    match room.ask(need) {
        Verdict::Granted => {
            room.take(need, Time(1_000));
            None
        }
        Verdict::Held { counted, .. } => Some(counted),
    }
}

#[test]
fn what_is_used_up_says_so() {
    let (now, first) = (Time(1_000), rank(0, 0));
    let cases = [
        (limit(spec(Some(2), None), None), used(2, 9), Some(Counted::Executing)),
        (limit(spec(Some(2), None), None), used(1, 9), None),
        (limit(spec(None, Some(2)), None), used(0, 2), Some(Counted::InFlight)),
        (limit(spec(Some(9), Some(2)), None), used(0, 1), None),
    ];
    for (limit, used, expected) in cases {
        let mut room = Room::new(&limit, used, &[], now);
        assert_eq!(held(&mut room, &new(first)), expected, "{limit:?} {used:?}");
    }
}

#[test]
fn a_body_that_resumes_needs_no_share_and_one_that_is_entered_again_is_no_start() {
    let limit = limit(spec(Some(3), Some(1)), Some((1, 100)));
    let used = Used { started: 1, oldest: Some(Time(990)), ..used(1, 1) };
    let mut room = Room::new(&limit, used, &[], Time(1_000));
    let resumes = Need { share: false, start: false, ..new(rank(0, 0)) };
    assert_eq!(held(&mut room, &resumes), None);
    assert_eq!(held(&mut room, &new(rank(0, 0))), Some(Counted::InFlight));
    assert_eq!(held(&mut room, &resumes), None);
    assert_eq!(held(&mut room, &resumes), Some(Counted::Executing));
}

#[test]
fn a_full_rate_says_when_the_oldest_start_counts_no_more() {
    let limit = limit(spec(None, None), Some((2, 100)));
    let used = Used { started: 1, oldest: Some(Time(950)), ..Used::default() };
    let mut room = Room::new(&limit, used, &[], Time(1_000));
    assert_eq!(held(&mut room, &new(rank(0, 0))), None);
    let full = Verdict::Held { counted: Counted::Rate, until: Some(Time(1_051)) };
    assert_eq!(room.ask(&new(rank(0, 0))), full);
}

#[test]
fn a_share_is_left_to_each_runner_at_which_somebody_goes_first() {
    let limit = limit(spec(None, Some(3)), None);
    let others = [rank(0, 5), rank(0, 50), rank(9, 99)];
    let mut room = Room::new(&limit, Used::default(), &others, Time(0));
    assert_eq!(held(&mut room, &new(rank(0, 10))), None);
    assert_eq!(held(&mut room, &new(rank(0, 10))), Some(Counted::InFlight));
    assert_eq!(held(&mut room, &new(rank(0, 1))), None, "older than one of them");
    assert_eq!(held(&mut room, &new(rank(10, 99))), None, "before all of them");
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
    /// Bodies are entered at any moment up to the one that their grant allows, some are known to have been entered
    /// earlier than that, and no span has more starts.
    #[test]
    fn the_starts_never_exceed_the_rate_in_any_span(
        count in 1..5_u32,
        span in 1..200_i64,
        asks in proptest::collection::vec((0..60_i64, 0..40_i64, 0..100_i64, proptest::bool::ANY), 1..120),
    ) {
        let limit = limit(spec(None, None), Some((count, span.unsigned_abs())));
        let (mut now, mut granted, mut entered) = (1_000, Vec::<Time>::new(), Vec::new());
        for (pass, patience, queued, is_told) in asks {
            now += pass;
            let since = Room::counts_since(&limit, Time(now));
            granted.retain(|latest| *latest >= since);
            let used = Used { started: granted.len() as u64, oldest: granted.iter().min().copied(), ..Used::default() };
            let room = Room::new(&limit, used, &[], Time(now));
            if room.ask(&new(rank(0, 0))) == Verdict::Granted {
                let at = now + queued * patience / 100;
                granted.push(Time(if is_told { at } else { now + patience }));
                entered.push(at);
            }
        }
        entered.sort_unstable();
        for window in entered.windows(count as usize + 1) {
            prop_assert!(window[count as usize] - window[0] > span, "{window:?}");
        }
    }
}
