//! Memory that is there before it is touched: page faults are counted, by the kernel, in processes that never touched
//! what others wrote.

mod common;
mod limit;

use common::process::{Board, Kid, Role};
use common::{Name, assert_clean, eventually, is_sanitized, key};
use limit::sandbox::{self, own_shm, set_limit, skipped};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History, Namespace, Residency};

const MIB: u64 = 1 << 20;
/// Keys, each with an entry and a version of a line: some 250 pages, and as many for index and array.
const KEYS: usize = 8000;

const RESIDENT: Residency = Residency {
    prefault: Some(0),
    lock: false,
};
const LOCKED: Residency = Residency {
    prefault: None,
    lock: true,
};

fn options(capacity: u64) -> ArenaOptions {
    let history = History { count: 8, bytes: MIB };
    ArenaOptions {
        capacity,
        history,
        ..ArenaOptions::default()
    }
}

/// Plays a role in a process of its own, which must end by itself and with success.
fn alone(role: &str, number: u64, arena: Option<&Arena>) {
    Kid::start(role, number, arena, &Board::new()).succeeds();
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "fill" => fill(&role.arena().namespace("n").unwrap(), role.number as usize),
        "untouched" => touch_what_another_process_wrote(&role),
        "growing" => see_others_and_oneself_add_memory(&role),
        "2 MiB" => in_two_mib(),
        "locked" => with_little_memory_to_lock(),
        "all locked" => where_all_memory_is_locked(),
        other => panic!("no role {other}"),
    }
}

fn name(number: usize) -> String {
    format!("key {number:06}")
}

/// Keys from `from` on, with 8 bytes each.
fn fill(namespace: &Namespace, from: usize) {
    let mut tx = namespace.begin(Deadline::never()).unwrap();
    for number in from..from + KEYS {
        let bytes = (number as u64).to_le_bytes();
        tx.put(&key(&name(number)), 1, &bytes).unwrap();
    }
    tx.commit().unwrap();
}

/// Reads and overwrites keys from `from` on in every way.
fn use_all(namespace: &Namespace, names: &[String]) {
    for name in names {
        let key = key(name);
        assert!(namespace.get(&key).unwrap().is_some() && namespace.contains(&key).unwrap());
        let pinned = namespace.pin().unwrap();
        assert!(pinned.get(&key).unwrap().is_some());
        drop(pinned);
        namespace.put(&key, None, 1, &[7; 8], Deadline::never()).unwrap();
        let place = namespace.place(&key).unwrap().unwrap();
        assert_eq!(place.peek(|_, bytes| bytes == [7; 8]), Some(Some(true)));
    }
}

/// Page faults of this thread so far that needed no disk.
fn faults() -> i64 {
    // SAFETY: integers, for which zeroes are valid.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: fills a structure of this function.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_minflt
}

/// Faults that `f` took; under a sanitizer, which has pages of its own for ours, those of the arena's memory.
fn faults_of(f: impl FnOnce()) -> i64 {
    let resident = of_mappings("/memfd:zproc", "Rss:");
    let before = faults();
    f();
    let taken = faults() - before;
    if is_sanitized() {
        let more = of_mappings("/memfd:zproc", "Rss:") - resident;
        return (more / 4096) as i64;
    }
    taken
}

/// Has been everywhere in the program that the test goes to, and has filled the buffers of the namespace under test, so
/// that neither counts.
fn warm_up(namespace: &Namespace) {
    let elsewhere = Arena::anonymous(&options(16 * MIB)).unwrap();
    let other = elsewhere.namespace("n").unwrap();
    let names: Vec<String> = (0..KEYS).map(name).collect();
    fill(&other, 0);
    use_all(&other, &names);
    use_all(namespace, &names[..1]);
}

#[test]
fn what_another_process_wrote_costs_no_page_fault_once_it_is_resident() {
    for (number, residency) in [None, Some(RESIDENT), Some(LOCKED)].into_iter().enumerate() {
        if residency.is_some_and(|wanted| wanted.lock) && !may_lock(16 * MIB) {
            skipped("locked memory", "RLIMIT_MEMLOCK is below 16 MiB");
            continue;
        }
        let arena = Arena::anonymous(&options(16 * MIB)).unwrap();
        alone("fill", 0, Some(&arena));
        alone("untouched", number as u64, Some(&arena));
        assert_clean(&arena);
    }
}

fn may_lock(bytes: u64) -> bool {
    sandbox::is_root() || sandbox::get_limit(libc::RLIMIT_MEMLOCK).rlim_cur >= bytes
}

fn touch_what_another_process_wrote(role: &Role) {
    let arena = role.arena();
    let residency = [Residency::default(), RESIDENT, LOCKED][role.number as usize];
    arena.make_resident(residency).unwrap();
    let namespace = arena.namespace("n").unwrap();
    warm_up(&namespace);
    let names: Vec<String> = (0..KEYS).map(name).collect();
    let faults = faults_of(|| use_all(&namespace, &names));
    eprintln!("  {residency:?}: {faults} page faults");
    if role.number == 0 {
        // Or the test does not see any. The kernel takes 16 pages at a time where others had them first.
        assert!(faults > 5, "{faults}");
    } else {
        assert_eq!(faults, 0);
    }
}

