//! Random numbers on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig};
use crate::ops::philox::{NormalParams, PhiloxKernels};
use crate::{Result, TensorMut};

impl<Dr: Driver> PhiloxKernels for Cuda<Dr> {
    fn philox_normal(&self, params: &NormalParams, out: TensorMut<'_, Self>) -> Result<()> {
        let NormalParams { seed, tensor_key, index, std, mean } = *params;
        let [row_start, column, row_len, row_stride] = index.to_words();
        let len = out.len();
        let config = LaunchConfig::elements(len, out.dtype().size_bytes());
        let args = [
            out.into(),
            seed.into(),
            tensor_key.into(),
            std.into(),
            mean.into(),
            row_start.into(),
            column.into(),
            row_len.into(),
            row_stride.into(),
            (len as u64).into(),
        ];
        self.launch("philox_normal", config, &args)
    }
}
