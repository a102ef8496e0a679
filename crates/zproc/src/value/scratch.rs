//! Buffers that keys and values are put together in. A thread keeps a few, so that nothing is allocated once it is warm.

use std::cell::RefCell;

/// How many buffers a thread keeps: for a key, a value, and what is put together while those are in use.
const KEPT: usize = 4;

/// Room in a new buffer: a few numbers or words.
const FIRST: usize = 128;

/// Larger buffers are given back to the allocator.
const LARGEST: usize = 1 << 20;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends an empty buffer to `f`.
#[inline]
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // While the thread ends there are none to be had, nor kept.
    let kept = BUFFERS.try_with(|buffers| buffers.borrow_mut().pop()).ok().flatten();
    let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(FIRST));
    let result = f(&mut buffer);
    buffer.clear();
    if buffer.capacity() <= LARGEST {
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::with_scratch;

    #[test]
    fn a_buffer_is_lent_once_at_a_time_and_empty() {
        let address = with_scratch(|outer| {
            outer.extend([1; 100]);
            with_scratch(|inner| {
                assert!(inner.is_empty());
                inner.extend([2; 100]);
                assert_ne!(inner.as_ptr(), outer.as_ptr());
            });
            assert_eq!(outer[..], [1; 100]);
            outer.as_ptr()
        });
        with_scratch(|again| assert_eq!((again.as_ptr(), again.len()), (address, 0)));
    }
}
