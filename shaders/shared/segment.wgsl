// Blocks whose sum is one chain of fused multiply-adds; segments are added in order. Many rows walk
// through the segments, one row has them summed side by side, and the bits are the same.
const SEGMENT = 4u;
