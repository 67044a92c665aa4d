//! Which model this is, without reading all of it.

use super::error::StoreError;
use super::source::Source;
use sha2::{Digest, Sha256};

/// Pages sampled from the data of each file.
const SAMPLES: u64 = 64;
const PAGE: u64 = 4096;

/// SHA-256 over `config`, and over each file's length, header and [`SAMPLES`] pages spread evenly over its
/// data (all of it where it is smaller), in hexadecimal.
///
/// `files` holds each file's source and the length of its header.
pub(super) fn fingerprint(
    path: &str,
    config: &[u8],
    files: &[(&dyn Source, u64)],
) -> Result<String, StoreError> {
    let mut hash = Sha256::new();
    hash.update((config.len() as u64).to_le_bytes());
    hash.update(config);
    let mut buffer = Vec::new();
    for &(source, header_len) in files {
        hash.update(source.size().to_le_bytes());
        let mut feed = |start: u64, end: u64| {
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
        feed(0, header_len)?;
        let data_len = source.size().saturating_sub(header_len);
        if data_len <= SAMPLES * PAGE {
            feed(header_len, source.size())?;
            continue;
        }
        for sample in 0..SAMPLES {
            // The last sample is the last page. 64 * 2^48 bytes do not overflow.
            let start = header_len + (data_len - PAGE) / (SAMPLES - 1) * sample;
            feed(start, start + PAGE)?;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::source::MemorySource;

    fn of(bytes: Vec<u8>) -> String {
        let source = MemorySource(bytes);
        fingerprint("memory", b"", &[(&source, 100)]).expect("readable")
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
}
