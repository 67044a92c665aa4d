//! Everything that is measured of one device, and its rates.

use super::attention::{Attention, FORMATS};
use super::disk::DiskPlace;
use super::effort::{Effort, Pace};
use super::elementwise::Elementwise;
use super::error::ProfileError;
use super::fixed::Fixed;
use super::host::{Embedding, Logits};
use super::layer::LayerShape;
use super::linear::{Linear, complete};
use super::meter::Meter;
use crate::backend::DeviceKind;
use crate::quant::DType;
use forebay_planner::DeviceRates;

/// Parts of the time by which the first round is done with linear layers, attention, sums, and what the
/// host does: a slow device must not spend all of it on the first of them.
const FIRST: [f64; 4] = [0.45, 0.6, 0.65, 0.7];

/// The first type of weights may take this part of the time of all, inverted.
const LEADS: usize = 2;

/// Measurements of one device.
pub(super) struct Rates {
    fixed: Fixed,
    linear: Vec<Linear>,
    attention: Vec<Attention>,
    elementwise: Elementwise,
    logits: Logits,
    embedding: Embedding,
    rounds: usize,
}

impl Rates {
    pub(super) fn new(dtypes: Vec<DType>, kind: DeviceKind, effort: Effort) -> Rates {
        let shape = LayerShape::of(kind);
        let linear = |dtype| Linear::new(dtype, shape, effort);
        Rates {
            fixed: Fixed::default(),
            linear: dtypes.into_iter().map(linear).collect(),
            attention: FORMATS.map(Attention::new).into(),
            elementwise: Elementwise::default(),
            logits: Logits::new(),
            embedding: Embedding::default(),
            rounds: 0,
        }
    }

    /// One round over everything.
    pub(super) fn round(
        &mut self,
        meter: &mut Meter<'_>,
        place: &DiskPlace,
        pace: Pace,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        let first = self.rounds == 0;
        let [linear, attention, sums, host] = FIRST.map(|part| match first {
            true => pace.until(part),
            false => pace,
        });
        self.fixed(meter, pace, say)?;
        let count = self.linear.len();
        // The last, a common one, goes first and gets more time: where time is short it says for all
        // how rates go on with the rows.
        for (index, kind) in self.linear.iter_mut().enumerate().rev() {
            say(&format!("linear layers, {}", kind.dtype));
            let turn = if index + 1 == count { linear.turn(LEADS) } else { linear.turn(index + 1) };
            kind.round(meter, turn)?;
        }
        self.attention(meter, attention, say)?;
        say("norms, gates and sums");
        self.elementwise.round(meter, sums)?;
        say("logits and embeddings");
        self.logits.round(meter, host)?;
        self.embedding.round(meter, place, host)?;
        self.rounds += 1;
        Ok(())
    }

    /// One round over attention alone.
    pub(super) fn attention_round(
        &mut self,
        meter: &mut Meter<'_>,
        pace: Pace,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        self.fixed(meter, pace, say)?;
        self.attention(meter, pace, say)
    }

    fn fixed(
        &mut self,
        meter: &mut Meter<'_>,
        pace: Pace,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        say("fixed costs");
        Ok(self.fixed.round(meter, pace)?)
    }

    fn attention(
        &mut self,
        meter: &mut Meter<'_>,
        pace: Pace,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), ProfileError> {
        let waiting = (1..=self.attention.len()).rev();
        for (kind, waiting) in self.attention.iter_mut().zip(waiting) {
            say(&format!("attention, {}", kind.format));
            kind.round(meter, pace.turn(waiting))?;
        }
        Ok(())
    }

    /// The rates, by what was measured so far.
    pub(super) fn rates(&self) -> DeviceRates {
        let fixed = self.fixed.costs();
        let mut linear = self.linear.iter().map(|kind| kind.rate(&fixed)).collect::<Vec<_>>();
        complete(&mut linear);
        DeviceRates {
            linear,
            attention: self.attention.iter().map(|kind| kind.rate(&fixed)).collect(),
            elementwise_seconds: self.elementwise.seconds(&fixed),
            logit_seconds: self.logits.seconds(&fixed),
            greedy_seconds: self.logits.greedy_seconds(&fixed),
            embed_seconds: self.embedding.seconds(&fixed),
            call_seconds: fixed.call,
            run_seconds: fixed.run,
            pass_seconds: fixed.pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeDevice, fake_now};
    use super::super::meter::Clock;
    use super::*;

    const DTYPES: [DType; 2] = [DType::Q8_0, DType::Q4K];

    /// Rounds with everything slower by a factor each; the rates, and the seconds of the fake clock.
    fn measured(device: &mut FakeDevice, slowness: &[f64], effort: Effort) -> (DeviceRates, f64) {
        let folder = tempfile::tempdir().unwrap();
        let place = DiskPlace::folder_of(folder.path());
        let mut rates = Rates::new(DTYPES.into(), DeviceKind::Cpu, effort);
        let (start, pace) = (fake_now(), Pace::start(effort, Clock::Fake));
        for &slowness in slowness {
            device.slowness = slowness;
            let mut meter = Meter::new(device, Clock::Fake).unwrap();
            rates.round(&mut meter, &place, pace, &mut |_| {}).unwrap();
        }
        (rates.rates(), fake_now() - start)
    }

    #[test]
    fn busy_rounds_change_no_rate() {
        let (rates, _) = measured(&mut FakeDevice::default(), &[6.0, 1.0, 2.0], Effort::Quick);
        let close = |got: f64, want: f64| (got / want - 1.0).abs() < 0.01;
        for rate in &rates.linear {
            assert_eq!(rate.points.len(), Effort::Quick.rows().len());
            for &(rows, seconds) in &rate.points {
                assert!(close(seconds, rows.max(4) as f64 * 1e-11), "{rate:?}");
            }
        }
        let fixed = [rates.call_seconds, rates.run_seconds, rates.pass_seconds];
        let want = [FakeDevice::CALL, FakeDevice::RUN, FakeDevice::WAIT];
        assert!(fixed.iter().zip(want).all(|(&got, want)| close(got, want)), "{rates:?}");
    }

    /// 50 ns a weight and row: one row of a layer takes 1.2 s, of its smallest call 0.12 s.
    #[test]
    fn a_slow_device_is_measured_as_far_as_time_goes() {
        let linear = |rows: usize| 5e-8 * rows as f64;
        let mut device = FakeDevice { linear, ..FakeDevice::default() };
        let (rates, seconds) = measured(&mut device, &[1.0], Effort::Quick);
        assert!(seconds < 8.0, "{seconds}");
        for rate in &rates.linear {
            assert!((rate.seconds(1) / 5e-8 - 1.0).abs() < 0.01, "{rate:?}");
        }
    }
}
