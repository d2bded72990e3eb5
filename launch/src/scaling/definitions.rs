//! What every figure is, in words: printed with the figures, and in docs/scaling.md.

/// A figure and how it is made.
pub struct Definition {
    /// Its name in tables and plots.
    pub name: &'static str,
    /// Formula and unit.
    pub text: &'static str,
}

const fn define(name: &'static str, text: &'static str) -> Definition {
    Definition { name, text }
}

/// All of them.
pub const DEFINITIONS: [Definition; 12] = [
    define(
        "step time",
        "Seconds from the wait for a step's data until the device of rank 0 has done all of the step. Median, \
         quartiles (linear between neighbours) and extremes are those of all measured steps of all repeats; \
         warm-up steps do not count.",
    ),
    define(
        "tokens/s",
        "global_batch × seq_len / median step time, all ranks together; masked tokens included.",
    ),
    define("tokens/s per rank", "tokens/s / number of ranks. A rank has one device."),
    define(
        "efficiency",
        "E(n) = (tokens/s per rank at n) / (tokens/s per rank at the smallest point). Weak scaling \
         (global_batch grows with the ranks): E = T(smallest) / T(n). Strong scaling (global_batch constant): \
         E = n₀ T(n₀) / (n T(n)), with ranks n and median step times T. Each point is held against the \
         smallest point of the same repeat: E is the median over the repeats, its spread the smallest and the \
         largest.",
    ),
    define(
        "predicted efficiency",
        "The same formula with the step times that the planner predicts on the machine of the profile \
         (docs/planner.md).",
    ),
    define(
        "of predicted",
        "Predicted step time / median step time: the share of the predicted speed that is reached.",
    ),
    define(
        "MFU, full",
        "tokens/s per rank × (6 N + 12 L h s) / peak: model FLOPs with attention counted whole. N: parameters \
         without those of an untied embedding, L: layers, h: num_heads × head_dim, s: seq_len. Peak: dense, \
         in the compute type, by the profile. Recomputation does not count.",
    ),
    define("MFU, causal", "The same with 6 N + 6 L h s: attention counted causal, half of it."),
    define(
        "HFU",
        "FLOPs that a rank executes in a step (recomputation included, attention causal) / median step time / \
         peak.",
    ),
    define(
        "exposed",
        "Share of a step in which a rank waits for collectives: communication that no computation hides, and \
         other ranks that were later. Mean over all ranks and measured steps, as are the parts of the time \
         breakdown, which add up to the mean step. Compute: the step's actions without these waits. Data: \
         waiting for the batch. Other: the agreement of the ranks on the number of labelled tokens.",
    ),
    define(
        "bus bandwidth",
        "Of an all-reduce of S bytes in each of n ranks that takes t at the slowest rank: S / t × 2 (n − 1) / \
         n. That is what a rank sends with a ring, so that it compares with the speed of a wire whatever n. \
         Algorithm bandwidth is S / t. Median over samples; all groups along an axis call at once; blocks are \
         zero.",
    ),
    define(
        "energy",
        "Joules of all nodes during the measured steps / tokens of these steps, median over the repeats. \
         GPUs: mean power that nvidia-smi shows five times a second, times the time. CPUs: RAPL counters of \
         the packages, whoever uses them. A blank: not readable, never estimated.",
    ),
];
