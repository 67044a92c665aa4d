//! Growth and static trees against exhaustive search.

mod growth;
mod shapes;
