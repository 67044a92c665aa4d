//! Linear layers: seconds per weight element for each storage type and number of rows.

use super::effort::{Effort, Pace};
use super::error::ProfileError;
use super::fixed::FixedCosts;
use super::layer::{Activations, LayerShape, SMALLEST, Weights};
use super::meter::Meter;
use super::samples::Timings;
use crate::backend::DeviceError;
use crate::kernel::Call;
use crate::quant::DType;
use forebay_planner::LinearRate;

/// Layers that take longer are timed call by call: the shorter a sample, the less often another
/// program comes between. Shorter ones are timed whole, so that weights come from memory in turn.
const WHOLE_SECONDS: f64 = 0.005;

/// Loading weights may take this part of the time, inverted.
const LOADING: usize = 4;

/// Measurements of one storage type.
pub(super) struct Linear {
    pub(super) dtype: DType,
    shape: &'static LayerShape,
    points: Vec<Point>,
}

/// How a layer is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    EachCall,
    Smallest,
}

impl Way {
    /// How to time a layer that is expected to take so many seconds per weight, and at most so many
    /// in all; `None` where even the smallest call would take longer.
    fn of(shape: &LayerShape, seconds: f64, most: f64) -> Option<Way> {
        let layer = seconds * shape.elements();
        if layer < WHOLE_SECONDS.min(most) {
            Some(Way::Whole)
        } else if layer < most {
            Some(Way::EachCall)
        } else {
            (seconds * shape.call_elements(SMALLEST) < most).then_some(Way::Smallest)
        }
    }
}

/// Timings of a layer with one number of rows.
struct Point {
    rows: usize,
    /// Decided once, so that all rounds measure the same.
    way: Option<Way>,
    whole: Timings,
    calls: [Timings; 4],
}

impl Point {
    fn new(rows: usize) -> Point {
        Point { rows, way: None, whole: Timings::default(), calls: Default::default() }
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.calls.iter().all(Timings::is_empty)
    }

    fn measure(
        &mut self,
        meter: &mut Meter<'_>,
        pace: Pace,
        (way, next): (Way, &mut usize),
        runs: &[Vec<Call>],
    ) -> Result<(), DeviceError> {
        let chosen = match way {
            Way::Whole => return meter.sample(runs, next, pace.slice(), &mut self.whole),
            Way::EachCall => 0..self.calls.len(),
            Way::Smallest => SMALLEST..SMALLEST + 1,
        };
        meter.sample_calls(runs, next, chosen, pace.slice(), &mut self.calls)
    }

    /// Seconds of the layer per weight element; 0 where nothing was measured.
    fn seconds(&self, shape: &LayerShape, fixed: &FixedCosts) -> f64 {
        if !self.whole.is_empty() {
            return self.whole.seconds(fixed) / shape.elements();
        }
        let measured = self.calls.iter().enumerate().filter(|(_, timings)| !timings.is_empty());
        let (seconds, elements) =
            measured.fold((0.0, 0.0), |(seconds, elements), (call, timings)| {
                (seconds + timings.seconds(fixed), elements + shape.call_elements(call))
            });
        if elements > 0.0 { seconds / elements } else { 0.0 }
    }
}

impl Linear {
    pub(super) fn new(dtype: DType, shape: &'static LayerShape, effort: Effort) -> Linear {
        let points = effort.rows().iter().map(|&rows| Point::new(rows)).collect();
        Linear { dtype, shape, points }
    }

    /// One round over the numbers of rows; of the first alone where it is late.
    pub(super) fn round(&mut self, meter: &mut Meter<'_>, pace: Pace) -> Result<(), ProfileError> {
        let mark = meter.mark();
        let rows_max = self.points.last().map_or(1, |point| point.rows);
        let activations = Activations::new(meter, rows_max)?;
        let mut weights = Vec::new();
        let loading = pace.turn(LOADING);
        let more = |bytes| bytes < pace.effort.weight_bytes() && !loading.is_late();
        let measured = Weights::load(meter, self.dtype, more, &mut weights)
            .and_then(|layers| self.measure(meter, pace, &layers, &activations));
        weights.into_iter().for_each(|matrix| meter.device.unload(matrix));
        meter.release(mark);
        Ok(measured?)
    }

    fn measure(
        &mut self,
        meter: &mut Meter<'_>,
        pace: Pace,
        layers: &[Weights],
        activations: &Activations,
    ) -> Result<(), DeviceError> {
        let runs = |rows: usize| -> Vec<Vec<Call>> {
            layers.iter().map(|layer| layer.calls(activations, rows)).collect()
        };
        let (mut next, mut per_row) = (0, 0.0);
        for index in order(self.points.len()) {
            if index > 0 && pace.is_late() {
                break;
            }
            let fewer = self.points[..index].iter().rev().find(|point| !point.is_empty());
            if let Some(fewer) = fewer {
                per_row = fewer.seconds(self.shape, &FixedCosts::default()) / fewer.rows as f64;
            }
            let point = &mut self.points[index];
            let runs = runs(point.rows);
            if index == 0 && point.way.is_none() {
                let seconds = pilot(meter, &runs[0][SMALLEST])?;
                per_row = seconds / self.shape.call_elements(SMALLEST) / point.rows as f64;
            }
            // The cost of a row falls with their number, so this is the most that it can take.
            let most = pace.effort.sample_max();
            let way = point.way.or_else(|| Way::of(self.shape, per_row * point.rows as f64, most));
            // The least number of rows is measured however long it takes.
            let Some(way) = way.or((index == 0).then_some(Way::Smallest)) else { continue };
            point.way = Some(way);
            point.measure(meter, pace, (way, &mut next), &runs)?;
        }
        Ok(())
    }

