//! Values of rkyv types: they come back as they were, another type than the one asked for is told by name, and programs
//! that know nothing of the type list, compare and copy them all the same.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::process::{Board, Kid, Role};
use proptest::prelude::*;
use rkyv::{Archive, Deserialize, Serialize};
use shm_state::Arena;
use zproc::{Builder, DecodeError, Error, Map, OwnedArchive, Result, Rkyv, State, ToValue, Value, archived, tag};

#[path = "../../shm-state/tests/common/mod.rs"]
mod common;
mod support;
use support::Served;

/// Tells a child the address of the state, if that has one.
const ADDRESS: &str = "ZPROC_TEST_ADDRESS";

#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
struct Pose {
    position: [f64; 3],
    rotation: [f64; 4],
    frame: u32,
    valid: bool,
}
archived!(Pose as "robot.Pose");

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Step {
    Wait,
    Turn(f32),
    Go { to: [i16; 2], name: Option<String> },
}

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Plan {
    name: String,
    steps: Vec<Step>,
    tags: BTreeMap<u8, Vec<u16>>,
}
archived!(Plan as "robot.Plan", version 7);

/// Without a name of its own.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Empty;
archived!(Empty);

const POSE: Pose = Pose {
    position: [1.0, -2.0, 3.5],
    rotation: [0.0, 0.0, 0.0, 1.0],
    frame: 7,
    valid: true,
};

fn plan() -> Plan {
    Plan {
        name: "to the kitchen".into(),
        steps: vec![
            Step::Wait,
            Step::Turn(0.5),
            Step::Go {
                to: [3, -4],
                name: Some("the kitchen, by way of the hall".into()),
            },
        ],
        tags: BTreeMap::from([(1, vec![2, 3]), (4, vec![])]),
    }
}

#[test]
fn values_come_back_however_they_are_read() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("pose", POSE)?;
    state.insert("plan", plan())?;
    state.insert("empty", Empty)?;
    state.insert("list", vec![plan(), plan()])?;
    state.insert("pair", (POSE, Some(plan())))?;
    let snapshot = state.snapshot()?;
    for _ in 0..3 {
        assert_eq!(state.get("pose")?, Some(POSE));
        assert_eq!(state.get("plan")?, Some(plan()));
        assert_eq!(state.get("empty")?, Some(Empty));
        assert_eq!(state.get("list")?, Some(vec![plan(), plan()]));
        assert_eq!(state.get("pair")?, Some((POSE, Some(plan()))));
        assert_eq!(snapshot.get("pose")?, Some(POSE));
        assert_eq!(snapshot.get("plan")?, Some(plan()));
        assert_eq!(state.handle("plan")?.get()?, Some(plan()));
    }
    state.atomic(|dict| {
        assert_eq!(dict.get("pose")?, Some(POSE));
        dict.modify("pose", |pose: Pose| Pose { frame: 8, ..pose })?;
        dict.modify("plan", |mut plan: Plan| {
            plan.steps.clear();
            plan
        })
    })?;
    assert_eq!(state.get::<Pose>("pose")?.map(|pose| pose.frame), Some(8));
    assert_eq!(state.take::<Plan>("plan")?.map(|plan| plan.steps.len()), Some(0));
    assert_eq!(snapshot.get("pose")?, Some(POSE), "a snapshot is not changed");
    Ok(())
}

#[test]
fn an_update_to_the_same_value_is_identical() -> Result<()> {
    let state = State::anonymous().served()?;
    let watcher = state.clone();
    state.insert("plan", plan())?;
    watcher.go_live()?;
    state.insert("plan", plan())?;
    let none = watcher.watch().timeout(Duration::ZERO).get_when_change(["plan"]);
    assert!(matches!(none, Err(Error::Timeout)));
    state.insert(
        "plan",
        Plan {
            name: "away".into(),
            ..plan()
        },
    )?;
    assert!(
        watcher
            .get_when_equal(
                "plan",
                Plan {
                    name: "away".into(),
                    ..plan()
                }
            )
            .is_ok()
    );
    Ok(())
}

