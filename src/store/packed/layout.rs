//! Where everything lies in a file of packed weights. It follows from the model alone, so nothing in a
//! file says where to read.

use crate::model::{Role, TensorId};
use crate::quant::Packing;
use crate::quant::{IO_ALIGN, Segment, segments};
use crate::store::ModelFiles;
use crate::store::checksum;
use crate::store::disk::AlignedBuffer;
use crate::store::error::StoreError;
use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;

/// First bytes of the file.
const MAGIC: [u8; 8] = *b"FBPACKED";

/// Counts changes of this format and of the packed order.
pub(super) const VERSION: u32 = 1;

/// The first page. Numbers are in the machine's order; a file of the other order has no known version.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    magic: [u8; 8],
    version: u32,
    entry_bytes: u32,
    fingerprint: [u8; 64],
    entries: u64,
    file_bytes: u64,
    table_checksum: u64,
    unused: [u64; 3],
}

/// One segment in the table behind the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Entry {
    offset: u64,
    bytes: u64,
    checksum: u64,
}

/// Where one segment lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) id: TensorId,
    pub(super) index: usize,
    pub(super) offset: u64,
    pub(super) segment: Segment,
}

/// A file: header and table, then every segment in the order in which a pass uses them, each padded
/// to whole pages.
pub(super) struct Layout {
    /// The table and what precedes it, padded.
    pub(super) header_bytes: usize,
    pub(super) slots: Vec<Slot>,
    pub(super) file_bytes: u64,
    /// First slot of each matrix, and how many it has.
    matrices: HashMap<TensorId, (usize, usize)>,
}

/// The matrices that passes multiply with, in the order of computation.
///
/// The embedding is one only where it is the output head as well; its rows are read from the model.
fn matrices(files: &ModelFiles) -> impl Iterator<Item = (TensorId, Packing)> {
    let spec = files.spec();
    let embedding = TensorId::global(Role::Embedding);
    let layers = spec.tensors().into_iter();
    let layers = layers.filter(move |id| !id.role.is_vector() && *id != embedding);
    let head = spec.tied_head.then_some(embedding);
    layers.chain(head).filter_map(|id| Some((id, files.tensor(id)?.packing())))
}

impl Layout {
    /// The layout of a model's file.
    pub(super) fn of(files: &ModelFiles) -> Layout {
        let (mut slots, mut places) = (Vec::new(), HashMap::new());
        for (id, packing) in matrices(files) {
            let first = slots.len();
            let slot = |(index, segment)| Slot { id, index, offset: 0, segment };
            slots.extend(segments(&packing).enumerate().map(slot));
            places.insert(id, (first, slots.len() - first));
        }
        let table = slots.len() * size_of::<Entry>();
        let header_bytes = (size_of::<Header>() + table).next_multiple_of(IO_ALIGN);
        let mut offset = header_bytes as u64;
        for slot in &mut slots {
            slot.offset = offset;
            offset += slot.segment.padded() as u64;
        }
        Layout { header_bytes, slots, file_bytes: offset, matrices: places }
    }

    /// Number of the slot of segment `index` of matrix `id`.
    pub(super) fn find(&self, id: TensorId, index: usize) -> Option<usize> {
        let &(first, count) = self.matrices.get(&id)?;
        (index < count).then_some(first + index)
    }

    /// Bytes of the largest segment.
    pub(super) fn padded_max(&self) -> usize {
        self.slots.iter().map(|slot| slot.segment.padded()).max().unwrap_or(0)
    }

    /// The first `header_bytes` of a file.
    pub(super) fn header(
        &self,
        fingerprint: &str,
        checksums: &[u64],
    ) -> Result<AlignedBuffer, StoreError> {
        let entries: Vec<Entry> = self
            .slots
            .iter()
            .zip(checksums)
            .map(|(slot, &checksum)| self.entry(slot, checksum))
            .collect();
        let mut out = AlignedBuffer::new(self.header_bytes)?;
        let table = &mut out[size_of::<Header>()..][..entries.len() * size_of::<Entry>()];
        table.copy_from_slice(bytemuck::cast_slice(&entries));
        let header = Header { table_checksum: table_checksum(&out), ..self.expected(fingerprint) };
        out[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
        Ok(out)
    }

    /// Takes the checksums of all segments from the first `header_bytes` of a file; where they do not
    /// belong to this model and layout, says what was expected where, and what was found.
    pub(super) fn checksums(
        &self,
        fingerprint: &str,
        bytes: &[u8],
    ) -> Result<Vec<u64>, (&'static str, String, String)> {
        let (header, rest) = bytes.split_at(size_of::<Header>());
        let header: Header = bytemuck::pod_read_unaligned(header);
        let expected = self.expected(fingerprint);
        let texts = [
            ("first bytes", shown(&expected.magic), shown(&header.magic)),
            ("version", expected.version.to_string(), header.version.to_string()),
            ("fingerprint", shown(&expected.fingerprint), shown(&header.fingerprint)),
            ("bytes of an entry", expected.entry_bytes.to_string(), header.entry_bytes.to_string()),
            ("number of segments", expected.entries.to_string(), header.entries.to_string()),
            ("length", expected.file_bytes.to_string(), header.file_bytes.to_string()),
            (
                "checksum of the table",
                format!("{:016x}", table_checksum(bytes)),
                format!("{:016x}", header.table_checksum),
            ),
        ];
        if let Some(wrong) = texts.into_iter().find(|(_, expected, found)| expected != found) {
            return Err(wrong);
        }
        let entries =
            rest.chunks_exact(size_of::<Entry>()).map(bytemuck::pod_read_unaligned::<Entry>);
        let mut checksums = Vec::with_capacity(self.slots.len());
        for (slot, entry) in self.slots.iter().zip(entries) {
            let expected = self.entry(slot, entry.checksum);
            if entry != expected {
                return Err(("a segment", format!("{expected:?}"), format!("{entry:?}")));
            }
            checksums.push(entry.checksum);
        }
        Ok(checksums)
    }

    fn entry(&self, slot: &Slot, checksum: u64) -> Entry {
        Entry { offset: slot.offset, bytes: slot.segment.bytes as u64, checksum }
    }

    fn expected(&self, fingerprint: &str) -> Header {
        let mut name = [b' '; 64];
        name.iter_mut().zip(fingerprint.bytes()).for_each(|(to, from)| *to = from);
        Header {
            magic: MAGIC,
            version: VERSION,
            entry_bytes: size_of::<Entry>() as u32,
            fingerprint: name,
            entries: self.slots.len() as u64,
            file_bytes: self.file_bytes,
            table_checksum: 0,
            unused: [0; 3],
        }
    }
}

/// Over everything behind the header; the table is padded with zeros to whole pages.
fn table_checksum(bytes: &[u8]) -> u64 {
    checksum(&bytes[size_of::<Header>()..])
}

fn shown(bytes: &[u8]) -> String {
    format!("`{}`", bytes.escape_ascii())
}