#[test]
fn memory_that_is_added_later_is_resident_when_it_is_seen() {
    for number in [0, 1] {
        let arena = Arena::anonymous(&options(64 * MIB)).unwrap();
        fill(&arena.namespace("n").unwrap(), 0);
        alone("growing", number, Some(&arena));
        assert_clean(&arena);
    }
}

fn see_others_and_oneself_add_memory(role: &Role) {
    let arena = role.arena();
    if role.number == 1 {
        arena.make_resident(RESIDENT).unwrap();
    }
    let namespace = arena.namespace("n").unwrap();
    warm_up(&namespace);
    let committed = arena.stats().unwrap().committed;
    alone("fill", KEYS as u64, Some(&arena));
    let names: Vec<String> = (KEYS..2 * KEYS).map(name).collect();
    // Looking for one of them is how it notices.
    assert!(namespace.contains(&key(&names[0])).unwrap());
    let others = faults_of(|| use_all(&namespace, &names));
    for number in 0..2000 {
        let large = name(number);
        namespace
            .put(&key(&large), None, 1, &[3; 2000], Deadline::never())
            .unwrap();
    }
    let now = arena.stats().unwrap().committed;
    let resident = of_mappings("/memfd:zproc", "Rss:");
    eprintln!("  {committed} to {now} bytes, {resident} of them resident; {others} faults behind the first sight");
    assert!(now > committed + 4 * MIB);
    if role.number == 0 {
        assert!(others > 5 && resident < now, "{others} {resident}");
    } else {
        // What is added by oneself is there before it is used up.
        assert_eq!((others, resident), (0, now));
    }
}

/// Bytes of this process's mappings with such a name, as the kernel counts them under a heading.
fn of_mappings(name: &str, heading: &str) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let found = maps.split(name).skip(1);
    let lines = found.filter_map(|part| part.lines().find_map(|line| line.strip_prefix(heading)));
    lines.map(kib).sum()
}

