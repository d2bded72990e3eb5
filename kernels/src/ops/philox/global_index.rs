//! Where the elements of a part of a tensor stand in the whole: what random numbers are functions of.

use crate::{KernelError, Result};

/// Indices in the whole tensor of the elements of one part of it, in the order in which the part stores them:
/// a contiguous range, or the columns of a matrix that a rank holds, or either from any element on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GlobalIndex {
    /// Index of the first column held, in the row of the next element.
    row_start: u64,
    /// Elements of that row before the next one.
    column: u64,
    /// Columns held.
    row_len: u64,
    /// Columns of the whole matrix.
    row_stride: u64,
}

impl GlobalIndex {
    /// Element i is element `first + i` of the whole: a whole tensor (0), or rows of a matrix.
    pub const fn contiguous(first: u64) -> Self {
        GlobalIndex { row_start: first, column: 0, row_len: u64::MAX, row_stride: u64::MAX }
    }

    /// Element (r, c) of a part [rows, row_len] is element `first + r · row_stride + c` of the whole: `first` is
    /// where its first element stands, `row_stride` the columns of the whole matrix.
    ///
    /// # Panics
    /// If `row_len` is 0 or exceeds `row_stride`: a part has columns, and no more than the whole.
    pub fn columns(first: u64, row_len: usize, row_stride: usize) -> Self {
        assert!(0 < row_len && row_len <= row_stride, "{row_len} of {row_stride} columns");
        if row_len == row_stride {
            return GlobalIndex::contiguous(first);
        }
        let (row_len, row_stride) = (row_len as u64, row_stride as u64);
        GlobalIndex { row_start: first, column: 0, row_len, row_stride }
    }

    /// The index of element `offset` of the part.
    pub fn at(self, offset: usize) -> u64 {
        let GlobalIndex { row_start, column, .. } = self.advance(offset);
        row_start + column
    }

    /// The indices from element `offset` of the part on.
    #[inline(always)]
    pub fn advance(self, offset: usize) -> Self {
        let GlobalIndex { row_start, column, row_len, row_stride } = self;
        let column = column + offset as u64;
        // The row after the last may begin beyond 64 bits; no element has its index.
        let row_start = row_start.wrapping_add((column / row_len).wrapping_mul(row_stride));
        GlobalIndex { row_start, column: column % row_len, ..self }
    }

    /// Index and number of the next elements that are adjacent in the whole as well, `most` at the most, and
    /// steps over them: how devices go from run to run without a division per element.
    #[inline(always)]
    pub fn next_run(&mut self, most: usize) -> (u64, usize) {
        let first = self.row_start + self.column;
        let len = (self.row_len - self.column).min(most as u64);
        self.column += len;
        if self.column == self.row_len {
            (self.row_start, self.column) = (self.row_start.wrapping_add(self.row_stride), 0);
        }
        (first, len as usize)
    }

    /// As kernels take it: the index of the first column held in the row of the next element, elements of that
    /// row before it, columns held, and columns of the whole. A contiguous range has 2^64 - 1 columns.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn to_words(self) -> [u64; 4] {
        [self.row_start, self.column, self.row_len, self.row_stride]
    }

    /// Checks that the indices of `len` elements are below 2^64 - 1.
    pub(crate) fn check(self, op: &'static str, len: usize) -> Result<()> {
        let GlobalIndex { row_start, column, row_len, row_stride } = self;
        let Some(last) = len.checked_sub(1) else { return Ok(()) };
        let column = u128::from(column) + last as u128;
        let (row, column) = (column / u128::from(row_len), column % u128::from(row_len));
        if u128::from(row_start) + row * u128::from(row_stride) + column < u128::from(u64::MAX) {
            return Ok(());
        }
        let message = format!("{len} elements from index {} on: the last leaves 64 bits", self.at(0));
        Err(KernelError::Parameter { op, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: element i of a part with `row_len` of `row_stride` columns.
    fn index(first: u64, row_len: usize, row_stride: usize, i: usize) -> u64 {
        first + (i / row_len * row_stride + i % row_len) as u64
    }

    #[test]
    fn elements_of_columns_stand_where_the_matrix_has_them() {
        for (first, row_len, row_stride) in [(0, 1, 1), (5, 1, 4), (2, 3, 7), (9, 7, 7), (1 << 40, 6, 11)] {
            let part = GlobalIndex::columns(first, row_len, row_stride);
            for i in 0..40 {
                assert_eq!(part.at(i), index(first, row_len, row_stride, i), "{part:?} {i}");
                for start in 0..=i {
                    assert_eq!(part.advance(start).at(i - start), part.at(i), "{part:?} {start} {i}");
                    assert_eq!(part.advance(start).advance(i - start), part.advance(i));
                }
            }
        }
    }

    #[test]
    fn runs_cover_all_elements_in_order() {
        for (row_len, row_stride, start, most) in [(3, 7, 0, 2), (3, 7, 2, 100), (1, 2, 1, 1), (5, 5, 3, 4)] {
            let part = GlobalIndex::columns(11, row_len, row_stride).advance(start);
            let (mut runs, mut covered) = (part, 0);
            while covered < 50 {
                let (first, len) = runs.next_run(most);
                assert!(0 < len && len <= most);
                (0..len).for_each(|i| assert_eq!(first + i as u64, part.at(covered + i)));
                covered += len;
                assert_eq!(runs.at(0), part.at(covered));
            }
        }
    }

    #[test]
    fn all_columns_are_a_contiguous_range() {
        assert_eq!(GlobalIndex::columns(3, 8, 8), GlobalIndex::contiguous(3));
        assert_eq!(GlobalIndex::contiguous(3).next_run(1 << 40), (3, 1 << 40));
    }

    #[test]
    fn indices_beyond_64_bits_are_refused() {
        let refused = |index: GlobalIndex, len| index.check("op", len).is_err();
        let near_end = GlobalIndex::contiguous(u64::MAX - 3);
        assert!(!refused(near_end, 3) && refused(near_end, 4));
        let columns = GlobalIndex::columns(u64::MAX - 20, 2, 10);
        assert!(!refused(columns, 4) && refused(columns, 5));
        assert!(!refused(columns.advance(3), 1) && refused(columns.advance(3), 2));
        assert!(!refused(near_end, 0));
    }

    #[test]
    #[should_panic(expected = "9 of 8 columns")]
    fn more_columns_than_the_whole_are_a_broken_invariant() {
        let _ = GlobalIndex::columns(0, 9, 8);
    }
}
