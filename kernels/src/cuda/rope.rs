//! Rotary positions on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::rope::{RopeKernels, RopeShape, Turn};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> RopeKernels for Cuda<Dr> {
    fn rope(
        &self,
        _shape: RopeShape,
        _turn: Turn,
        _positions: TensorRef<'_, Self>,
        _table: TensorRef<'_, Self>,
        _x: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("rope: rope")
    }
}
