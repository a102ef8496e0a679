//! Dumps: what is restored is what was dumped, in every format; and what is no dump is refused.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use support::{Served, end_servers, memory};
use zproc::{Dump, DumpFormat, Error, Key, MAX_NESTING, Map, Result, State, Value};

mod support;

/// A directory of its own, removed when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zproc-dump-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn keys() -> impl Strategy<Value = Key> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Key::from),
        any::<i128>().prop_map(Key::from),
        any::<u128>().prop_map(Key::from),
        any::<i8>().prop_map(Key::from),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Key::from),
    ];
    leaf.prop_recursive(4, 16, 4, |key| prop::collection::vec(key, 0..4).prop_map(Key::Tuple))
}

fn floats() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        prop::sample::select(vec![
            f64::NAN,
            -f64::NAN,
            -0.0,
            0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            5e-324,
            0.1
        ]),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i128>().prop_map(Value::from),
        any::<u128>().prop_map(Value::from),
        floats().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(6, 40, 6, |value| {
        let entries = prop::collection::vec((keys(), value.clone()), 0..5);
        prop_oneof![
            prop::collection::vec(value, 0..6).prop_map(Value::List),
            entries.prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

/// The entries in their order, with the stored bytes of each value.
fn stored(state: &State) -> Result<Vec<(Key, u16, Vec<u8>)>> {
    let entries = state.iter()?;
    let stored = entries.map(|(key, value)| {
        use zproc::ToValue;
        value.with_encoded(|encoded| (key, encoded.tag(), encoded.bytes().to_vec()))
    });
    Ok(stored.collect::<Result<_, _>>()?)
}

fn through_json(dump: &Dump) -> Dump {
    serde_json::from_str(&serde_json::to_string(dump).unwrap()).unwrap()
}

fn through_postcard(dump: &Dump) -> Dump {
    postcard::from_bytes(&postcard::to_stdvec(dump).unwrap()).unwrap()
}

fn through_cbor(dump: &Dump) -> Dump {
    let mut bytes = Vec::new();
    ciborium::into_writer(dump, &mut bytes).unwrap();
    ciborium::from_reader(&bytes[..]).unwrap()
}

/// By way of a value that any format could have made.
fn through_json_value(dump: &Dump) -> Dump {
    serde_json::from_value(serde_json::to_value(dump).unwrap()).unwrap()
}

const FORMATS: [fn(&Dump) -> Dump; 4] = [through_json, through_postcard, through_cbor, through_json_value];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_restored_is_what_was_dumped(entries in prop::collection::vec((keys(), values()), 0..12)) {
        let state = State::anonymous().served().unwrap();
        state.extend(entries).unwrap();
        let dump = state.snapshot().unwrap().dump().unwrap();
        let other = State::anonymous().served().unwrap();
        other.insert("in the way", 1).unwrap();
        for through in FORMATS {
            let again = through(&dump);
            prop_assert_eq!(&again, &dump);
            other.restore(&again).unwrap();
            prop_assert_eq!(stored(&other).unwrap(), stored(&state).unwrap());
        }
        drop((state, other));
        end_servers();
    }
}

#[test]
fn a_dump_says_where_it_is_from() -> Result<()> {
    let state = State::anonymous().served()?.fork().namespace("kitchen").open()?;
    state.extend([("b", 1), ("a", 2)])?;
    let before = std::time::SystemTime::now();
    let dump = through_json(&state.snapshot()?.dump()?);
    assert_eq!(
        (dump.namespace(), dump.seq(), dump.len(), dump.is_empty()),
        ("kitchen", 1, 2, false)
    );
    assert!(dump.time() >= before - std::time::Duration::from_micros(1) && dump.time() <= std::time::SystemTime::now());
    assert_eq!(dump.to_map()?.to_string(), r#"{"b": 1, "a": 2}"#);
    let entries: Vec<_> = dump.iter().rev().collect::<Result<_>>()?;
    assert_eq!(entries, [("a".into(), 2.into()), ("b".into(), 1.into())]);
    Ok(())
}

#[test]
fn restoring_is_one_update() -> Result<()> {
    let state = State::anonymous().served()?;
    state.extend([("a", 1), ("b", 2)])?;
    let dump = state.snapshot()?.dump()?;
    state.replace_all([("c", 3)])?;
    let watcher = state.clone();
    state.restore(&dump)?;
    let update = watcher.get_raw_update()?;
    assert_eq!((update.seq, update.changed.len()), (3, 3));
    assert_eq!(update.before, Map::from([("c", 3)]));
    assert_eq!(update.after, Map::from([("a", 1), ("b", 2)]));
    Ok(())
}

/// The form is written down, so that others can rely on it.
#[test]
fn json_looks_as_documented() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert(("user", 5), vec![Value::from(0.5), Value::None])?;
    state.insert(1u128 << 100, Value::Bytes(vec![0, 255]))?;
    state.insert("nan", f64::from_bits(0x7ff8_0000_0000_0001))?;
    state.insert("map", Map::from([("deep", true)]))?;
    let json: serde_json::Value = serde_json::to_value(state.snapshot()?.dump()?).unwrap();
    assert_eq!((&json["format"], &json["version"]), (&"zproc-dump".into(), &1.into()));
    let entries = serde_json::json!([
        [{"tuple": [{"str": "user"}, {"int": 5}]}, {"list": [{"float": "0.5"}, "none"]}],
        [{"big": (1u128 << 100).to_string()}, {"bytes": "00ff"}],
        [{"str": "nan"}, {"float": "nan:7ff8000000000001"}],
        [{"str": "map"}, {"map": [[{"str": "deep"}, {"bool": true}]]}],
    ]);
    assert_eq!(json["entries"], entries);
    Ok(())
}

#[test]
fn what_nests_as_deep_as_values_may_is_dumped_in_every_format() -> Result<()> {
    let mut list = Value::from("the end");
    let mut map = Value::from("the end");
    let mut key = Key::from("k");
    for _ in 0..MAX_NESTING {
        list = Value::List(vec![list]);
        map = Value::Map(Map::from([(key.clone(), map)]));
        if matches!(key, Key::Str(_)) {
            key = Key::from((key, 1));
        }
    }
    let mut deep_key = Key::from("k");
    for _ in 0..MAX_NESTING {
        deep_key = Key::Tuple(vec![deep_key]);
    }
    let state = State::anonymous().served()?;
    state.insert("list", &list)?;
    state.insert("map", &map)?;
    state.insert(&deep_key, 1)?;
    let dump = state.snapshot()?.dump()?;
    for through in FORMATS {
        assert_eq!(through(&dump), dump);
    }
    Ok(())
}

/// Other programs may store what this version does not know.
#[test]
fn values_of_unknown_kinds_are_kept_as_they_are() -> Result<()> {
    let state = State::anonymous().served()?;
    let arena = shm_state::Arena::from_fd(memory(&state))?;
    let namespace = arena.namespace("default")?;
    let key = shm_state::KeyRef::new(zproc::tag::key::STR, b"theirs");
    // A tag of theirs, and a list with an item of a kind that is reserved.
    namespace.put(&key, None, 300, b"\x01\x02", shm_state::Deadline::never())?;
    let list = shm_state::KeyRef::new(zproc::tag::key::STR, b"list");
    namespace.put(
        &list,
        None,
        zproc::tag::LIST,
        b"\xc8\x01\0\0\0x",
        shm_state::Deadline::never(),
    )?;
    state.insert("mine", 1)?;
    let dump = state.snapshot()?.dump()?;
    let other = State::anonymous().served()?;
    for through in FORMATS {
        let again = through(&dump);
        assert_eq!(again, dump);
        other.restore(&again)?;
    }
    let theirs = shm_state::Arena::from_fd(memory(&other))?.namespace("default")?;
    let value = theirs.get(&key)?.unwrap();
    assert_eq!((value.tag(), value.bytes()), (300, &b"\x01\x02"[..]));
    assert!(dump.iter().next().unwrap().is_err(), "it cannot be read as a value");
    Ok(())
}

#[test]
fn a_file_is_loaded_whatever_its_format_and_name() -> Result<()> {
    let directory = Directory::new("formats");
    let state = State::anonymous().served()?;
    state.extend([("a", Value::from(1)), ("b", Value::from(f64::NAN))])?;
    let dump = state.snapshot()?.dump()?;
    for (name, format) in [
        ("x.json", DumpFormat::Binary),
        ("x.bin", DumpFormat::Json),
        ("none", DumpFormat::Json),
    ] {
        dump.save_as(directory.file(name), format)?;
        assert_eq!(Dump::load(directory.file(name))?, dump);
    }
    state.save(directory.file("y.json"))?;
    state.snapshot()?.save(directory.file("y"))?;
    assert!(
        fs::read(directory.file("y.json"))
            .unwrap()
            .starts_with(b"{\"format\":\"zproc-dump\",\"version\":1,")
    );
    assert!(fs::read(directory.file("y")).unwrap().starts_with(b"zprocdmp"));
    let other = State::anonymous().served()?;
    for name in ["y.json", "y"] {
        other.clear()?;
        other.load(directory.file(name))?;
        assert_eq!(stored(&other)?, stored(&state)?);
    }
    assert_eq!(
        directory.names(),
        ["none", "x.bin", "x.json", "y", "y.json"],
        "nothing else is left"
    );
    Ok(())
}

#[test]
fn saving_replaces_the_file_and_keeps_links_and_permissions() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = Directory::new("replace");
    let (file, link) = (directory.file("state.json"), directory.file("link.json"));
    let state = State::anonymous().served()?;
    state.save(&file)?;
    assert_eq!(mode(&file), 0o600, "for nobody else");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    state.insert("a", 1)?;
    state.save(&link)?;
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!((mode(&file), Dump::load(&file)?.len()), (0o640, 1));
    assert_eq!(directory.names(), ["link.json", "state.json"]);
    Ok(())
}

#[test]
fn what_cannot_be_written_or_read_is_an_error_that_names_the_file() -> Result<()> {
    let directory = Directory::new("errors");
    let state = State::anonymous().served()?;
    let missing = directory.file("no/such/directory/a.json");
    for result in [state.save(&missing), state.load(&missing)] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::File { .. }) && error.to_string().contains("no/such/directory"),
            "{error}"
        );
    }
    for no_file in [&directory.0, Path::new("/dev/zero")] {
        let error = state.load(no_file).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
    // The target is a directory: what was written beside it goes.
    fs::create_dir(directory.file("taken")).unwrap();
    assert!(matches!(state.save(directory.file("taken")), Err(Error::File { .. })));
    assert_eq!(directory.names(), ["taken"]);
    Ok(())
}

