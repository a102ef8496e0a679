//! Random operations against a map of this process that keeps insertion order.

use indexmap::IndexMap;
use proptest::collection::vec;
use proptest::prelude::*;
use zproc::{Builder, Error, Key, Map, State, Transaction, Value};

mod support;
use support::Served;

type Model = IndexMap<Key, Value>;

#[derive(Clone, Debug)]
enum Op {
    Insert(Key, Value),
    Remove(Key),
    PopItem,
    GetOrInsert(Key, Value),
    Extend(Vec<(Key, Value)>),
    ReplaceAll(Vec<(Key, Value)>),
    Clear,
    /// What to do in one transaction, and whether it fails at the end.
    Atomic(Vec<Op>, bool),
}

fn keys() -> impl Strategy<Value = Key> {
    prop_oneof![
        (0..12).prop_map(Key::from),
        "[a-d]{0,2}".prop_map(Key::from),
        ("[ab]", 0..3).prop_map(Key::from),
        vec(0..2u8, 20..30).prop_map(Key::from),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u128>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| Value::from(f64::from_bits(bits))),
        ".{0,20}".prop_map(Value::from),
        vec(any::<u8>(), 0..400).prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            vec((keys(), inner), 0..4).prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

fn simple_ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (keys(), values()).prop_map(|(key, value)| Op::Insert(key, value)),
        4 => keys().prop_map(Op::Remove),
        2 => Just(Op::PopItem),
        2 => (keys(), values()).prop_map(|(key, value)| Op::GetOrInsert(key, value)),
        2 => vec((keys(), values()), 0..12).prop_map(Op::Extend),
        1 => vec((keys(), values()), 0..6).prop_map(Op::ReplaceAll),
        1 => Just(Op::Clear),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => simple_ops(),
        1 => (vec(simple_ops(), 0..10), any::<bool>()).prop_map(|(ops, fails)| Op::Atomic(ops, fails)),
    ]
}

/// Does `op` to the model; returns what the operation returns, as far as it returns anything.
fn apply(model: &mut Model, op: &Op) -> Value {
    match op {
        Op::Insert(key, value) => {
            model.insert(key.clone(), value.clone());
        }
        Op::Remove(key) => return model.shift_remove(key).into(),
        Op::PopItem => return item(model.pop()),
        Op::GetOrInsert(key, value) => return model.entry(key.clone()).or_insert(value.clone()).clone(),
        Op::Extend(entries) => model.extend(entries.clone()),
        Op::ReplaceAll(entries) => {
            model.clear();
            model.extend(entries.clone());
        }
        Op::Clear => model.clear(),
        Op::Atomic(ops, fails) => {
            let mut changed = model.clone();
            let results = ops.iter().map(|op| apply(&mut changed, op)).collect();
            if *fails {
                return Value::None;
            }
            *model = changed;
            return Value::List(results);
        }
    }
    Value::None
}

fn item(entry: Option<(Key, Value)>) -> Value {
    entry.map(|(key, value)| Value::List(vec![key.into(), value])).into()
}

/// The operations by the same names, of a state and of a transaction.
macro_rules! perform {
    ($dict:expr, $op:expr) => {
        match $op {
            Op::Insert(key, value) => $dict.insert(key, value).map(|()| Value::None),
            Op::Remove(key) => $dict.remove(key).map(Value::from),
            Op::PopItem => $dict.pop_item().map(item),
            Op::GetOrInsert(key, value) => $dict.get_or_insert(key, value.clone()),
            Op::Extend(entries) => $dict.extend(entries.iter().cloned()).map(|()| Value::None),
            Op::ReplaceAll(entries) => $dict.replace_all(entries.iter().cloned()).map(|()| Value::None),
            Op::Clear => $dict.clear().map(|()| Value::None),
            Op::Atomic(..) => unreachable!("transactions do not nest"),
        }
    };
}

fn perform(state: &State, op: &Op) -> Value {
    let Op::Atomic(ops, fails) = op else {
        return perform!(state, op).unwrap();
    };
    let result = state.atomic(|dict: &mut Transaction<'_>| {
        let mut model: Model = dict.iter()?.collect();
        let mut results = Vec::new();
        for op in ops {
            results.push(perform!(dict, op)?);
            apply(&mut model, op);
            assert!(
                dict.iter()?.eq(model.clone()),
                "inside of the transaction, after {op:?}"
            );
            assert_eq!(dict.len(), model.len());
        }
        if *fails {
            Err(Error::other("on purpose"))
        } else {
            Ok(Value::List(results))
        }
    });
    match result {
        Err(Error::Custom(_)) if *fails => Value::None,
        result => result.unwrap(),
    }
}

fn assert_same(state: &State, model: &Model) {
    assert!(
        state.iter().unwrap().eq(model.clone()),
        "{:?} is not {model:?}",
        state.to_map()
    );
    assert!(state.keys().unwrap().eq(model.keys().cloned()));
    assert!(state.values().unwrap().eq(model.values().cloned()));
    assert_eq!(state.len().unwrap(), model.len());
    for (key, value) in model {
        assert_eq!(state.get::<Value>(key).unwrap().as_ref(), Some(value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_state_does_what_an_ordered_map_does(
        ops in vec((ops(), any::<bool>(), any::<bool>()), 0..60),
        history in 1..20u32,
        probe in keys(),
    ) {
        let first = Builder::anonymous().capacity(8 << 20).history(history, 1 << 20).create().served().unwrap();
        let second = first.clone();
        let handle = second.handle::<Value>(&probe).unwrap();
        let mut model = Model::new();
        let mut held = Vec::new();
        for (op, use_first, keep) in &ops {
            let state = if *use_first { &first } else { &second };
            prop_assert_eq!(perform(state, op), apply(&mut model, op), "{:?}", op);
            assert_same(state, &model);
            prop_assert_eq!(first.contains_key(&probe).unwrap(), model.contains_key(&probe));
            prop_assert_eq!(handle.get().unwrap(), model.get(&probe).cloned());
            if *keep {
                held.push((first.snapshot().unwrap(), model.clone()));
            }
        }
        for (snapshot, model) in &held {
            let entries: Result<Vec<_>, Error> = snapshot.iter().collect();
            prop_assert!(entries.unwrap().into_iter().eq(model.clone()));
            prop_assert_eq!(snapshot.len().unwrap(), model.len());
            let map: Map = model.clone().into_iter().collect();
            prop_assert!(*snapshot == map);
        }
        drop(held);
        let problems = support::problems(&first);
        prop_assert!(problems.is_empty(), "{:?}", problems);
        drop(handle);
        drop((first, second));
        support::end_servers();
    }
}
