//! Whether the checker is right: histories that it must refuse, such that it must accept, and all verdicts against those
//! of a search that tries every order.

use super::{Call, DictCall, Model, by_key, check, refuse};
use crate::dict::{Dict, Key, Op, Seen, Step};
use crate::random::Random;

fn done(client: u32, op: Op, seen: Vec<Seen>, call: u64, ret: u64) -> DictCall {
    Call {
        client,
        op,
        seen: Some(seen),
        call,
        ret,
    }
}

fn pending(client: u32, op: Op, call: u64, deadline: u64) -> DictCall {
    Call {
        client,
        op,
        seen: None,
        call,
        ret: deadline,
    }
}

fn insert(client: u32, key: Key, id: u32, call: u64, ret: u64) -> DictCall {
    done(client, Op::One(Step::Insert(key, id)), vec![Seen::Done], call, ret)
}

fn get(client: u32, key: Key, found: Option<u32>, call: u64, ret: u64) -> DictCall {
    done(client, Op::One(Step::Get(key)), vec![Seen::Found(found)], call, ret)
}

fn snapshot(client: u32, all: &[(Key, u32)], call: u64, ret: u64) -> DictCall {
    done(
        client,
        Op::One(Step::Contents),
        vec![Seen::All(all.to_vec())],
        call,
        ret,
    )
}

fn both(id: u32) -> Op {
    Op::Atomic(vec![Step::Insert(0, id), Step::Insert(1, id)])
}

#[track_caller]
fn accepted(calls: &[DictCall]) {
    let (reason, _) = refuse(&Dict::default(), calls);
    assert_eq!(reason, None);
}

#[track_caller]
fn refused(calls: &[DictCall]) {
    let (reason, _) = refuse(&Dict::default(), calls);
    assert!(reason.is_some(), "accepted: {calls:#?}");
}

#[test]
fn reads_beside_a_write_see_before_or_after() {
    accepted(&[
        insert(1, 0, 7, 10, 40),
        get(2, 0, None, 15, 20),
        get(3, 0, Some(7), 16, 30),
    ]);
    accepted(&[
        insert(1, 0, 7, 10, 40),
        get(2, 0, Some(7), 15, 20),
        get(3, 0, Some(7), 21, 30),
    ]);
    accepted(&[]);
}

#[test]
fn a_stale_read_is_refused() {
    refused(&[
        insert(1, 0, 7, 10, 20),
        insert(1, 0, 8, 30, 40),
        get(2, 0, Some(7), 41, 50),
    ]);
    refused(&[insert(1, 0, 7, 10, 20), get(2, 0, None, 21, 30)]);
}

#[test]
fn a_read_that_goes_back_behind_another_is_refused() {
    refused(&[
        insert(1, 0, 7, 10, 90),
        get(2, 0, Some(7), 15, 20),
        get(3, 0, None, 21, 30),
    ]);
}

#[test]
fn a_read_of_what_nobody_wrote_is_refused() {
    refused(&[insert(1, 0, 7, 10, 20), get(2, 0, Some(9), 15, 30)]);
}

#[test]
fn an_acknowledged_write_that_is_lost_is_refused() {
    refused(&[
        insert(1, 0, 7, 10, 20),
        insert(2, 1, 8, 30, 40),
        snapshot(3, &[(1, 8)], 50, 60),
    ]);
}

#[test]
fn half_a_transaction_is_refused() {
    let atomic = |seen| done(1, both(7), vec![Seen::Done; 2], 10, seen);
    accepted(&[
        atomic(90),
        snapshot(2, &[], 20, 30),
        snapshot(2, &[(0, 7), (1, 7)], 40, 50),
    ]);
    refused(&[atomic(90), snapshot(2, &[(0, 7)], 20, 30)]);
    // Seen by two reads of single keys, the second of which must not go back.
    accepted(&[atomic(90), get(2, 0, None, 20, 30), get(2, 1, Some(7), 40, 50)]);
    refused(&[atomic(90), get(2, 0, Some(7), 20, 30), get(2, 1, None, 40, 50)]);
}

