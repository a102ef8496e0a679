//! Results on their way from the thread of a task to whoever takes them.
//!
//! It grows with what waits in it, up to a bound at which the sender rests. Whoever takes results takes many at a time, so
//! that the two do not meet at the lock for each.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The two ends of a new queue, in which so many things wait at most.
pub(super) fn queue<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue {
        most,
        inner: Mutex::new(Inner {
            waiting: VecDeque::new(),
            sends: true,
            receives: true,
        }),
        more: Condvar::new(),
        less: Condvar::new(),
    });
    let receiver = Receiver {
        queue: Arc::clone(&queue),
        taken: VecDeque::new(),
    };
    (Sender(queue), receiver)
}

#[derive(Debug)]
struct Queue<T> {
    most: usize,
    inner: Mutex<Inner<T>>,
    /// There is something, or the sender has ended.
    more: Condvar,
    /// There is room, or the receiver has ended.
    less: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    sends: bool,
    receives: bool,
}

/// What is taken at once.
const BATCH: usize = 1024;

impl<T> Queue<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the thread of a task.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Queue<T>>);

impl<T> Sender<T> {
    /// Waits for room; false when nobody can take it any more.
    pub(super) fn send(&self, value: T) -> bool {
        let mut inner = self.0.inner();
        while inner.receives && inner.waiting.len() >= self.0.most {
            inner = self.0.less.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if !inner.receives {
            return false;
        }
        inner.waiting.push_back(value);
        if inner.waiting.len() == 1 {
            self.0.more.notify_one();
        }
        true
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.inner().sends = false;
        self.0.more.notify_one();
    }
}

/// The end of whoever takes the results.
#[derive(Debug)]
pub(super) struct Receiver<T> {
    queue: Arc<Queue<T>>,
    taken: VecDeque<T>,
}

/// What a receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<T> {
    Value(T),
    /// Nothing came in time.
    Nothing,
    /// Nothing will come.
    End,
}

impl<T> Receiver<T> {
    /// What was taken already.
    #[inline]
    pub(super) fn take_here(&mut self) -> Option<T> {
        self.taken.pop_front()
    }

    /// The next, for which it waits so long at most.
    pub(super) fn receive(&mut self, patience: Duration) -> Received<T> {
        if let Some(value) = self.taken.pop_front() {
            return Received::Value(value);
        }
        let mut inner = self.queue.inner();
        if inner.waiting.is_empty() && inner.sends {
            let waited = self.queue.more.wait_timeout(inner, patience);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.waiting.is_empty() {
            return if inner.sends { Received::Nothing } else { Received::End };
        }
        let was_full = inner.waiting.len() >= self.queue.most;
        let batch = inner.waiting.len().min(BATCH);
        self.taken.extend(inner.waiting.drain(..batch));
        drop(inner);
        if was_full {
            self.queue.less.notify_one();
        }
        self.taken.pop_front().map_or(Received::Nothing, Received::Value)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut inner = self.queue.inner();
            inner.receives = false;
            std::mem::take(&mut inner.waiting)
        };
        self.queue.less.notify_one();
        // What drops them is the user's.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn everything_comes_in_order_through_a_narrow_queue() {
        for most in [1, 2, 1000] {
            let (sender, mut receiver) = queue(most);
            let thread = std::thread::spawn(move || (0..10_000).all(|n| sender.send(n)));
            for n in 0..10_000 {
                assert_eq!(receiver.receive(PATIENCE), Received::Value(n));
            }
            assert_eq!(receiver.receive(PATIENCE), Received::End);
            assert!(thread.join().unwrap());
        }
    }

    #[test]
    fn a_sender_rests_at_the_bound_and_ends_with_the_receiver() {
        let (sender, mut receiver) = queue(3);
        assert_eq!(receiver.receive(Duration::from_millis(1)), Received::Nothing);
        let sent = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                while sender.send(()) {
                    sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(sent.load(std::sync::atomic::Ordering::Relaxed) <= 3);
            assert_eq!(receiver.receive(PATIENCE), Received::Value(()));
            drop(receiver);
            thread.join().unwrap();
        });
    }
}
