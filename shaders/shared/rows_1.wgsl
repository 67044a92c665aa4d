// Rows of x that share a load of weights.
const ROWS = 1u;
