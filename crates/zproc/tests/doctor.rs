//! The doctor on files that cannot be opened, each with what is wrong with it. States with processes, stopped and dead ones,
//! are examined in `tests/care` of the workspace.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;
use zproc::{Diagnosis, Error, Finding, Result, Severity, State, doctor};

/// The file of a state, removed when this is dropped.
struct Place {
    address: String,
    path: PathBuf,
}

impl Place {
    /// Where there is nothing.
    fn new(name: &str) -> Self {
        let name = format!("zproc-doctor-{name}-{}", std::process::id());
        Self {
            address: format!("shm://{name}"),
            path: PathBuf::from("/dev/shm").join(name),
        }
    }

    /// With a state, which nobody has open.
    fn with_state(name: &str) -> Self {
        let place = Self::new(name);
        let state = State::builder(&place.address).capacity(1 << 20).create().unwrap();
        state.insert("a", 1).unwrap();
        place
    }

    /// Changes words of the head, at byte offsets as in `docs/design.md`, and the checksum to fit.
    fn with_head(name: &str, words: &[(usize, u64)]) -> Self {
        let place = Self::with_state(name);
        let mut head = place.head();
        for (at, word) in words {
            head[*at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = xxh3_64(&head[..80]);
        head[80..].copy_from_slice(&checksum.to_le_bytes());
        place.file().write_all_at(&head, 0).unwrap();
        place
    }

    fn head(&self) -> [u8; 88] {
        let mut head = [0; 88];
        self.file().read_exact_at(&mut head, 0).unwrap();
        head
    }

    /// A word anywhere in the file.
    fn file_word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.file().read_exact_at(&mut word, at).unwrap();
        u64::from_le_bytes(word)
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.head()[at..at + 8].try_into().unwrap())
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    fn examine(&self) -> Diagnosis {
        doctor(&self.address).unwrap()
    }

    /// The one finding that keeps the state from being used, with its words and its remedy.
    #[track_caller]
    fn fatal(&self) -> (Finding, String, String) {
        let diagnosis = self.examine();
        assert!(
            diagnosis.status.is_none() && diagnosis.severity() == Severity::Fatal,
            "{diagnosis}"
        );
        let fatal: Vec<_> = diagnosis
            .problems()
            .filter(|one| one.severity() == Severity::Fatal)
            .collect();
        assert_eq!(fatal.len(), 1, "{diagnosis}");
        assert!(State::open(&self.address).is_err());
        let (text, remedy) = (fatal[0].to_string(), fatal[0].remedy(&self.address).unwrap_or_default());
        assert!(
            diagnosis.to_string().contains(&format!("  fatal    {text}\n")),
            "{diagnosis}"
        );
        (fatal[0].clone(), text, remedy)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
        drop(std::fs::remove_dir(&self.path));
    }
}

#[test]
fn an_address_without_a_state() {
    let (finding, text, remedy) = Place::new("missing").fatal();
    assert_eq!(finding, Finding::Missing);
    assert!(
        text.contains("no state") && remedy.contains("open_or_create"),
        "{text} {remedy}"
    );
}

#[test]
fn an_address_that_is_none_is_an_error() {
    assert!(matches!(doctor("kitchen"), Err(Error::InvalidAddress { .. })));
    assert!(matches!(doctor("shm://a/b"), Err(Error::InvalidAddress { .. })));
}

#[test]
fn a_healthy_state_is_opened_and_left_as_it_was() -> Result<()> {
    let place = Place::with_state("healthy");
    let diagnosis = place.examine();
    assert_eq!(diagnosis.problems().count(), 0, "{diagnosis}");
    let status = diagnosis.status.unwrap();
    assert_eq!((status.namespaces[0].commits, status.namespaces[0].keys), (1, Some(1)));
    assert_eq!(State::open(&place.address)?.seq()?, 1);
    Ok(())
}

#[test]
fn a_foreign_file_and_one_that_is_too_short() {
    for (name, bytes) in [
        ("foreign", vec![b'x'; 10_000]),
        ("short", vec![1, 2, 3]),
        ("empty", vec![]),
    ] {
        let place = Place::new(name);
        std::fs::write(&place.path, &bytes).unwrap();
        std::fs::set_permissions(&place.path, Permissions::from_mode(0o600)).unwrap();
        let (finding, text, remedy) = place.fatal();
        let size = bytes.len() as u64;
        assert_eq!(finding, Finding::Magic { is_state: false, size });
        assert!(text.contains(&format!("{size} bytes")) && remedy.contains("another address"));
    }
}

#[test]
fn what_is_no_file() {
    let place = Place::new("directory");
    std::fs::create_dir(&place.path).unwrap();
    assert_eq!(place.fatal().0, Finding::NoFile);
    let place = Place::new("link");
    std::os::unix::fs::symlink("/etc/passwd", &place.path).unwrap();
    assert_eq!(place.fatal().0, Finding::NoFile);
}

#[test]
fn a_truncated_file() {
    for size in [4096, 700_000, (1 << 20) + 4096] {
        let place = Place::with_state("truncated");
        place.file().set_len(size).unwrap();
        let diagnosis = place.examine();
        let capacity = 1 << 20;
        let found = Finding::Size { size, capacity };
        assert!(diagnosis.problems().any(|finding| *finding == found), "{diagnosis}");
        assert!(found.to_string().contains("truncated") && found.remedy("shm://a").unwrap().contains("remove"));
        assert!(State::open(&place.address).is_err());
    }
}

#[test]
fn another_version_says_nothing_else() {
    let own = Place::with_state("own").word(8);
    let place = Place::with_head("version", &[(8, own + 1), (24, 77)]);
    let (finding, text, remedy) = place.fatal();
    assert_eq!(finding, Finding::Version { found: own + 1, own });
    assert!(
        text.contains(&format!("version {}, and this program reads version {own}", own + 1)),
        "{text}"
    );
    assert!(
        remedy.contains(&format!("zproc::remove({:?})", place.address)),
        "{remedy}"
    );
    assert!(
        matches!(place.examine().findings.last(), Some(Finding::Version { .. })),
        "what follows means nothing"
    );
}

#[test]
fn another_layout_a_damaged_head_another_boot_another_pid_namespace() {
    assert_eq!(
        Place::with_head("layout", &[(16, 12)]).fatal().0,
        Finding::Layout { same: false }
    );

    let place = Place::with_state("checksum");
    place.file().write_all_at(&[9], 64).unwrap();
    assert_eq!(place.fatal().0, Finding::Checksum { intact: false });

    let (finding, _, remedy) = Place::with_head("boot", &[(40, 1), (48, 2)]).fatal();
    assert_eq!(finding, Finding::Boot { same: Some(false) });
    assert!(remedy.contains("remove"), "{remedy}");

    let own = Place::with_state("own-namespace").word(32);
    let (finding, _, remedy) = Place::with_head("namespace", &[(32, own + 1)]).fatal();
    let found = own + 1;
    assert_eq!(finding, Finding::PidNamespace { found, own: Some(own) });
    assert!(remedy.contains("--pid"), "{remedy}");
}

/// Opening such a state would end the process at the first look behind what there is.
#[test]
fn memory_that_is_not_there() {
    let place = Place::with_state("holes");
    place.file().write_all_at(&(1u64 << 14).to_le_bytes(), 128).unwrap();
    let diagnosis = place.examine();
    let holes = |finding: &Finding| matches!(finding, Finding::Backing { committed, .. } if *committed == 1 << 20);
    assert!(
        diagnosis.problems().any(holes) && diagnosis.status.is_none(),
        "{diagnosis}"
    );
    assert!(diagnosis.to_string().contains("SIGBUS"));
}

#[test]
fn permissions_that_let_others_in() {
    let place = Place::with_state("mode");
    std::fs::set_permissions(&place.path, Permissions::from_mode(0o666)).unwrap();
    let diagnosis = place.examine();
    let problems: Vec<_> = diagnosis.problems().collect();
    assert!(
        matches!(problems[..], [Finding::Mode { mode: 0o666, .. }]),
        "{diagnosis}"
    );
    assert_eq!(diagnosis.severity(), Severity::Warning);
}

/// The doctor walked through all of it to count what is there, found what was wrong, and said that all was fine.
#[test]
fn a_state_whose_inside_is_damaged() {
    let place = Place::with_state("inside");
    // The directory counts more namespaces than there are: nothing is read that is not there.
    let at = place.file_word(DIRECTORY);
    place.file().write_all_at(&0u64.to_le_bytes(), DIRECTORY).unwrap();
    let diagnosis = place.examine();
    assert!(
        diagnosis
            .status
            .as_ref()
            .is_none_or(|status| status.namespaces.is_empty())
    );
    assert_damaged(&diagnosis, "the directory counts 1 namespaces, and 0 are there");

    // The unused space of the heap begins elsewhere, so that the blocks do not fill what is before it.
    place.file().write_all_at(&at.to_le_bytes(), DIRECTORY).unwrap();
    let bump = at * 64 + BUMP;
    let word = place.file_word(bump);
    place.file().write_all_at(&(word + 1).to_le_bytes(), bump).unwrap();
    assert_damaged(&place.examine(), "the block at granule");

    place.file().write_all_at(&word.to_le_bytes(), bump).unwrap();
    assert!(place.examine().severity() < Severity::Fatal, "as it was");
}

/// Where the directory is, and where in a control block it says where unused space begins: see `docs/design.md`.
const DIRECTORY: u64 = 260 * 1024;
const BUMP: u64 = 656;

#[track_caller]
fn assert_damaged(diagnosis: &Diagnosis, by: &str) {
    let is_it = |finding: &Finding| matches!(finding, Finding::Damage { what } if what.contains(by));
    assert!(diagnosis.findings.iter().any(is_it), "{diagnosis}");
    assert_eq!(diagnosis.severity(), Severity::Fatal);
}
