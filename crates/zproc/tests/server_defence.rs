//! Servers under clients that mean no good, or are broken: none of them stalls another, and nothing is left of them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use zproc::{Backend, Error, Server, State};

zproc::init_tests!();

mod support;
use support::{HANG, eventually, is_readable};

const KEY: &str = "open sesame";

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const PING: u8 = 5;
const PONG: u8 = 6;
const REQUEST: u8 = 7;
const REPLY: u8 = 8;
const REFUSAL: u8 = 10;

/// By hand, as `docs/protocol.md` says: what the library sends is compared with the document.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'z', b'p', 1, kind];
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

fn connect(server: &Server) -> UnixStream {
    let path = server.address().strip_prefix("ipc://").unwrap();
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream
}

fn receive(stream: &mut UnixStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    assert_eq!(head[..3], *b"zp\x01");
    let mut body = vec![0; u32::from_le_bytes(head[4..].try_into().unwrap()) as usize];
    stream.read_exact(&mut body)?;
    Ok((head[3], body))
}

fn hello(nonce: u8, has_key: bool) -> Vec<u8> {
    let flags = [u8::from(has_key), 0, 0, 0, 0, 0, 0, 0];
    frame(HELLO, &[&[nonce; 32][..], &flags].concat())
}

/// What the document says a proof is.
fn prove(who: &[u8; 8], client: &[u8], server: &[u8]) -> [u8; 32] {
    let key = blake3::derive_key("zproc 2026-11 secret key of a state server, protocol 1", KEY.as_bytes());
    *blake3::keyed_hash(&key, &[&who[..], client, server].concat()).as_bytes()
}

/// A connection that has proved itself, and what its client has sent.
fn proved(server: &Server) -> (UnixStream, Vec<u8>) {
    let mut stream = connect(server);
    let mut sent = hello(7, true);
    stream.write_all(&sent).unwrap();
    let (kind, challenge) = receive(&mut stream).unwrap();
    assert_eq!((kind, challenge.len()), (CHALLENGE, 40));
    assert_eq!(challenge[36..], server.pid().to_le_bytes());
    let proof = frame(PROOF, &prove(b"client\0\0", &[7; 32], &challenge[..32]));
    stream.write_all(&proof).unwrap();
    sent.extend(proof);
    let (kind, welcome) = receive(&mut stream).unwrap();
    assert_eq!((kind, welcome.len()), (WELCOME, 48));
    assert_eq!(welcome[..32], prove(b"server\0\0", &[7; 32], &challenge[..32]));
    (stream, sent)
}

/// A connection of a session.
fn session(server: &Server) -> UnixStream {
    let (mut stream, _) = proved(server);
    // No session, namespace "default", no identity, ordinary time, not read only.
    let open = [&[1, 0, 7][..], b"default", &[0, 0, 0]].concat();
    stream.write_all(&frame(REQUEST, &open)).unwrap();
    let (kind, reply) = receive(&mut stream).unwrap();
    assert_eq!((kind, reply[0]), (REPLY, 3));
    stream
}

/// The next frame is a refusal, and then the connection is closed.
#[track_caller]
fn assert_refused(stream: &mut UnixStream, number: u8, says: &str) {
    let (kind, body) = receive(stream).unwrap();
    assert_eq!((kind, body[0]), (REFUSAL, number));
    let text = String::from_utf8_lossy(&body[2..]).into_owned();
    assert!(text.contains(says), "{text}");
    assert_closed(stream);
}

