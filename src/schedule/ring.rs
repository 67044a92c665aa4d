//! Where streamed pieces lie in a ring buffer, and what must be over before each may be written.

use std::collections::VecDeque;

/// A piece that travels through a ring once in every round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes it takes.
    pub bytes: usize,
    /// The use it is for: uses end in order, and a piece stays until its use has ended.
    pub used_by: usize,
}

/// The end of a use that frees a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Which use.
    pub used_by: usize,
    /// Whether it is that use of the round before.
    pub round_before: bool,
}

/// Where a piece lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte in the ring.
    pub offset: usize,
    /// What must have ended before the piece may be written, if any byte was used before.
    pub gate: Gate,
}

/// A ring too small: the uses of neighbouring pieces would need each other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingTooSmall {
    /// Bytes it has.
    pub bytes: usize,
    /// Bytes with which it would do.
    pub needed: usize,
}

/// Bytes that suffice for a ring: all pieces of any one use, wherever they begin.
pub fn ring_bytes_min(pieces: &[Piece]) -> usize {
    let needed = |pieces: &[Piece]| {
        let bytes = pieces.iter().map(|piece| piece.bytes);
        // A piece is never cut: what does not fit before the end of the ring starts over at 0, and
        // leaves less than its own bytes unused.
        let lost = if pieces.len() == 1 { 0 } else { bytes.clone().max().unwrap_or(0) };
        bytes.sum::<usize>() + lost
    };
    pieces.chunk_by(|a, b| a.used_by == b.used_by).map(needed).max().unwrap_or(0)
}

/// Lays `pieces` (in order) into a ring of `bytes`, at the same places in every round.
///
/// # Errors
/// If a use's pieces cannot be there all at once.
pub fn lay_out(pieces: &[Piece], bytes: usize) -> Result<Vec<Place>, RingTooSmall> {
    let failed = RingTooSmall { bytes, needed: ring_bytes_min(pieces) };
    let mut offsets = Vec::with_capacity(pieces.len());
    let mut next = 0;
    for piece in pieces {
        if next + piece.bytes > bytes {
            next = 0;
        }
        if piece.bytes > bytes {
            return Err(failed);
        }
        offsets.push(next);
        next += piece.bytes;
    }
    // What lies in the ring, oldest first: a piece and its round.
    let mut there: VecDeque<usize> = (0..pieces.len()).collect();
    let mut places = Vec::with_capacity(pieces.len());
    let mut gate = 0;
    for (index, piece) in pieces.iter().enumerate() {
        let (start, end) = (offsets[index], offsets[index] + piece.bytes);
        let covers = |&other: &usize| {
            let at = offsets[other % pieces.len()];
            at < end && start < at + pieces[other % pieces.len()].bytes
        };
        // What was there and is not listed any more ended before the last gate.
        if let Some(last) = there.iter().rposition(covers) {
            gate = there[last];
            there.drain(..=last);
        }
        there.push_back(pieces.len() + index);
        let round_before = gate < pieces.len();
        let used_by = pieces[gate % pieces.len()].used_by;
        if !round_before && used_by == piece.used_by {
            return Err(failed);
        }
        places.push(Place { offset: start, gate: Gate { used_by, round_before } });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(sizes: &[(usize, usize)]) -> Vec<Piece> {
        let mut used_by = 0;
        let piece = |&(bytes, step): &(usize, usize)| {
            used_by += step;
            Piece { bytes, used_by }
        };
        sizes.iter().map(piece).collect()
    }

    #[test]
    fn a_ring_of_all_pieces_waits_only_for_the_round_before() {
        let all = pieces(&[(10, 0), (20, 1), (5, 0)]);
        let places = lay_out(&all, 35).unwrap();
        assert_eq!(places.iter().map(|p| p.offset).collect::<Vec<_>>(), [0, 10, 30]);
        assert!(places.iter().zip(&all).all(
            |(place, piece)| place.gate == Gate { used_by: piece.used_by, round_before: true }
        ));
    }

    #[test]
    fn a_use_as_large_as_the_largest_piece_has_room_to_wrap() {
        let all = pieces(&[(16, 0), (7, 1), (29, 0), (1, 1), (36, 1), (1, 1)]);
        assert_eq!(ring_bytes_min(&all), 7 + 29 + 29);
        assert!(lay_out(&all, ring_bytes_min(&all)).is_ok());
    }

    proptest! {
        /// Played over three rounds, a piece is written only where everything before was used up.
        #[test]
        fn nothing_in_use_is_overwritten(
            sizes in prop::collection::vec((1usize..40, 0usize..2), 1..40),
            spare in 0usize..60,
        ) {
            let all = pieces(&sizes);
            let bytes = ring_bytes_min(&all) + spare;
            let places = lay_out(&all, bytes).unwrap();
            let uses = all.last().unwrap().used_by + 1;
            // For each byte, the use (counted over all rounds) that still needs it.
            let mut needed_by: Vec<Option<usize>> = vec![None; bytes];
            for round in 0..3 {
                for (piece, place) in all.iter().zip(&places) {
                    prop_assert!(place.offset + piece.bytes <= bytes);
                    let back = usize::from(place.gate.round_before);
                    let ended = (round >= back).then(|| (round - back) * uses + place.gate.used_by);
                    let own = round * uses + piece.used_by;
                    prop_assert!(ended.is_none_or(|ended| ended < own), "waits for itself");
                    for byte in &mut needed_by[place.offset..][..piece.bytes] {
                        prop_assert!(byte.is_none_or(|use_| Some(use_) <= ended));
                        *byte = Some(own);
                    }
                }
            }
        }
    }
}
