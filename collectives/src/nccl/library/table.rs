//! NCCL's functions, looked up by name.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;

use super::config::Config;

/// `ncclUniqueId`, which goes by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclComm_t`: a pointer to what NCCL alone knows.
pub(super) type RawComm = *mut c_void;

/// `cudaStream_t`.
pub(super) type RawStream = *mut c_void;

/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;

/// `ncclInProgress`: carried out by another thread, and to be asked about.
pub(super) const IN_PROGRESS: c_int = 7;

/// Why there is no table.
pub(super) enum OpenError {
    /// What the system's loader said.
    NoLibrary(String),
    NoSymbol(&'static str),
}

/// Declares the table: of each function the field, its name in the library, its type.
macro_rules! table {
    ($($field:ident $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        /// Pointers to NCCL's functions, valid as long as the library is loaded: for ever.
        pub(super) struct Table {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            _library: ManuallyDrop<libloading::Library>,
        }

        impl Table {
            /// Loads a library, by path or by a name that the system's loader knows.
            pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
                // SAFETY: loading runs the library's initialisers. Those of NCCL, the only library meant to be found
                // under this path, set up its own variables and threads, which stay valid: it is never unloaded.
                let library = unsafe { libloading::Library::new(path) };
                let library = library.map_err(|error| OpenError::NoLibrary(reason(&error)))?;
                let library = ManuallyDrop::new(library);
                $(
                    // SAFETY: the type is that of this function in nccl.h since 2.19; NCCL changes no signature
                    // within its major version 2, which the name of the library stands for.
                    let symbol = unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol.as_bytes())
                    };
                    let $field = *symbol.map_err(|_| OpenError::NoSymbol($symbol))?;
                )*
                Ok(Table { $($field,)* _library: library })
            }
        }
    };
}

table! {
    get_version "ncclGetVersion" (*mut c_int) -> c_int;
    get_unique_id "ncclGetUniqueId" (*mut UniqueId) -> c_int;
    get_error_string "ncclGetErrorString" (c_int) -> *const c_char;
    get_last_error "ncclGetLastError" (RawComm) -> *const c_char;
    comm_init_rank_config "ncclCommInitRankConfig" (*mut RawComm, c_int, UniqueId, c_int, *mut Config) -> c_int;
    comm_get_async_error "ncclCommGetAsyncError" (RawComm, *mut c_int) -> c_int;
    comm_user_rank "ncclCommUserRank" (RawComm, *mut c_int) -> c_int;
    comm_finalize "ncclCommFinalize" (RawComm) -> c_int;
    comm_destroy "ncclCommDestroy" (RawComm) -> c_int;
    comm_abort "ncclCommAbort" (RawComm) -> c_int;
    group_start "ncclGroupStart" () -> c_int;
    group_end "ncclGroupEnd" () -> c_int;
    all_reduce "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
    reduce_scatter "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
    all_gather "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, RawComm, RawStream) -> c_int;
    broadcast "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
    send "ncclSend" (*const c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
    recv "ncclRecv" (*mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
}

/// The loader's words, which are the source of the crate's error, on one line.
fn reason(error: &libloading::Error) -> String {
    let words = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    words.replace('\n', " ")
}

impl Table {
    /// The version's number.
    ///
    /// # Errors
    /// NCCL's code.
    pub(super) fn version(&self) -> Result<u32, c_int> {
        let mut version = 0;
        // SAFETY: NCCL writes one integer to a local variable.
        match unsafe { (self.get_version)(&mut version) } {
            SUCCESS => Ok(version.unsigned_abs()),
            code => Err(code),
        }
    }

    /// An id for a communicator; starts a thread of NCCL's in which its ranks find each other.
    ///
    /// # Errors
    /// NCCL's code.
    pub(super) fn unique_id(&self) -> Result<[u8; 128], c_int> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: NCCL writes 128 bytes to a local variable of that size.
        match unsafe { (self.get_unique_id)(&mut id) } {
            SUCCESS => Ok(id.0),
            code => Err(code),
        }
    }

    /// What a code means, and what NCCL said last about it, if anything; on one line.
    pub(super) fn explain(&self, code: c_int, comm: Option<RawComm>) -> String {
        // SAFETY: takes any code.
        let name = text(unsafe { (self.get_error_string)(code) });
        // SAFETY: NCCL keeps the last error for the whole process; the communicator, null or alive as callers promise
        // by having it, is not looked at.
        let last = text(unsafe { (self.get_last_error)(comm.unwrap_or(std::ptr::null_mut())) });
        let last = last.trim().replace('\n', " ");
        if last.is_empty() { format!("{name} ({code})") } else { format!("{name} ({code}): {last}") }
    }
}

/// A string that NCCL owns.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's strings are constants, or a buffer of the process that always ends with a zero.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
