//! Which machine this was.

use crate::cpu;

/// Processor, kernel, and what else changes figures.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let governor = governor.map_or("not told".into(), |text| text.trim().to_owned());
    let idle = read("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
    let idle = if idle.trim().is_empty() { "none" } else { idle.trim() };
    let (major, minor, patch) = zmq::version();
    format!(
        "{}; frequency governor: {governor}; idle driver: {idle}. libzmq {major}.{minor}.{patch}, {}.",
        cpu::machine(),
        redis()
    )
}

fn redis() -> String {
    let output = std::process::Command::new("redis-server").arg("--version").output();
    let text = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
    version.map_or("no Redis".into(), |version| format!("Redis {version}"))
}
