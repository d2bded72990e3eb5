//! Mutants made into libraries, and the test program run on them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::place::{Kernels, Mutant, family_of_unit};
use super::sources::{FLAGS, files, warps, wrapper};

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All tests passed.
    Survived,
    /// A test failed: the class of the emulator's report, or another way.
    Killed(String),
    /// No program.
    DoesNotCompile,
}

/// Where mutants are made and tried.
pub(crate) struct Workshop {
    /// Folder of the package.
    pub(crate) package: PathBuf,
    /// For what is made.
    pub(crate) folder: PathBuf,
    /// Whether kernels and emulator are instrumented for AddressSanitizer.
    pub(crate) asan: bool,
}

const LIBRARY: &str = "libtisserand_emulated.so";

/// The C++ compiler.
fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").unwrap_or("c++".into()))
}

/// The runtime of AddressSanitizer, which a program must load before all else.
fn asan_runtime() -> PathBuf {
    let output = compiler().arg("-print-file-name=libasan.so").output().expect("the compiler runs");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

impl Workshop {
    fn run(&self, mut command: Command) -> bool {
        command.args(self.asan.then_some("-fsanitize=address")).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn compile(&self, source: &Path, object: &Path) -> bool {
        let mut command = compiler();
        command.args(["-std=c++17", "-O1", "-g1", "-fPIC", "-w", "-c"]).args(FLAGS);
        command.arg("-I").arg(self.package.join("cuda")).arg("-o").arg(object).arg(source);
        self.run(command)
    }

    fn link(&self, objects: &[PathBuf], folder: &Path) -> bool {
        let mut command = compiler();
        command.args(["-shared", "-o"]).arg(folder.join(LIBRARY)).args(objects);
        self.run(command)
    }

    /// Compiles a `.cu` file for its warps into `folder`.
    fn compile_unit(&self, unit: &Path, folder: &Path) -> Option<Vec<PathBuf>> {
        let make = |warp: &u32| {
            let source = wrapper(unit, *warp, folder);
            let object = source.with_extension("o");
            self.compile(&source, &object).then_some(object)
        };
        warps(unit).iter().map(make).collect()
    }

    /// The library of the kernels as they are, and the objects that it consists of.
    pub(crate) fn base(&self, kernels: &Kernels) -> Vec<PathBuf> {
        let folder = self.folder.join("base");
        make_folder(&folder);
        let mut objects = Vec::new();
        for source in files(&self.package.join("emulator"), "cpp") {
            let object = folder.join(source.file_name().expect("a file")).with_extension("o");
            assert!(self.compile(&source, &object), "{} does not compile", source.display());
            objects.push(object);
        }
        let of_tests = ["emulator/proofs", "tests/cuda/instructions"];
        let of_tests = of_tests.iter().flat_map(|folder| files(&self.package.join(folder), "cu"));
        for unit in kernels.unit_paths().into_iter().chain(of_tests) {
            let made = self.compile_unit(&unit, &folder);
            objects.extend(made.unwrap_or_else(|| panic!("{} does not compile", unit.display())));
        }
        assert!(self.link(&objects, &folder), "the library does not link");
        objects
    }

    /// Builds the test program, which looks for the library wherever it is told to.
    pub(crate) fn program(&self) -> PathBuf {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.args([
            "test",
            "--features",
            "emulator",
            "--test",
            "cuda",
            "--no-run",
            "--message-format",
            "json",
        ]);
        command.current_dir(&self.package).arg("--target-dir").arg(self.folder.join("target"));
        command.env("TISSERAND_EMULATOR_LIBRARY", self.folder.join("base")).stderr(Stdio::inherit());
        let output = command.output().expect("cargo runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let path = text.rsplit("\"executable\":\"").next().and_then(|rest| rest.split('"').next());
        let path = path.filter(|_| output.status.success()).expect("the test program builds");
        PathBuf::from(path)
    }

    /// Tries a mutant in a folder of its own.
    pub(crate) fn judge(
        &self,
        worker: usize,
        kernels: &Kernels,
        base: &[PathBuf],
        program: &Path,
        mutant: &Mutant,
    ) -> Outcome {
        let folder = self.folder.join(format!("worker{worker}"));
        let (tree, objects_folder) = (folder.join("kernels"), folder.join("objects"));
        make_folder(&objects_folder);
        copy_tree(&self.package, &tree);
        let changed = {
            let mut text = kernels.text(&mutant.file).to_owned();
            text.replace_range(mutant.change.range.clone(), &mutant.change.text);
            text
        };
        std::fs::write(tree.join("cuda").join(&mutant.file), changed).expect("the tree can be written");
        // One unit after the other, until one fails: the others stay as they are meanwhile.
        for unit in kernels.units_of(&mutant.file) {
            let Some(made) = self.compile_unit(&tree.join("cuda").join(unit), &objects_folder) else {
                return Outcome::DoesNotCompile;
            };
            let mut objects = base.to_vec();
            objects.retain(|object| made.iter().all(|made| made.file_name() != object.file_name()));
            objects.extend(made);
            if !self.link(&objects, &folder) {
                return Outcome::DoesNotCompile;
            }
            let outcome = self.test(program, &folder, family_of_unit(unit));
            if outcome != Outcome::Survived {
                return outcome;
            }
        }
        Outcome::Survived
    }

    /// Runs the tests of a family until one fails.
    pub(crate) fn test(&self, program: &Path, library: &Path, family: &str) -> Outcome {
        let log = library.join("stderr.txt");
        let file = std::fs::File::create(&log).expect("the folder can be written");
        let mut command = Command::new(program);
        command.arg(format!("{family}::")).args(["--nocapture", "--test-threads", "1"]);
        command
            .env("LD_LIBRARY_PATH", library)
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(file);
        if self.asan {
            command.env("LD_PRELOAD", asan_runtime());
        }
        let mut child = command.spawn().expect("the test program runs");
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let reader = std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                // When nobody listens any more, the rest does not matter.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        let end = end_of(&lines);
        if end != End::ByItself {
            // It may have ended meanwhile.
            let _ = child.kill();
        }
        let passed = child.wait().expect("a child can be waited for").success();
        reader.join().expect("it only reads");
        match end {
            End::TimeLimit => Outcome::Killed("time limit".into()),
            End::ByItself if passed => Outcome::Survived,
            End::ByItself | End::Failure => Outcome::Killed(way(&log, end)),
        }
    }
}

/// How a test program was seen to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Failure,
    TimeLimit,
    ByItself,
}

/// Waits for the first failure that a test program prints, its end, or as long as it may take.
fn end_of(lines: &Receiver<String>) -> End {
    const LIMIT: Duration = Duration::from_secs(600);
    let start = Instant::now();
    loop {
        match lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            Ok(line) if line.ends_with("FAILED") => return End::Failure,
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return End::TimeLimit,
            Err(RecvTimeoutError::Disconnected) => return End::ByItself,
        }
    }
}