#[test]
fn the_wrong_type_is_told_with_both_names() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("pose", POSE)?;
    state.insert("number", 5)?;
    let told = |result: Result<()>, expected: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{error:?}");
        assert!(error.to_string().ends_with(expected), "{error}");
    };
    let (snapshot, handle) = (state.snapshot()?, state.handle::<i64>("pose")?);
    told(
        state.get::<Pose>("number").map(drop),
        "expected robot.Pose, found int 5",
    );
    told(
        state.get::<i64>("pose").map(drop),
        "expected i64, found robot.Pose (rkyv)",
    );
    told(handle.get().map(drop), "expected i64, found robot.Pose (rkyv)");
    told(
        state.get::<Plan>("pose").map(drop),
        "expected robot.Plan, found robot.Pose (rkyv)",
    );
    told(
        snapshot.get::<Plan>("pose").map(drop),
        "expected robot.Plan, found robot.Pose (rkyv)",
    );
    told(
        snapshot.view::<Plan>("pose").map(drop),
        "expected robot.Plan, found robot.Pose (rkyv)",
    );
    told(
        snapshot.view::<Pose>("number").map(drop),
        "expected robot.Pose, found int 5",
    );
    told(
        snapshot.view::<str>("pose").map(drop),
        "expected str, found robot.Pose (rkyv)",
    );
    told(snapshot.view::<[u8]>("number").map(drop), "expected bytes, found int 5");
    told(
        state.get::<Map>("pose").map(drop),
        "expected map, found robot.Pose (rkyv)",
    );
    told(
        state.get::<Empty>("pose").map(drop),
        concat!("expected ", module_path!(), "::Empty, found robot.Pose (rkyv)"),
    );
    Ok(())
}

#[test]
fn another_version_or_layout_of_a_type_is_told() -> Result<()> {
    mod newer {
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug)]
        pub struct Plan(pub u8);
        zproc::archived!(Plan as "robot.Plan", version 8);

        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug)]
        pub struct Pose(pub u8);
        zproc::archived!(Pose as "robot.Pose");
    }
    let state = State::anonymous().served()?;
    state.insert("plan", plan())?;
    state.insert("pose", POSE)?;
    let snapshot = state.snapshot()?;
    for result in [
        state.get::<newer::Plan>("plan").map(drop),
        state.get::<newer::Pose>("pose").map(drop),
        snapshot.view::<newer::Plan>("plan").map(drop),
    ] {
        let error = result.unwrap_err();
        let Error::WrongType { source, .. } = &error else {
            panic!("{error}")
        };
        let DecodeError::WrongVersion { name, expected, found } = source else {
            panic!("{error}")
        };
        assert!(
            error
                .to_string()
                .contains(&format!("another version or layout of {name}")),
            "{error}"
        );
        assert_ne!(expected, found);
    }
    Ok(())
}

#[test]
fn types_of_others_are_stored_under_the_name_that_the_compiler_gives() -> Result<()> {
    let state = State::anonymous().served()?;
    let ages = HashMap::from([("ann".to_string(), 41u8), ("bob".to_string(), 37)]);
    state.insert("ages", Rkyv(ages.clone()))?;
    state.insert("matrix", Rkyv([[1.5f64; 4]; 4]))?;
    assert_eq!(state.get::<Rkyv<HashMap<String, u8>>>("ages")?, Some(Rkyv(ages)));
    assert_eq!(state.get("matrix")?, Some(Rkyv([[1.5f64; 4]; 4])));
    let error = state.get::<Rkyv<HashMap<String, u16>>>("ages").unwrap_err().to_string();
    assert!(
        error.contains("HashMap") && error.contains("u16") && error.contains("u8"),
        "{error}"
    );
    let snapshot = state.snapshot()?;
    let shown = snapshot
        .view::<Rkyv<HashMap<String, u8>>>("ages")?
        .expect("it is there");
    assert_eq!(shown.get("bob"), Some(&37));
    Ok(())
}

/// What a program that knows none of the types does with them.
fn copy_without_knowing(state: &State) -> Result<()> {
    let map = state.to_map()?;
    assert_eq!(map.get("pose").map(Value::kind), Some("rkyv"));
    let shown = map.get("pose").map(ToString::to_string);
    assert_eq!(shown.as_deref(), Some("<robot.Pose, 64 bytes>"));
    assert!(format!("{map:?}").contains("robot.Plan"));
    let Some(Value::Archived(plan)) = map.get("plan") else {
        panic!("no archive: {map}")
    };
    assert_eq!(plan.name(), "robot.Plan");
    for entry in state.iter()? {
        state.insert(("copy", entry.0), &entry.1)?;
    }
    assert_eq!(state.get::<OwnedArchive>(("copy", "plan"))?.as_ref(), Some(plan));
    assert!(state.snapshot()? != map);
    state.replace_all(&state.to_map()?)?;
    state.insert("list", Value::from_iter([plan.clone(), plan.clone()]))?;
    state.insert("seen", true)
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let state = match std::env::var(ADDRESS) {
        Ok(address) => State::open(&address),
        Err(_) => State::from_fd(role.arena_fd()),
    };
    let state = state.unwrap();
    copy_without_knowing(&state).unwrap();
}