fn kib(text: &str) -> u64 {
    text.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn an_arena_can_be_given_its_memory_beforehand() {
    let arena = Arena::anonymous(&options(32 * MIB)).unwrap();
    let give = |bytes| {
        let prefault = Some(bytes);
        arena.make_resident(Residency { prefault, lock: false }).unwrap();
        arena.stats().unwrap().committed
    };
    assert!(give(0) < MIB);
    assert_eq!(give(8 * MIB), 8 * MIB);
    assert_eq!(give(5 * MIB), 8 * MIB, "nothing is taken back");
    assert_eq!(give(8 * MIB + 1), 8 * MIB + 64 * 1024, "whole chunks");
    assert_eq!(give(u64::MAX), 32 * MIB, "no more than the capacity");
    fill(&arena.namespace("n").unwrap(), 0);
    assert_clean(&arena);
}

#[test]
fn several_processes_that_ask_for_memory_get_it_once_each() {
    let arena = Arena::anonymous(&options(64 * MIB)).unwrap();
    std::thread::scope(|scope| {
        for bytes in [8, 16, 24, 32] {
            let arena = arena.clone();
            scope.spawn(move || {
                let prefault = Some(bytes * MIB);
                arena.make_resident(Residency { prefault, lock: false }).unwrap();
            });
        }
    });
    let committed = arena.stats().unwrap().committed;
    assert!((32 * MIB..=64 * MIB).contains(&committed), "{committed}");
    assert_clean(&arena);
}

/// Populating memory on a full file system would stop half way, or end in a signal.
#[test]
fn more_memory_than_the_file_system_has_is_an_error_that_leaves_nothing() {
    alone("2 MiB", 0, None);
}

fn in_two_mib() {
    if !own_shm("size=2m") {
        return skipped(
            "small file systems",
            "no permission to mount one (needs root or user namespaces)",
        );
    }
    let (new, old) = (Name::new("new"), Name::new("old"));
    let free = || nix::sys::statvfs::statvfs("/dev/shm").unwrap().blocks_free();
    let give = |bytes| Residency {
        prefault: Some(bytes),
        lock: false,
    };
    let before = free();
    let error = Arena::create_resident(&new, &options(64 * MIB), give(4 * MIB))
        .err()
        .unwrap();
    let Error::FileSystemFull {
        requested,
        committed,
        capacity,
        size,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(requested + committed, 4 * MIB);
    assert_eq!((capacity, size), (64 * MIB, 2 * MIB));
    assert!(!new.path().exists(), "half an arena is left");
    assert_eq!(free(), before);

    let arena = Arena::create(&old, &options(64 * MIB)).unwrap();
    let namespace = arena.namespace("n").unwrap();
    for text in ["a", "b", "c"] {
        namespace
            .put(&key(text), None, 1, &[1; 100_000], Deadline::never())
            .unwrap();
    }
    let before = free();
    assert!(matches!(
        arena.make_resident(give(4 * MIB)),
        Err(Error::FileSystemFull { .. })
    ));
    assert_eq!(free(), before);
    // Where not a page is left, what there is can be made resident all the same.
    std::fs::write("/dev/shm/the-rest", vec![7u8; 2 << 20]).expect_err("the rest");
    assert_eq!(free(), 0);
    drop((namespace, arena));
    let arena = Arena::open(&old).unwrap();
    arena.make_resident(RESIDENT).unwrap();
    let namespace = arena.namespace("n").unwrap();
    assert_eq!(namespace.get(&key("b")).unwrap().unwrap().bytes(), [1; 100_000]);
    assert_clean(&arena);
}

#[test]
fn memory_that_may_not_be_locked_is_an_error_that_names_the_limit() {
    alone("locked", 0, None);
}

/// Whether the limit can be set as the test needs it, and binds.
fn is_bound_by_memlock() -> bool {
    if sandbox::get_limit(libc::RLIMIT_MEMLOCK).rlim_max < 4 * MIB {
        skipped("RLIMIT_MEMLOCK", "its hard limit is below 4 MiB");
        return false;
    }
    if sandbox::is_root() && !sandbox::become_nobody() {
        let why = "the limit does not bind root, and this process cannot become somebody else";
        skipped("RLIMIT_MEMLOCK", why);
        return false;
    }
    true
}

fn with_little_memory_to_lock() {
    if !is_bound_by_memlock() {
        return;
    }
    let name = Name::new("lock");
    for limit in [0, MIB] {
        set_limit(libc::RLIMIT_MEMLOCK, limit);
        let error = Arena::create_resident(&name, &options(4 * MIB), LOCKED).err().unwrap();
        let text = error.to_string();
        eprintln!("  {text}");
        assert!(matches!(error, Error::Os { .. }));
        for part in [
            "4194304 bytes",
            &format!("RLIMIT_MEMLOCK is {limit} bytes"),
            "ulimit -l",
            "CAP_IPC_LOCK",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!name.path().exists(), "half an arena is left");
    }
    let arena = Arena::create(&name, &options(4 * MIB)).unwrap();
    assert!(arena.make_resident(LOCKED).is_err());
    fill(&arena.namespace("n").unwrap(), 0);
    set_limit(libc::RLIMIT_MEMLOCK, 4 * MIB);
    let [before, _] = locked();
    arena.make_resident(LOCKED).unwrap();
    // The whole range counts, what there is of memory is locked, and the holes are none of it.
    let [counted, pages] = locked();
    let committed = arena.stats().unwrap().committed;
    assert_eq!(counted - before, 4 * MIB);
    assert_eq!(pages, committed);
    assert_eq!(
        nix::sys::stat::fstat(arena.fd().unwrap()).unwrap().st_blocks as u64 * 512,
        committed
    );
    // What is added is locked too, at once.
    let namespace = arena.namespace("n").unwrap();
    namespace
        .put(&key("large"), None, 1, &[1; 500_000], Deadline::never())
        .unwrap();
    assert!(arena.stats().unwrap().committed > committed);
    assert_eq!(locked()[1], arena.stats().unwrap().committed);
    // All that this process had of the arena goes with it.
    drop((namespace, arena));
    eventually("the memory to be unlocked", || locked() == [before, 0]);
    assert_clean(&Arena::open(&name).unwrap());
}

/// Bytes that count against the limit, and bytes of arenas that are locked.
fn locked() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let counted = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    [kib(counted), of_mappings("/dev/shm/", "Locked:")]
}

/// A program that called `mlockall` for its own sake was told to raise the number of its threads when an arena could not
/// be mapped, which then counts as locked memory.
#[test]
fn a_program_that_locks_all_its_memory_is_told_the_limit() {
    alone("all locked", 0, None);
}

fn where_all_memory_is_locked() {
    if is_sanitized() {
        return skipped("mlockall", "a sanitizer maps more than there is memory");
    }
    let lock_all = |flags| {
        // SAFETY: changes no content.
        let result = unsafe { libc::mlockall(libc::MCL_FUTURE | flags) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    };
    let blocks = |arena: &Arena| nix::sys::stat::fstat(arena.fd().unwrap()).unwrap().st_blocks as u64 * 512;
    // `docs/real-time.md` says so: without MCL_ONFAULT the kernel fills every hole of what is mapped.
    if may_lock(16 * MIB) {
        lock_all(0);
        let arena = Arena::anonymous(&options(4 * MIB)).unwrap();
        assert_eq!(blocks(&arena), 4 * MIB);
        lock_all(libc::MCL_ONFAULT);
        let arena = Arena::anonymous(&options(4 * MIB)).unwrap();
        assert_eq!(blocks(&arena), arena.stats().unwrap().committed);
    }
    if !is_bound_by_memlock() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 3 * MIB);
    lock_all(libc::MCL_ONFAULT);
    let text = Arena::anonymous(&options(4 * MIB)).err().unwrap().to_string();
    eprintln!("  {text}");
    for part in ["4194304", "RLIMIT_MEMLOCK is 3145728 bytes", "mlockall", "ulimit -l"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
