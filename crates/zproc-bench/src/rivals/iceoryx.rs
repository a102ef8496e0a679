//! iceoryx2: its blackboard as the dict, its publish-subscribe and its events to tell others.
//!
//! A blackboard has its keys and types fixed when it is created, and one writer at a time. What a watcher is told goes
//! by publish-subscribe, which carries the value, and for those who sleep by an event behind it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::reader::{EntryHandle, Reader};
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::writer::{EntryHandleMut, Writer};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::blackboard::PortFactory as Blackboard;

use super::place::{Place, name};
use super::{Client, Contents, MESSAGE, News, Operation, Rival, Waiting, Watcher};

type Key = [u8; 20];

const ONE_WRITER: &str = "one process writes at a time";

/// What a subscriber may fall behind before the oldest is overwritten.
const BUFFER: usize = 256;

/// A blackboard.
pub struct Iceoryx {
    address: String,
    node: Node<ipc::Service>,
    _board: Blackboard<ipc::Service, Key>,
    /// What is told goes by these. They are made here: a thousand watchers that make them at once get in each other's way.
    _told: Option<(Messages, Events)>,
    _place: Place,
}

impl Rival for Iceoryx {
    const NAME: &'static str = "iceoryx2";
    const CANNOT: &'static [(Operation, &'static str)] = &[
        (Operation::Snapshot, "entries are read one by one"),
        (Operation::Increment, ONE_WRITER),
        (Operation::ManyKeys, "looking for a key goes through all of them"),
    ];
    type Client = BoardClient;
    type Watcher = BoardWatcher;

    fn create(contents: &Contents) -> Result<Self, String> {
        set_log_level(LogLevel::Fatal);
        let (name, place) = (name(), Place::create());
        let node = node(&place.address());
        let mut builder = node
            .service_builder(&service(&name, "board"))
            .blackboard_creator::<Key>();
        builder = builder.max_readers(16).max_nodes(16);
        for (key, value) in contents.entries() {
            builder = builder.add::<u64>(fixed(key), value);
        }
        if let Some((key, _)) = contents.blob() {
            builder = blob::add(builder, fixed(key), contents.bytes);
        }
        let board = builder.create().map_err(|error| error.to_string())?;
        let address = format!("{name} {} {} {}", contents.bytes, contents.watchers, place.address());
        let told = (contents.watchers > 0).then(|| {
            let address = Address::parse(&address);
            (messages(&node, &address, MESSAGE), events(&node, &address, MESSAGE))
        });
        Ok(Self {
            address,
            node,
            _board: board,
            _told: told,
            _place: place,
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for Iceoryx {
    fn drop(&mut self) {
        // What killed processes left in /dev/shm lies about until somebody does this.
        self.node.try_cleanup_dead_nodes();
    }
}

/// What an address says.
struct Address<'a> {
    name: &'a str,
    bytes: usize,
    watchers: usize,
    directory: &'a str,
}

impl<'a> Address<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(' ');
        let mut part = || parts.next().expect("four parts");
        Self {
            name: part(),
            bytes: part().parse().expect("a number"),
            watchers: part().parse().expect("a number"),
            directory: part(),
        }
    }
}

/// A node with its files in this directory, which goes with the rival: killed processes leave theirs.
fn node(directory: &str) -> Node<ipc::Service> {
    let mut config = Config::global_config().clone();
    let directory = iceoryx2::prelude::Path::new(directory.as_bytes()).expect("is a short path");
    config.global.set_root_path(&directory);
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create()
        .expect("a node can be made")
}

fn service(name: &str, part: &str) -> ServiceName {
    format!("{name}/{part}").as_str().try_into().expect("is a short name")
}

fn fixed(key: &str) -> Key {
    key.as_bytes().try_into().expect("keys have 20 bytes")
}

/// Those who tell of a key.
struct Telling {
    key: String,
    publisher: Publisher<ipc::Service, u64, ()>,
    notifier: Notifier<ipc::Service>,
}

