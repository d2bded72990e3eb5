//! What the driver's answers mean.

use std::ffi::CStr;

use ::cudarc::driver::sys::{self, CUresult};

use crate::{KernelError, Result};

/// Makes an error of an answer that is not success: the call, the code's name and number, what it means and, where
/// there is something to do, what. An error may come from work that was queued before the call.
pub(super) fn check(call: &str, answer: CUresult) -> Result<()> {
    if answer == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(KernelError::Device(message(call, &name(answer), answer as u32, hint(answer))))
}

fn message(call: &str, name: &str, code: u32, hint: &str) -> String {
    let hint = if hint.is_empty() { String::new() } else { format!("; hint: {hint}") };
    format!("{call} failed: {name} ({code}){hint}")
}

/// The name as the driver gives it.
fn name(answer: CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: `name` is where the driver writes a pointer to a string of its own. Whoever has an answer has loaded the
    // driver.
    let known = unsafe { sys::cuGetErrorName(answer, &mut name) };
    if known != CUresult::CUDA_SUCCESS || name.is_null() {
        return "an error without a name".into();
    }
    // SAFETY: the driver has just written a pointer to a constant string that ends with a zero.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// What to do about an answer.
fn hint(answer: CUresult) -> &'static str {
    match answer {
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda.so that was found is the toolkit's stub; take its `stubs` folder out of LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "ask the scheduler for a GPU; if there is one, look at CUDA_VISIBLE_DEVICES"
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another process has the GPU for itself; look at `nvidia-smi`"
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "lower training.micro_batch or turn on recompute; `nvidia-smi` shows what other processes take"
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
            "the node's fabric manager does not run; use another node and tell the administrators"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "libcuda and the kernel's driver differ; take CUDA's `compat` folder out of LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_IMAGE
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the driver does not take these kernels; build with an NVRTC that is no newer than the driver"
        }
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTAINED
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR => {
            "the hardware has failed; use another node and tell the administrators"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_LAUNCH_FAILED => {
            "a kernel queued before has failed; run under `compute-sanitizer` to see which, and report it"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_the_code_and_what_to_do() {
        let answer = CUresult::CUDA_ERROR_NO_DEVICE;
        let message = message("cuInit", "CUDA_ERROR_NO_DEVICE", answer as u32, hint(answer));
        let expected = "cuInit failed: CUDA_ERROR_NO_DEVICE (100); hint: ask the scheduler for a GPU; if there is \
                        one, look at CUDA_VISIBLE_DEVICES";
        assert_eq!(message, expected);
    }

    #[test]
    fn success_is_no_error() {
        assert!(check("cuInit", CUresult::CUDA_SUCCESS).is_ok());
    }
}