/// Loading waited for whoever would write to the pipe, for ever; and saving put a file in its place, as it would have done
/// with a device.
#[test]
fn a_pipe_is_neither_waited_for_nor_replaced() -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let directory = Directory::new("pipe");
    let pipe = directory.file("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let path = pipe.clone();
    std::thread::spawn(move || send.send(Dump::load(path)));
    let loaded = receive
        .recv_timeout(std::time::Duration::from_secs(10))
        .expect("an answer");
    assert!(matches!(loaded, Err(Error::File { .. })), "{loaded:?}");
    let saved = State::anonymous().served()?.save(&pipe);
    assert!(matches!(saved, Err(Error::File { .. })), "{saved:?}");
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(directory.names(), ["pipe"]);
    Ok(())
}

fn dump_of_a_few() -> Dump {
    let state = State::anonymous().served().unwrap();
    state
        .insert(("user", -7), vec![Value::from(0.5), Value::None, Value::from(true)])
        .unwrap();
    state
        .insert("text", Map::from([("naïve", Value::Bytes(vec![1, 2, 254]))]))
        .unwrap();
    state.insert(1u128 << 127, i128::MIN).unwrap();
    state.snapshot().unwrap().dump().unwrap()
}

#[test]
fn a_damaged_file_is_refused_whichever_bit_is_wrong() {
    let directory = Directory::new("damaged");
    let (file, dump) = (directory.file("dump"), dump_of_a_few());
    for format in [DumpFormat::Json, DumpFormat::Binary] {
        dump.save_as(&file, format).unwrap();
        let bytes = fs::read(&file).unwrap();
        let (mut refused, mut same) = (0, 0);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, damaged).unwrap();
            match Dump::load(&file) {
                Err(Error::Dump { reason }) => {
                    assert!(reason.contains(file.to_str().unwrap()), "{reason}");
                    refused += 1;
                }
                // For example a digit above 9 that is now a capital.
                Ok(loaded) if loaded == dump => same += 1,
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        assert!(refused > 20 * same, "{format:?}: {refused} refused, {same} the same");
        for len in 0..bytes.len() {
            fs::write(&file, &bytes[..len]).unwrap();
            match Dump::load(&file) {
                Err(Error::Dump { .. }) => {}
                // But for the end of the line.
                Ok(loaded) => assert!(loaded == dump && len + 1 == bytes.len()),
                Err(error) => panic!("{error}"),
            }
        }
        fs::write(&file, [&bytes[..], b"\0"].concat()).unwrap();
        assert!(
            matches!(Dump::load(&file), Err(Error::Dump { .. })),
            "something follows"
        );
    }
}

