//! The order of actions in a step.

use super::Action;
use crate::model::Transformer;

/// A training step of `micro_steps` micro-batches. Gradients are reduced in the order in which their
/// backward passes end, after the last micro-batch.
pub fn train_step(model: &Transformer, micro_steps: usize) -> Vec<Action> {
    let blocks = || (0..model.blocks.len()).map(Transformer::block_unit);
    let embedding = Transformer::EMBEDDING_UNIT;
    let head = model.head_unit();
    let mut actions: Vec<Action> = (0..model.units.len()).map(|unit| Action::Gather { unit }).collect();
    for micro_batch in 0..micro_steps {
        let last = micro_batch + 1 == micro_steps;
        actions.push(Action::Load { micro_batch });
        let forward = std::iter::once(embedding).chain(blocks());
        actions.extend(forward.map(|unit| Action::Forward { unit, micro_batch }));
        actions.push(Action::Loss { micro_batch });
        if last && head != embedding {
            actions.push(Action::Reduce { unit: head });
        }
        for unit in blocks().rev().chain([embedding]) {
            actions.push(Action::Backward { unit, micro_batch });
            if last {
                actions.push(Action::Reduce { unit });
            }
        }
    }
    actions.push(Action::Norm);
    actions.extend((0..model.units.len()).map(|unit| Action::Update { unit }));
    actions
}
