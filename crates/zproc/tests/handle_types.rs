//! Handles of every type of fixed size: they stay with their key, whatever happens to it, here or in another process.

use std::fmt::Debug;

use common::process::{Board, Kid, Role};
use rkyv::{Archive, Deserialize, Serialize};
use shm_state::Arena;
use zproc::{Builder, Error, FromValue, Handle, Result, State, ToValue, archived};

#[path = "../../shm-state/tests/common/mod.rs"]
mod common;

#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
struct Pose {
    position: [f64; 3],
    rotation: [f64; 4],
    frame: u32,
    valid: bool,
}
archived!(Pose);

/// Larger than what is copied to the stack.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
struct Grid([[u32; 20]; 20]);
archived!(Grid);

/// A value of each type for a number.
trait Numbered: FromValue + ToValue + Copy + Debug + PartialEq {
    fn of(number: u32) -> Self;
}

macro_rules! numbered {
    ($($type:ty: $number:ident => $value:expr;)*) => {$(
        impl Numbered for $type {
            fn of($number: u32) -> Self {
                $value
            }
        }
    )*};
}
numbered! {
    u32: n => n;
    f64: n => f64::from(n) / 3.0;
    bool: n => n.is_multiple_of(2);
    Option<i16>: n => (!n.is_multiple_of(3)).then_some(n as i16);
    [u8; 32]: n => [n as u8; 32];
    [u8; 600]: n => [n as u8; 600];
    [f64; 8]: n => [f64::from(n); 8];
    [i32; 300]: n => [n as i32; 300];
    (u32, f32, bool): n => (n, n as f32, true);
    [(u16, i64); 4]: n => [(n as u16, -i64::from(n)); 4];
    Pose: n => Pose { position: [f64::from(n); 3], rotation: [0.0, 0.0, 0.0, 1.0], frame: n, valid: n.is_multiple_of(2) };
    Grid: n => Grid([[n; 20]; 20]);
    (Pose, [Pose; 2]): n => (Pose::of(n), [Pose::of(n + 1); 2]);
}

/// Calls a generic function for each of the types.
macro_rules! each_type {
    ($function:ident($($argument:expr),*)) => {{
        $function::<u32>($($argument),*);
        $function::<f64>($($argument),*);
        $function::<bool>($($argument),*);
        $function::<Option<i16>>($($argument),*);
        $function::<[u8; 32]>($($argument),*);
        $function::<[u8; 600]>($($argument),*);
        $function::<[f64; 8]>($($argument),*);
        $function::<[i32; 300]>($($argument),*);
        $function::<(u32, f32, bool)>($($argument),*);
        $function::<[(u16, i64); 4]>($($argument),*);
        $function::<Pose>($($argument),*);
        $function::<Grid>($($argument),*);
        $function::<(Pose, [Pose; 2])>($($argument),*);
    }};
}

/// A short history, so that what a handle has found is soon dropped and used for others.
fn state() -> State {
    Builder::anonymous()
        .capacity(8 << 20)
        .history(2, 1 << 16)
        .create()
        .unwrap()
}

#[track_caller]
fn assert_reads<T: Numbered>(handle: &Handle<'_, T>, expected: Option<T>) {
    for _ in 0..2 {
        assert_eq!(handle.get().unwrap(), expected);
    }
}

#[test]
fn a_handle_reads_and_writes_every_type_of_fixed_size() {
    fn check<T: Numbered>() {
        let state = state();
        let handle = state.handle::<T>("key").unwrap();
        assert_reads(&handle, None);
        for number in 0..20 {
            handle.set(T::of(number)).unwrap();
            assert_reads(&handle, Some(T::of(number)));
            assert_eq!(state.get::<T>("key").unwrap(), Some(T::of(number)));
            state.insert("key", T::of(number + 1)).unwrap();
            assert_reads(&handle, Some(T::of(number + 1)));
        }
    }
    each_type!(check());
}

#[test]
fn a_handle_follows_its_key_through_removal_and_growth() {
    fn check<T: Numbered>() {
        let state = state();
        let handle = state.handle::<T>("key").unwrap();
        for round in 0..4 {
            state.insert("key", T::of(round)).unwrap();
            assert_reads(&handle, Some(T::of(round)));
            state.remove("key").unwrap();
            assert_reads(&handle, None);
            // Others take the memory, and the index grows and is made anew.
            for number in 0..150 << round {
                state.insert((round, number), T::of(number)).unwrap();
            }
            assert_reads(&handle, None);
            for number in 0..150 << round {
                state.remove((round, number)).unwrap();
            }
            state.insert("key", T::of(100 + round)).unwrap();
            assert_reads(&handle, Some(T::of(100 + round)));
            handle.set(T::of(200 + round)).unwrap();
            assert_reads(&handle, Some(T::of(200 + round)));
            assert_eq!(state.get::<T>("key").unwrap(), Some(T::of(200 + round)));
            state.clear().unwrap();
            assert_reads(&handle, None);
        }
        assert!(state.verify().unwrap().is_clean());
    }
    each_type!(check());
}

#[test]
fn a_handle_whose_key_gets_another_type_says_so() -> Result<()> {
    let state = state();
    let pose = state.handle::<Pose>("key")?;
    pose.set(Pose::of(1))?;
    assert_reads(&pose, Some(Pose::of(1)));
    for other in [
        state.insert("key", Grid::of(1)),
        state.insert("key", [0.5; 8]),
        state.insert("key", "a text of more than sixteen bytes"),
        state.insert("key", 5),
    ] {
        other?;
        assert!(matches!(pose.get(), Err(Error::WrongType { .. })));
    }
    pose.set(Pose::of(2))?;
    assert_reads(&pose, Some(Pose::of(2)));
    Ok(())
}

/// What the parent and its child say to each other on the board.
const ASKED: u64 = 0;
const DONE: u64 = 1;

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let state = State::from_fd(role.arena_fd()).unwrap();
    for step in 1.. {
        role.board.wait_for(ASKED, step);
        match step {
            1 => {
                state.insert("pose", Pose::of(1)).unwrap();
                state.insert("grid", Grid::of(1)).unwrap();
            }
            2 => {
                state.remove("pose").unwrap();
                state.remove("grid").unwrap();
                for number in 0..2000 {
                    state.insert(number, Pose::of(number)).unwrap();
                }
            }
            3 => {
                state.clear().unwrap();
                state.insert("pose", Pose::of(3)).unwrap();
                state.insert("grid", Grid::of(3)).unwrap();
            }
            _ => return,
        }
        role.board.set(DONE, step);
    }
}

#[test]
fn a_handle_follows_what_another_process_does() -> Result<()> {
    let state = state();
    let (pose, grid) = (state.handle::<Pose>("pose")?, state.handle::<Grid>("grid")?);
    let fd = state
        .fd()
        .expect("it has a file")
        .try_clone_to_owned()
        .expect("a descriptor is free");
    let (arena, board) = (Arena::from_fd(fd)?, Board::new());
    let kid = Kid::start("writer", 0, Some(&arena), &board);
    for (step, expected) in [(1, Some(1)), (2, None), (3, Some(3))] {
        board.set(ASKED, step);
        board.wait_for(DONE, step);
        assert_reads(&pose, expected.map(Pose::of));
        assert_reads(&grid, expected.map(Grid::of));
    }
    board.set(ASKED, 4);
    kid.succeeds();
    pose.set(Pose::of(5))?;
    assert_reads(&pose, Some(Pose::of(5)));
    assert!(state.verify()?.is_clean());
    Ok(())
}
