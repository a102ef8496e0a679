//! Two threads write one integer: the thread sanitizer must say so, or it would see nothing in the tests either.

static mut SHARED: u64 = 0;

fn write_often() {
    for number in 0..10_000 {
        // SAFETY: none; that is the point.
        unsafe { (&raw mut SHARED).write_volatile(number) };
    }
}

fn main() {
    let other = std::thread::spawn(write_often);
    write_often();
    other.join().expect("the other thread only writes");
}
