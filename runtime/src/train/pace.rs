//! How long single steps take, and which rank takes longest for its own work. The second costs no round of its own:
//! every rank brings its time to the agreement after each step, where the largest counts.

use std::time::Duration;

/// Steps of a log interval whose times are kept: of a longer one, the newest.
const STEPS_KEPT: u64 = 4096;

/// Bits of a word of the agreement that hold the rank; the others hold microseconds, 12 days of them.
const RANK_BITS: u32 = 24;

/// The rank whose own work, in the steps since a log line, has taken longest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Slowest {
    own_us: u64,
    rank: usize,
}

impl Slowest {
    /// A word that is largest for the slowest rank.
    pub(super) fn word(self) -> u64 {
        let own_us = self.own_us.min(u64::MAX >> RANK_BITS);
        own_us << RANK_BITS | self.rank as u64 & ((1 << RANK_BITS) - 1)
    }

    pub(super) fn of(word: u64) -> Self {
        Slowest { own_us: word >> RANK_BITS, rank: (word & ((1 << RANK_BITS) - 1)) as usize }
    }
}

/// The times of the steps since the last log line.
#[derive(Debug)]
pub(super) struct Pace {
    rank: usize,
    /// Seconds of each step; a ring once it is full.
    steps: Vec<f64>,
    /// Steps since the log line.
    count: u64,
    /// Since the agreement after the last log line: what this rank's steps took, and what of it was its own work.
    wall: Duration,
    own: Duration,
    /// The slowest rank by the newest agreement, and the share of its own work in the time of its steps.
    slowest: Option<(usize, f64)>,
}

/// What a log line says of its steps.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepTimes {
    /// Seconds of the median step.
    pub p50_s: f64,
    /// Seconds that 99 of 100 steps do not exceed.
    pub p99_s: f64,
    /// The slowest rank, and the share of its steps' time in which it did not wait for others.
    pub slowest: Option<(usize, f64)>,
}

impl Pace {
    /// Of this rank, with a log line every so many steps. Makes room for them: a step allocates nothing.
    pub(super) fn new(rank: usize, every_steps: u64) -> Self {
        let steps = Vec::with_capacity(every_steps.clamp(1, STEPS_KEPT) as usize);
        Pace { rank, steps, count: 0, wall: Duration::ZERO, own: Duration::ZERO, slowest: None }
    }

    /// A step has taken `wall`, of which this rank has `waited` for others.
    pub(super) fn step(&mut self, wall: Duration, waited: Duration) {
        let room = self.steps.capacity();
        match self.steps.get_mut(self.count as usize % room) {
            Some(oldest) => *oldest = wall.as_secs_f64(),
            None => self.steps.push(wall.as_secs_f64()),
        }
        self.count += 1;
        self.wall += wall;
        self.own += wall.saturating_sub(waited);
    }

    /// What this rank brings to the agreement.
    pub(super) fn own(&self) -> Slowest {
        Slowest { own_us: u64::try_from(self.own.as_micros()).unwrap_or(u64::MAX), rank: self.rank }
    }

    /// What all have brought. After a step that was logged the count begins anew.
    pub(super) fn agreed(&mut self, slowest: Slowest, is_logged: bool) {
        let share = slowest.own_us as f64 / 1e6 / self.wall.as_secs_f64().max(1e-9);
        self.slowest = Some((slowest.rank, share.min(1.0)));
        if is_logged {
            (self.wall, self.own) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// What the log line says; the next one begins. After at least one step.
    pub(super) fn take(&mut self) -> StepTimes {
        self.steps.sort_by(f64::total_cmp);
        // The smallest value that so large a part of all does not exceed.
        let quantile = |part: f64| {
            let place = (part * self.steps.len() as f64).ceil() as usize;
            self.steps.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        let times = StepTimes { p50_s: quantile(0.5), p99_s: quantile(0.99), slowest: self.slowest };
        self.steps.clear();
        self.count = 0;
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_those_of_the_interval() {
        let mut pace = Pace::new(0, 200);
        (1..=200).rev().for_each(|i| pace.step(ms(i), ms(0)));
        let times = pace.take();
        assert_eq!((times.p50_s, times.p99_s, times.slowest), (0.100, 0.198, None));
        pace.step(ms(7), ms(0));
        let times = pace.take();
        assert_eq!((times.p50_s, times.p99_s), (0.007, 0.007));
    }

    #[test]
    fn of_a_long_interval_the_newest_steps_count() {
        let mut pace = Pace::new(0, u64::MAX);
        (0..STEPS_KEPT).for_each(|_| pace.step(ms(1000), ms(0)));
        (0..STEPS_KEPT).for_each(|_| pace.step(ms(2), ms(0)));
        assert_eq!(pace.take().p99_s, 0.002);
    }

    #[test]
    fn the_slowest_rank_is_the_one_that_waits_least() {
        let mut ranks: Vec<Pace> = (0..4).map(|rank| Pace::new(rank, 10)).collect();
        let agree = |ranks: &mut [Pace], is_logged| {
            let word = ranks.iter().map(|pace| pace.own().word()).max().unwrap();
            ranks.iter_mut().for_each(|pace| pace.agreed(Slowest::of(word), is_logged));
        };
        for _ in 0..3 {
            for (waited, pace) in [40, 50, 5, 30].into_iter().zip(&mut ranks) {
                pace.step(ms(100), ms(waited));
            }
            agree(&mut ranks, false);
        }
        let (rank, share) = ranks[0].take().slowest.unwrap();
        assert!(rank == 2 && (share - 0.95).abs() < 1e-6, "{rank} {share}");
        // After a log line another one may be slow.
        agree(&mut ranks, true);
        for (waited, pace) in [90, 10, 95, 30].into_iter().zip(&mut ranks) {
            pace.step(ms(100), ms(waited));
        }
        agree(&mut ranks, false);
        assert_eq!(ranks[0].take().slowest.unwrap().0, 1);
        // Longer than a word holds, and more than the rank's bits.
        let word = Slowest { own_us: u64::MAX, rank: 3 }.word();
        assert!(word > Slowest { own_us: 1, rank: 9 }.word() && Slowest::of(word).rank == 3);
    }
}
