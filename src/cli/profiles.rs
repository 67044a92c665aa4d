//! Profiles of this machine: measured, cached, found again.

use super::exit::{CliError, told};
use super::progress::Display;
use super::{cache, log};
use crate::backend::cpu::CpuDevice;
use crate::backend::{Device, DeviceInfo, DeviceKind};
use crate::job::ProfileFile;
use crate::kernel::KvFormat;
use crate::profile::{
    Calibration, Clock, DiskPlace, Effort, FILE_MIN, Settings, calibrate, shares_ram,
};
use forebay_planner::HardwareProfile;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Equal calls that take longer by more than this part, on average, share the machine.
const NOISE_MAX: f64 = 0.25;

/// What is measured.
pub(super) struct Subject<'a> {
    /// What computes.
    pub(super) device: &'a mut dyn Device,
    /// Threads of the processor.
    pub(super) threads: Option<usize>,
    /// Where weights are streamed from, and a scratch file may be made.
    pub(super) folder: PathBuf,
    /// A large file on the same disk to read instead.
    pub(super) file: Option<PathBuf>,
}

impl<'a> Subject<'a> {
    /// `folder`, or else the user's cache. `file` is read where that tells as much of the folder's disk.
    pub(super) fn new(
        device: &'a mut dyn Device,
        threads: Option<usize>,
        folder: Option<&Path>,
        file: Option<&Path>,
    ) -> anyhow::Result<Subject<'a>> {
        let folder = match folder {
            Some(folder) if !folder.is_dir() => {
                let why = "no such folder; make it first, on the disk that is to be measured";
                anyhow::bail!("--disk-dir {}: {why}", folder.display())
            }
            Some(folder) => folder.to_path_buf(),
            None => {
                let folder = own_folder()?;
                std::fs::create_dir_all(&folder).map_err(|error| {
                    let why = format!("cannot create {}: {error}", folder.display());
                    CliError::Usage(format!("{why}; name a folder with --disk-dir"))
                })?;
                folder
            }
        };
        let file = file.filter(|file| stands_for(file, &folder)).map(Path::to_path_buf);
        Ok(Subject { device, threads, folder, file })
    }

    fn place(&self) -> DiskPlace {
        let place = DiskPlace::folder_of(&self.folder);
        match &self.file {
            Some(file) => place.with_file(file),
            None => place,
        }
    }

    /// The processor, where the device is another.
    fn host(&self) -> anyhow::Result<Option<CpuDevice>> {
        let own = matches!(self.device.info().kind, DeviceKind::Cpu | DeviceKind::Reference);
        Ok(if own { None } else { Some(CpuDevice::new(self.threads)?) })
    }

    /// What a profile holds for.
    fn machine(&self, host: Option<&DeviceInfo>) -> Map<String, Value> {
        let device = self.device.info();
        let host = host.unwrap_or(device);
        let value = json!({
            "forebay": env!("CARGO_PKG_VERSION"),
            "device": device.name,
            "kind": device.kind.to_string(),
            "driver": device.driver,
            "processor": host.name,
            "processor_path": host.driver,
            "disk": disk_of(&self.folder),
        });
        value.as_object().cloned().unwrap_or_default()
    }

    /// Measures, and keeps the result for [`profile_for`].
    pub(super) fn measure(
        &mut self,
        effort: Effort,
        quiet: bool,
    ) -> anyhow::Result<(ProfileFile, Calibration)> {
        let mut host = self.host()?;
        let machine = self.machine(host.as_ref().map(|host| host.info()));
        let display = Display::new(quiet);
        let place = self.place();
        let settings = Settings { effort, clock: Clock::Wall };
        let host = host.as_mut().map(|host| host as &mut dyn Device);
        let found = calibrate(self.device, host, &place, settings, &mut |what| {
            display.note(&format!("measuring: {what}"));
        })?;
        if let Some(warning) = warning(&found) {
            log::say(&warning);
        }
        let file = ProfileFile {
            profile: found.profile.clone(),
            note: None,
            details: details(&found, effort),
            machine,
        };
        if let Some(path) = path_of(&file.machine) {
            keep(&file, &path);
        }
        Ok((file, found))
    }
}

/// What to say where other programs came between.
fn warning(found: &Calibration) -> Option<String> {
    let percent = found.noise * 100.0;
    (found.noise > NOISE_MAX).then(|| {
        format!(
            "forebay: other programs used the machine while it was measured (equal calls took \
             {percent:.0} % longer than they can); predictions may be off, and `forebay calibrate` \
             measures again"
        )
    })
}