/// A reader, a writer once something is written, and a publisher once something is told.
pub struct BoardClient {
    address: String,
    writer: Option<Writer<ipc::Service, Key>>,
    telling: Option<Telling>,
    reader: Reader<ipc::Service, Key>,
    board: Blackboard<ipc::Service, Key>,
    node: Node<ipc::Service>,
}

impl BoardClient {
    fn entry(&self, key: &str) -> EntryHandle<ipc::Service, Key, u64> {
        self.reader.entry::<u64>(&fixed(key)).expect("is present")
    }

    fn entry_mut(&mut self, key: &str) -> EntryHandleMut<ipc::Service, Key, u64> {
        self.writer()
            .entry::<u64>(&fixed(key))
            .expect("is present, and not held")
    }

    fn writer(&mut self) -> &Writer<ipc::Service, Key> {
        let create = || self.board.writer_builder().create().expect("nobody else writes");
        self.writer.get_or_insert_with(create)
    }
}

impl Client for BoardClient {
    fn open(address: &str) -> Self {
        set_log_level(LogLevel::Fatal);
        let (name, directory) = (Address::parse(address).name, Address::parse(address).directory);
        let (node, name) = (node(directory), service(name, "board"));
        let board = node.service_builder(&name).blackboard_opener::<Key>().open();
        let board = board.expect("its maker keeps the blackboard");
        Self {
            address: address.to_owned(),
            writer: None,
            telling: None,
            reader: board.reader_builder().create().expect("a reader is free"),
            board,
            node,
        }
    }

    fn get(&mut self, key: &str) -> Option<u64> {
        let entry = self.reader.entry::<u64>(&fixed(key)).ok()?;
        Some(*entry.get())
    }

    fn set(&mut self, key: &str, value: u64) {
        self.entry_mut(key).update_with_copy(value);
    }

    fn get_held(&mut self, key: &str, times: usize) -> u64 {
        let entry = self.entry(key);
        (0..times).map(|_| *entry.get()).fold(0, u64::wrapping_add)
    }

    fn set_held(&mut self, key: &str, times: usize) {
        let entry = self.entry_mut(key);
        (1..=times as u64).for_each(|value| entry.update_with_copy(value));
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        blob::get(&self.reader, fixed(key), Address::parse(&self.address).bytes, into);
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        blob::set(self.writer(), fixed(key), value);
    }

    fn snapshot(&mut self, _: &str) -> Option<u64> {
        unreachable!()
    }

    fn increment(&mut self, _: &str) {
        unreachable!()
    }

    fn tell(&mut self, key: &str, value: u64) {
        if self.telling.as_ref().is_none_or(|telling| telling.key != key) {
            let address = Address::parse(&self.address);
            let publisher = messages(&self.node, &address, key).publisher_builder().create();
            let notifier = events(&self.node, &address, key).notifier_builder().create();
            self.telling = Some(Telling {
                key: key.to_owned(),
                publisher: publisher.expect("a publisher is free"),
                notifier: notifier.expect("a notifier is free"),
            });
        }
        let telling = self.telling.as_ref().expect("was just made");
        telling.publisher.send_copy(value).expect("there is room");
        telling.notifier.notify().expect("listeners are there or not");
    }
}

type Messages = iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, u64, ()>;
type Events = iceoryx2::service::port_factory::event::PortFactory<ipc::Service>;

fn messages(node: &Node<ipc::Service>, address: &Address<'_>, key: &str) -> Messages {
    let name = service(address.name, key);
    let builder = node.service_builder(&name).publish_subscribe::<u64>();
    let builder = builder
        .max_subscribers(address.watchers)
        .max_nodes(address.watchers + 4);
    let builder = builder
        .subscriber_max_buffer_size(BUFFER)
        .enable_safe_overflow(true)
        .history_size(0);
    builder.open_or_create().expect("a service can be made")
}

