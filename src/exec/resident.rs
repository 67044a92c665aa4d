//! The model as a draft of its own: passes through the layers that need not be brought.

use super::ExecError;
use super::executor::{Executor, Pass};
use crate::kernel::Call;
use crate::schedule::{Batch, resident_steps};
use std::sync::Arc;

impl Executor {
    /// Rows that [`Executor::resident_pass`] takes at most.
    pub fn resident_rows(&self) -> usize {
        self.workspace.size.micro_rows
    }

    /// As [`Executor::pass`], through the resident layers and the head alone, while streams go on arriving:
    /// `logits` are guesses. Its keys and values lie in the cache until a pass writes over them. Returns the
    /// seconds that it takes on the event clock, which does not go on; 0 where nothing is simulated.
    pub fn resident_pass(
        &mut self,
        batch: &Batch,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<f64, ExecError> {
        assert!(batch.rows() <= self.resident_rows(), "{} rows exceed a micro-batch", batch.rows());
        let outputs: Vec<(usize, u32)> = batch.outputs.iter().map(|&row| (0, row)).collect();
        let steps =
            resident_steps(&self.plan, outputs.len().div_ceil(self.workspace.size.logit_rows));
        let micro = Arc::new(vec![batch.clone()]);
        self.play(&steps, &mut Pass { micro: &micro, rests: false, outputs: &outputs, each })?;
        let clock = self.clock.as_ref();
        Ok(clock.map_or(0.0, |clock| clock.computing(&self.plan, &steps, &micro)))
    }

    /// Moves rows of the caches on the device, `[from, to]` in order, before the next pass.
    pub fn move_rows(&mut self, moves: &[[u32; 2]]) -> Result<(), ExecError> {
        let buffer = self.workspace.micro[0].moves;
        for moves in moves.chunks(self.workspace.size.micro_rows) {
            self.flush()?;
            self.device.write(buffer, 0, bytemuck::cast_slice(moves))?;
            let layers = self.files.spec().layers.iter().zip(&self.caches);
            let calls = layers.filter_map(|(layer, cache)| {
                let (cache, layout) = ((*cache)?, layer.cache(self.config.kv_format));
                Some(Call::Move { cache, moves: buffer, count: moves.len(), layout })
            });
            self.pending.extend(calls);
        }
        self.flush()
    }
}
