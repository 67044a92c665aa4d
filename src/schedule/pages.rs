//! Who owns which page of the KV cache.

/// A pool of cache pages; page `p` is the same index in every layer's cache.
#[derive(Clone, Debug)]
pub struct PagePool {
    free: Vec<u32>,
    capacity: usize,
}

impl PagePool {
    /// A pool of `capacity` free pages.
    pub fn new(capacity: usize) -> PagePool {
        let last = u32::try_from(capacity).expect("pages are numbered in 32 bits");
        PagePool { free: (0..last).rev().collect(), capacity }
    }

    /// Pages in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that nobody owns.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Extends `pages` to `count` pages, or takes nothing and returns false.
    pub fn grow(&mut self, pages: &mut Vec<u32>, count: usize) -> bool {
        let missing = count.saturating_sub(pages.len());
        if missing > self.free.len() {
            return false;
        }
        pages.extend(self.free.drain(self.free.len() - missing..).rev());
        true
    }

    /// Takes back what `pages` has beyond `count`.
    pub fn shrink(&mut self, pages: &mut Vec<u32>, count: usize) {
        self.free.extend(pages.drain(count.min(pages.len())..).rev());
    }

    /// Takes all of `pages` back.
    pub fn release(&mut self, pages: &mut Vec<u32>) {
        self.free.append(pages);
        assert!(self.free.len() <= self.capacity, "a page was released twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No page has two owners, and none is lost, whatever the order of growth and release.
        #[test]
        fn pages_have_one_owner(moves in prop::collection::vec((0usize..4, 0usize..12), 1..60)) {
            let mut pool = PagePool::new(20);
            let mut owners = vec![Vec::new(); 4];
            for (who, count) in moves {
                if count == 0 {
                    pool.release(&mut owners[who]);
                } else if count == 11 {
                    pool.shrink(&mut owners[who], 2);
                    prop_assert!(owners[who].len() <= 2);
                } else {
                    let before = owners[who].len();
                    let grown = pool.grow(&mut owners[who], count);
                    let expected = if grown { before.max(count) } else { before };
                    prop_assert_eq!(owners[who].len(), expected);
                }
                let mut seen: Vec<u32> = owners.concat();
                seen.extend(&pool.free);
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..20).collect::<Vec<u32>>());
            }
        }
    }
}
