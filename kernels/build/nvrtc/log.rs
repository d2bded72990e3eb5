//! What ptxas says about the code that it made (option `-v`), taken from the log of a compilation.

/// A function of a cubin. Every entry is one; a device function only where it was not inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Registers of a thread; only of entries.
    pub(crate) registers: Option<u32>,
    /// Static shared memory; only of entries.
    pub(crate) shared_bytes: u32,
    pub(crate) stack_bytes: u32,
    /// Bytes of the instructions that store spilled registers, and of those that load them.
    pub(crate) spill_store_bytes: u32,
    pub(crate) spill_load_bytes: u32,
}

/// A message with a code, such as C7511: wgmma instructions that had to be serialized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) function: String,
    pub(crate) code: String,
    pub(crate) text: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) functions: Vec<Function>,
    pub(crate) remarks: Vec<Remark>,
    /// Warnings of the compiler, with file and line.
    pub(crate) warnings: Vec<String>,
}

/// Reads a log. The lines of several functions follow each other without being nested: what a line does not say, the
/// last line before it that names a function or an entry says.
pub(crate) fn parse(log: &str) -> Report {
    let mut report = Report::default();
    let (mut entry, mut function) = (String::new(), String::new());
    for line in log.lines() {
        let text = line.split_once(": ").map_or("", |(_, text)| text.trim());
        if let Some(rest) = text.strip_prefix("Compiling entry function '") {
            entry = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some(name) = text.strip_prefix("Function properties for ") {
            function = name.to_owned();
        } else if line.contains(" bytes stack frame") {
            let known = report.function(&function);
            known.stack_bytes = number_before(line, " bytes stack frame");
            known.spill_store_bytes = number_before(line, " bytes spill stores");
            known.spill_load_bytes = number_before(line, " bytes spill loads");
        } else if text.starts_with("Used ") {
            let known = report.function(&entry);
            known.registers = Some(number_before(text, " registers"));
            known.shared_bytes = number_before(text, " bytes smem");
        } else if let Some(remark) = remark(text) {
            report.remarks.push(remark);
        } else if line.contains(": warning") || line.starts_with("ptxas warning") {
            report.warnings.push(line.to_owned());
        }
    }
    report
}

impl Function {
    pub(crate) fn spill_bytes(&self) -> u32 {
        self.spill_store_bytes + self.spill_load_bytes
    }
}

impl Report {
    fn function(&mut self, name: &str) -> &mut Function {
        let position = self.functions.iter().position(|function| function.name == name);
        let position = position.unwrap_or_else(|| {
            self.functions.push(Function { name: name.to_owned(), ..Function::default() });
            self.functions.len() - 1
        });
        &mut self.functions[position]
    }
}

/// `(C7510) Potential Performance Loss: … in function 'name'`.
fn remark(text: &str) -> Option<Remark> {
    let (code, rest) = text.strip_prefix('(')?.split_once(')')?;
    if !code.starts_with('C') || !code[1..].chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let function = rest.rsplit('\'').nth(1).unwrap_or("unknown");
    Some(Remark { function: function.to_owned(), code: code.to_owned(), text: rest.trim().to_owned() })
}

/// The number that stands before the words, 0 if they are not there.
fn number_before(line: &str, words: &str) -> u32 {
    let before = line.split(words).next().filter(|before| before.len() < line.len());
    let digits = before.and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