fn events(node: &Node<ipc::Service>, address: &Address<'_>, key: &str) -> Events {
    let name = service(address.name, key);
    let builder = node.service_builder(&name).event();
    let builder = builder
        .max_listeners(address.watchers)
        .max_nodes(address.watchers + 4)
        .max_notifiers(4);
    builder.open_or_create().expect("a service can be made")
}

/// A subscriber, and a listener for one who sleeps.
pub struct BoardWatcher {
    subscriber: Subscriber<ipc::Service, u64, ()>,
    listener: Option<Listener<ipc::Service>>,
    _node: Node<ipc::Service>,
}

/// Held by a thread of this process that opens services, which goes through the files of all nodes.
static OPENING: Mutex<()> = Mutex::new(());

impl Watcher for BoardWatcher {
    fn open(address: &str, key: &str, waiting: Waiting) -> Self {
        let _opening = OPENING.lock().expect("nobody panics with the lock");
        set_log_level(LogLevel::Fatal);
        let address = Address::parse(address);
        let node = node(address.directory);
        let subscriber = messages(&node, &address, key)
            .subscriber_builder()
            .buffer_size(BUFFER)
            .create();
        let listener = || {
            let listener = events(&node, &address, key).listener_builder().create();
            listener.expect("a listener is free")
        };
        Self {
            subscriber: subscriber.expect("a subscriber is free"),
            listener: (waiting == Waiting::Asleep).then(listener),
            _node: node,
        }
    }

    fn next(&mut self, patience: Duration) -> News {
        let start = Instant::now();
        for turn in 1u32.. {
            if let Some(sample) = self.subscriber.receive().expect("is connected") {
                return News::Value(*sample);
            }
            match &self.listener {
                None => std::hint::spin_loop(),
                Some(listener) => {
                    let left = patience.saturating_sub(start.elapsed());
                    listener.timed_wait(|_| (), left).expect("is connected");
                }
            }
            if (self.listener.is_some() || turn.is_multiple_of(1024)) && start.elapsed() >= patience {
                break;
            }
        }
        News::Nothing
    }
}

/// Values of many bytes: their size is part of the type here.
mod blob {
    use iceoryx2::service::builder::blackboard::Creator;

    use super::{Key, Reader, Writer, ipc};

    macro_rules! sized {
        ($size:expr, $name:ident => $work:expr) => {
            match $size {
                8 => {
                    const $name: usize = 8;
                    $work
                }
                64 => {
                    const $name: usize = 64;
                    $work
                }
                1024 => {
                    const $name: usize = 1 << 10;
                    $work
                }
                16384 => {
                    const $name: usize = 16 << 10;
                    $work
                }
                131072 => {
                    const $name: usize = 128 << 10;
                    $work
                }
                1048576 => {
                    const $name: usize = 1 << 20;
                    $work
                }
                size => unreachable!("no workload has values of {size} bytes"),
            }
        };
    }

    pub fn add(builder: Creator<Key, ipc::Service>, key: Key, size: usize) -> Creator<Key, ipc::Service> {
        sized!(size, SIZE => builder.add::<[u8; SIZE]>(key, [7; SIZE]))
    }

    pub fn get(reader: &Reader<ipc::Service, Key>, key: Key, size: usize, into: &mut Vec<u8>) {
        into.clear();
        sized!(size, SIZE => {
            let entry = reader.entry::<[u8; SIZE]>(&key).expect("is present");
            into.extend_from_slice(&*entry.get());
        });
    }

    pub fn set(writer: &Writer<ipc::Service, Key>, key: Key, value: &[u8]) {
        sized!(value.len(), SIZE => {
            let entry = writer.entry::<[u8; SIZE]>(&key).expect("is present, and not held");
            let mut loan = entry.loan_uninit();
            let place = loan.value_mut();
            // SAFETY: the place has room for as many bytes as `value` has, and nobody reads it before it is published.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), place.as_mut_ptr().cast(), SIZE) };
            // SAFETY: all of it was written above.
            drop(unsafe { loan.assume_init_and_update() });
        });
    }
}
