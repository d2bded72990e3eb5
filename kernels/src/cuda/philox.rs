//! Random numbers on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::philox::{NormalParams, PhiloxKernels};
use crate::{Result, TensorMut};

impl<Dr: Driver> PhiloxKernels for Cuda<Dr> {
    fn philox_normal(&self, _params: &NormalParams, _out: TensorMut<'_, Self>) -> Result<()> {
        not_there("philox: philox_normal")
    }
}
