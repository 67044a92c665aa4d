//! The machine is measured, and the profile is written, printed and kept.

use crate::cli::forebay;
use forebay::job::ProfileFile;
use std::path::Path;

/// `forebay calibrate --quick` on one thread, with a cache and a scratch folder of its own.
fn calibrate(folder: &Path, cache: &Path) -> std::process::Command {
    let mut command = forebay();
    command.args(["calibrate", "--quick", "--device", "cpu", "--threads", "1", "--disk-dir"]);
    command.arg(folder).env("XDG_CACHE_HOME", cache);
    command
}

#[test]
fn a_machine_is_measured_and_the_profile_kept() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = cache.path().join("profile.json");
    let ran = calibrate(dir.path(), cache.path()).arg("--json").arg("-o").arg(&out).output();
    let ran = ran.unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("measuring"), "{stderr}");
    let written = std::fs::read(&out).unwrap();
    assert_eq!(ran.stdout, written, "what is printed is what is written");
    let kept: Vec<_> = std::fs::read_dir(cache.path().join("forebay/profiles")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(kept[0].as_ref().unwrap().path()).unwrap(), written);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch files are gone");

    let ProfileFile { profile, machine, .. } = ProfileFile::load(&out).unwrap();
    assert!(machine["driver"].as_str().unwrap().contains("1 thread"), "{machine:?}");
    assert!(profile.shares_ram && profile.host == profile.device);
    assert_eq!(profile.device.linear.len(), 11, "every storage type");
    for rate in &profile.device.linear {
        // How fast is not asked: other programs may be running.
        assert!(rate.points[0].0 == 1 && rate.points.len() > 1, "{rate:?}");
    }
    let f16 = profile.device.attention("f16").unwrap();
    assert!(f16.stream_seconds + f16.kv_element_seconds + f16.product_seconds > 0.0, "{f16:?}");
    assert!(profile.device.elementwise_seconds > 0.0 && profile.device.logit_seconds > 0.0);
}

#[test]
fn a_place_that_cannot_be_measured_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let ran = calibrate(Path::new("/no/such/folder"), cache.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/no/such/folder: no such folder; make it first"), "{stderr}");
    assert!(ran.stdout.is_empty() && !Path::new("/no").exists());
}