#[track_caller]
fn assert_closed(stream: &mut UnixStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

const DENIED: u8 = 0;
const PROTOCOL: u8 = 1;

fn locked() -> Server {
    zproc::start_server().secret_key(KEY).start().unwrap()
}

/// Whether an honest client is served.
#[track_caller]
fn assert_serves(server: &Server) {
    let state = State::builder(server.address()).secret_key(KEY).open().unwrap();
    state.seq().unwrap();
    let pong = zproc::ping(server.address()).secret_key(KEY).timeout(HANG).send();
    assert!(pong.unwrap().is_some());
}

#[test]
fn the_documented_bytes_are_the_ones_that_are_spoken() {
    let server = locked();
    let (mut stream, _) = proved(&server);
    stream.write_all(&frame(PING, b"hello")).unwrap();
    assert_eq!(receive(&mut stream).unwrap(), (PONG, b"hello".to_vec()));
    stream.write_all(&frame(REQUEST, &[0])).unwrap();
    assert_eq!(receive(&mut stream).unwrap(), (REPLY, vec![0]));
}

#[test]
fn a_replayed_transcript_is_refused() {
    let server = locked();
    let (_, transcript) = proved(&server);
    let mut stream = connect(&server);
    stream.write_all(&transcript).unwrap();
    assert_eq!(receive(&mut stream).unwrap().0, CHALLENGE);
    assert_refused(&mut stream, DENIED, "wrong");
    // Nor is the server's own proof one of a client.
    let mut stream = connect(&server);
    stream.write_all(&hello(7, true)).unwrap();
    let (_, challenge) = receive(&mut stream).unwrap();
    let proof = prove(b"server\0\0", &[7; 32], &challenge[..32]);
    stream.write_all(&frame(PROOF, &proof)).unwrap();
    assert_refused(&mut stream, DENIED, "wrong");
}

#[test]
fn a_client_that_has_not_proved_itself_gets_nothing() {
    let server = locked();
    for frame_before in [frame(REQUEST, &[0]), frame(PING, b"x"), frame(PROOF, &[0; 32])] {
        let mut stream = connect(&server);
        stream.write_all(&frame_before).unwrap();
        assert_refused(&mut stream, PROTOCOL, "Hello");
        let mut stream = connect(&server);
        stream
            .write_all(&[hello(1, true), frame_before.clone()].concat())
            .unwrap();
        assert_eq!(receive(&mut stream).unwrap().0, CHALLENGE);
        let says = if frame_before[3] == PROOF { "wrong" } else { "Proof" };
        let number = if frame_before[3] == PROOF { DENIED } else { PROTOCOL };
        assert_refused(&mut stream, number, says);
    }
    let mut stream = connect(&server);
    stream
        .write_all(&[hello(1, false), frame(PROOF, &[0; 32])].concat())
        .unwrap();
    assert_eq!(receive(&mut stream).unwrap().0, CHALLENGE);
    assert_refused(&mut stream, DENIED, "secret key");
}

#[test]
fn corrupt_frames_get_an_error_and_the_connection_closes() {
    let server = locked();
    let mut four_gib = frame(REQUEST, b"");
    four_gib[4..8].copy_from_slice(&[0xff; 4]);
    let mut version = hello(1, true);
    version[2] = 9;
    let corrupt = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "another protocol"),
        (vec![b'z', b'q'], "another protocol"),
        (frame(77, b""), "77"),
        (version, "version 9"),
        (four_gib.clone(), "4294967295 bytes"),
        (frame(HELLO, &[0; 300]), "300 bytes"),
        (frame(HELLO, &[0; 39]), "39 bytes"),
        (frame(HELLO, &[0xff; 40]), "flags"),
    ];
    for (bytes, says) in corrupt {
        let mut stream = connect(&server);
        stream.write_all(&bytes).unwrap();
        assert_refused(&mut stream, PROTOCOL, says);
    }
    // A million and one changes, of a byte each.
    let clears = vec![2; (1 << 20) + 1];
    let many = [&[9, 0, 0, 0, 0x81, 0x80, 0x40][..], &clears, &[0]].concat();
    for (bytes, says) in [
        (frame(REQUEST, &many), "makes no sense"),
        (four_gib, "4294967295 bytes"),
        (frame(REQUEST, b""), "makes no sense"),
        (frame(REQUEST, &[0xff; 100]), "makes no sense"),
        (frame(REQUEST, &[0, 0]), "follow"),
        (hello(1, true), "Hello"),
    ] {
        let (mut stream, _) = proved(&server);
        stream.write_all(&bytes).unwrap();
        assert_refused(&mut stream, PROTOCOL, says);
    }
    assert_serves(&server);
}

