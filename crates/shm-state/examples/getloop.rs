//! profile
use shm_state::*;
fn main() {
    let n: usize = std::env::args().nth(2).unwrap().parse().unwrap();
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
    for k in &keys {
        s.put(&KeyRef::new(1, k.as_bytes()), None, 1, &[7; 8], Deadline::never())
            .unwrap();
    }
    let order: Vec<&String> = (0..100_000).map(|_| &keys[rnd() as usize % n]).collect();
    let c: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t0 = std::time::Instant::now();
    let mut sum = 0u64;
    for _ in 0..c {
        for k in &order {
            sum = sum.wrapping_add(
                s.get_with(&KeyRef::new(1, k.as_bytes()), |t, b| {
                    assert_eq!(t, 1);
                    u64::from_le_bytes(b.try_into().unwrap())
                })
                .unwrap()
                .unwrap(),
            );
        }
    }
    println!("{:.1} ns {sum}", t0.elapsed().as_nanos() as f64 / c as f64 / 1e6);
}
