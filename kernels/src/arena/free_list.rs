//! Free ranges of the arena: lowest fitting range first, neighbours merged. Deterministic by design,
//! because the dry run must predict every offset of the real run.

/// A free range.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Range {
    offset: usize,
    len: usize,
}

/// Which bytes are free, to be compared. Since neighbours are merged, equal bytes are equal lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupancy {
    free: Vec<Range>,
}

pub(super) struct FreeList {
    /// By offset; never adjacent, never empty. A plain list: it is short, and a step allocates nothing here.
    ranges: Vec<Range>,
    alignment: usize,
    high_water: usize,
}

impl FreeList {
    pub(super) fn new(capacity: usize, alignment: usize) -> Self {
        let mut ranges = Vec::with_capacity(64);
        if capacity > 0 {
            ranges.push(Range { offset: 0, len: capacity });
        }
        FreeList { ranges, alignment, high_water: 0 }
    }

    /// The aligned offset of `len` bytes now taken; none if no range fits. A length of 0 always fits, at 0.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        if len == 0 {
            return Some(0);
        }
        // A range begins unaligned only while a part of a block is free and the part before it is not.
        let fits = |range: &Range| {
            let offset = range.offset.next_multiple_of(self.alignment);
            (offset + len <= range.offset + range.len).then_some(offset)
        };
        let (index, offset) = self.ranges.iter().enumerate().find_map(|(i, r)| Some((i, fits(r)?)))?;
        let range = &mut self.ranges[index];
        let (before, after) = (offset - range.offset, range.offset + range.len - (offset + len));
        let behind = Range { offset: offset + len, len: after };
        match (before, after) {
            (0, 0) => drop(self.ranges.remove(index)),
            (0, _) => *range = behind,
            (_, 0) => range.len = before,
            (_, _) => {
                range.len = before;
                self.ranges.insert(index + 1, behind);
            }
        }
        self.high_water = self.high_water.max(offset + len);
        Some(offset)
    }

    /// Returns a range that `take` gave out.
    pub(super) fn give_back(&mut self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let next = self.ranges.partition_point(|range| range.offset < offset);
        let joins_next = self.ranges.get(next).is_some_and(|range| range.offset == offset + len);
        let before = next.checked_sub(1).map(|i| &mut self.ranges[i]);
        match before.filter(|range| range.offset + range.len == offset) {
            Some(before) if joins_next => {
                before.len += len;
                let after = self.ranges.remove(next);
                self.ranges[next - 1].len += after.len;
            }
            Some(before) => before.len += len,
            None if joins_next => {
                self.ranges[next].offset = offset;
                self.ranges[next].len += len;
            }
            None => self.ranges.insert(next, Range { offset, len }),
        }
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy { free: self.ranges.clone() }
    }

    /// Whether what is free now is what was free then.
    pub(super) fn is(&self, occupancy: &Occupancy) -> bool {
        self.ranges == occupancy.free
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
        let mut list = FreeList::new(100, 1);
        let blocks: Vec<usize> = (0..10).map(|_| list.take(10).unwrap()).collect();
        assert_eq!(list.take(1), None);
        for i in [3, 5, 4, 0, 9, 1, 8, 2, 7, 6] {
            list.give_back(blocks[i], 10);
        }
        assert_eq!(list.take(100), Some(0));
    }

    #[test]
    fn what_is_taken_is_aligned_and_nothing_is_lost() {
        let mut list = FreeList::new(64, 16);
        assert_eq!((list.take(16), list.take(16)), (Some(0), Some(16)));
        list.give_back(4, 12);
        assert_eq!(list.take(8), Some(32));
        list.give_back(0, 4);
        list.give_back(16, 16);
        assert_eq!(list.take(30), Some(0));
    }
}
