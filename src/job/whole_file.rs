//! Files that are there whole or not at all.

use super::JobError;
use super::prior::{folder_of, sync_folder};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Says beforehand if a file cannot be written: what takes an hour should not end with that.
///
/// # Errors
/// [`JobError::IsDirectory`] or [`JobError::Open`].
pub fn check_writable(path: &Path) -> Result<(), JobError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(JobError::IsDirectory(path.into())),
        Ok(metadata) if !metadata.is_file() => return Ok(()),
        _ => {}
    }
    let fail = |source| JobError::Open { path: path.into(), source };
    let folder = folder_of(path);
    std::fs::metadata(folder).map_err(fail)?;
    let made = tempfile::Builder::new().prefix(".forebay-").tempfile_in(folder);
    // The temporary file's own name is nobody's concern.
    made.map(drop).map_err(|error| fail(error.kind().into()))
}

/// Whether two paths name one file, which need not be there. Devices and pipes may be named twice.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => std::fs::canonicalize(path).ok(),
        Ok(_) => None,
        Err(_) => Some(std::fs::canonicalize(folder_of(path)).ok()?.join(path.file_name()?)),
    };
    place(a).is_some_and(|own| place(b) == Some(own))
}

/// Writes `bytes` to a file; see [`replace`].
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, |out| out.write_all(bytes))
}

/// Replaces a file by what `fill` writes, once it is all there. A device or pipe, which can't be replaced, is
/// written to.
pub(super) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = BufWriter::new(File::options().write(true).open(path)?);
        fill(&mut out)?;
        return out.flush();
    }
    let folder = folder_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".forebay-").suffix(".tmp");
    // Temporary files are private by default; this one becomes an ordinary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder)?;
    let mut out = BufWriter::new(&mut temporary);
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_many_names() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let roundabout = dir.path().join(".").join("a");
        assert!(is_same_file(&a, &roundabout) && !is_same_file(&a, &b));
        std::fs::write(&a, "x").unwrap();
        assert!(is_same_file(&a, &roundabout) && !is_same_file(&a, &b));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&a, &b).unwrap();
            assert!(is_same_file(&a, &b));
        }
        assert!(!is_same_file(Path::new("/dev/null"), Path::new("/dev/null")));
    }

    #[test]
    fn files_that_cannot_be_written_are_told_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_writable(&dir.path().join("new.json")).is_ok());
        assert!(check_writable(Path::new("/dev/null")).is_ok());
        write_whole(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        let said = |path: &Path| check_writable(path).unwrap_err().to_string();
        assert!(said(dir.path()).contains("is a directory"));
        let missing = dir.path().join("missing/s.json");
        let error = check_writable(&missing).unwrap_err();
        assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
        assert!(error.hint().unwrap().contains("create the folder"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
