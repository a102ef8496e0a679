//! The dict against a model: random operations in transactions, some aborted, with snapshots held across them.

use indexmap::IndexMap;
use proptest::prelude::*;
use shm_state::{Arena, ArenaOptions, Deadline, History, Key, KeyRef, Namespace, Payload};

type Model = IndexMap<Key, (u16, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u16, usize),
    Remove(u8),
    PopLast,
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any::<u8>(), 0..4u16, prop_oneof![8 => 0..40usize, 2 => 40..5000usize, 1 => 5000..200_000usize])
            .prop_map(|(k, t, l)| Op::Put(k, t, l)),
        6 => any::<u8>().prop_map(Op::Remove),
        2 => Just(Op::PopLast),
        1 => Just(Op::Clear),
    ]
}

fn transactions() -> impl Strategy<Value = Vec<(Vec<Op>, bool)>> {
    prop::collection::vec((prop::collection::vec(op(), 1..20), prop::bool::weighted(0.8)), 1..60)
}

fn key_bytes(key: u8) -> Vec<u8> {
    // Some keys are longer than an entry's first line.
    vec![key; 1 + usize::from(key) % 70]
}

fn contents(pairs: impl IntoIterator<Item = (Key, Payload)>) -> Vec<(Key, u16, Vec<u8>)> {
    pairs
        .into_iter()
        .map(|(k, p)| (k, p.tag(), p.bytes().to_vec()))
        .collect()
}

fn expected(model: &Model) -> Vec<(Key, u16, Vec<u8>)> {
    model.iter().map(|(k, (t, b))| (k.clone(), *t, b.clone())).collect()
}

fn check(namespace: &Namespace, model: &Model) {
    let pinned = namespace.pin().unwrap();
    let pairs: Vec<_> = pinned.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(contents(pairs), expected(model));
    assert_eq!(pinned.len().unwrap(), model.len());
    assert_eq!(namespace.len().unwrap(), model.len());
    for key in 0..=255u8 {
        let bytes = key_bytes(key);
        let key = KeyRef::new(key % 3, &bytes);
        let found = namespace.get(&key).unwrap().map(|p| (p.tag(), p.into_bytes()));
        assert_eq!(found, model.get(&key.to_owned()).cloned());
    }
}

fn run(arena: &Arena, transactions: &[(Vec<Op>, bool)]) {
    let namespace = arena.namespace("model").unwrap();
    let mut model = Model::new();
    let mut held: Vec<(shm_state::Pinned<'_>, Model)> = Vec::new();
    for (number, (ops, commit)) in transactions.iter().enumerate() {
        let before = model.clone();
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        for op in ops {
            apply(&mut tx, &mut model, op, number);
            assert_eq!(tx.len(), model.len());
        }
        assert_eq!(
            contents(tx.entries().unwrap()),
            expected(&model),
            "what the transaction sees"
        );
        if *commit {
            tx.commit().unwrap();
        } else {
            drop(tx);
            model = before;
        }
        if number % 7 == 3 {
            held.push((namespace.pin().unwrap(), model.clone()));
        }
        if number % 19 == 18 {
            held.remove(0);
        }
        for (pinned, model) in &held {
            let pairs: Vec<_> = pinned.iter().unwrap().map(Result::unwrap).collect();
            assert_eq!(contents(pairs), expected(model), "a held snapshot does not change");
            assert_eq!(pinned.len().unwrap(), model.len());
        }
    }
    check(&namespace, &model);
    drop(held);
    let report = arena.verify().unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
    assert_eq!(report.keys, model.len() as u64);
}

fn apply(tx: &mut shm_state::Transaction<'_>, model: &mut Model, op: &Op, number: usize) {
    match op {
        Op::Put(key, tag, len) => {
            let bytes = key_bytes(*key);
            let key = KeyRef::new(key % 3, &bytes);
            let value = vec![number as u8; *len];
            let was = tx.put(&key, *tag, &value).unwrap();
            assert_eq!(was, model.insert(key.to_owned(), (*tag, value)).is_some());
        }
        Op::Remove(key) => {
            let bytes = key_bytes(*key);
            let key = KeyRef::new(key % 3, &bytes);
            assert_eq!(tx.remove(&key).unwrap(), model.shift_remove(&key.to_owned()).is_some());
        }
        Op::PopLast => {
            let popped = tx.pop_last().unwrap().map(|(k, p)| (k, (p.tag(), p.into_bytes())));
            assert_eq!(popped, model.pop());
        }
        Op::Clear => {
            tx.clear().unwrap();
            model.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_dict_equals_the_model(transactions in transactions()) {
        run(&Arena::anonymous(&ArenaOptions::default()).unwrap(), &transactions);
    }

    #[test]
    fn the_dict_equals_the_model_with_hardly_any_history(transactions in transactions()) {
        let history = History { count: 1, bytes: 0 };
        run(&Arena::anonymous(&ArenaOptions { history, ..ArenaOptions::default() }).unwrap(), &transactions);
    }
}
