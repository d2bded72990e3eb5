//! The MPI functions that are used, each in a safe function that checks the return code, or in one whose
//! caller vouches for the memory.
//!
//! MPI calls may be made by the thread that initialised it only. Whatever leads to one is `!Send` and is
//! first handed out by [`Environment::start`], so it stays on that thread.
//!
//! Written over the bindings and not over `mpi`'s own types: those tie a request to a scope, and ignore
//! return codes.

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::ptr;

use mpi::ffi;

/// A call that did not return `MPI_SUCCESS`.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {message}")]
pub(super) struct MpiError {
    call: &'static str,
    /// What the library says, in one line.
    message: String,
    /// A message was longer than what is to receive it.
    pub(super) truncated: bool,
}

impl MpiError {
    fn new(call: &'static str, message: impl Into<String>) -> Self {
        MpiError { call, message: message.into(), truncated: false }
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), MpiError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    // The longest that an implementation asks for is 512 (MPICH).
    let mut text = [0_u8; 2048];
    let (mut len, mut class) = (0, 0);
    // SAFETY: the buffer is longer than MPI_MAX_ERROR_STRING of any implementation, and all pointers are to
    // local variables that outlive the calls. Both may be called with any code that MPI has returned.
    let known = unsafe {
        let to = text.as_mut_ptr().cast::<c_char>();
        let known = ffi::MPI_Error_string(code, to, &mut len) == ffi::MPI_SUCCESS as c_int;
        known && ffi::MPI_Error_class(code, &mut class) == ffi::MPI_SUCCESS as c_int
    };
    if !known {
        return Err(MpiError::new(call, format!("code {code}")));
    }
    let len = usize::try_from(len).unwrap_or(0).min(text.len());
    let text = String::from_utf8_lossy(&text[..len]);
    let message = text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Err(MpiError { call, message, truncated: class == ffi::MPI_ERR_TRUNCATE as c_int })
}

/// What the MPI library calls itself, its first line: "Open MPI v4.1.4, ...". May be asked before MPI starts.
pub fn library() -> String {
    let (mut text, mut len) = ([0_u8; 8192], 0);
    // SAFETY: may be called at any time, by any thread; the buffer is as long as the longest
    // MPI_MAX_LIBRARY_VERSION_STRING of any implementation (MPICH: 8192), and both are local variables.
    let code = unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast::<c_char>(), &mut len) };
    if code != ffi::MPI_SUCCESS as c_int {
        return "an MPI library without a name".to_owned();
    }
    let len = usize::try_from(len).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..len]).lines().next().unwrap_or_default().to_owned()
}

/// Keeps a value on its thread.
type OneThread = PhantomData<*const ()>;

/// MPI, initialised by this thread.
pub(super) struct Environment(OneThread);

impl Environment {
    /// Initialises MPI. Possible once in the life of a process.
    pub(super) fn start() -> Result<Self, MpiError> {
        let mut initialized = 0;
        // SAFETY: may be called at any time, by any thread; writes to a local variable.
        check("MPI_Initialized", unsafe { ffi::MPI_Initialized(&mut initialized) })?;
        let refuse = |message| Err(MpiError::new("MPI_Init_thread", message));
        if initialized != 0 {
            return refuse("this process has already initialised MPI");
        }
        let mut provided = 0;
        // SAFETY: MPI was not initialised; null arguments are allowed since MPI-2; the last pointer is to a
        // local variable. The statics are constants that the bindings export as symbols.
        let code = unsafe {
            let funneled = ffi::RSMPI_THREAD_FUNNELED;
            ffi::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), funneled, &mut provided)
        };
        check("MPI_Init_thread", code)?;
        // SAFETY: reads a constant.
        if provided < unsafe { ffi::RSMPI_THREAD_FUNNELED } {
            return refuse(
                "this MPI library does not allow other threads; one with MPI_THREAD_FUNNELED is needed",
            );
        }
        Ok(Environment(PhantomData))
    }

    /// A communicator of all ranks of the job, apart from the predefined one.
    pub(super) fn world(&self) -> Result<Comm, MpiError> {
        // SAFETY: reads a constant.
        let world = Comm { raw: unsafe { ffi::RSMPI_COMM_WORLD }, thread: PhantomData };
        world.return_errors()?;
        let mut raw = world.raw;
        // SAFETY: MPI is initialised, by this thread, as `self` proves; every process of the job comes here.
        check("MPI_Comm_dup", unsafe { ffi::MPI_Comm_dup(world.raw, &mut raw) })?;
        let world = Comm { raw, thread: PhantomData };
        world.return_errors()?;
        Ok(world)
    }

    /// Ends MPI. Waits for the other processes; none of its messages may be under way.
    pub(super) fn finalize(self) -> Result<(), MpiError> {
        // SAFETY: MPI is initialised, by this thread, as `self` proves, and not yet finalised as `self` ends.
        check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
    }
}