/// The profile to plan with: the cached one if device, driver, threads, disk and version are as they
/// were and it has rates for the format of the cache; otherwise a quick measurement, which is said.
pub(super) fn profile_for(
    mut subject: Subject<'_>,
    format: KvFormat,
    quiet: bool,
) -> anyhow::Result<HardwareProfile> {
    let host = subject.host()?;
    let machine = subject.machine(host.as_ref().map(|host| host.info()));
    drop(host);
    let found = path_of(&machine).and_then(|path| cached(&path, &machine));
    if let Some(found) = found.filter(|found| super::kv::has_rates(found, format)) {
        return Ok(found);
    }
    if !quiet {
        log::say(
            "forebay: no profile of this machine yet; measuring it takes about ten seconds \
             (`forebay calibrate` takes a minute and is more exact)",
        );
    }
    Ok(subject.measure(Effort::Quick, quiet)?.0.profile)
}

/// The profile in a file, if it is one and of this machine.
fn cached(path: &Path, machine: &Map<String, Value>) -> Option<HardwareProfile> {
    match ProfileFile::load(path) {
        Ok(file) if file.machine == *machine => Some(file.profile),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("{error}");
            None
        }
    }
}

/// Without a cache, the next run measures again.
fn keep(file: &ProfileFile, path: &Path) {
    let stored = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let stored = stored.map_err(anyhow::Error::from).and_then(|()| Ok(file.store(path)?));
    if let Err(error) = stored {
        tracing::warn!("the profile is not kept: {}", told(&error));
    }
}

/// Where the profile of a machine is cached.
fn path_of(machine: &Map<String, Value>) -> Option<PathBuf> {
    let key = serde_json::to_vec(machine).ok()?;
    cache::file("profiles", &key)
}

/// Folder of packed weights and cache pages in the user's cache.
pub(super) fn own_folder() -> Result<PathBuf, CliError> {
    let folder = cache::folder().ok_or_else(|| {
        let why = "neither XDG_CACHE_HOME nor HOME says where to keep files";
        CliError::Usage(format!("{why}; name a folder with --disk-dir"))
    })?;
    Ok(folder.join("packed"))
}

/// Refuses to run by the rates of another class of machine: what the plan puts into memory of the
/// device's own would have no place, or another than the plan counts.
pub(super) fn check_class(
    profile: &HardwareProfile,
    path: Option<&Path>,
    device: &DeviceInfo,
) -> Result<(), CliError> {
    let own = shares_ram(device.kind);
    // What a graphics API allocates on a processor may be counted apart, as if it were a card's.
    let stands_for_a_card = device.kind == DeviceKind::SoftwareGpu && !profile.shares_ram;
    if profile.shares_ram == own || stands_for_a_card {
        return Ok(());
    }
    let place = |shares_ram| if shares_ram { "RAM" } else { "memory of its own" };
    Err(CliError::Usage(format!(
        "{}: rates of a device that computes in {}, and {} computes in {}; measure this machine with \
         `forebay calibrate -o FILE`, or leave --profile out",
        path.map_or_else(|| "the profile".to_string(), |path| path.display().to_string()),
        place(profile.shares_ram),
        device.name,
        place(own)
    )))
}

/// Whether reads of `file` are reads of the disk that `folder` is on, and enough of them.
fn stands_for(file: &Path, folder: &Path) -> bool {
    let is_large = |metadata: std::fs::Metadata| metadata.is_file() && metadata.len() >= FILE_MIN;
    // Its folder is asked for: layered file systems number files and folders apart.
    let beside = file.canonicalize().ok().and_then(|file| Some(file.parent()?.to_path_buf()));
    std::fs::metadata(file).is_ok_and(is_large)
        && beside.is_some_and(|beside| disk_of(&beside) == disk_of(folder))
}

/// Which disk a path is on.
fn disk_of(path: &Path) -> Value {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        return std::os::unix::fs::MetadataExt::dev(&metadata).into();
    }
    let root = path.canonicalize().ok();
    let root = root.as_deref().and_then(|path| path.components().next());
    root.map(|root| root.as_os_str().to_string_lossy().into_owned()).into()
}