#[test]
fn a_write_that_takes_effect_twice_is_refused() {
    let calls = [
        insert(1, 0, 7, 10, 20),
        insert(2, 0, 8, 30, 40),
        get(3, 0, Some(8), 50, 60),
    ];
    accepted(&calls);
    refused(&[&calls[..], &[get(3, 0, Some(7), 70, 80)]].concat());
}

#[test]
fn a_key_that_two_clients_take_out_is_refused() {
    let take = |client, call| done(client, Op::One(Step::Remove(0)), vec![Seen::Found(Some(7))], call, 90);
    accepted(&[insert(1, 0, 7, 10, 20), take(2, 30)]);
    refused(&[insert(1, 0, 7, 10, 20), take(2, 30), take(3, 30)]);
}

#[test]
fn an_increment_that_is_lost_is_refused() {
    // Two transactions that read the same and write something each: one must see the other's.
    let swap = |client, own, found, ret| {
        let op = Op::Atomic(vec![Step::Get(0), Step::Insert(0, own)]);
        done(client, op, vec![Seen::Found(found), Seen::Done], 10, ret)
    };
    accepted(&[swap(1, 7, None, 90), swap(2, 8, Some(7), 80)]);
    refused(&[swap(1, 7, None, 90), swap(2, 8, None, 80)]);
}

#[test]
fn the_order_of_insertion_counts() {
    let calls = [insert(1, 0, 7, 10, 20), insert(1, 1, 8, 30, 40)];
    accepted(&[&calls[..], &[snapshot(2, &[(0, 7), (1, 8)], 50, 60)]].concat());
    refused(&[&calls[..], &[snapshot(2, &[(1, 8), (0, 7)], 50, 60)]].concat());
}

#[test]
fn a_contradiction_is_refused() {
    refused(&[done(1, Op::One(Step::Contents), vec![Seen::Contradiction], 10, 20)]);
}

#[test]
fn a_pending_write_happened_or_not_but_not_both() {
    let write = pending(1, Op::One(Step::Insert(0, 7)), 10, u64::MAX);
    accepted(&[write.clone(), get(2, 0, None, 20, 30), get(2, 0, None, 40, 50)]);
    accepted(&[write.clone(), get(2, 0, None, 20, 30), get(2, 0, Some(7), 40, 50)]);
    refused(&[write.clone(), get(2, 0, Some(7), 20, 30), get(2, 0, None, 40, 50)]);
    // At most once.
    let over = insert(2, 0, 8, 20, 30);
    accepted(&[write.clone(), over.clone(), get(2, 0, Some(7), 40, 50)]);
    let (seven, eight) = (get(2, 0, Some(7), 11, 12), get(2, 0, Some(7), 40, 50));
    refused(&[write, seven, over, eight]);
}

#[test]
fn a_pending_write_takes_no_effect_before_its_call() {
    refused(&[
        get(2, 0, Some(7), 5, 9),
        pending(1, Op::One(Step::Insert(0, 7)), 10, u64::MAX),
    ]);
}

#[test]
fn a_pending_write_takes_no_effect_after_its_deadline() {
    let write = |deadline| pending(1, Op::One(Step::Insert(0, 7)), 10, deadline);
    let reads = [get(2, 0, None, 40, 50), get(2, 0, Some(7), 60, 70)];
    accepted(&[&[write(45)], &reads[..]].concat());
    refused(&[&[write(39)], &reads[..]].concat());
}

#[test]
fn a_pending_transaction_is_all_or_nothing() {
    let write = pending(1, both(7), 10, u64::MAX);
    accepted(&[write.clone(), snapshot(2, &[(0, 7), (1, 7)], 20, 30)]);
    accepted(&[write.clone(), snapshot(2, &[], 20, 30)]);
    refused(&[write, snapshot(2, &[(1, 7)], 20, 30)]);
}

#[test]
fn equal_times_say_nothing_about_the_order() {
    accepted(&[insert(1, 0, 7, 10, 20), get(2, 0, None, 20, 30)]);
    refused(&[insert(1, 0, 7, 10, 20), get(2, 0, None, 21, 30)]);
}

