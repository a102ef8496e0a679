//! quick figures
use shm_state::*;
use std::collections::HashMap;
use std::time::Instant;
fn ns(n: usize, f: impl FnOnce()) -> f64 {
    let t = Instant::now();
    f();
    t.elapsed().as_nanos() as f64 / n as f64
}
fn main() {
    let hist: u32 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(256);
    for n in [10usize, 1000, 100_000] {
        let arena = Arena::anonymous(&ArenaOptions {
            history: History {
                count: hist,
                bytes: 64 << 20,
            },
            ..Default::default()
        })
        .unwrap();
        let s = arena.namespace("x").unwrap();
        let mut r = 12345u64;
        let mut rnd = || {
            r ^= r << 13;
            r ^= r >> 7;
            r ^= r << 17;
            r
        };
        let keys: Vec<String> = (0..n).map(|_| format!("{:020}", rnd())).collect();
        let mut m: HashMap<String, u64> = HashMap::new();
        let ins = ns(n, || {
            for k in &keys {
                let mut t = s.begin(Deadline::never()).unwrap();
                t.put(&KeyRef::new(1, k.as_bytes()), 1, &7u64.to_le_bytes()).unwrap();
                t.commit().unwrap();
            }
        });
        for k in &keys {
            m.insert(k.clone(), 7);
        }
        let order: Vec<&String> = (0..1_000_000).map(|_| &keys[rnd() as usize % n]).collect();
        let c = order.len();
        let mut sum = 0u64;
        for round in 0..3 {
            let g = ns(c, || {
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
            });
            let hg = ns(c, || {
                for k in &order {
                    sum = sum.wrapping_add(*m.get(*k).unwrap());
                }
            });
            let e = s.locate(&KeyRef::new(1, keys[n / 2].as_bytes())).unwrap().unwrap();
            let h = ns(c, || {
                for _ in 0..c {
                    sum = sum.wrapping_add(
                        s.get_at(e, |t, b| {
                            assert_eq!(t, 1);
                            u64::from_le_bytes(b.try_into().unwrap())
                        })
                        .unwrap()
                        .unwrap()
                        .unwrap(),
                    );
                }
            });
            let set = ns(c, || {
                for (i, k) in order.iter().enumerate() {
                    s.put(
                        &KeyRef::new(1, k.as_bytes()),
                        None,
                        1,
                        &(i as u64).to_le_bytes(),
                        Deadline::never(),
                    )
                    .unwrap();
                }
            });
            let hset = ns(c, || {
                for (i, k) in order.iter().enumerate() {
                    m.insert((*k).clone(), i as u64);
                }
            });
            let pin = ns(c, || {
                for _ in 0..c {
                    sum += s.pin().unwrap().seq();
                }
            });
            let a16 = if n >= 1000 {
                ns(c / 16, || {
                    for ch in order.chunks(16) {
                        let mut t = s.begin(Deadline::never()).unwrap();
                        for k in ch {
                            t.put(&KeyRef::new(1, k.as_bytes()), 1, &7u64.to_le_bytes()).unwrap();
                        }
                        t.commit().unwrap();
                    }
                })
            } else {
                0.0
            };
            println!(
                "n={n} {round}: first-insert {ins:.0}  get {g:.1} (map {hg:.1})  handle {h:.1}  set {set:.1} (map {hset:.1})  pin {pin:.1} atomic16 {a16:.0}"
            );
        }
        let st = arena.stats().unwrap();
        println!(
            "live/key {:.0} sum {sum}",
            st.namespaces[0].live_bytes as f64 / n as f64
        );
        assert!(arena.verify().unwrap().is_clean());
    }
}
