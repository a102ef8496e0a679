//! By what name a process goes: 15 bytes at most, as the kernel's own names of programs have.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::process;

/// Bytes of a name.
const MOST: usize = 15;

/// A name as a slot holds it: text, then zeroes. All zeroes is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Name([u64; 2]);

/// What this process chose to be called. Two words for which half of each does no harm, instead of a mutex, which a forked
/// child might find locked.
static CHOSEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// From here on this process goes by that name in the arenas that it opens; an empty one stands for that of its program.
pub(crate) fn choose_name(name: Name) {
    let words = CHOSEN.iter().zip(name.0);
    words.for_each(|(word, value)| word.store(value, Ordering::Relaxed));
}

impl Name {
    /// As much of a text as fits, whole characters only. Control characters are left out.
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; 16];
        let mut len = 0;
        for char in text.chars().filter(|char| !char.is_control()) {
            if len + char.len_utf8() > MOST {
                break;
            }
            len += char.encode_utf8(&mut bytes[len..]).len();
        }
        let (words, _) = bytes.as_chunks::<8>();
        Self([0, 1].map(|word| u64::from_le_bytes(words[word])))
    }

    /// What was chosen, or the name of the program.
    pub(crate) fn of_this_process() -> Self {
        let chosen = Self([0, 1].map(|word: usize| CHOSEN[word].load(Ordering::Relaxed)));
        if chosen == Self::default() {
            Self::new(&process::program_name())
        } else {
            chosen
        }
    }

    /// What the words of a slot say, whatever it is.
    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    pub(crate) fn words(self) -> [u64; 2] {
        self.0
    }

    /// The text; `None` if there is none.
    pub(crate) fn text(self) -> Option<String> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        // Others may have written anything.
        let text: String = text.chars().filter(|char| !char.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        for (text, kept) in [
            ("sampler", "sampler"),
            ("exactly fifteen", "exactly fifteen"),
            ("exactly sixteen.", "exactly sixteen"),
            ("fünfzehn Zeichen", "fünfzehn Zeich"),
            ("vierzehn Zeicä", "vierzehn Zeicä"),
            ("vierzehn Zeichä", "vierzehn Zeich"),
            ("two\nlines\0", "twolines"),
        ] {
            assert_eq!(Name::new(text).text().as_deref(), Some(kept));
        }
        assert_eq!(Name::new("").text(), None);
    }

    #[test]
    fn any_words_are_a_name() {
        assert_eq!(Name::from_words([0, u64::MAX]).text(), None);
        let text = Name::from_words([u64::MAX, u64::from_le_bytes(*b"a\x1b[31mbc")]).text();
        assert_eq!(text.unwrap().trim_start_matches('\u{fffd}'), "a[31mbc");
    }

    #[test]
    fn a_process_goes_by_its_program_unless_it_chose_otherwise() {
        let program = Name::of_this_process();
        assert_eq!(program, Name::new(&process::program_name()));
        assert!(program.text().is_some());
    }
}