    /// What was measured; rows for which there was no time are left out.
    pub(super) fn rate(&self, fixed: &FixedCosts) -> LinearRate {
        let points = self.points.iter().map(|point| (point.rows, point.seconds(self.shape, fixed)));
        let points = points.filter(|&(_, seconds)| seconds > 0.0).collect();
        LinearRate { dtype: self.dtype.to_string(), points }
    }
}

/// Seconds of a call when it is not run for the first time.
fn pilot(meter: &mut Meter<'_>, call: &Call) -> Result<f64, DeviceError> {
    meter.elapsed([std::slice::from_ref(call)])?;
    meter.elapsed([std::slice::from_ref(call)])
}

/// The first of `count` points, one in the middle, then the others: where time is short, a rate is best
/// known from two points far apart.
fn order(count: usize) -> impl Iterator<Item = usize> {
    let middle = count / 2;
    let others = (1..count).filter(move |&index| index != middle);
    [0].into_iter().chain((middle > 0).then_some(middle)).chain(others)
}

/// Gives `rates` the numbers of rows that they lack. The time is that of the type that was about as fast
/// at the nearest rows where both were measured, times how much slower this one was there.
pub(super) fn complete(rates: &mut [LinearRate]) {
    let known = rates.to_vec();
    let mut all: Vec<usize> =
        known.iter().flat_map(|rate| rate.points.iter().map(|point| point.0)).collect();
    all.sort_unstable();
    all.dedup();
    for (rate, own) in rates.iter_mut().zip(&known) {
        let missing = all.iter().filter(|&&rows| at(own, rows).is_none());
        rate.points.extend(missing.filter_map(|&rows| Some((rows, estimate(&known, own, rows)?))));
        rate.points.sort_unstable_by_key(|point| point.0);
    }
}

/// See [`complete`]; `None` where no type was measured at these rows and at rows of `own`.
fn estimate(known: &[LinearRate], own: &LinearRate, rows: usize) -> Option<f64> {
    let apart = |a: f64, b: f64| (a / b).ln().abs();
    let candidates = own.points.iter().flat_map(|&(near, seconds)| {
        known.iter().filter_map(move |other| {
            let factor = seconds / at(other, near)?;
            Some((apart(near as f64, rows as f64), factor, at(other, rows)?))
        })
    });
    let nearest = candidates
        .min_by(|a, b| a.0.total_cmp(&b.0).then(apart(a.1, 1.0).total_cmp(&apart(b.1, 1.0))));
    nearest.map(|(_, factor, seconds)| factor * seconds)
}

fn at(rate: &LinearRate, rows: usize) -> Option<f64> {
    rate.points.iter().find(|point| point.0 == rows).map(|point| point.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DeviceKind;

    #[test]
    fn long_layers_are_timed_in_parts() {
        let shape = LayerShape::of(DeviceKind::Cpu);
        let layer = |seconds: f64| Way::of(shape, seconds / shape.elements(), 0.12);
        assert_eq!(layer(0.002), Some(Way::Whole));
        assert_eq!(layer(0.01), Some(Way::EachCall));
        assert_eq!(layer(0.5), Some(Way::Smallest));
        assert_eq!(layer(2.0), None);
    }

    #[test]
    fn points_far_apart_come_first() {
        assert_eq!(order(6).collect::<Vec<_>>(), [0, 3, 1, 2, 4, 5]);
        assert_eq!(order(1).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn rows_without_a_time_follow_the_nearest_type() {
        let rate = |dtype: &str, points: &[(usize, f64)]| LinearRate {
            dtype: dtype.to_string(),
            points: points.to_vec(),
        };
        let all = [(1, 1.0), (8, 2.0), (64, 10.0)];
        let slow = [(1, 5.0), (8, 30.0), (64, 200.0)];
        let mut rates = [
            rate("a", &all),
            rate("b", &[(1, 1.5)]),
            rate("c", &slow),
            rate("d", &[(1, 4.0), (64, 250.0)]),
        ];
        complete(&mut rates);
        assert_eq!(rates[0].points, all);
        assert_eq!(rates[1].points, [(1, 1.5), (8, 3.0), (64, 15.0)]);
        assert_eq!(rates[2].points, slow);
        // 1 and 64 rows are as near to 8; of the types, the slow one is nearer.
        assert!(rates[3].points[1].1 > 20.0 && rates[3].points[1].1 < 40.0, "{rates:?}");
        let mut alone = [rate("a", &[(1, 1.0)])];
        complete(&mut alone);
        assert_eq!(alone[0].points, [(1, 1.0)]);
    }
}
