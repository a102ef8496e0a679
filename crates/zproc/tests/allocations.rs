//! Reading allocates nothing: scalars, arrays and tuples of them, fixed-size structs, and views, by state, handle and
//! snapshot; nor does writing such values, once the thread has its buffers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use rkyv::{Archive, Deserialize, Serialize};
use zproc::{FromValue, State, ToValue, archived};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // While a thread ends it is not counted.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// How often `f` allocates, once it has run a few times.
fn allocations(f: impl FnMut()) -> usize {
    allocations_after(3, f)
}

/// How often ten calls of `f` allocate after so many others.
fn allocations_after(calls: usize, mut f: impl FnMut()) -> usize {
    (0..calls).for_each(|_| f());
    let before = ALLOCATIONS.get();
    (0..10).for_each(|_| f());
    ALLOCATIONS.get() - before
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
struct Pose {
    position: [f64; 3],
    rotation: [f64; 4],
    frame: u32,
    valid: bool,
}
archived!(Pose);

/// Larger than what is copied to the stack.
#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
struct Grid([[u32; 40]; 40]);
archived!(Grid);

const POSE: Pose = Pose {
    position: [1.0; 3],
    rotation: [0.5; 4],
    frame: 7,
    valid: true,
};

/// As many writes as it takes until memory goes round. Before, the writer's own tables may grow with each block that is new.
const HISTORY: usize = 600;

fn check<T: FromValue + ToValue + Copy>(what: &str, value: T) {
    let state = State::anonymous().unwrap();
    let long = "a key that does not fit into the first line of its entry";
    for key in ["key", long] {
        state.insert(key, value).unwrap();
        let handle = state.handle::<T>(key).unwrap();
        let snapshot = state.snapshot().unwrap();
        let read = |result: zproc::Result<Option<T>>| assert!(black_box(result.unwrap()).is_some());
        let counts = [
            ("get", allocations(|| read(state.get(key)))),
            ("get by handle", allocations(|| read(handle.get()))),
            ("get by snapshot", allocations(|| read(snapshot.get(key)))),
            (
                "get in atomic",
                allocations(|| read(state.atomic(|dict| dict.get(key)))),
            ),
            ("snapshot", allocations(|| drop(state.snapshot().unwrap()))),
            (
                "contains_key",
                allocations(|| assert!(state.contains_key(key).unwrap())),
            ),
        ];
        drop(snapshot);
        let writes = [
            (
                "insert",
                allocations_after(HISTORY, || state.insert(key, value).unwrap()),
            ),
            (
                "set by handle",
                allocations_after(HISTORY, || handle.set(value).unwrap()),
            ),
        ];
        for (call, count) in counts.into_iter().chain(writes) {
            assert_eq!(count, 0, "{call} of {what} under a key of {} bytes", key.len());
        }
    }
    state.insert(("user", 7, b"raw"), value).unwrap();
    let reads = allocations(|| assert!(black_box(state.get::<T>(("user", 7, b"raw")).unwrap()).is_some()));
    assert_eq!(reads, 0, "get of {what} under a tuple");
}

#[test]
fn reading_and_writing_fixed_sizes_allocates_nothing() {
    check("an int", -5i64);
    check("a large int", u128::MAX);
    check("a float", 0.5f64);
    check("a bool", true);
    check("an option", None::<u8>);
    check("bytes", [7u8; 100]);
    check("many bytes", [7u8; 5000]);
    check("an array", [0.5f64; 16]);
    check("a large array", [5i32; 2000]);
    check("a tuple", (1u8, 0.5f32, true, -7i128));
    check("tuples in an array", [(1u8, [2u16; 3]); 7]);
    check("a struct", POSE);
    check("a large struct", Grid([[3; 40]; 40]));
}

#[test]
fn looking_at_values_where_they_lie_allocates_nothing() {
    #[derive(Archive, Serialize, Deserialize)]
    struct Scan {
        distances: Vec<f32>,
        names: Vec<String>,
    }
    archived!(Scan);
    let state = State::anonymous().unwrap();
    let names = (0..50)
        .map(|n| format!("a name of more than a few bytes: {n}"))
        .collect();
    state
        .insert(
            "scan",
            Scan {
                distances: vec![0.5; 20_000],
                names,
            },
        )
        .unwrap();
    state.insert("pose", POSE).unwrap();
    state.insert("text", "é".repeat(10_000)).unwrap();
    state.insert("bytes", vec![1u8; 10_000]).unwrap();
    let views = allocations(|| {
        let snapshot = state.snapshot().unwrap();
        let scan = snapshot.view::<Scan>("scan").unwrap().unwrap();
        assert_eq!((scan.distances.len(), scan.names[49].len()), (20_000, 35));
        assert!(snapshot.view::<Pose>("pose").unwrap().unwrap().valid);
        assert_eq!(snapshot.view::<str>("text").unwrap().unwrap().len(), 20_000);
        assert_eq!(snapshot.view::<[u8]>("bytes").unwrap().unwrap()[9999], 1);
    });
    assert_eq!(views, 0);
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(5)))), 10);
    let state = State::anonymous().unwrap();
    state.insert("text", "long enough to need memory of its own").unwrap();
    assert!(allocations(|| drop(state.get::<String>("text").unwrap())) >= 10);
}
