//! The process that owns the dict.

use std::marker::PhantomData;
use std::path::Path;
use std::time::Instant;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use zmq::{Context, Message, SNDMORE, Socket, SocketType};

use super::wire::{Borrowed, MANY, Owned, Push, Reply, Request, State, Update, View, decode, encode, greeting, topic};
use super::{Faithful, Improved, Variant};

/// How a program is told to be the server.
pub const ARGUMENT: &str = "zmq-server";

/// Part of a directory that is one of the server's sockets.
pub fn endpoint(directory: &str, socket: &str) -> String {
    format!("ipc://{}", Path::new(directory).join(socket).display())
}

/// If this process was started as a server: is one, until its parent dies.
pub fn serve_from_args() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [argument, parent, variant, directory] = &args[..] else {
        return;
    };
    if argument != ARGUMENT {
        return;
    }
    set_pdeathsig(Signal::SIGKILL).expect("a process may ask to die");
    let actual = std::os::unix::process::parent_id().to_string();
    assert_eq!(*parent, actual, "the parent has ended already");
    match variant.as_str() {
        Faithful::NAME => Server::<Faithful>::bind(directory).serve(),
        Improved::NAME => Server::<Improved>::bind(directory).serve(),
        other => panic!("there is no variant '{other}'"),
    }
}

struct Server<V> {
    requests: Socket,
    updates: Socket,
    pushes: Socket,
    state: State,
    /// The whole dict as bytes, where messages carry it.
    whole: Vec<u8>,
    ticket: u64,
    variant: PhantomData<V>,
}

impl<V: Variant> Server<V> {
    fn bind(directory: &str) -> Self {
        let context = Context::new();
        let bound = |kind, name| {
            let socket = context.socket(kind).expect("a socket is left");
            socket.bind(&endpoint(directory, name)).expect("the directory is ours");
            socket
        };
        Self {
            updates: bound(SocketType::PUB, "updates"),
            pushes: bound(SocketType::PULL, "pushes"),
            requests: bound(SocketType::ROUTER, "requests"),
            state: State::new(),
            whole: Vec::new(),
            ticket: 0,
            variant: PhantomData,
        }
    }

    fn serve(mut self) -> ! {
        let (mut sender, mut request) = (Message::new(), Message::new());
        loop {
            self.requests.recv(&mut sender, 0).expect("the socket is open");
            self.requests.recv(&mut request, 0).expect("a request has two parts");
            match decode(&request) {
                Request::Get(_) if V::WHOLE => self.reply_whole(&sender),
                Request::Get(key) => match self.state.get(key) {
                    Some(Owned::Bytes(bytes)) if bytes.len() >= MANY => {
                        self.requests.send(&sender[..], SNDMORE).expect("the socket is open");
                        self.send(&encode(&Reply::Follows), bytes);
                    }
                    value => self.reply(&sender, &Reply::Value(value.map(Owned::borrow))),
                },
                Request::All if V::WHOLE => self.reply_whole(&sender),
                Request::All => self.send(&sender, &encode(&self.state)),
                Request::Fill(entries) => {
                    for (key, value) in entries {
                        self.state.insert(key.to_owned(), value.keep());
                    }
                    self.reply(&sender, &Reply::Done);
                    self.whole.clear();
                }
                Request::Set(writer, key, value) => {
                    self.put(writer, key, value);
                    self.reply(&sender, &Reply::Done);
                }
                Request::Hello(watcher) => {
                    self.updates
                        .send(&greeting(watcher), SNDMORE)
                        .expect("the socket is open");
                    self.updates.send("", 0).expect("the socket is open");
                    self.reply(&sender, &Reply::Done);
                }
                Request::Atomic(key) => self.atomic(&sender, key),
            }
        }
    }

    fn reply(&self, to: &[u8], reply: &Reply<'_>) {
        self.send(to, &encode(reply));
    }

    fn reply_whole(&mut self, to: &[u8]) {
        self.fill_whole();
        self.send(to, &self.whole);
    }

