//! Ours.

use std::os::fd::AsFd;
use std::time::Duration;

use zproc::{Builder, Error, State, WaitStrategy};

use super::{Client, Contents, News, Operation, Rival, Waiting, Watcher};
use crate::board::{descriptor_of, number_of};

/// A state of zproc.
pub struct Zproc(State);

impl Rival for Zproc {
    const NAME: &'static str = "zproc";
    const CANNOT: &'static [(Operation, &'static str)] = &[];
    type Client = StateClient;
    type Watcher = StateWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let state = State::anonymous().map_err(|error| error.to_string())?;
        state.extend(contents.entries()).expect("there is room");
        if let Some((key, value)) = contents.blob() {
            state.insert(key, &value[..]).expect("there is room");
        }
        Ok(Self(state))
    }

    fn address(&self) -> String {
        let fd = self.0.fd().expect("a state has a descriptor");
        format!("{} {}", std::process::id(), number_of(&fd.as_fd()))
    }
}

fn open(address: &str, strategy: WaitStrategy) -> State {
    let (pid, fd) = address.split_once(' ').expect("a process and a descriptor");
    let fd = descriptor_of(pid.parse().expect("a process"), fd.parse().expect("a descriptor"));
    let builder = Builder::anonymous().wait_strategy(strategy);
    builder.from_fd(fd).expect("its maker keeps the state open")
}

/// A state, open.
pub struct StateClient(pub(super) State);

impl Client for StateClient {
    fn open(address: &str) -> Self {
        Self(open(address, WaitStrategy::default()))
    }

    #[inline]
    fn get(&mut self, key: &str) -> Option<u64> {
        self.0.get(key).expect("is a number")
    }

    #[inline]
    fn set(&mut self, key: &str, value: u64) {
        self.0.insert(key, value).expect("there is room");
    }

    fn get_held(&mut self, key: &str, times: usize) -> u64 {
        let handle = self.0.handle::<u64>(key).expect("the state is open");
        let number = || handle.get().expect("is a number").expect("is present");
        (0..times).map(|_| number()).fold(0, u64::wrapping_add)
    }

    fn set_held(&mut self, key: &str, times: usize) {
        let handle = self.0.handle::<u64>(key).expect("the state is open");
        (1..=times as u64).for_each(|value| handle.set(value).expect("there is room"));
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        let snapshot = self.0.snapshot().expect("a seat is free");
        let bytes = snapshot.view::<[u8]>(key).expect("is bytes").expect("is present");
        into.clear();
        into.extend_from_slice(&bytes);
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.0.insert(key, value).expect("there is room");
    }

    #[inline]
    fn snapshot(&mut self, key: &str) -> Option<u64> {
        let snapshot = self.0.snapshot().expect("a seat is free");
        snapshot.get(key).expect("is a number")
    }

    #[inline]
    fn increment(&mut self, key: &str) {
        let add = |dict: &mut zproc::Transaction<'_>| dict.modify(key, |count: u64| count + 1);
        self.0.atomic(add).expect("the counter is there");
    }
}

/// A state with a cursor.
pub struct StateWatcher {
    state: State,
    key: String,
}

impl Watcher for StateWatcher {
    fn open(address: &str, key: &str, waiting: Waiting) -> Self {
        let strategy = match waiting {
            Waiting::Spinning => WaitStrategy::Spin,
            Waiting::Asleep => WaitStrategy::Block,
        };
        Self {
            state: open(address, strategy),
            key: key.to_owned(),
        }
    }

    fn next(&mut self, patience: Duration) -> News {
        let watch = self.state.watch().timeout(patience);
        match watch.get_when_change([self.key.as_str()]) {
            Ok(now) => News::Value(now.get(self.key.as_str()).expect("is a number").expect("is present")),
            Err(Error::Lagged { missed }) => News::Missed(missed),
            Err(Error::Timeout) => News::Nothing,
            Err(error) => panic!("{error}"),
        }
    }
}
