// Elements that matrix units take.
enable f16;
enable wgpu_cooperative_matrix;
alias Element = f16;