    fn send(&self, to: &[u8], bytes: &[u8]) {
        self.requests.send(to, SNDMORE).expect("the socket is open");
        self.requests.send(bytes, 0).expect("the socket is open");
    }

    fn fill_whole(&mut self) {
        if self.whole.is_empty() {
            self.whole = encode(&self.state);
        }
    }

    /// Changes a value, and tells.
    fn put(&mut self, writer: u64, key: &str, value: Borrowed<'_>) {
        self.fill_whole_before();
        let after = value.keep();
        let before = match self.state.get_mut(key) {
            Some(there) => Some(std::mem::replace(there, after)),
            None => self.state.insert(key.to_owned(), after),
        };
        let before = before.as_ref().map(Owned::borrow);
        let update = Update {
            writer,
            identical: before == Some(value),
            before: before.filter(|_| !V::WHOLE),
            after: (!V::WHOLE).then_some(value),
        };
        self.tell(key, &encode(&update), None);
    }

    fn fill_whole_before(&mut self) {
        if V::WHOLE {
            self.fill_whole();
        }
    }

    /// Tells of an update: the key that is subscribed to, what became of it, and the dict before and after if messages
    /// carry it; `after` if somebody has it as bytes already.
    fn tell(&mut self, key: &str, update: &[u8], after: Option<Vec<u8>>) {
        const OPEN: &str = "the socket is open";
        // A watcher of the faithful variant gets all updates of the namespace, and looks for its key in them.
        self.updates.send(topic::<V>(key), SNDMORE).expect(OPEN);
        if !V::WHOLE {
            return self.updates.send(update, 0).expect(OPEN);
        }
        let before = std::mem::take(&mut self.whole);
        self.whole = after.unwrap_or_else(|| encode(&self.state));
        self.updates.send(update, SNDMORE).expect(OPEN);
        self.updates.send(&before[..], SNDMORE).expect(OPEN);
        self.updates.send(&self.whole[..], 0).expect(OPEN);
    }

    /// Hands out what an atomic function works on, and waits for what it makes of it.
    fn atomic(&mut self, sender: &[u8], key: &str) {
        self.ticket += 1;
        let ticket = self.ticket.to_le_bytes();
        self.requests.send(sender, SNDMORE).expect("the socket is open");
        self.requests.send(&ticket[..], SNDMORE).expect("the socket is open");
        if V::WHOLE {
            self.fill_whole();
            self.requests.send(&self.whole[..], 0).expect("the socket is open");
        } else {
            let reply = Reply::Value(self.state.get(key).map(Owned::borrow));
            self.requests.send(encode(&reply), 0).expect("the socket is open");
        }
        let start = Instant::now();
        loop {
            if let Some(patience) = V::PATIENCE {
                let left = patience.saturating_sub(start.elapsed());
                if self
                    .pushes
                    .poll(zmq::POLLIN, left.as_millis() as i64)
                    .expect("the socket is open")
                    == 0
                {
                    return;
                }
            }
            let mut parts = self.pushes.recv_multipart(0).expect("the socket is open");
            let dict = (parts.len() == 2).then(|| parts.pop().expect("there are two"));
            let push: Push<'_> = decode(&parts[0]);
            if push.ticket != self.ticket {
                // Of a function that was given up on.
                continue;
            }
            match (push.value, dict) {
                (Some(value), None) => self.put(push.writer, push.key, value),
                (None, Some(dict)) => self.replace(&push, dict),
                _ => panic!("either a value or a dict"),
            }
            return;
        }
    }

    /// Takes a whole dict over.
    fn replace(&mut self, push: &Push<'_>, dict: Vec<u8>) {
        self.fill_whole();
        let view: View<'_> = decode(&dict);
        self.state = view
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.keep()))
            .collect();
        let update = Update {
            writer: push.writer,
            identical: self.whole == dict,
            before: None,
            after: None,
        };
        self.tell(push.key, &encode(&update), Some(dict));
    }
}
