// Elements of the same without matrix units: to test what is around them.
alias Element = f32;