#[track_caller]
fn refused(file: &Path, bytes: impl AsRef<[u8]>) -> String {
    fs::write(file, bytes).unwrap();
    let error = Dump::load(file).unwrap_err();
    assert!(matches!(error, Error::Dump { .. }), "{error}");
    error.to_string()
}

#[test]
fn foreign_files_and_later_versions_are_refused_with_the_reason() {
    let directory = Directory::new("foreign");
    let file = directory.file("a");
    for bytes in [&b""[..], b"PK\x03\x04", b"[1, 2]", &[0; 100]] {
        assert!(refused(&file, bytes).contains("begins as no dump does"));
    }
    assert!(refused(&file, "{\"name\": \"zproc\"}").contains("missing field `format`"));
    assert!(refused(&file, "{\"format\": \"tar\"}").contains("its format is \"tar\""));
    // A later version may have anything behind its number.
    let later = "{\"format\": \"zproc-dump\", \"version\": 2, \"entries\": \"elsewhere\"}";
    assert!(refused(&file, later).contains("it is of version 2, and this program knows versions up to 1"));
    let later = [
        &b"zprocdmp"[..],
        &postcard::to_stdvec(&("zproc-dump", 9u32, [0xffu8; 20])).unwrap(),
    ]
    .concat();
    // The binary format's own messages are short.
    refused(&file, later);
}

