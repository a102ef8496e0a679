//! Reads memory after it was freed: the address sanitizer must say so, or it would see nothing in the tests either.

fn main() {
    let bytes = vec![1u8, 2, 3];
    let first = bytes.as_ptr();
    drop(bytes);
    // SAFETY: none; that is the point.
    println!("{}", unsafe { first.read_volatile() });
}
