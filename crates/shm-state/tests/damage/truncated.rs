//! Files that were made shorter. Before an arena is mapped that is found out; afterwards the kernel answers with SIGBUS,
//! which no process can turn into an error for all its threads. So an anonymous arena is sealed against it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use shm_state::{Arena, ArenaOptions, Error};

use crate::common::{Name, key};

#[test]
fn a_file_that_was_truncated_is_refused_at_every_page() {
    let name = Name::new("truncated");
    let options = ArenaOptions {
        capacity: 640 * 1024,
        ..ArenaOptions::default()
    };
    let arena = Arena::create(&name, &options).unwrap();
    arena.namespace("a").unwrap();
    let mut bytes = vec![0; 640 * 1024];
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut bytes, 0).unwrap();
    drop((arena, file));
    for len in (0..bytes.len()).step_by(4096).flat_map(|len| [len, len + 64]) {
        std::fs::write(name.path(), &bytes[..len]).unwrap();
        let Err(error) = Arena::open(&name).and_then(|arena| arena.namespace("a").map(drop)) else {
            panic!("an arena of {len} bytes was opened");
        };
        assert!(matches!(&error, Error::Incompatible { .. }), "{len} bytes: {error}");
        let expected = format!("{len} bytes");
        assert!(error.to_string().contains(&expected), "{len} bytes: {error}");
    }
    std::fs::write(name.path(), &bytes).unwrap();
    assert_eq!(Arena::open(&name).unwrap().namespaces().unwrap(), ["a"]);
    bytes.resize(bytes.len() + 4096, 0);
    std::fs::write(name.path(), &bytes).unwrap();
    assert!(
        matches!(Arena::open(&name), Err(Error::Incompatible { .. })),
        "it has grown"
    );
}

#[test]
fn nobody_can_truncate_an_anonymous_arena() {
    let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
    let namespace = arena.namespace("a").unwrap();
    let file = File::from(arena.fd().unwrap().try_clone_to_owned().unwrap());
    let len = file.metadata().unwrap().len();
    for other in [0, 4096, len - 1, len + 1] {
        let error = file.set_len(other).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{other} bytes: {error}");
    }
    assert_eq!(file.metadata().unwrap().len(), len);
    assert_eq!(namespace.get(&key("nothing")).unwrap(), None);
}
