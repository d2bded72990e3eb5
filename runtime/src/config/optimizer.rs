//! `[optimizer]`: AdamW and its groups of tensors.

/// AdamW (Loshchilov and Hutter, arXiv:1711.05101) with global-norm clipping.
#[derive(Clone, PartialEq, Debug)]
pub struct Optimizer {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Decay rates of the first and second moment, each in [0, 1).
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of matrices per unit of learning rate.
    pub weight_decay: f64,
    /// Largest gradient norm; `None` for no clipping.
    pub grad_clip: Option<f64>,
    /// Exceptions by tensor name.
    pub groups: Vec<Group>,
}

/// Other settings for the tensors whose name matches.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// A whole tensor name in which `*` stands for any characters (`match` in the run file).
    pub pattern: String,
    /// Replaces the weight decay, also of vectors.
    pub weight_decay: Option<f64>,
    /// Multiplies the learning rate.
    pub lr_scale: Option<f64>,
}

impl Group {
    /// Whether the tensor belongs to this group.
    pub fn matches(&self, tensor_name: &str) -> bool {
        matches(self.pattern.as_bytes(), tensor_name.as_bytes())
    }
}

impl Optimizer {
    /// (weight decay, learning-rate scale) of a tensor with `dims` dimensions: matrices decay, vectors do not,
    /// scale 1, unless a group says otherwise. For each of the two the last matching group that gives it wins.
    pub fn hyper(&self, tensor_name: &str, dims: usize) -> (f64, f64) {
        let decay = if dims >= 2 { self.weight_decay } else { 0.0 };
        let groups = self.groups.iter().filter(|group| group.matches(tensor_name));
        groups.fold((decay, 1.0), |(decay, scale), group| {
            (group.weight_decay.unwrap_or(decay), group.lr_scale.unwrap_or(scale))
        })
    }

    /// Patterns that match none of the model's tensors: most likely misspelt.
    pub fn unmatched_patterns(&self, tensor_names: &[impl AsRef<str>]) -> Vec<&str> {
        let unmatched =
            self.groups.iter().filter(|group| !tensor_names.iter().any(|name| group.matches(name.as_ref())));
        unmatched.map(|group| group.pattern.as_str()).collect()
    }
}

/// Linear-time wildcard match: only the last `*` ever needs to be tried again.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((after_star, from)) = retry {
            (p, n) = (after_star, from + 1);
            retry = Some((p, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run_of_characters() {
        let cases = [
            ("*norm*", "model.layers.0.input_layernorm.weight", true),
            ("*norm", "model.norm.weight", false),
            ("model.norm.weight", "model.norm.weight", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("**a", "bca", true),
            ("a.c", "abc", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_last_group_that_gives_a_value_wins() {
        let group =
            |pattern: &str, weight_decay, lr_scale| Group { pattern: pattern.into(), weight_decay, lr_scale };
        let groups = vec![
            group("*", None, Some(2.0)),
            group("*embed*", Some(0.5), None),
            group("*q*", None, Some(3.0)),
        ];
        let optimizer =
            Optimizer { lr: 1.0, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, grad_clip: None, groups };
        assert_eq!(optimizer.hyper("w", 2), (0.1, 2.0));
        assert_eq!(optimizer.hyper("w", 1), (0.0, 2.0));
        assert_eq!(optimizer.hyper("embed", 1), (0.5, 2.0));
        assert_eq!(optimizer.hyper("embed.q", 2), (0.5, 3.0));
        assert_eq!(optimizer.unmatched_patterns(&["w", "q"]), ["*embed*"]);
    }
}