#[test]
fn a_dump_written_by_hand_needs_no_checksum_and_an_edited_one_a_right_one() -> Result<()> {
    let directory = Directory::new("edited");
    let file = directory.file("a.json");
    let by_hand = r#"{
        "format": "zproc-dump", "version": 1, "namespace": "kitchen", "seq": 0, "time_ns": 0,
        "entries": [[{"str": "cookies"}, {"int": 5}], [{"str": "oven"}, {"map": [[{"str": "on"}, {"bool": true}]]}]]
    }"#;
    fs::write(&file, by_hand).unwrap();
    let state = State::anonymous().served()?;
    state.load(&file)?;
    assert_eq!(state.to_map()?.to_string(), r#"{"cookies": 5, "oven": {"on": True}}"#);
    state.save(&file)?;
    let edited = fs::read_to_string(&file).unwrap().replace("{\"int\":5}", "{\"int\":6}");
    assert!(refused(&file, edited).contains("take the checksum out"));

    let twice = by_hand.replace("oven", "cookies");
    fs::write(&file, twice).unwrap();
    let error = state.load(&file).unwrap_err();
    assert!(
        matches!(error, Error::Dump { .. }) && error.to_string().contains("\"cookies\" twice"),
        "{error}"
    );
    assert_eq!(state.len()?, 2, "nothing has happened");
    Ok(())
}

/// Lengths that a file claims are not believed: memory is taken as the contents come.
#[test]
fn claimed_lengths_take_no_memory() {
    let directory = Directory::new("lengths");
    let file = directory.file("a");
    let head = postcard::to_stdvec(&("zproc-dump", 1u32, "ns", 0u64, 0u64)).unwrap();
    let most = postcard::to_stdvec(&(u64::MAX >> 1)).unwrap();
    // Of entries; of the text of a key; of bytes, of a list, of a map in a value.
    refused(&file, [b"zprocdmp", &head[..], &most].concat());
    refused(&file, [b"zprocdmp", &head[..], &[1, 5], &most].concat());
    for kind in [5, 6, 7, 8] {
        refused(&file, [b"zprocdmp", &head[..], &[1, 2, 0, kind], &most].concat());
    }
    // Lists in lists without an end.
    let deep: Vec<u8> = [7u8, 1].into_iter().cycle().take(1 << 20).collect();
    refused(&file, [b"zprocdmp", &head[..], &[1, 2, 0], &deep].concat());
    let deep = format!(
        "{{\"format\":\"zproc-dump\",\"version\":1,\"namespace\":\"\",\"seq\":0,\"time_ns\":0,\"entries\":[[{{\"int\":1}},{}",
        "{\"list\":[".repeat(100_000)
    );
    refused(&file, deep);
}

#[test]
fn a_state_that_is_too_small_stays_as_it_was() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("large", vec![1u8; 3 << 20])?;
    let dump = state.snapshot()?.dump()?;
    let small = zproc::Builder::anonymous().capacity(1 << 20).create().served()?;
    small.insert("a", 1)?;
    assert!(matches!(small.restore(&dump), Err(Error::Full { .. })));
    assert_eq!(small.snapshot()?, Map::from([("a", 1)]));
    Ok(())
}
