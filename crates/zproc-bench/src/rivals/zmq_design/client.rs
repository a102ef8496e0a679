//! The other side of the server.

use std::marker::PhantomData;
use std::sync::Mutex;
use std::time::Duration;

use zmq::{Context, DONTWAIT, Message, SNDMORE, Socket, SocketType};

use super::Variant;
use super::server::endpoint;
use super::wire::{Borrowed, Push, Reply, Request, Update, View, decode, encode, greeting, topic};
use crate::rivals::{Client, Contents, News, Waiting, Watcher};

/// A context has room for 1,023 sockets; some programs have more watchers than that.
const SOCKETS: usize = 900;

/// The contexts of this process, each with how many sockets it has had.
static CONTEXTS: Mutex<Vec<(Context, usize)>> = Mutex::new(Vec::new());

fn connect(directory: &str, kind: SocketType, name: &str, prepare: impl FnOnce(&Socket)) -> Socket {
    let mut contexts = CONTEXTS.lock().expect("nobody panics with the lock");
    if contexts.last().is_none_or(|(_, sockets)| *sockets >= SOCKETS) {
        contexts.push((Context::new(), 0));
    }
    let (context, sockets) = contexts.last_mut().expect("there is one");
    *sockets += 1;
    let socket = context.socket(kind).expect("a socket is left");
    socket.set_linger(0).expect("is an option of all sockets");
    // A server that has just been started is found when it is there, and not by the next look in 100 ms.
    socket.set_reconnect_ivl(1).expect("is an option of all sockets");
    prepare(&socket);
    socket
        .connect(&endpoint(directory, name))
        .expect("the address is well formed");
    socket
}

/// A number by which one who changes something knows its own updates.
fn identity() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// A connection to the server.
pub struct Connection<V> {
    requests: Socket,
    pushes: Socket,
    reply: Message,
    identity: u64,
    variant: PhantomData<V>,
}

impl<V: Variant> Connection<V> {
    /// To the server whose sockets are in this directory.
    pub fn to(directory: &str) -> Self {
        Self {
            requests: connect(directory, SocketType::DEALER, "requests", |_| ()),
            pushes: connect(directory, SocketType::PUSH, "pushes", |_| ()),
            reply: Message::new(),
            identity: identity(),
            variant: PhantomData,
        }
    }

    /// Puts what a dict is to hold at first.
    pub fn fill(&mut self, contents: &Contents) {
        let blob = contents.blob();
        let numbers = contents
            .entries()
            .into_iter()
            .map(|(key, number)| (key, Borrowed::Number(number)));
        let blob = blob.iter().map(|(key, bytes)| (*key, Borrowed::Bytes(bytes)));
        let done: Reply<'_> = decode(self.ask(&Request::Fill(numbers.chain(blob).collect())));
        assert!(matches!(done, Reply::Done));
    }

    fn ask(&mut self, request: &Request<'_>) -> &[u8] {
        self.requests.send(encode(request), 0).expect("the socket is open");
        self.requests.recv(&mut self.reply, 0).expect("the socket is open");
        &self.reply
    }

    /// Asks for the value under a key, and shows it to `see`.
    fn see<R>(&mut self, key: &str, see: impl FnOnce(Option<Borrowed<'_>>) -> R) -> R {
        let reply = self.ask(&Request::Get(key));
        if V::WHOLE {
            let dict: View<'_> = decode(reply);
            see(dict.get(key).copied())
        } else {
            match decode(reply) {
                Reply::Value(value) => see(value),
                Reply::Follows => {
                    self.requests.recv(&mut self.reply, 0).expect("a reply has two parts");
                    see(Some(Borrowed::Bytes(&self.reply)))
                }
                Reply::Done => panic!("the server answers with a value"),
            }
        }
    }

    fn put(&mut self, key: &str, value: Borrowed<'_>) {
        let done: Reply<'_> = decode(self.ask(&Request::Set(self.identity, key, value)));
        assert!(matches!(done, Reply::Done));
    }
}

impl<V: Variant> Client for Connection<V> {
    fn open(address: &str) -> Self {
        Self::to(address)
    }

    fn get(&mut self, key: &str) -> Option<u64> {
        self.see(key, |value| value.map(Borrowed::number))
    }

    fn set(&mut self, key: &str, value: u64) {
        self.put(key, Borrowed::Number(value));
    }

    fn get_held(&mut self, _: &str, _: usize) -> u64 {
        unreachable!()
    }

    fn set_held(&mut self, _: &str, _: usize) {
        unreachable!()
    }

    fn get_bytes(&mut self, key: &str, into: &mut Vec<u8>) {
        into.clear();
        self.see(key, |value| match value {
            Some(Borrowed::Bytes(bytes)) => into.extend_from_slice(bytes),
            other => panic!("{other:?} where bytes were expected"),
        });
    }

    fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.put(key, Borrowed::Bytes(value));
    }

