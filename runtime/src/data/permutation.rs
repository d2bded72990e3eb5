//! A keyed permutation of `0..len` in constant memory: the shuffle of a source's samples.
//!
//! A balanced Feistel network permutes the smallest even power of two that holds `len`; values outside are
//! fed back until they fall inside (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite
//! Domains", 2002), fewer than four times on average. The order of a run's data depends on every constant
//! here: a change is a change of all runs.

const ROUNDS: usize = 8;

/// A permutation of `0..len`, a pure function of `len` and the key.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` for `key`, for example (seed, source, epoch).
    pub fn new(len: u64, key: [u64; 3]) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = key.iter().fold(0, |state, &word| mix(state ^ word));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        });
        Permutation { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// If `index` is not below `len`: outside the domain the walk might never end.
    pub fn apply(&self, index: u64) -> u64 {
        assert!(index < self.len, "index {index} outside a permutation of {}", self.len);
        let mut value = self.network(index);
        while value >= self.len {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            // The high bits of a product are the well-mixed ones.
            let round = mix(right ^ key) >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ round);
        }
        (left << self.half_bits) | right
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)
/// over the next state.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_domain_is_permuted() {
        for len in 1..=2000 {
            let permutation = Permutation::new(len, [1, 2, len]);
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let image = permutation.apply(index) as usize;
                assert!(!std::mem::replace(&mut seen[image], true), "len {len}: {image} twice");
            }
        }
    }

    #[test]
    fn large_domains_stay_inside_without_collisions() {
        for len in [(1u64 << 32) + 1, (1 << 40) - 7, 1 << 62, u64::MAX] {
            let permutation = Permutation::new(len, [7, 0, 3]);
            let mut images: Vec<u64> = (0..10_000).map(|i| permutation.apply(len - 1 - i)).collect();
            assert!(images.iter().all(|&image| image < len));
            images.sort_unstable();
            images.dedup();
            assert_eq!(images.len(), 10_000);
        }
    }

    #[test]
    fn keys_give_unrelated_orders() {
        let len = 1000;
        let fixed_points = |a: [u64; 3], b: [u64; 3]| {
            let (a, b) = (Permutation::new(len, a), Permutation::new(len, b));
            (0..len).filter(|&i| a.apply(i) == b.apply(i)).count()
        };
        // Two random permutations agree in one place on average, in more than ten never.
        for (a, b) in [([1, 0, 0], [2, 0, 0]), ([1, 0, 0], [1, 1, 0]), ([1, 0, 0], [1, 0, 1])] {
            assert!(fixed_points(a, b) < 10);
        }
        assert!(fixed_points([0, 1, 0], [1, 0, 0]) < 10);
    }

    #[test]
    fn images_are_spread_evenly() {
        // Chi-squared of (position decile, image decile) over many keys: 81 degrees of freedom.
        let (len, keys) = (100u64, 500);
        let mut cells = [[0f64; 10]; 10];
        for key in 0..keys {
            let permutation = Permutation::new(len, [key, 0, 0]);
            for index in 0..len {
                cells[(index / 10) as usize][(permutation.apply(index) / 10) as usize] += 1.0;
            }
        }
        let expected = (len * keys) as f64 / 100.0;
        let chi: f64 = cells.iter().flatten().map(|n| (n - expected).powi(2) / expected).sum();
        assert!((40.0..140.0).contains(&chi), "chi squared {chi}");
    }

    #[test]
    fn the_order_of_existing_runs_does_not_change() {
        let permutation = Permutation::new(10, [1234, 0, 0]);
        let order: Vec<u64> = (0..10).map(|i| permutation.apply(i)).collect();
        assert_eq!(order, [4, 0, 5, 2, 8, 9, 7, 6, 1, 3]);
    }
}
