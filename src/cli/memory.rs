//! What the system says about memory.

use std::fs;

/// Most bytes this process has had resident; `None` where the system does not tell.
pub(super) fn resident_bytes_peak() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes that can be taken without swapping; `None` where the system does not tell.
pub(super) fn available_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
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