#[test]
fn another_process_copies_values_whose_types_it_lacks() -> Result<()> {
    let state = Builder::anonymous().capacity(4 << 20).create().served()?;
    state.insert("pose", POSE)?;
    state.insert("plan", plan())?;
    let arena = Arena::from_fd(support::memory(&state))?;
    let board = Board::new();
    let mut copier = Kid::command("copier", 0, Some(&arena), &board);
    // In the run over sockets `child` is in the module of this file.
    copier.arg("rkyv_values::child");
    if let Some(address) = state.address() {
        copier.env(ADDRESS, address);
    }
    Kid::spawn(&mut copier).succeeds();
    assert_eq!(state.get::<bool>("seen")?, Some(true));
    assert_eq!(state.get(("copy", "pose"))?, Some(POSE));
    assert_eq!(state.get(("copy", "plan"))?, Some(plan()));
    assert_eq!(state.get("list")?, Some(vec![plan(), plan()]));
    let snapshot = state.snapshot()?;
    assert_eq!(snapshot, snapshot.to_map()?);
    let shown = snapshot.view::<Plan>(("copy", "plan"))?.expect("it is there");
    assert_eq!(shown.name, "to the kitchen");
    assert!(support::is_clean(&state));
    Ok(())
}

#[test]
fn the_bytes_are_the_documented_ones() {
    let (tag, bytes) = POSE
        .with_encoded(|encoded| (encoded.tag(), encoded.bytes().to_vec()))
        .unwrap();
    assert_eq!(tag, tag::ARCHIVED);
    assert_eq!(bytes.len(), 16 + 64 + 10);
    assert_eq!(bytes[..8], <Pose as zproc::ArchivedValue>::FINGERPRINT.to_le_bytes());
    assert_eq!(bytes[8..16], [64, 0, 0, 0, 10, 0, 0, 0]);
    assert_eq!(bytes[16..24], 1.0f64.to_le_bytes());
    assert_eq!(&bytes[80..], b"robot.Pose");
    // A change of these numbers makes all programs that were built before refuse the values.
    assert_eq!(<Pose as zproc::ArchivedValue>::FINGERPRINT, POSE_FINGERPRINT);
}

const POSE_FINGERPRINT: u64 = 3_479_541_510_642_908_254;

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Wait),
        any::<i32>().prop_map(|n| Step::Turn(n as f32)),
        (any::<[i16; 2]>(), any::<Option<String>>()).prop_map(|(to, name)| Step::Go { to, name }),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let tags = prop::collection::btree_map(any::<u8>(), any::<Vec<u16>>(), 0..4);
    (any::<String>(), prop::collection::vec(steps(), 0..20), tags).prop_map(|(name, steps, tags)| Plan {
        name,
        steps,
        tags,
    })
}

thread_local! {
    static STATE: State = State::anonymous().served().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_archived_is_read(plan in plans()) {
        STATE.with(|state| {
            state.insert("plan", &plan).unwrap();
            state.insert("list", (1, &plan)).unwrap();
            let snapshot = state.snapshot().unwrap();
            prop_assert_eq!(state.get::<Plan>("plan").unwrap(), Some(plan.clone()));
            prop_assert_eq!(snapshot.get::<(u8, Plan)>("list").unwrap(), Some((1, plan.clone())));
            let value = Value::of(&plan).unwrap();
            prop_assert_eq!(state.get::<Value>("plan").unwrap(), Some(value.clone()));
            prop_assert_eq!(value.to::<Plan>().unwrap(), plan.clone());
            for _ in 0..2 {
                let view = snapshot.view::<Plan>("plan").unwrap().unwrap();
                prop_assert_eq!(&view.name, &plan.name);
                prop_assert_eq!(view.steps.len(), plan.steps.len());
            }
            Ok(())
        })?;
    }

    /// Whatever bytes stand under the tag, reading them returns; and what can be read as a value at all is in its one form.
    #[test]
    fn garbage_is_an_error_or_a_value(
        plan in plans(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = plan.with_encoded(|encoded| encoded.bytes().to_vec()).unwrap();
        for (at, to) in blows {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let encoded = zproc::Encoded::new(tag::ARCHIVED, &bytes);
        for result in [
            encoded.get::<Plan>().map(drop),
            encoded.get::<Pose>().map(drop),
            encoded.get::<Rkyv<Vec<String>>>().map(drop),
            encoded.get::<i64>().map(drop),
        ] {
            prop_assert!(result.is_ok() || !result.unwrap_err().to_string().is_empty());
        }
        if let Ok(value) = encoded.get::<Value>() {
            let again = value.with_encoded(|again| again.bytes().to_vec()).unwrap();
            prop_assert_eq!(again, bytes);
        }
    }
}