/// A communicator. Never freed: a run makes a handful, and the library frees them when it ends.
#[derive(Clone, Copy)]
pub(super) struct Comm {
    raw: ffi::MPI_Comm,
    thread: OneThread,
}

impl Comm {
    /// Errors become return codes; by default they end the job.
    fn return_errors(&self) -> Result<(), MpiError> {
        // SAFETY: a `Comm` is a communicator of an initialised MPI, on its thread.
        let code = unsafe { ffi::MPI_Comm_set_errhandler(self.raw, ffi::RSMPI_ERRORS_RETURN) };
        check("MPI_Comm_set_errhandler", code)
    }

    pub(super) fn rank(&self) -> Result<usize, MpiError> {
        let mut rank = 0;
        // SAFETY: a `Comm` is a communicator of an initialised MPI, on its thread; writes to a local variable.
        check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(self.raw, &mut rank) })?;
        Ok(to_usize(rank))
    }

    pub(super) fn size(&self) -> Result<usize, MpiError> {
        let mut size = 0;
        // SAFETY: as in `rank`.
        check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(self.raw, &mut size) })?;
        Ok(to_usize(size))
    }

    /// Ranks of this communicator as ranks of the job.
    pub(super) fn world_ranks(&self) -> Result<Vec<usize>, MpiError> {
        let size = to_int(self.size()?);
        let ranks: Vec<c_int> = (0..size).collect();
        let mut world_ranks = vec![0; ranks.len()];
        // SAFETY: as in `rank`; both groups are set by the calls before they are used, and the two arrays have
        // the `size` elements that the call is told of. The groups are small and are left to the library.
        unsafe {
            let mut group = ffi::RSMPI_GROUP_NULL;
            let mut world = ffi::RSMPI_GROUP_NULL;
            check("MPI_Comm_group", ffi::MPI_Comm_group(self.raw, &mut group))?;
            check("MPI_Comm_group", ffi::MPI_Comm_group(ffi::RSMPI_COMM_WORLD, &mut world))?;
            let to = world_ranks.as_mut_ptr();
            let code = ffi::MPI_Group_translate_ranks(group, size, ranks.as_ptr(), world, to);
            check("MPI_Group_translate_ranks", code)?;
        }
        Ok(world_ranks.into_iter().map(to_usize).collect())
    }

    /// The ranks that give this color, in the order of `key`, then of rank. Blocks until every rank calls it.
    pub(super) fn split(&self, color: usize, key: usize) -> Result<Comm, MpiError> {
        let (Ok(color), Ok(key)) = (c_int::try_from(color), c_int::try_from(key)) else {
            let message = format!("color {color} or key {key} above {}", c_int::MAX);
            return Err(MpiError::new("MPI_Comm_split", message));
        };
        let mut raw = self.raw;
        // SAFETY: as in `rank`.
        check("MPI_Comm_split", unsafe { ffi::MPI_Comm_split(self.raw, color, key, &mut raw) })?;
        let comm = Comm { raw, thread: PhantomData };
        comm.return_errors()?;
        Ok(comm)
    }

    /// Begins to send. The request ends once the receiver has begun to receive: a message that nobody
    /// receives is never taken for one that has arrived.
    ///
    /// # Safety
    /// The bytes stay where they are, and nobody writes to them, until [`Request::test`] says that the
    /// request has ended.
    ///
    /// # Panics
    /// If there are 2^31 bytes or more.
    pub(super) unsafe fn send_synchronously(
        &self,
        bytes: *const u8,
        len: usize,
        peer: usize,
        tag: c_int,
    ) -> Result<Request, MpiError> {
        // SAFETY: reads a constant.
        let mut raw = unsafe { ffi::RSMPI_REQUEST_NULL };
        // SAFETY: a `Comm` is a communicator of an initialised MPI, on its thread; the caller vouches for the
        // bytes until the request ends; the request is set before anything reads it.
        let code = unsafe {
            let (peer, byte) = (to_int(peer), ffi::RSMPI_UINT8_T);
            ffi::MPI_Issend(bytes.cast(), to_int(len), byte, peer, tag, self.raw, &mut raw)
        };
        check("MPI_Issend", code)?;
        Ok(Request { raw, thread: PhantomData })
    }

    /// Begins to send. The request ends once the bytes may be written to again.
    ///
    /// # Safety
    /// As [`Comm::send_synchronously`].
    ///
    /// # Panics
    /// If there are 2^31 bytes or more.
    pub(super) unsafe fn send(
        &self,
        bytes: *const u8,
        len: usize,
        peer: usize,
        tag: c_int,
    ) -> Result<Request, MpiError> {
        // SAFETY: reads a constant.
        let mut raw = unsafe { ffi::RSMPI_REQUEST_NULL };
        // SAFETY: as in `send_synchronously`.
        let code = unsafe {
            let (peer, byte) = (to_int(peer), ffi::RSMPI_UINT8_T);
            ffi::MPI_Isend(bytes.cast(), to_int(len), byte, peer, tag, self.raw, &mut raw)
        };
        check("MPI_Isend", code)?;
        Ok(Request { raw, thread: PhantomData })
    }

    /// Begins to receive a message of at most this length.
    ///
    /// # Safety
    /// The bytes stay where they are, and nobody else reads or writes them, until [`Request::test`] says that
    /// the request has ended.
    ///
    /// # Panics
    /// If there are 2^31 bytes or more.
    pub(super) unsafe fn receive(
        &self,
        bytes: *mut u8,
        len: usize,
        peer: usize,
        tag: c_int,
    ) -> Result<Request, MpiError> {
        // SAFETY: reads a constant.
        let mut raw = unsafe { ffi::RSMPI_REQUEST_NULL };
        // SAFETY: as in `send_synchronously`.
        let code = unsafe {
            let (peer, byte) = (to_int(peer), ffi::RSMPI_UINT8_T);
            ffi::MPI_Irecv(bytes.cast(), to_int(len), byte, peer, tag, self.raw, &mut raw)
        };
        check("MPI_Irecv", code)?;
        Ok(Request { raw, thread: PhantomData })
    }
}

