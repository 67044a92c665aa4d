//! What the job asks for.

/// Lengths of the requests of one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// (prompt tokens, output tokens, requests of that kind).
    pub requests: Vec<(usize, usize, usize)>,
}

impl Workload {
    /// Positions in the cache if every request is held to its end.
    pub fn positions(&self) -> usize {
        self.requests.iter().map(|&(prompt, output, count)| (prompt + output) * count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_prompt_and_output() {
        assert_eq!(Workload { requests: vec![(3, 2, 4), (1, 1, 1)] }.positions(), 22);
    }
}