/// Requests whose fields are anything, of a client that has been let in, all have their answers.
#[test]
fn requests_of_any_content_are_answered() {
    let server = locked();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut replies, mut refusals) = (0, 0);
    let mut stream = session(&server);
    for _ in 0..3000 {
        let [a, b, c, d] = std::array::from_fn(|_| (next() % 6) as u8);
        let bit = (next() % 2) as u8;
        // All but Next, which may wait.
        let mut body = match next() % 10 {
            0 => vec![2],
            1 => vec![3, a, b, 1, c],
            2 => vec![4, a],
            3 => vec![5, a, 0],
            4 => vec![5, a, 1, b, c, d],
            5 => vec![6, bit, a],
            6 => vec![7, a],
            7 => vec![8, a, 1, b, 0, c, 2, d, d],
            8 => vec![9, a, 1, b, 1, c, bit, 3, 0, b, 1, c, d, 1, a, 1, c, 1, a, 2, 0],
            _ => vec![11, a],
        };
        if next() % 4 == 0 {
            let at = next() as usize % body.len();
            body[at] = next() as u8;
        }
        stream.write_all(&frame(REQUEST, &body)).unwrap();
        match receive(&mut stream).unwrap().0 {
            REPLY => replies += 1,
            REFUSAL => {
                refusals += 1;
                assert_closed(&mut stream);
                stream = session(&server);
            }
            kind => panic!("a frame of kind {kind}"),
        }
    }
    assert!(replies > 100 && refusals > 100, "{replies} and {refusals}");
    assert_serves(&server);
    let state = State::builder(server.address()).secret_key(KEY).open().unwrap();
    assert!(state.verify().unwrap().is_clean());
}

#[test]
fn a_thousand_clients_with_half_a_frame_stall_nobody() {
    // More than the usual limit of a process: it has both ends of none, but a thousand of one.
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap()
        .1;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
    let server = locked();
    let half = &hello(1, true)[..20];
    let mut stalled = Vec::new();
    for n in 0..1000 {
        let mut stream = connect(&server);
        // Those that were turned away in between cannot be written to.
        let _ = stream.write_all(half);
        stalled.push(stream);
        if n % 250 == 0 {
            assert_serves(&server);
        }
    }
    // A few that have proved themselves, and then stop half way.
    for _ in 0..20 {
        let (mut stream, _) = proved(&server);
        stream.write_all(&frame(REQUEST, &[0; 100])[..50]).unwrap();
        stalled.push(stream);
    }
    assert_serves(&server);
    eventually("all of them are closed", || {
        stalled.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            match stream.read(&mut [0; 512]) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        stalled.is_empty()
    });
    assert_serves(&server);
}

/// Serves some dozens of clients, for which it has descriptors, until it is told to stop.
fn serve_a_few(stop: State) -> zproc::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200, hard).unwrap();
    let server = zproc::start_server().backend(Backend::Thread).secret_key(KEY).start()?;
    stop.insert("address", server.address())?;
    stop.watch().timeout(HANG).get_when_available("stop")?;
    server.stop()
}

/// A wait that is cancelled leaves its connection, which the server noticed after a second only: until then it counted as a
/// client. So who cancelled often was told that there are too many.
#[test]
fn waits_that_are_cancelled_are_no_clients_any_more() {
    let told = State::anonymous().unwrap();
    let ctx = zproc::Context::builder().state(told.clone()).build().unwrap();
    let serving = ctx.process(serve_a_few).start().unwrap();
    let address = told.watch().timeout(HANG).get_when_available("address").unwrap();
    let address: String = address.get("address").unwrap().unwrap();
    let state = State::builder(&format!("{address}?transport=socket"))
        .secret_key(KEY)
        .open()
        .unwrap();
    for _ in 0..200 {
        let canceller = zproc::Canceller::new();
        let watch = state.watch().cancel(&canceller).timeout(HANG);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.get_when_available("never").map(drop));
            std::thread::sleep(Duration::from_micros(500));
            canceller.cancel();
            let result = waiting.join().unwrap();
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        });
    }
    assert_eq!(state.seq().unwrap(), 0);
    told.insert("stop", true).unwrap();
    serving.wait().unwrap();
}

