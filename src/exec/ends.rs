//! The two ends of a pass: embeddings in, logits out.

use super::ExecError;
use super::executor::{Executor, FETCH_ROWS, Pass};
use crate::forward;
use crate::model::{Role, TensorId};
use crate::quant::dequantize_row;

impl Executor {
    /// Embedding rows come straight from the store, so that the table needs no device memory.
    pub(super) fn embed(&mut self, micro: usize, pass: &Pass<'_>) -> Result<(), ExecError> {
        let batch = &pass.micro[micro];
        let spec = self.files.spec();
        let id = TensorId::global(Role::Embedding);
        let info = self.files.tensor(id).ok_or(ExecError::MissingTensor(id))?;
        let floats = &mut self.scratch.floats;
        floats.resize(batch.rows() * spec.hidden, 0.0);
        for (&token, out) in batch.tokens.iter().zip(floats.chunks_exact_mut(spec.hidden)) {
            let row = token as usize;
            self.files.read(id, row..row + 1, &mut self.scratch.bytes)?;
            dequantize_row(info.dtype, &self.scratch.bytes, out);
            out.iter_mut().for_each(|v| *v *= spec.embed_scale);
        }
        let m = &self.workspace.micro[micro];
        match self.resting.as_mut().filter(|_| pass.rests) {
            Some(resting) => resting.put(micro, floats),
            None => self.device.write(m.x, 0, bytemuck::cast_slice(floats))?,
        }
        for (rope, &buffer) in spec.ropes.iter().zip(&m.angles) {
            forward::angles(rope, &batch.positions, floats);
            self.device.write(buffer, 0, bytemuck::cast_slice(floats))?;
        }
        if self.host.is_some() {
            // What rows attend to goes to the host with them.
            return Ok(());
        }
        self.device.write(m.slots, 0, bytemuck::cast_slice(&batch.slots))?;
        self.device.write(m.map, 0, bytemuck::cast_slice(&batch.map))?;
        self.device.write(m.pages, 0, bytemuck::cast_slice(&batch.pages))?;
        self.device.write(m.path, 0, bytemuck::cast_slice(&batch.path))?;
        self.device.write(m.moves, 0, bytemuck::cast_slice(batch.moves()))?;
        if self.pager.is_some() {
            let (slots, path, moves) = batch.windowed();
            self.device.write(m.windowed[0], 0, bytemuck::cast_slice(&slots))?;
            self.device.write(m.windowed[1], 0, bytemuck::cast_slice(&path))?;
            self.device.write(m.windowed[2], 0, bytemuck::cast_slice(&moves))?;
        }
        Ok(())
    }

    /// The output rows of a slice.
    pub(super) fn slice<'a>(&self, slice: usize, pass: &Pass<'a>) -> &'a [(usize, u32)] {
        let rows = self.workspace.size.logit_rows;
        &pass.outputs[slice * rows..pass.outputs.len().min((slice + 1) * rows)]
    }

    pub(super) fn gather(&mut self, slice: usize, pass: &Pass<'_>) -> Result<(), ExecError> {
        let outputs = self.slice(slice, pass);
        match self.resting.as_mut().filter(|_| pass.rests) {
            Some(resting) => {
                for (to, &(micro, row)) in outputs.iter().enumerate() {
                    let (from, to) = ((micro, row as usize), (self.workspace.head, to));
                    resting.gather(self.device.as_mut(), from, to)?;
                }
            }
            None => self.gather_on_device(outputs)?,
        }
        let (spec, w) = (self.files.spec(), &self.workspace);
        self.pending.push(forward::head_norm_call(spec, &self.head, w, outputs.len()));
        Ok(())
    }

    fn gather_on_device(&mut self, outputs: &[(usize, u32)]) -> Result<(), ExecError> {
        let mut first = 0;
        for run in outputs.chunk_by(|a, b| a.0 == b.0) {
            self.flush()?;
            let rows = &mut self.scratch.rows;
            rows.clear();
            rows.extend(run.iter().map(|&(_, row)| row));
            self.device.write(self.workspace.outputs, 0, bytemuck::cast_slice(rows))?;
            let (spec, w) = (self.files.spec(), &self.workspace);
            self.pending.push(forward::gather_call(spec, w, run[0].0, (first, run.len())));
            first += run.len();
        }
        Ok(())
    }

    pub(super) fn logits(&mut self, slice: usize, pass: &mut Pass<'_>) -> Result<(), ExecError> {
        self.flush()?;
        let rows = self.slice(slice, pass).len();
        let (vocab, logits) = (self.files.spec().vocab, &mut self.scratch.logits);
        let first = slice * self.workspace.size.logit_rows;
        for from in (0..rows).step_by(FETCH_ROWS) {
            logits.resize(FETCH_ROWS.min(rows - from) * vocab, 0.0);
            let offset = from * vocab * 4;
            self.device.read(self.workspace.logits, offset, bytemuck::cast_slice_mut(logits))?;
            (pass.each)(first + from, logits);
        }
        Ok(())
    }
}