#[test]
fn only_histories_of_single_keys_are_split() {
    let single = [
        insert(1, 0, 7, 10, 20),
        get(2, 1, None, 15, 25),
        get(2, 0, Some(7), 30, 40),
    ];
    let parts = by_key(&Dict(vec![(1, 5), (0, 6)]), &single).unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!((&parts[0].0.0[..], parts[0].1.len()), (&[(0, 6)][..], 2));
    assert_eq!((&parts[1].0.0[..], parts[1].1.len()), (&[(1, 5)][..], 1));
    let len = done(3, Op::One(Step::Len), vec![Seen::Count(1)], 50, 60);
    assert!(by_key(&Dict::default(), &[&single[..], &[len]].concat()).is_none());
    // What splitting would miss: each key by itself is fine.
    refused(&[
        done(1, both(7), vec![Seen::Done; 2], 10, 90),
        get(2, 0, Some(7), 20, 30),
        get(2, 1, None, 40, 50),
    ]);
}

/// Whether some order of some of the pending and all of the other calls explains a history: tries all.
fn by_brute_force(state: &Dict, calls: &[DictCall], taken: &mut Vec<usize>) -> bool {
    let rest: Vec<usize> = (0..calls.len()).filter(|at| !taken.contains(at)).collect();
    if rest.iter().all(|at| calls[*at].seen.is_none()) {
        return true;
    }
    rest.iter().any(|at| {
        let call = &calls[*at];
        let early = rest.iter().any(|other| {
            let other = &calls[*other];
            other.seen.is_some() && other.ret < call.call
        });
        let late = call.seen.is_none() && taken.iter().any(|other| call.ret < calls[*other].call);
        let mut after = state.clone();
        let seen = after.apply(&call.op);
        if early || late || call.seen.as_ref().is_some_and(|recorded| *recorded != seen) {
            return false;
        }
        taken.push(*at);
        let explained = by_brute_force(&after, calls, taken);
        taken.pop();
        explained
    })
}

/// A history of three clients that may well be linearizable: what is shown is what some order would show, and then
/// perhaps something else.
fn random_history(random: &mut Random) -> Vec<DictCall> {
    let mut calls = Vec::new();
    for client in 0..3 {
        let mut time = random.below(6);
        for number in 0..1 + random.below(2) as u32 {
            let key = random.below(2) as Key;
            let id = 10 * client + number;
            let op = match random.below(8) {
                0 | 1 => Op::One(Step::Insert(key, id)),
                2 | 3 => Op::One(Step::Get(key)),
                4 => Op::One(Step::Contents),
                5 => Op::One(Step::Remove(key)),
                6 => both(id),
                _ => Op::One(Step::Len),
            };
            let call = time;
            time += 1 + random.below(8);
            calls.push(done(client, op, Vec::new(), call, time));
            time += 1 + random.below(3);
        }
    }
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        let wild = random.below(3) == 0;
        let instant = if wild {
            random.below(30)
        } else {
            call.call + random.below(call.ret - call.call + 1)
        };
        order.push((instant, at));
    }
    order.sort_unstable();
    let mut dict = Dict::default();
    for (_, at) in order {
        let without_effect = random.below(4) == 0;
        let mut after = dict.clone();
        calls[at].seen = Some(after.apply(&calls[at].op));
        if !without_effect {
            dict = after;
        }
        if random.below(5) == 0 {
            calls[at].seen = None;
            calls[at].ret = if random.below(2) == 0 {
                u64::MAX
            } else {
                calls[at].ret + random.below(9)
            };
        }
    }
    calls
}

#[test]
fn verdicts_are_those_of_trying_every_order() {
    let mut random = Random::new(2024);
    let (mut fine, mut wrong) = (0, 0);
    for _ in 0..20_000 {
        let calls = random_history(&mut random);
        let verdict = check(&Dict::default(), &calls);
        let expected = by_brute_force(&Dict::default(), &calls, &mut Vec::new());
        assert_eq!(verdict.order.is_some(), expected, "{calls:#?}");
        if let Some(order) = verdict.order {
            fine += 1;
            let mut dict = Dict::default();
            for at in order {
                let seen = dict.apply(&calls[at].op);
                assert!(calls[at].seen.as_ref().is_none_or(|recorded| *recorded == seen));
            }
        } else {
            wrong += 1;
        }
    }
    assert!(fine > 3_000 && wrong > 3_000, "{fine} linearizable, {wrong} not");
}