fn details(found: &Calibration, effort: Effort) -> Map<String, Value> {
    let transfers: Vec<Value> = found
        .transfers
        .iter()
        .map(|rate| {
            let (path, bytes) = (rate.path.to_string(), rate.bytes);
            json!({"path": path, "bytes": bytes, "bytes_per_sec": rate.bytes_per_sec})
        })
        .collect();
    let reads: Vec<Value> = found
        .reads
        .iter()
        .map(|rate| {
            json!({
                "direct": rate.direct,
                "threads": rate.threads,
                "bytes": rate.bytes,
                "bytes_per_sec": rate.bytes_per_sec,
            })
        })
        .collect();
    let value = json!({
        "effort": if effort == Effort::Quick { "quick" } else { "full" },
        "seconds": found.seconds,
        "noise": found.noise,
        "transfers": transfers,
        "reads": reads,
    });
    value.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_said_and_recorded() {
        let found = |noise| Calibration { noise, ..Calibration::default() };
        assert_eq!(warning(&found(0.2)), None);
        let warning = warning(&found(0.4)).unwrap();
        assert!(warning.contains("40 %") && !warning.contains('\n'), "{warning}");
        assert_eq!(details(&found(0.4), Effort::Quick)["noise"], 0.4);
    }

    #[test]
    fn the_disk_is_measured_that_is_streamed_from() {
        let (dir, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut device = CpuDevice::new(Some(1)).unwrap();
        let mut subject = |folder: &Path| {
            let subject = Subject::new(&mut device, Some(1), Some(folder), Some(file.path()));
            let subject = subject.unwrap();
            (subject.file.is_some(), subject.machine(None))
        };
        assert!(!subject(dir.path()).0, "it is short");
        file.as_file().set_len(FILE_MIN).unwrap();
        let (read, machine) = subject(dir.path());
        assert!(read);
        assert_eq!(machine["disk"], disk_of(dir.path()));
        // Another disk, where there is one.
        let other = tempfile::tempdir_in("/dev/shm").ok();
        let other = other.filter(|other| disk_of(other.path()) != disk_of(dir.path()));
        let Some(other) = other else { return };
        let (read, machine) = subject(other.path());
        assert!(!read);
        assert_eq!(machine["disk"], disk_of(other.path()));
    }

    #[test]
    fn another_class_of_machine_is_refused() {
        let info = |kind| DeviceInfo {
            name: "this one".to_string(),
            kind,
            driver: String::new(),
            buffer_bytes_max: 0,
            memory_bytes: None,
        };
        let check = |shares_ram, kind| {
            let profile = HardwareProfile { shares_ram, ..HardwareProfile::default() };
            check_class(&profile, Some(Path::new("p.json")), &info(kind))
        };
        use DeviceKind::{Cpu, DiscreteGpu, IntegratedGpu, OtherGpu, Reference, SoftwareGpu};
        for kind in [Cpu, IntegratedGpu, Reference] {
            assert!(check(true, kind).is_ok());
            let error = check(false, kind).unwrap_err().to_string();
            let sides = "p.json: rates of a device that computes in memory of its own, and this one \
                         computes in RAM; ";
            assert!(error.starts_with(sides) && error.contains("calibrate -o"), "{error}");
        }
        for kind in [DiscreteGpu, OtherGpu] {
            assert!(check(false, kind).is_ok() && check(true, kind).is_err());
        }
        assert!(check(true, SoftwareGpu).is_ok() && check(false, SoftwareGpu).is_ok());
    }

    #[test]
    fn a_profile_holds_for_its_machine_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = CpuDevice::new(Some(1)).unwrap();
        let subject = Subject::new(&mut device, Some(1), Some(dir.path()), None).unwrap();
        let machine = subject.machine(None);
        assert!(machine["driver"].as_str().unwrap().contains("1 thread"), "{machine:?}");
        let mut two = CpuDevice::new(Some(2)).unwrap();
        let other = Subject::new(&mut two, Some(2), Some(dir.path()), None).unwrap().machine(None);
        assert_ne!(machine, other, "threads count");
        assert_ne!(path_of(&machine).map(|p| p.file_name().map(|n| n.to_owned())), None);

        let example =
            concat!(env!("CARGO_MANIFEST_DIR"), "/examples/profiles/pcie4-rtx4090-like.json");
        let mut file = ProfileFile::load(Path::new(example)).unwrap();
        file.machine = machine.clone();
        let path = dir.path().join("profile.json");
        assert_eq!(cached(&path, &machine), None, "there is no file");
        keep(&file, &path);
        assert_eq!(cached(&path, &machine), Some(file.profile.clone()));
        assert_eq!(cached(&path, &other), None);
        std::fs::write(&path, "{\"forebay_profile\":1").unwrap();
        assert_eq!(cached(&path, &machine), None, "a torn file is measured again");
    }
}
