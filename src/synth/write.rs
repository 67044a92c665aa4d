//! The file: whole or not there.

use super::weights::{Content, Weights};
use super::{SynthError, Synthetic, header};
use crate::store::gguf::GgufWriter;
use crate::store::{FileSink, free_bytes};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Replace a file that is there.
    pub overwrite: bool,
    /// Write the header alone, and leave the data as a hole in a file of the full length.
    pub header_only: bool,
}

impl Synthetic {
    /// Writes the model to `output` and returns the length of the file. Until it is complete it has a
    /// temporary name in the same folder; on an error, or when `stop` is set, nothing is left of it.
    ///
    /// `progress` gets the bytes written so far and those of the whole file.
    pub fn write(
        &self,
        output: &Path,
        options: WriteOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<u64, SynthError> {
        check_output(output, options.overwrite)?;
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let bytes = self.file_bytes().map_err(SynthError::io(output, "size the header"))?;
        if !options.header_only {
            check_space(folder, output, bytes)?;
        }
        let temporary = temporary(folder).map_err(SynthError::io(output, "create the file"))?;
        let file = temporary.as_file();
        let mut pump = Pump { output, stop, header_only: options.header_only, progress };
        // First, for direct writes that lengthen a file are slow.
        file.set_len(bytes).map_err(pump.failed())?;
        pump.run(self, file, bytes)?;
        // A header alone ends before the data does.
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(pump.failed())?;
        if stop.load(Ordering::Relaxed) {
            return Err(SynthError::Interrupted);
        }
        let named = match options.overwrite {
            true => temporary.persist(output),
            false => temporary.persist_noclobber(output),
        };
        named.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => SynthError::Exists(output.to_path_buf()),
            _ => SynthError::io(output, "name the file")(error.error),
        })?;
        sync_folder(folder);
        Ok(bytes)
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> io::Result<u64> {
        Ok(self.header(io::sink())?.file_bytes())
    }

    fn header<W: Write>(&self, out: W) -> io::Result<GgufWriter<W>> {
        let tensors = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        GgufWriter::new(out, &header::metadata(self), tensors)
    }
}

fn check_output(output: &Path, overwrite: bool) -> Result<(), SynthError> {
    match fs::metadata(output) {
        Ok(there) if !there.is_file() => Err(SynthError::NotAFile(output.to_path_buf())),
        Ok(_) if !overwrite => Err(SynthError::Exists(output.to_path_buf())),
        _ => Ok(()),
    }
}

fn check_space(folder: &Path, output: &Path, need_bytes: u64) -> Result<(), SynthError> {
    match free_bytes(folder) {
        Some(free_bytes) if free_bytes < need_bytes => {
            let path = output.display().to_string();
            Err(SynthError::DoesNotFit { path, need_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".forebay-").suffix(".tmp");
    // Temporary files are private by default; this one becomes an ordinary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Makes the new name last; where the system can't, the file itself is safe all the same.
fn sync_folder(folder: &Path) {
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!("{}: not synced: {error}", folder.display());
    }
}

/// Carries data from the generator to the file.
struct Pump<'a> {
    output: &'a Path,
    stop: &'a AtomicBool,
    header_only: bool,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Pump<'_> {
    /// Writes the model; `total` is the length of the file.
    fn run(&mut self, model: &Synthetic, file: &File, total: u64) -> Result<(), SynthError> {
        let failed = self.failed();
        let sink = FileSink::new(file).map_err(&failed)?;
        let mut out = model.header(sink).map_err(&failed)?;
        let mut weights = Weights::new(model.seed);
        let mut written = 0;
        for (index, (tensor, content)) in model.tensors.iter().enumerate() {
            // What a reader of the header needs (rotary factors) comes first.
            if self.header_only && matches!(content, Content::Random { .. }) {
                return out.into_inner().finish().map_err(&failed);
            }
            weights.generate(index, tensor, content, &mut |bytes| {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(SynthError::Interrupted);
                }
                out.write(bytes).map_err(&failed)?;
                written += bytes.len() as u64;
                (self.progress)(written, total);
                Ok(())
            })?;
        }
        out.finish().and_then(FileSink::finish).map_err(&failed)
    }

    fn failed(&self) -> impl Fn(io::Error) -> SynthError + use<> {
        SynthError::io(self.output, "write the file")
    }
}
