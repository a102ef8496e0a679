//! Clients whose server is not what it should be: the other side is played by hand, as `docs/protocol.md` says.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use zproc::{Error, State};

mod support;
use support::HANG;

const REPLY: u8 = 8;
const PONG: u8 = 6;

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'z', b'p', 1, kind];
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

fn receive(stream: &mut UnixStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_le_bytes(head[4..].try_into().unwrap()) as usize];
    stream.read_exact(&mut body)?;
    Ok((head[3], body))
}

/// A server without a key, which ends with this value.
struct Fake {
    path: PathBuf,
}

impl Fake {
    /// `answer` is given what comes after each handshake, and says what is sent for it.
    fn start(name: &str, answer: impl Fn(u8, &[u8]) -> Vec<u8> + Copy + Send + 'static) -> Self {
        let path = std::env::temp_dir().join(format!("zproc-fake-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let _ = stream.write_all(&frame(2, &[7; 32].into_iter().chain([0; 8]).collect::<Vec<_>>()));
                    let _ = stream.write_all(&frame(4, &[0; 48]));
                    let _ = (receive(&mut stream), receive(&mut stream));
                    while let Ok((kind, body)) = receive(&mut stream) {
                        let _ = stream.write_all(&answer(kind, &body));
                    }
                });
            }
        });
        Self { path }
    }

    fn address(&self) -> String {
        format!("ipc://{}", self.path.display())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_ping_that_comes_back_changed_is_none() {
    let fake = Fake::start("ping", |_, payload| {
        let mut payload = payload.to_vec();
        if let Some(last) = payload.last_mut() {
            *last ^= 1;
        }
        frame(PONG, &payload)
    });
    let ping = zproc::ping(&fake.address()).timeout(HANG);
    assert_eq!(ping.send().unwrap(), None);
    let short = zproc::ping(&fake.address()).timeout(HANG).payload([]);
    assert!(short.send().unwrap().is_some(), "there was nothing to change");
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The body of an Opened.
fn opened(format: u64) -> Vec<u8> {
    [vec![3], vec![9; 16], varint(5), varint(0), varint(format)].concat()
}

/// Whose values are encoded in another way was read as if they were not, where the memory was not mapped.
#[test]
fn values_of_another_format_are_refused_over_sockets_too() {
    let fake = Fake::start("format", |_, _| frame(REPLY, &opened(zproc::VALUE_FORMAT ^ 1)));
    let result = State::open(&format!("{}?transport=socket", fake.address()));
    assert!(
        matches!(&result, Err(Error::Incompatible { reason, .. }) if reason.contains("same settings")),
        "{result:?}"
    );
}

/// A reply of the wrong kind left the connection in use.
#[test]
fn a_reply_that_answers_something_else_ends_the_session() {
    let fake = Fake::start("odd", |_, request| match request[0] {
        1 => frame(REPLY, &opened(zproc::VALUE_FORMAT)),
        2 => frame(REPLY, &[4, 77]),
        _ => frame(REPLY, &[2]),
    });
    let state = State::open(&format!("{}?transport=socket", fake.address())).unwrap();
    let before = state.snapshot().map(drop);
    assert!(
        matches!(&before, Err(Error::Disconnected { reason, .. }) if reason.contains("Done")),
        "{before:?}"
    );
    // On a connection of its own.
    assert_eq!(state.seq().unwrap(), 77);
}
