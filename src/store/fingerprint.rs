//! Which model this is, without reading all of it.

use super::error::StoreError;
use super::source::Source;
use sha2::{Digest, Sha256};

/// Pages sampled from the data of each file.
const SAMPLES: u64 = 64;
const PAGE: u64 = 4096;

/// SHA-256 over `config`, over each file's length, header and [`SAMPLES`] pages spread evenly over
/// its data (all of it where it is smaller), and over the page in the middle of each of `tensors`, in
/// hexadecimal. So a model of which a few tensors were tuned is another one.
///
/// `files` holds each file's source and the length of its header, `tensors` the file, first byte and
/// length of each tensor in any order.
pub(super) fn fingerprint(
    path: &str,
    config: &[u8],
    files: &[(&dyn Source, u64)],
    mut tensors: Vec<(usize, u64, u64)>,
) -> Result<String, StoreError> {
    let mut hash = Sha256::new();
    hash.update((config.len() as u64).to_le_bytes());
    hash.update(config);
    let mut buffer = Vec::new();
    let mut feed = |hash: &mut Sha256, source: &dyn Source, start: u64, end: u64| {
        let mut at = start;
        while at < end {
            buffer.resize((end - at).min(1 << 20) as usize, 0);
            source.read_at(at, &mut buffer).map_err(|source| StoreError::Io {
                path: path.to_string(),
                action: "read data for the fingerprint",
                source,
            })?;
            hash.update(&buffer);
            at += buffer.len() as u64;
        }
        Ok(())
    };
    for &(source, header_len) in files {
        hash.update(source.size().to_le_bytes());
        feed(&mut hash, source, 0, header_len)?;
        let data_len = source.size().saturating_sub(header_len);
        if data_len <= SAMPLES * PAGE {
            feed(&mut hash, source, header_len, source.size())?;
            continue;
        }
        for sample in 0..SAMPLES {
            // The last sample is the last page, but for less than 64 bytes.
            let start = header_len + (data_len - PAGE) / (SAMPLES - 1) * sample;
            feed(&mut hash, source, start, start + PAGE)?;
        }
    }
    tensors.sort_unstable();
    for (file, first, len) in tensors {
        let start = first + len.saturating_sub(PAGE) / 2;
        feed(&mut hash, files[file].0, start, start + len.min(PAGE))?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::source::MemorySource;

    fn of(bytes: Vec<u8>) -> String {
        let source = MemorySource(bytes);
        let tensors = vec![(0, 300_000, 30_000), (0, 200_000, 10)];
        fingerprint("memory", b"", &[(&source, 100)], tensors).expect("readable")
    }

    #[test]
    fn header_length_and_samples_count() {
        let plain = of(vec![7; 1 << 20]);
        assert_eq!(plain.len(), 64);
        assert_eq!(plain, of(vec![7; 1 << 20]));
        assert_ne!(plain, of(vec![7; (1 << 20) - 1]));
        let mut header = vec![7; 1 << 20];
        header[99] = 8;
        assert_ne!(plain, of(header));
        let mut data = vec![7; 1 << 20];
        data[100] = 8;
        assert_ne!(plain, of(data));
    }

    #[test]
    fn each_tensor_counts() {
        let plain = of(vec![7; 1 << 20]);
        for at in [200_000..200_010, 300_000..330_000] {
            let mut tuned = vec![7; 1 << 20];
            tuned[at].fill(8);
            assert_ne!(plain, of(tuned));
        }
    }
}
