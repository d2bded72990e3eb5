//! Free ranges of the arena: lowest fitting range first, neighbours merged. Deterministic by design,
//! because the dry run must predict every offset of the real run.

use std::collections::BTreeMap;

pub(super) struct FreeList {
    /// Offset -> length of each free range; never adjacent, never empty.
    ranges: BTreeMap<usize, usize>,
    high_water: usize,
}

impl FreeList {
    pub(super) fn new(capacity: usize) -> Self {
        let ranges = if capacity == 0 { BTreeMap::new() } else { BTreeMap::from([(0, capacity)]) };
        FreeList { ranges, high_water: 0 }
    }

    /// The offset of `len` bytes now taken; none if no range fits. A length of 0 always fits, at 0.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        if len == 0 {
            return Some(0);
        }
        let (&offset, &available) = self.ranges.iter().find(|&(_, &available)| available >= len)?;
        self.ranges.remove(&offset);
        if available > len {
            self.ranges.insert(offset + len, available - len);
        }
        self.high_water = self.high_water.max(offset + len);
        Some(offset)
    }

    /// Returns a range that `take` gave out.
    pub(super) fn give_back(&mut self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &before_len)) = self.ranges.range(..offset).next_back()
            && before + before_len == offset
        {
            self.ranges.remove(&before);
            start = before;
        }
        if let Some(after_len) = self.ranges.remove(&end) {
            end += after_len;
        }
        self.ranges.insert(start, end - start);
    }

    pub(super) fn high_water(&self) -> usize {
        self.high_water
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_in_any_order() {
        let mut list = FreeList::new(100);
        let blocks: Vec<usize> = (0..10).map(|_| list.take(10).unwrap()).collect();
        assert_eq!(list.take(1), None);
        for i in [3, 5, 4, 0, 9, 1, 8, 2, 7, 6] {
            list.give_back(blocks[i], 10);
        }
        assert_eq!(list.take(100), Some(0));
    }
}
