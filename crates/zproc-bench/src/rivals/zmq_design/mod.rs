//! The design of zproc's Python ancestor on libzmq, as good as it can be made in Rust.
//!
//! One server process owns the dict. Clients ask it by DEALER and ROUTER; it tells of each update by PUB and SUB, and the
//! receiver leaves out its own; an atomic function gets the state in its reply and pushes what it changes to the server's
//! PULL socket, and until that has come the server serves nobody else.
//!
//! In the *faithful* variant each message carries the whole dict: replies, updates (as before and after), what atomic
//! functions push. In the *improved* one they carry what was asked for or changed; those who watch a key subscribe to it,
//! so that libzmq filters before it sends; and the server gives up on an atomic function after a second.

mod client;
mod server;
mod wire;

use std::marker::PhantomData;
use std::process::Command;
use std::time::Duration;

pub use client::{Connection, Subscription};
pub use server::serve_from_args;

use super::place::{Place, Server};
use super::{Contents, Operation, Rival};
use crate::peer::program;

const NO_HANDLES: &str = "each use of a key is a request to the server";

/// What a message carries.
pub trait Variant: 'static {
    /// What the variant is called.
    const NAME: &'static str;
    /// The whole dict, or what was asked for or changed.
    const WHOLE: bool;
    /// How long the server waits for what an atomic function pushes.
    const PATIENCE: Option<Duration>;
}

/// Each message carries the whole dict.
#[derive(Debug)]
pub enum Faithful {}

impl Variant for Faithful {
    const NAME: &'static str = "ZMQ faithful";
    const WHOLE: bool = true;
    const PATIENCE: Option<Duration> = None;
}

/// A message carries what it is about.
#[derive(Debug)]
pub enum Improved {}

impl Variant for Improved {
    const NAME: &'static str = "ZMQ improved";
    const WHOLE: bool = false;
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(1));
}

/// The faithful variant.
pub type ZmqFaithful = ZmqDesign<Faithful>;
/// The improved variant.
pub type ZmqImproved = ZmqDesign<Improved>;

/// A server process.
pub struct ZmqDesign<V> {
    server: Server,
    place: Place,
    variant: PhantomData<V>,
}

impl<V: Variant> Rival for ZmqDesign<V> {
    const NAME: &'static str = V::NAME;
    const CANNOT: &'static [(Operation, &'static str)] =
        &[(Operation::GetHeld, NO_HANDLES), (Operation::SetHeld, NO_HANDLES)];
    type Client = Connection<V>;
    type Watcher = Subscription<V>;

    fn create(contents: &Contents) -> Result<Self, String> {
        let place = Place::create();
        let mut command = Command::new(program());
        let parent = std::process::id().to_string();
        command.args([server::ARGUMENT, &parent, V::NAME, &place.address()]);
        let server = Server::start(&mut command).map_err(|error| error.to_string())?;
        let design = Self {
            server,
            place,
            variant: PhantomData,
        };
        // The first request waits until the server is there.
        Connection::<V>::to(&design.address()).fill(contents);
        Ok(design)
    }

    fn address(&self) -> String {
        self.place.address()
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }
}
