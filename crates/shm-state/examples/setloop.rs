//! profile
use shm_state::*;
fn main() {
    let n = 1000;
    let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
    let s = arena.namespace("x").unwrap();
    let mut r = 12345u64;
    let mut rnd = || {
        r ^= r << 13;
        r ^= r >> 7;
        r ^= r << 17;
        r
    };
    let keys: Vec<String> = (0..n).map(|_| format!("{:020}", rnd())).collect();
    let c: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t0 = std::time::Instant::now();
    for i in 0..c {
        let k = &keys[rnd() as usize % n];
        s.put(
            &KeyRef::new(1, k.as_bytes()),
            None,
            1,
            &i.to_le_bytes(),
            Deadline::never(),
        )
        .unwrap();
    }
    println!("{:.1} ns", t0.elapsed().as_nanos() as f64 / c as f64);
}
