//! Files that a process may not use: an error that says whose the file is and what is missing, and nothing half done.

mod common;
mod limit;

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use common::model::{self, put};
use common::process::{Board, Kid, Role};
use common::{Name, assert_clean};
use limit::sandbox::{self, NOBODY, skipped};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_state::{Arena, ArenaOptions, Deadline, Error, History};

fn options() -> ArenaOptions {
    let history = History {
        count: 8,
        bytes: 1 << 20,
    };
    ArenaOptions {
        capacity: 1 << 20,
        history,
        ..ArenaOptions::default()
    }
}

#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    let name = std::env::var("LIMITS_NAME").unwrap();
    match role.name.as_str() {
        "nobody" => open_as_nobody(&name, &role.board),
        "foreign directory" => create_in_a_directory_of_root(&name),
        other => panic!("no role {other}"),
    }
}

fn kid(role: &str, name: &str, board: &Board) -> Kid {
    Kid::spawn(Kid::command(role, 0, None, board).env("LIMITS_NAME", name))
}

#[track_caller]
fn text_of(result: shm_state::Result<Arena>) -> String {
    let text = result.err().expect("it was opened").to_string();
    eprintln!("  {text}");
    text
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Opens an arena that root made, as `nobody` when the parent says so, with the mode and the owner that it then has.
#[test]
fn whoever_may_not_write_the_file_learns_whose_it_is() {
    if !sandbox::is_root() {
        return skipped(
            "files of other users",
            "this process is not root, so it cannot become another user",
        );
    }
    let name = Name::new("theirs");
    let arena = Arena::create(&name, &options()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    model::commit(&namespace, &[put("a", 8)], Deadline::never()).unwrap();
    let board = Board::new();
    let other = kid("nobody", &name, &board);
    let path = name.path();
    let steps: [(&str, &dyn Fn()); 4] = [
        ("mode 600, of root", &|| chmod(&path, 0o600)),
        ("mode 444, of root", &|| chmod(&path, 0o444)),
        ("mode 666, of user 1234", &|| {
            chmod(&path, 0o666);
            chown(&path, Some(1234), Some(1234)).unwrap();
        }),
        ("mode 400, its own", &|| {
            chmod(&path, 0o400);
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }),
    ];
    for (step, (what, set)) in (1..).zip(steps) {
        set();
        board.set(0, step);
        common::eventually(what, || board.get(1) == step);
    }
    // What root made may be shared with everybody, if root says so.
    chown(&path, Some(0), Some(0)).unwrap();
    chmod(&path, 0o666);
    board.set(0, 5);
    other.succeeds();
    assert_eq!(namespace.len().unwrap(), 2);
    // Root may open everything, and does not use what others put there.
    chown(&path, Some(1234), Some(1234)).unwrap();
    drop((namespace, arena));
    let text = text_of(Arena::open(&name));
    assert!(
        text.contains("belongs to user 1234") && text.contains("runs as 0"),
        "{text}"
    );
}

fn open_as_nobody(name: &str, board: &Board) {
    assert!(sandbox::become_nobody());
    for (step, expected) in [
        (
            1,
            ["Permission denied", "belongs to user 0 and has mode 600", "user 65534"],
        ),
        (
            2,
            ["Permission denied", "belongs to user 0 and has mode 444", "user 65534"],
        ),
        (3, ["cannot be used", "belongs to user 1234", "runs as 65534"]),
        (
            4,
            [
                "Permission denied",
                "belongs to user 65534 and has mode 400",
                "user 65534",
            ],
        ),
    ] {
        board.wait_for(0, step);
        let before = sandbox::descriptors();
        for text in [
            text_of(Arena::open(name)),
            text_of(Arena::open_or_create(name, &options())),
        ] {
            expected.iter().for_each(|part| assert!(text.contains(part), "{text}"));
        }
        assert!(matches!(
            Arena::create(name, &options()),
            Err(Error::AlreadyExists { .. })
        ));
        if step != 3 {
            assert!(Arena::remove(name).is_err());
        }
        assert_eq!(sandbox::descriptors(), before);
        board.set(1, step);
    }
    board.wait_for(0, 5);
    let arena = Arena::open(name).unwrap();
    model::commit(&arena.namespace("n").unwrap(), &[put("b", 8)], Deadline::never()).unwrap();
    assert_clean(&arena);
    // The directory is sticky: only its owner removes a file.
    let error = Arena::remove(name).unwrap_err().to_string();
    assert!(error.contains("not permitted"), "{error}");
}

#[test]
fn a_dev_shm_that_is_not_writable_is_an_error() {
    if !sandbox::is_root() {
        return skipped(
            "a /dev/shm of root's",
            "this process is not root, so it cannot become another user",
        );
    }
    let name = Name::new("forbidden");
    kid("foreign directory", &name, &Board::new()).succeeds();
}

fn create_in_a_directory_of_root(name: &str) {
    if !sandbox::own_shm("size=8m,mode=755") {
        return skipped("a /dev/shm of root's", "no permission to mount one");
    }
    assert!(sandbox::become_nobody());
    let text = text_of(Arena::create(name, &options()));
    assert!(
        text.contains("Permission denied") && text.contains("user 65534"),
        "{text}"
    );
    let text = text_of(Arena::open_or_create(name, &options()));
    assert!(text.contains("Permission denied"), "{text}");
    drop(Arena::anonymous(&options()).unwrap());
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
    let name = Name::new("special");
    let path = CString::new(name.path().as_os_str().as_bytes()).unwrap();
    std::fs::create_dir(name.path()).unwrap();
    let text = text_of(Arena::open(&name));
    assert!(text.contains("Is a directory"), "{text}");
    std::fs::remove_dir(name.path()).unwrap();
    // SAFETY: the path ends in zero and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let text = text_of(Arena::open(&name));
    assert!(text.contains("too short"), "{text}");
    std::fs::remove_file(name.path()).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(name.path()).unwrap();
    let text = text_of(Arena::open(&name));
    assert!(text.contains("opening"), "{text}");
    drop(socket);
    std::fs::remove_file(name.path()).unwrap();
    std::os::unix::fs::symlink("/nowhere", name.path()).unwrap();
    let text = text_of(Arena::open_or_create(&name, &options()));
    assert!(text.contains("symbolic link"), "{text}");
}

#[test]
fn a_descriptor_that_cannot_be_written_is_refused() {
    let name = Name::new("read-only");
    let arena = Arena::create(&name, &options()).unwrap();
    model::commit(&arena.namespace("n").unwrap(), &[put("a", 8)], Deadline::never()).unwrap();
    let mut bytes = vec![0; arena.stats().unwrap().committed as usize];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(name.path()).unwrap(), &mut bytes, 0).unwrap();
    drop(arena);
    let text = text_of(Arena::from_fd(File::open(name.path()).unwrap().into()));
    assert!(text.contains("Permission denied"), "{text}");
    let write_only = File::options().write(true).open(name.path()).unwrap();
    text_of(Arena::from_fd(write_only.into()));
    // A copy of it that is sealed against writing.
    let file =
        File::from(memfd_create("zproc-test-sealed", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    nix::fcntl::fcntl(
        &file,
        nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_WRITE),
    )
    .unwrap();
    let text = text_of(Arena::from_fd(file.into()));
    assert!(text.contains("not permitted"), "{text}");
    // Other tests of this process have descriptors of their own.
    let left = |target: &str| target.contains("zproc-test-sealed") || Path::new(target) == name.path();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let left: Vec<_> = targets.filter(|target| target.to_str().is_some_and(left)).collect();
    assert!(left.is_empty(), "what was refused is closed: {left:?}");
    assert_clean(&Arena::open(&name).unwrap());
}

/// Nobody can take an arena away from those who have it open.
#[test]
fn an_unlinked_arena_is_used_grown_and_handed_on() {
    let name = Name::new("unlinked");
    let arena = Arena::create(&name, &options()).unwrap();
    let namespace = arena.namespace("n").unwrap();
    std::fs::remove_file(name.path()).unwrap();
    for number in 0..50 {
        model::commit(&namespace, &[put(format!("k{number}"), 9000)], Deadline::never()).unwrap();
    }
    let error = Arena::open(&name).err().unwrap();
    assert!(
        matches!(error, Error::NotFound { .. }) && error.to_string().contains("create it first"),
        "{error}"
    );
    let again = Arena::from_fd(arena.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(again.namespace("n").unwrap().len().unwrap(), 50);
    assert_clean(&arena);
}
