//! Redis over a Unix socket: a server of this system's package, without persistence, started and ended here. The dict is
//! one hash, so that it can be had as a whole by one command.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, FromRedisValue, PubSub, cmd, pipe};

use super::place::{Place, Server};
use super::{Client, Contents, News, Operation, Rival, Waiting, Watcher};

const DICT: &str = "state";
const NO_HANDLES: &str = "each use of a key is a request to the server";
/// Starting it may take so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server.
pub struct Redis {
    server: Server,
    place: Place,
}

impl Rival for Redis {
    const NAME: &'static str = "Redis";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::GetHeld, NO_HANDLES),
        (Operation::SetHeld, NO_HANDLES),
        (Operation::WatchSpinning, "its client waits in the kernel"),
    ];
    type Client = RedisClient;
    type Watcher = RedisWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        let place = Place::create();
        let socket = place.path().join("socket");
        let mut command = Command::new("redis-server");
        let settings = [
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxclients",
            "4000",
            "--daemonize",
            "no",
        ];
        command
            .args(settings)
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(place.path());
        let started = Server::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let server = started.map_err(|error| format!("redis-server cannot be started: {error}"))?;
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if start.elapsed() > PATIENCE {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let redis = Self { server, place };
        let mut client = RedisClient::open(&redis.address());
        for entries in contents.entries().chunks(1000) {
            let mut insert = cmd("HSET");
            insert.arg(DICT);
            for (key, value) in entries {
                insert.arg(key).arg(value);
            }
            client.ask::<()>(&insert);
        }
        if let Some((key, value)) = contents.blob() {
            client.set_bytes(key, &value);
        }
        Ok(redis)
    }

    fn address(&self) -> String {
        self.place.address()
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }
}

fn connect(address: &str) -> Connection {
    let socket = Path::new(address).join("socket");
    let client = redis::Client::open(format!("redis+unix://{}", socket.display())).expect("the address is well formed");
    client.get_connection().expect("its maker keeps the server running")
}

/// A connection.
pub struct RedisClient(Connection);

impl RedisClient {
    #[inline]
    fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        command.query(&mut self.0).expect("the server answers")
    }
}

impl Client for RedisClient {
    fn open(address: &str) -> Self {
        Self(connect(address))
    }

    fn get(&mut self, key: &str) -> Option<u64> {
        self.ask(cmd("HGET").arg(DICT).arg(key))
    }

    fn set(&mut self, key: &str, value: u64) {
        self.ask::<()>(cmd("HSET").arg(DICT).arg(key).arg(value));
    }

    fn get_held(&mut self, _: &str, _: usize) -> u64 {
        unreachable!()
    }

    fn set_held(&mut self, _: &str, _: usize) {
        unreachable!()
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        *into = self.ask(cmd("HGET").arg(DICT).arg(key));
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.ask::<()>(cmd("HSET").arg(DICT).arg(key).arg(value));
    }

    fn snapshot(&mut self, key: &str) -> Option<u64> {
        let all: std::collections::HashMap<String, u64> = self.ask(cmd("HGETALL").arg(DICT));
        all.get(key).copied()
    }

    fn increment(&mut self, key: &str) {
        self.ask::<()>(cmd("HINCRBY").arg(DICT).arg(key).arg(1));
    }

    fn tell(&mut self, key: &str, value: u64) {
        let mut both = pipe();
        both.cmd("HSET")
            .arg(DICT)
            .arg(key)
            .arg(value)
            .cmd("PUBLISH")
            .arg(key)
            .arg(value);
        both.query::<()>(&mut self.0).expect("the server answers");
    }
}

/// A connection that is subscribed to a key's channel.
pub struct RedisWatcher(PubSub<'static>);

impl Watcher for RedisWatcher {
    fn open(address: &str, key: &str, _: Waiting) -> Self {
        // A subscription borrows its connection. A process has few, and keeps them.
        let connection: &'static mut Connection = Box::leak(Box::new(connect(address)));
        let mut subscription = connection.as_pubsub();
        subscription.subscribe(key).expect("the server answers");
        Self(subscription)
    }

    fn next(&mut self, patience: Duration) -> News {
        self.0.set_read_timeout(Some(patience)).expect("is no empty time");
        match self.0.get_message() {
            Ok(message) => News::Value(message.get_payload().expect("is a number")),
            Err(error) if error.is_timeout() => News::Nothing,
            Err(error) => panic!("{error}"),
        }
    }
}