/// A message under way. Dropping it forgets the message; MPI carries on with it.
pub(super) struct Request {
    raw: ffi::MPI_Request,
    thread: OneThread,
}

impl Request {
    /// Whether the message has ended, and if so, of how many bytes it was (meaningful if it was received).
    pub(super) fn test(&mut self) -> Result<Option<usize>, MpiError> {
        let mut ended = 0;
        // SAFETY: `MPI_Status` is a C struct of integers, for which zero is a value.
        let mut status: ffi::MPI_Status = unsafe { std::mem::zeroed() };
        // SAFETY: the request came from a successful call on this thread. Once it has ended, MPI makes it the
        // null request, of which a further test is allowed. The pointers are to local variables and a field.
        check("MPI_Test", unsafe { ffi::MPI_Test(&mut self.raw, &mut ended, &mut status) })?;
        if ended == 0 {
            return Ok(None);
        }
        let mut count = 0;
        // SAFETY: the status was set by the test that found the request ended.
        check("MPI_Get_count", unsafe { ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut count) })?;
        Ok(Some(usize::try_from(count).unwrap_or(0)))
    }
}

fn to_int(value: usize) -> c_int {
    c_int::try_from(value).expect("ranks and pieces of messages fit MPI's int")
}

fn to_usize(value: c_int) -> usize {
    usize::try_from(value).expect("MPI counts from 0")
}
