//! A connection, frame by frame, both ways.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use shm_state::Unshared;

use super::receive::Receiver;
use super::send::Sender;

/// A connection. Its halves are used at once: a reply is sent while the request is still read where it lies.
pub(crate) struct Frames {
    /// A child that is forked plainly does not keep the connection open. Before the stream, since it goes first.
    _unshared: Unshared,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    stream: Arc<UnixStream>,
}

impl Frames {
    pub(crate) fn new(stream: Arc<UnixStream>) -> io::Result<Self> {
        Ok(Self {
            _unshared: Unshared::new(stream.as_fd())?,
            sender: Sender::new(Arc::clone(&stream))?,
            receiver: Receiver::new(Arc::clone(&stream))?,
            stream,
        })
    }

    pub(crate) fn stream(&self) -> &Arc<UnixStream> {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::time::Duration;

    use shm_state::Deadline;

    use super::super::frame::{BODY_MOST, HEAD, Kind, WireError, head};
    use super::*;

    fn pair() -> (Frames, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Frames::new(Arc::new(one)).unwrap(), other)
    }

    #[test]
    fn frames_of_all_lengths_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (
            Frames::new(Arc::new(one)).unwrap(),
            Frames::new(Arc::new(other)).unwrap(),
        );
        std::thread::scope(|scope| {
            let sizes = [0, 1, 255, (16 << 10) - HEAD, 16 << 10, 300_000, 1 << 20, 3, 0];
            let frames = sizes
                .into_iter()
                .flat_map(|size| [0, size / 3, size].map(|tail| (size, tail)));
            let sent = frames.clone();
            scope.spawn(move || {
                for (size, tail) in sent {
                    let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
                    let (filled, tail) = body.split_at(size - tail);
                    let sent = one.sender.send_with_tail(Deadline::never(), Kind::Request, |out| {
                        out.extend_from_slice(filled);
                        Ok::<_, WireError>(tail)
                    });
                    sent.unwrap();
                }
            });
            for (size, _) in frames {
                let (kind, body) = other.receiver.receive(BODY_MOST, Deadline::never()).unwrap();
                assert_eq!((kind, body.len()), (Kind::Request, size));
                assert!(body.iter().enumerate().all(|(n, byte)| *byte == n as u8));
            }
            assert!(!other.receiver.has_more());
        });
    }

    /// The kernel's limits count anew with each piece, so that one which comes or goes now and then kept a frame for hours.
    #[test]
    fn a_frame_that_trickles_ends_in_its_time_either_way() {
        let trickle = Duration::from_millis(200);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut frames, mut reader) = pair();
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        while reader.read(&mut [0; 40_000]).is_ok_and(|count| count > 0) {
                            std::thread::sleep(trickle);
                        }
                    });
                    let sent = frames.sender.send(Kind::Reply, &vec![0; BODY_MOST]);
                    assert!(matches!(sent, Err(WireError::NotTaken)), "{sent:?}");
                    drop(frames);
                });
            });
            let (mut frames, mut writer) = pair();
            scope.spawn(move || {
                let head = head(Kind::Request, BODY_MOST);
                for byte in head.iter().chain(std::iter::repeat(&0)) {
                    if writer.write_all(&[*byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(trickle);
                }
            });
            let received = frames
                .receiver
                .receive(BODY_MOST, Deadline::never())
                .map(|(kind, _)| kind);
            assert!(matches!(received, Err(WireError::Slow)), "{received:?}");
            drop(frames);
        });
    }

    #[test]
    fn a_descriptor_arrives_with_its_frame_and_is_closed_on_exec() {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (
            Frames::new(Arc::new(one)).unwrap(),
            Frames::new(Arc::new(other)).unwrap(),
        );
        let file = std::fs::File::open("/proc/self/status").unwrap();
        one.sender
            .send_with_fd(Kind::Reply, file.as_fd(), |out| {
                out.push(7);
                Ok::<(), WireError>(())
            })
            .unwrap();
        let mut fd = None;
        let (kind, body) = other.receiver.receive_with_fd(10, Deadline::never(), &mut fd).unwrap();
        assert_eq!((kind, body), (Kind::Reply, &[7][..]));
        let fd = fd.unwrap();
        assert_eq!(
            FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap()),
            FdFlag::FD_CLOEXEC
        );
        let name = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(name(fd.as_fd()), name(file.as_fd()));
    }
}
