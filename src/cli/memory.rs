//! What the system says about memory.

use std::fs;
use std::path::Path;

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
    groups_bytes(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Files and names of the two versions of control groups.
struct Version {
    limit: &'static str,
    used: [&'static str; 2],
}

const V1: Version =
    Version { limit: "memory.limit_in_bytes", used: ["total_rss", "total_unevictable"] };
const V2: Version = Version { limit: "memory.max", used: ["anon", "unevictable"] };

/// Of the groups that `/proc/self/cgroup` lists, and those around them: the one that leaves least.
fn groups_bytes(listed: &str, mount: &Path) -> Option<(u64, u64)> {
    let mut found = Vec::new();
    for line in listed.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (version, root) = match controllers {
            "" => (&V2, mount.to_path_buf()),
            list if list.split(',').any(|name| name == "memory") => (&V1, mount.join("memory")),
            _ => continue,
        };
        // In a container the path may be another's view: then only the root is there.
        let own = root.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|folder| folder.starts_with(&root));
        found.extend(around.filter_map(|folder| group(folder, version)));
    }
    found.into_iter().min_by_key(|(limit, used)| limit.saturating_sub(*used))
}

/// Limit and use of one group, if it has a limit.
fn group(folder: &Path, version: &Version) -> Option<(u64, u64)> {
    let limit = fs::read_to_string(folder.join(version.limit)).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let of = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Some((limit, version.used.map(of).iter().sum()))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let write = |folder: &str, files: &[(&str, &str)]| {
            let folder = mount.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
        };
        write("a", &[("memory.max", "1000\n"), ("memory.stat", "anon 300\nunevictable 7\n")]);
        write("a/b", &[("memory.max", "max\n"), ("memory.stat", "anon 1\n")]);
        let read = |listed| groups_bytes(listed, mount.path());
        assert_eq!(read("0::/a/b\n"), Some((1000, 307)));
        assert_eq!(read("0::/elsewhere\n"), None);
        let stat = "rss 5\ntotal_rss 400\n";
        write("memory/x", &[("memory.limit_in_bytes", "600\n"), ("memory.stat", stat)]);
        assert_eq!(read("3:cpu,memory:/x\n2:cpu:/x\n0::/a\n"), Some((600, 400)));
        assert_eq!(read("nonsense\n:\n"), None);
    }

    #[test]
    fn sizes_are_read_from_lines() {
        let text = "VmPeak:\t  10 kB\nVmHWM:\t  1234 kB\nBad: x kB\n";
        assert_eq!(kilobytes(text, "VmHWM:"), Some(1234 * 1024));
        assert_eq!(kilobytes(text, "Bad:"), None);
        assert_eq!(kilobytes(text, "None:"), None);
    }
}
