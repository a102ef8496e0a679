//! Ours, used over the socket of its server: not a rival in every workload, but beside designs that have no other way.

use zproc::{Server, State};

use super::shared_state::StateClient;
use super::{Client, Contents, NoWatcher, Operation, Rival};

/// A state of zproc behind a server that is a process.
pub struct Served {
    server: Server,
    /// What is served lasts as long as somebody has it.
    _state: State,
}

impl Rival for Served {
    const NAME: &'static str = "zproc";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::WatchSpinning, "is measured by its own workload"),
        (Operation::WatchAsleep, "is measured by its own workload"),
    ];
    type Client = ServedClient;
    type Watcher = NoWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let state = State::anonymous().map_err(|error| error.to_string())?;
        state.extend(contents.entries()).expect("there is room");
        if let Some((key, value)) = contents.blob() {
            state.insert(key, &value[..]).expect("there is room");
        }
        let server = zproc::start_server().state(&state).start();
        let server = server.map_err(|error| error.to_string())?;
        Ok(Self { server, _state: state })
    }

    fn address(&self) -> String {
        format!("{}?transport=socket", self.server.address())
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }
}

/// A state, used over a socket.
pub struct ServedClient(StateClient);

impl Client for ServedClient {
    fn open(address: &str) -> Self {
        Self(StateClient(State::open(address).expect("its maker keeps the server")))
    }

    fn get(&mut self, key: &str) -> Option<u64> {
        self.0.get(key)
    }

    fn set(&mut self, key: &str, value: u64) {
        self.0.set(key, value);
    }

    fn get_held(&mut self, key: &str, times: usize) -> u64 {
        self.0.get_held(key, times)
    }

    fn set_held(&mut self, key: &str, times: usize) {
        self.0.set_held(key, times);
    }

    /// There is nothing to be shown in place.
    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        *into = self.0.0.get(key).expect("is bytes").expect("is present");
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.0.set_bytes(key, value);
    }

    fn snapshot(&mut self, key: &str) -> Option<u64> {
        self.0.snapshot(key)
    }

    fn increment(&mut self, key: &str) {
        self.0.increment(key);
    }
}
