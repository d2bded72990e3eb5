//! The functions of NVRTC that the build uses, from a library loaded at build time. The only file of the build with
//! `unsafe`; everything that it offers is safe.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

type Program = *mut c_void;
type Status = c_int;
type SizeOf = unsafe extern "C" fn(Program, *mut usize) -> Status;
type CopyOf = unsafe extern "C" fn(Program, *mut c_char) -> Status;
type CreateProgram = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;

const COMPILE_ERROR: Status = 6;

/// What a program becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Machine code for one architecture, such as `sm_80`.
    Cubin(&'static str),
    /// PTX of a virtual architecture, such as `compute_80`, which the driver of a later GPU compiles. A text that ends in
    /// a zero byte, as the driver wants it.
    Ptx(&'static str),
}

impl Target {
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Target::Cubin(name) | Target::Ptx(name) => name,
        }
    }
}

/// The image of a program and everything that the compiler and ptxas said about it.
pub(crate) struct Compiled {
    pub(crate) image: Vec<u8>,
    pub(crate) log: String,
}

/// A loaded NVRTC. Its functions may be called by several threads at once, each with a program of its own.
pub(crate) struct Nvrtc {
    /// Major and minor number.
    pub(crate) version: (u32, u32),
    create: Symbol<CreateProgram>,
    compile: Symbol<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status>,
    destroy: Symbol<unsafe extern "C" fn(*mut Program) -> Status>,
    message: Symbol<unsafe extern "C" fn(Status) -> *const c_char>,
    log: (Symbol<SizeOf>, Symbol<CopyOf>),
    cubin: (Symbol<SizeOf>, Symbol<CopyOf>),
    ptx: (Symbol<SizeOf>, Symbol<CopyOf>),
    _builtins: Option<Library>,
    _library: Library,
}

impl Nvrtc {
    /// Loads a library by path, or by a name that the loader finds.
    pub(crate) fn load(library: &Path) -> Result<Nvrtc, String> {
        let folder = library.parent();
        let library = open(library)?;
        // SAFETY: the signature is that of nvrtc.h, where it has not changed since the first version; the call writes
        // two numbers.
        let version = unsafe {
            let version =
                symbol::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status>(&library, c"nvrtcVersion")?;
            let (mut major, mut minor) = (0, 0);
            version(&mut major, &mut minor);
            (major.unsigned_abs(), minor.unsigned_abs())
        };
        // When it first compiles, NVRTC opens the library of its built-in headers by name, which some versions find only
        // where the loader looks. One that is loaded already is found in any case.
        let builtins =
            folder.map(|folder| folder.join(format!("libnvrtc-builtins.so.{}.{}", version.0, version.1)));
        let builtins = builtins.filter(|path| path.exists()).map(|path| open(&path)).transpose()?;
        // SAFETY: as above, for every function; nvrtcGetCUBIN is there since 11.1. A symbol stays valid while its library
        // is loaded, and both are fields of one value.
        unsafe {
            Ok(Nvrtc {
                version,
                create: symbol(&library, c"nvrtcCreateProgram")?,
                compile: symbol(&library, c"nvrtcCompileProgram")?,
                destroy: symbol(&library, c"nvrtcDestroyProgram")?,
                message: symbol(&library, c"nvrtcGetErrorString")?,
                log: (symbol(&library, c"nvrtcGetProgramLogSize")?, symbol(&library, c"nvrtcGetProgramLog")?),
                cubin: (symbol(&library, c"nvrtcGetCUBINSize")?, symbol(&library, c"nvrtcGetCUBIN")?),
                ptx: (symbol(&library, c"nvrtcGetPTXSize")?, symbol(&library, c"nvrtcGetPTX")?),
                _builtins: builtins,
                _library: library,
            })
        }
    }

    /// Compiles one source text; `name` stands in messages and in line tables. The error is the compiler's log.
    pub(crate) fn compile(
        &self,
        name: &str,
        source: &str,
        target: Target,
        options: &[String],
    ) -> Result<Compiled, String> {
        let program = self.program(name, source)?;
        let mut arguments = vec![c_string(&format!("--gpu-architecture={}", target.architecture()))?];
        for option in options {
            arguments.push(c_string(option)?);
        }
        let pointers: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).expect("a handful of options");
        // SAFETY: the program is alive, and the pointers are to texts that end in zero and outlive the call.
        let status = unsafe { (self.compile)(program.0, count, pointers.as_ptr()) };
        let log = text_of(self.read(&program, &self.log)?);
        let image = match target {
            Target::Cubin(_) => &self.cubin,
            Target::Ptx(_) => &self.ptx,
        };
        match status {
            0 => Ok(Compiled { image: self.read(&program, image)?, log }),
            COMPILE_ERROR => Err(log),
            _ => Err(format!("{}: {log}", self.describe(status))),
        }
    }

    fn program(&self, name: &str, source: &str) -> Result<OwnedProgram<'_>, String> {
        let (name, source) = (c_string(name)?, c_string(source)?);
        let mut program = OwnedProgram(null_mut(), self);
        // SAFETY: texts end in zero and are copied by the call; no headers are given, so their arrays may be null.
        let status = unsafe {
            (self.create)(
                &mut program.0,
                source.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if status == 0 { Ok(program) } else { Err(self.describe(status)) }
    }

    fn read(&self, program: &OwnedProgram, of: &(Symbol<SizeOf>, Symbol<CopyOf>)) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive, and `size` is a size_t that the call may write.
        let status = unsafe { (of.0)(program.0, &mut size) };
        if status != 0 {
            return Err(self.describe(status));
        }
        let mut bytes = vec![0_u8; size];
        // SAFETY: the call writes as many bytes as it has just said, which is what the vector has.
        let status = unsafe { (of.1)(program.0, bytes.as_mut_ptr().cast()) };
        if status == 0 { Ok(bytes) } else { Err(self.describe(status)) }
    }

    fn describe(&self, status: Status) -> String {
        // SAFETY: the call returns a text with a zero at its end that lives as long as the library, for any number.
        let text = unsafe { CStr::from_ptr((self.message)(status)) };
        format!("{} ({status})", text.to_string_lossy())
    }
}

fn open(library: &Path) -> Result<Library, String> {
    // SAFETY: the initialisers of NVRTC's libraries only set up their own state.
    unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map_err(explain)
}

struct OwnedProgram<'a>(Program, &'a Nvrtc);

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by nvrtcCreateProgram, destroyed once, used by nobody afterwards. A failure would leak memory
            // of a process that is about to end.
            unsafe { (self.1.destroy)(&mut self.0) };
        }
    }
}

/// # Safety
///
/// `T` must be the function's type in nvrtc.h.
unsafe fn symbol<T>(library: &Library, name: &CStr) -> Result<Symbol<T>, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.to_bytes_with_nul()) }.map_err(explain)
}

/// The loader's own words, which the error keeps as its source.
fn explain(error: libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| source.to_string())
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a zero byte in a source or an option".to_owned())
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}
