//! Histories of an engine that has a mistake in it: what is planted in the shipped code must be noticed.
//!
//! Of the mistakes that [`Fault`] offers, some show in what processes see. Those are tried here, with kills before single
//! stores. Some lead to blocks that two uses share, which the engine often reports as damage before any history is
//! wrong; that counts as noticed, but not for those that must be seen in a history. The rest leaks memory, forgets the
//! sleepers, or spoils the creation of a namespace: no history need show that, and other tests are there for it.

use shm_state::{Fault, plant};

use crate::board::Board;
use crate::driver::Episode;
use crate::figures::Figures;
use crate::random::Random;
use crate::worker::Layer;

/// Some histories cannot be explained.
const SEEN_IN_A_HISTORY: [Fault; 4] = [Fault::SeqFirst, Fault::MarkerFirst, Fault::NoRedo, Fault::NoGeneration];

/// Some histories cannot be explained, or the engine reports damage, whichever comes first.
const NOTICED: [Fault; 6] = [
    Fault::LogSlotLate,
    Fault::HeadBeforeVersion,
    Fault::LinkDirectly,
    Fault::SplitDirectly,
    Fault::FloorAfterRecycle,
    Fault::IgnorePins,
];

/// Histories until it must have been noticed.
const ROUNDS: u64 = 6000;

/// What the driver writes when a history was refused.
const REFUSED: &str = "a history was refused";

fn role(fault: Fault) -> String {
    format!("{fault:?}")
}

/// Plays the role named after a mistake. Returns whether there is such a one.
pub fn run(name: &str, seed: u64) -> bool {
    let fault = Fault::ALL.into_iter().find(|fault| role(*fault) == name);
    let Some(fault) = fault else { return false };
    plant(Some(fault));
    let (board, mut random, mut figures) = (Board::new(), Random::new(seed), Figures::default());
    while figures.rounds < ROUNDS && figures.refused + figures.refused_by_number == 0 {
        let layer = if random.once_in(2) { Layer::Engine } else { Layer::State };
        let episode = Episode {
            layer,
            history: [1, 2, 16, 256][random.below(4) as usize],
            kills: true,
            lie: None,
            broken: true,
            rounds: 50,
            seed: random.next(),
        };
        episode.play(&board, &mut figures);
    }
    println!("{name}: {}", figures.summary());
    if figures.refused + figures.refused_by_number > 0 {
        println!("{REFUSED}");
    }
    true
}

/// Tries an engine with a mistake. Returns whether a history was refused.
fn is_seen(fault: Fault) -> bool {
    let (well, text) = crate::driver(&role(fault));
    // The upper layer may also meet bytes that are no key or value.
    let damage = !well && (text.contains("Corrupt") || text.contains("WrongType"));
    assert!(well || damage, "{fault:?}: {text}");
    let seen = text.contains(REFUSED);
    assert!(seen || damage, "{fault:?} was not noticed:\n{text}");
    let line = text.lines().find(|line| line.starts_with(&role(fault)));
    println!("{}", line.unwrap_or(&format!("{fault:?}: reported as damage")));
    seen
}

#[test]
fn mistakes_that_are_planted_in_the_engine_are_noticed() {
    for fault in SEEN_IN_A_HISTORY {
        // Damage may be reported before: then once more, with other clients.
        assert!((0..10).any(|_| is_seen(fault)), "{fault:?} was not seen in a history");
    }
    for fault in NOTICED {
        is_seen(fault);
    }
}
