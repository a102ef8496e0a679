//! Living with a state: who did it, who holds what, what the dead left, and what is told of all that. With real processes,
//! which are stopped and killed.

#[path = "../../examples/doctor.rs"]
#[allow(dead_code, reason = "the example's own main")]
mod doctor_example;

mod doctor;
mod dumps;
mod events;
mod kid;
mod names;
mod status;

use kid::Role;

/// Plays the part of a child process; see `kid`.
#[test]
fn child() {
    let Some(role) = Role::of_this_process() else { return };
    match role.name.as_str() {
        "write" => names::write(&role),
        "hold" => status::hold(&role),
        "pin" => status::pin(&role),
        "save" => dumps::save(&role),
        "doctor" => doctor::run_example(&role),
        "doctor with little address space" => doctor::run_with_little_address_space(&role),
        other => panic!("no role {other:?}"),
    }
}