/// One that goes on after the error had the next question asked at once: at full speed, each for a thread of the server.
#[test]
fn an_event_loop_asks_a_full_server_now_and_then() {
    let told = State::anonymous().unwrap();
    let ctx = zproc::Context::builder().state(told.clone()).build().unwrap();
    let serving = ctx.process(serve_a_few).start().unwrap();
    let address = told.watch().timeout(HANG).get_when_available("address").unwrap();
    let address: String = address.get("address").unwrap().unwrap();
    let open = || {
        let state = State::builder(&format!("{address}?transport=socket")).secret_key(KEY);
        state.open()
    };
    let state = open().unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = open() {
        clients.push(client);
        assert!(clients.len() < 200);
    }
    let feed = state.watch().event_fd().unwrap();
    let (mut rounds, mut errors) = (0, 0);
    let end = Instant::now() + Duration::from_millis(600);
    while Instant::now() < end {
        if is_readable(&feed, Duration::from_millis(100)) {
            rounds += 1;
            errors += u32::from(feed.clear().is_err());
        }
    }
    assert!(errors > 0 && rounds < 60, "{errors} errors in {rounds} rounds");
    clients.clear();
    eventually("it waits", || {
        feed.clear().is_ok() && !is_readable(&feed, Duration::from_millis(30))
    });
    state.clone().insert("n", 1).unwrap();
    assert!(is_readable(&feed, HANG));
    told.insert("stop", true).unwrap();
    serving.wait().unwrap();
}

/// Near the limit of descriptors no connection was accepted any more, and nobody was told.
#[test]
fn clients_that_are_too_many_are_told_so_and_the_others_served() {
    let told = State::anonymous().unwrap();
    let ctx = zproc::Context::builder().state(told.clone()).build().unwrap();
    let serving = ctx.process(serve_a_few).start().unwrap();
    let address = told.watch().timeout(HANG).get_when_available("address").unwrap();
    let address: String = address.get("address").unwrap().unwrap();
    let connect = || {
        let state = State::builder(&format!("{address}?transport=socket")).secret_key(KEY);
        state.open()
    };
    let mut clients = Vec::new();
    let refused = loop {
        match connect() {
            Ok(client) => clients.push(client),
            Err(error) => break error.to_string(),
        }
        assert!(clients.len() < 200);
    };
    assert!(refused.contains("clients are connected"), "{refused}");
    assert!(clients.len() > 10, "{}", clients.len());
    clients.iter().for_each(|client| assert_eq!(client.seq().unwrap(), 0));
    // One that leaves makes room.
    clients.pop();
    eventually("there is room for one", || connect().is_ok());
    told.insert("stop", true).unwrap();
    serving.wait().unwrap();
}

#[test]
fn a_client_that_takes_no_answers_is_dropped() {
    let server = locked();
    let (mut stream, _) = proved(&server);
    stream.set_write_timeout(Some(HANG)).unwrap();
    let ping = frame(PING, &vec![0; 1 << 20]);
    // Until the server gives up on it, which closes the connection.
    while stream.write_all(&ping).is_ok() {}
    assert_serves(&server);
}

