//! What the system says about memory.

use std::fs;

/// Most bytes this process has had resident; `None` where the system does not tell.
pub(super) fn resident_bytes_peak() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes this process has resident now; `None` where the system does not tell.
pub(super) fn resident_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that can be taken without swapping; `None` where the system does not tell.
pub(super) fn available_bytes() -> Option<u64> {
    let free = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let own = group_bytes().map(|(limit, used)| limit.saturating_sub(used));
    Some(own.map_or(free, |own| own.min(free)))
}

/// Bytes the machine has, or the control group that this process is in may take.
pub(super) fn total_bytes() -> Option<u64> {
    let all = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(group_bytes().map_or(all, |(limit, _)| limit.min(all)))
}

/// Limit of this process's control group, and bytes in use in it that the system cannot drop.
fn group_bytes() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{path}/{file}")).ok();
    let limit = read("memory.max")?.trim().parse().ok()?;
    let stat = read("memory.stat")?;
    let of = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Some((limit, of("anon") + of("unevictable")))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_lines() {
        let text = "VmPeak:\t  10 kB\nVmHWM:\t  1234 kB\nBad: x kB\n";
        assert_eq!(kilobytes(text, "VmHWM:"), Some(1234 * 1024));
        assert_eq!(kilobytes(text, "Bad:"), None);
        assert_eq!(kilobytes(text, "None:"), None);
    }
}