/// How a test failed, by what it wrote.
fn way(log: &Path, end: End) -> String {
    const CLASSES: [&str; 9] = [
        "deadlock",
        "divergence",
        "barrier misuse",
        "uninitialised",
        "out of bounds",
        "misaligned",
        "race",
        "asynchronous copy",
        "shared memory",
    ];
    let log = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let report = text.rsplit_once("emulated kernel ").map(|(_, report)| report);
    let class = |report: &str| CLASSES.into_iter().find(|class| report.contains(&format!(": {class}: ")));
    let way = match report {
        _ if text.contains("ERROR: AddressSanitizer") => "AddressSanitizer",
        Some(report) => class(report).unwrap_or("refused launch"),
        None if text.contains("was not written") => "uninitialised",
        None if end == End::ByItself => "crash",
        None => "wrong result",
    };
    way.into()
}

fn make_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
}

/// The sources that kernels are compiled from.
fn copy_tree(package: &Path, to: &Path) {
    for folder in ["cuda", "cuda/isa", "emulator"] {
        make_folder(&to.join(folder));
        for extension in ["cu", "cuh", "h"] {
            for file in files(&package.join(folder), extension) {
                let copy = to.join(folder).join(file.file_name().expect("a file"));
                std::fs::copy(&file, &copy).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
            }
        }
    }
}