/// It goes from the memory where it lies, but who does not take it holds up no writer: the rest is copied soon.
#[test]
fn a_large_value_is_pinned_for_a_moment_and_arrives_as_it_was() {
    const LENGTH: usize = 2 << 20;
    let server = locked();
    let state = State::builder(server.address()).secret_key(KEY).open().unwrap();
    state.insert("blob", vec![7u8; LENGTH]).unwrap();
    let mut stream = session(&server);
    let get = [&[3, 0, 7, 4][..], b"blob"].concat();
    stream.write_all(&frame(REQUEST, &get)).unwrap();
    // The server is at it.
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(
        (head[3], u32::from_le_bytes(head[4..].try_into().unwrap()) as usize),
        (REPLY, LENGTH + 7)
    );
    eventually("it is pinned no longer", || {
        state.status().unwrap().namespaces[0].pins.is_empty()
    });
    for n in 0..4 {
        state.insert("blob", vec![n; LENGTH]).unwrap();
    }
    let mut body = vec![0; LENGTH + 7];
    stream.read_exact(&mut body).unwrap();
    // A value that is present, its tag, and its length as a varint of four bytes.
    assert_eq!(body[..3], [5, 1, 8]);
    assert!(body[7..].iter().all(|byte| *byte == 7));
    assert_serves(&server);
}

#[test]
fn a_client_that_takes_half_of_a_large_value_is_dropped() {
    let server = locked();
    let state = State::builder(server.address()).secret_key(KEY).open().unwrap();
    state.insert("blob", vec![7u8; 8 << 20]).unwrap();
    let mut stream = session(&server);
    let get = [&[3, 0, 7, 4][..], b"blob"].concat();
    stream.write_all(&frame(REQUEST, &get)).unwrap();
    let mut half = vec![0; 4 << 20];
    stream.read_exact(&mut half).unwrap();
    // Longer than a frame may take.
    std::thread::sleep(Duration::from_secs(6));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 4 << 20, "{}", rest.len());
    assert_serves(&server);
}

#[test]
fn descriptors_and_threads_are_given_back() {
    fn count(what: &str) -> usize {
        std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
    }
    fn in_child() -> zproc::Result<[(usize, usize); 3]> {
        let count = || (count("fd"), count("task"));
        // What is made once for the process is there.
        drop(zproc::start_server().backend(Backend::Thread).secret_key(KEY).start()?);
        let before = count();
        let server = zproc::start_server().backend(Backend::Thread).secret_key(KEY).start()?;
        let serving = count();
        for _ in 0..50 {
            drop(State::builder(server.address()).secret_key(KEY).open()?);
            let denied = State::open(server.address());
            assert!(matches!(denied, Err(Error::AccessDenied { .. })));
            let mut stream = connect(&server);
            stream.write_all(b"nonsense").unwrap();
        }
        let idle: Vec<_> = (0..20).map(|_| proved(&server)).collect();
        drop(idle);
        eventually("the threads of the clients end", || count() <= serving);
        let after = count();
        // Also those of clients that are connected when it stops.
        let (connected, _) = proved(&server);
        server.stop()?;
        drop(connected);
        eventually("all is given back", || count() <= before);
        Ok([before, serving, after])
    }
    let ctx = zproc::Context::new().unwrap();
    let [before, serving, after] = ctx.process(in_child).start().unwrap().wait().unwrap();
    assert_eq!(serving, after);
    assert!(before <= serving);
}

/// Needs a second user, whom root can be.
#[test]
fn another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can be somebody else");
        return;
    }
    fn as_nobody(address: String) -> zproc::Result<String> {
        let nobody = nix::unistd::Uid::from_raw(65_534);
        nix::unistd::setresuid(nobody, nobody, nobody).expect("root may be anybody");
        Ok(State::open(&address).unwrap_err().to_string())
    }
    // Root is trusted by all, so it is the client that is somebody else.
    let directory = std::env::temp_dir().join(format!("zproc-users-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("server.sock");
    let address = format!("ipc://{}", path.display());
    let server = zproc::start_server().address(&address).start().unwrap();
    let ctx = zproc::Context::new().unwrap();
    let refused = |says: &str| {
        let text = ctx
            .process(as_nobody)
            .args(address.clone())
            .start()
            .unwrap()
            .wait()
            .unwrap();
        assert!(text.contains(says), "{text}");
    };
    refused("not this user's"); // by the mode of the socket
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, open).unwrap();
    refused("user 65534"); // by who it is
    drop(server);
    std::fs::remove_dir_all(directory).unwrap();
}
