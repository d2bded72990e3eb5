//! Every schedule, followed action by action: what is used has been gathered, what is gathered is released, every
//! gradient is reduced as often as its ZeRO stage says, and communication stands one unit ahead of its use.

use std::collections::BTreeMap;

use tisserand_collectives::{Axis, Mesh};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::step::Action;
use tisserand_runtime::step::schedule::train_step;

fn model(num_layers: usize, tie_embeddings: bool) -> Transformer {
    let windows = vec![None; num_layers];
    let heads = ModelConfig { num_heads: 1, num_kv_heads: 1, ..ModelConfig::default() };
    Transformer::new(ModelConfig { num_layers, windows, tie_embeddings, ..heads })
}

/// What a rank has while it follows a list.
struct Follower<'a> {
    model: &'a Transformer,
    sharding: Sharding,
    /// Whole units, with the position of the gather where they are so only now and then.
    gathered: BTreeMap<usize, usize>,
    under_way: Vec<(usize, Axis)>,
    reduced: BTreeMap<(usize, &'static str), usize>,
    gathers: Vec<usize>,
    /// Units whose gradients wait to be reduced.
    leaves: Vec<usize>,
}

impl Follower<'_> {
    fn uses(&mut self, at: usize, unit: usize, actions: &[Action]) {
        if !self.sharding.shards_parameters() {
            return;
        }
        let since =
            self.gathered.get(&unit).unwrap_or_else(|| panic!("unit {unit} is used at {at} ungathered"));
        let is_compute = |action: &Action| {
            matches!(action, Action::Forward { .. } | Action::Loss { .. } | Action::Backward { .. })
        };
        let hidden = actions[*since..at].iter().any(is_compute);
        // The first unit of a micro-batch has nothing of its own to hide behind.
        assert!(hidden || unit == Transformer::EMBEDDING_UNIT, "the gather of unit {unit} is not ahead");
    }

    fn follow(&mut self, actions: &[Action]) {
        for (at, action) in actions.iter().enumerate() {
            match *action {
                Action::Gather { unit } => {
                    self.gathers.push(unit);
                    if self.sharding.shards_parameters() {
                        assert!(self.gathered.insert(unit, at).is_none(), "unit {unit} gathered twice");
                        assert!(self.gathered.len() <= 2, "more than two units at a time");
                    }
                }
                Action::Release { unit } => {
                    self.gathered.remove(&unit).expect("what is released was gathered");
                }
                Action::Forward { unit, .. } => self.uses(at, unit, actions),
                Action::Loss { .. } => {
                    let head = self.model.head_unit();
                    self.uses(at, head, actions);
                    self.leaves.push(head);
                }
                Action::Backward { unit, .. } => {
                    if unit != Transformer::EMBEDDING_UNIT {
                        self.uses(at, unit, actions);
                    }
                    self.leaves.push(unit);
                }
                Action::Fold { unit, .. } => self.leaves.retain(|leaf| *leaf != unit),
                Action::Reduce { unit, axis } => {
                    *self.reduced.entry((unit, axis.name())).or_default() += 1;
                    self.under_way.push((unit, axis));
                    if self.sharding.shards_gradients() && axis == Axis::DpShard {
                        self.leaves.retain(|leaf| *leaf != unit);
                    }
                    assert!(self.under_way.len() <= 4, "reductions pile up: {:?}", self.under_way);
                }
                Action::Collect { unit, axis, .. } => {
                    let at = self.under_way.iter().position(|begun| *begun == (unit, axis));
                    self.under_way.remove(at.expect("what is collected was begun"));
                }
                Action::Norm => {
                    assert!(self.under_way.is_empty() && self.gathered.is_empty());
                    let kept = !self.sharding.mesh_invariant && !self.sharding.shards_gradients();
                    assert!(kept || self.leaves.is_empty(), "gradients left behind: {:?}", self.leaves);
                }
                Action::Load { .. } | Action::Update { .. } => {}
            }
        }
    }
}

#[test]
fn every_schedule_can_be_followed() {
    let meshes = [[1, 1], [1, 2], [2, 1], [2, 2], [1, 4], [3, 1]];
    for (num_layers, tied) in [(1, false), (1, true), (4, false), (4, true)] {
        let model = model(num_layers, tied);
        for ((mesh, zero), micro_steps) in meshes
            .iter()
            .flat_map(|mesh| (0..4).map(move |z| (mesh, z)))
            .flat_map(|m| [1, 2, 4].map(|s| (m, s)))
        {
            for mesh_invariant in [false, true] {
                let mesh = Mesh::new(mesh[0], mesh[1], 1);
                let sharding = Sharding { mesh, rank: 0, zero, mesh_invariant };
                let actions = train_step(&model, &sharding, micro_steps);
                check(&model, sharding, micro_steps, &actions);
            }
        }
    }
}

fn check(model: &Transformer, sharding: Sharding, micro_steps: usize, actions: &[Action]) {
    let mut follower = Follower {
        model,
        sharding,
        gathered: BTreeMap::new(),
        under_way: Vec::new(),
        reduced: BTreeMap::new(),
        gathers: Vec::new(),
        leaves: Vec::new(),
    };
    follower.follow(actions);
    let units = model.units.len();
    let per_step = |axis: Axis, times: usize| {
        let size = sharding.mesh.size(axis);
        for unit in 0..units {
            let got = follower.reduced.get(&(unit, axis.name())).copied().unwrap_or(0);
            assert_eq!(got, if size > 1 { times } else { 0 }, "unit {unit} {axis:?} {sharding:?}");
        }
    };
    per_step(Axis::DpReplicate, 1);
    per_step(Axis::DpShard, if sharding.shards_gradients() { micro_steps } else { 1 });
    let gathers = |unit: usize| follower.gathers.iter().filter(|gathered| **gathered == unit).count();
    for unit in 0..units {
        let is_block = (1..=model.blocks.len()).contains(&unit);
        let is_tied = model.head_unit() == Transformer::EMBEDDING_UNIT;
        // The backward pass of the embedding reads no weights; the head is kept from its forward to its backward.
        let per_micro_step = if is_block || is_tied { 2 } else { 1 };
        let expected = match () {
            () if sharding.shards_parameters() => micro_steps * per_micro_step,
            () if sharding.shards_state() => 1,
            () => 0,
        };
        assert_eq!(gathers(unit), expected, "gathers of unit {unit}: {sharding:?}");
    }
    let updates = actions.iter().filter(|action| matches!(action, Action::Update { .. })).count();
    assert_eq!(updates, units);
}