    fn snapshot(&mut self, key: &str) -> Option<u64> {
        let dict: View<'_> = decode(self.ask(&Request::All));
        dict.get(key).map(|value| value.number())
    }

    fn increment(&mut self, key: &str) {
        let ticket = self
            .ask(&Request::Atomic(key))
            .try_into()
            .expect("a ticket has 8 bytes");
        let mut push = Push {
            ticket: u64::from_le_bytes(ticket),
            writer: self.identity,
            key,
            value: None,
        };
        self.requests.recv(&mut self.reply, 0).expect("a reply has two parts");
        if V::WHOLE {
            let mut dict: View<'_> = decode(&self.reply);
            let value = dict.get_mut(key).expect("is present");
            *value = Borrowed::Number(value.number() + 1);
            self.pushes.send(encode(&push), SNDMORE).expect("the socket is open");
            self.pushes.send(encode(&dict), 0).expect("the socket is open");
        } else {
            let Reply::Value(Some(value)) = decode(&self.reply) else {
                panic!("the server answers with a value");
            };
            push.value = Some(Borrowed::Number(value.number() + 1));
            self.pushes.send(encode(&push), 0).expect("the socket is open");
        }
    }
}

/// A subscription.
pub struct Subscription<V> {
    updates: Socket,
    part: Message,
    key: String,
    waiting: Waiting,
    identity: u64,
    variant: PhantomData<V>,
}

impl<V: Variant> Subscription<V> {
    /// Receives the next part; whether there was one.
    fn receive(&mut self, patience: Duration) -> bool {
        match self.waiting {
            Waiting::Asleep => {
                self.updates
                    .set_rcvtimeo(patience.as_millis() as i32)
                    .expect("is an option of all sockets");
                match self.updates.recv(&mut self.part, 0) {
                    Ok(()) => true,
                    Err(zmq::Error::EAGAIN) => false,
                    Err(error) => panic!("{error}"),
                }
            }
            Waiting::Spinning => {
                let start = std::time::Instant::now();
                loop {
                    match self.updates.recv(&mut self.part, DONTWAIT) {
                        Ok(()) => return true,
                        // The thread of libzmq that receives may have to run on this CPU.
                        Err(zmq::Error::EAGAIN) if start.elapsed() < patience => std::thread::yield_now(),
                        Err(zmq::Error::EAGAIN) => return false,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }

    /// A subscription is a message to the server, which nobody acknowledges. A second one, to a topic of this watcher
    /// alone, comes behind it, and what is sent there on request shows that both have arrived.
    fn await_greeting(&mut self, mut connection: Connection<V>) {
        let topic = greeting(self.identity);
        self.updates
            .set_subscribe(topic.as_bytes())
            .expect("is an option of this socket");
        for _ in 0..1000 {
            let done: Reply<'_> = decode(connection.ask(&Request::Hello(self.identity)));
            assert!(matches!(done, Reply::Done));
            while self.receive(Duration::from_millis(20)) {
                let is_greeting = *self.part == *topic.as_bytes();
                while self.updates.get_rcvmore().expect("is an option of all sockets") {
                    self.more();
                }
                if is_greeting {
                    return self.updates.set_unsubscribe(topic.as_bytes()).expect("was subscribed");
                }
            }
        }
        panic!("the server does not take the subscription");
    }

    /// Receives a part of which there is another.
    fn more(&mut self) {
        self.updates.recv(&mut self.part, 0).expect("messages come whole");
    }
}

impl<V: Variant> Watcher for Subscription<V> {
    fn open(address: &str, key: &str, waiting: Waiting) -> Self {
        let topic = topic::<V>(key);
        let updates = connect(address, SocketType::SUB, "updates", |socket| {
            socket
                .set_subscribe(topic.as_bytes())
                .expect("is an option of this socket");
        });
        let mut subscription = Self {
            updates,
            part: Message::new(),
            key: key.to_owned(),
            waiting,
            identity: identity(),
            variant: PhantomData,
        };
        subscription.await_greeting(Connection::to(address));
        subscription
    }

    fn next(&mut self, patience: Duration) -> News {
        loop {
            if !self.receive(patience) {
                return News::Nothing;
            }
            // A subscription is to all topics that begin so; and a second greeting may be on its way.
            let this_key = *self.part == *topic::<V>(&self.key).as_bytes();
            self.more();
            if !this_key && self.part.is_empty() {
                continue;
            }
            let update: Update<'_> = decode(&self.part);
            let wanted = this_key && update.writer != self.identity && !update.identical;
            let after = update.after.map(Borrowed::number);
            let mut news = after.filter(|_| wanted);
            if V::WHOLE {
                self.more();
                let before = decode::<View<'_>>(&self.part)
                    .get(self.key.as_str())
                    .map(|value| value.number());
                self.more();
                let after = decode::<View<'_>>(&self.part)
                    .get(self.key.as_str())
                    .map(|value| value.number());
                news = after.filter(|_| wanted && after != before);
            }
            if let Some(value) = news {
                return News::Value(value);
            }
        }
    }
}
