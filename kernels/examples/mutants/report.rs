//! What is told about mutants: lines, tables, and JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::mutate::Mistake;
use super::place::Mutant;
use super::run::Outcome;

/// A mutant and what became of it.
pub(crate) struct Verdict {
    pub(crate) mutant: Mutant,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
}

/// One line about a mutant.
pub(crate) fn line(mutant: &Mutant) -> String {
    let Mutant { file, line, before, change, .. } = mutant;
    let before = before.split_whitespace().collect::<Vec<_>>().join(" ");
    let inserted = if before.is_empty() { "(insert)" } else { &before };
    format!("{file}:{line}: {}: {inserted} -> {}", change.mistake.name(), change.text)
}

#[derive(Default)]
struct Count {
    killed: usize,
    survived: usize,
    does_not_compile: usize,
}

impl Count {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Killed(_) => self.killed += 1,
            Outcome::Survived => self.survived += 1,
            Outcome::DoesNotCompile => self.does_not_compile += 1,
        }
    }

    fn row(&self, name: &str) -> String {
        let Count { killed, survived, does_not_compile } = self;
        let score = 100.0 * *killed as f64 / (killed + survived).max(1) as f64;
        format!("| {name} | {killed} | {survived} | {does_not_compile} | {score:.0} % |\n")
    }
}

fn table(title: &str, rows: &BTreeMap<String, Count>) -> String {
    let mut text =
        format!("| {title} | killed | survived | does not compile | score |\n|---|---|---|---|---|\n");
    rows.iter().for_each(|(name, count)| text += &count.row(name));
    text + "\n"
}

/// Scores by family and by kind of mistake, ways of dying, and all survivors.
pub(crate) fn tables(verdicts: &[Verdict]) -> String {
    let (mut all, mut ways) = (Count::default(), BTreeMap::new());
    let (mut by_family, mut by_kind) = (BTreeMap::new(), BTreeMap::new());
    for Verdict { mutant, outcome, .. } in verdicts {
        all.add(outcome);
        by_family.entry(mutant.family.clone()).or_insert_with(Count::default).add(outcome);
        by_kind.entry(mutant.change.mistake.name().to_owned()).or_insert_with(Count::default).add(outcome);
        if let Outcome::Killed(way) = outcome {
            *ways.entry(way.as_str()).or_insert(0) += 1;
        }
    }
    let all = BTreeMap::from([("all".to_owned(), all)]);
    let mut text = table("mutants", &all) + &table("family", &by_family) + &table("mistake", &by_kind);
    text += "| killed by | mutants |\n|---|---|\n";
    for (way, count) in ways {
        let _ = writeln!(text, "| {way} | {count} |");
    }
    text += "\nSurvivors:\n";
    let survivors = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Survived);
    survivors.for_each(|verdict| text += &format!("- {}\n", line(&verdict.mutant)));
    text
}

fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            c if c.is_control() => " ".to_owned(),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// An array with an object for each mutant.
pub(crate) fn json(verdicts: &[Verdict]) -> String {
    let object = |Verdict { mutant, outcome, seconds }: &Verdict| {
        let Mutant { file, family, line, before, change } = mutant;
        let (outcome, way) = match outcome {
            Outcome::Survived => ("survived", ""),
            Outcome::Killed(way) => ("killed", way.as_str()),
            Outcome::DoesNotCompile => ("does not compile", ""),
        };
        let mistake: Mistake = change.mistake;
        let texts = [
            ("file", file.as_str()),
            ("family", family),
            ("mistake", mistake.name()),
            ("before", before),
            ("after", &change.text),
            ("outcome", outcome),
            ("way", way),
        ];
        let fields: Vec<String> =
            texts.iter().map(|(name, text)| format!("\"{name}\": {}", quoted(text))).collect();
        format!("  {{\"line\": {line}, \"seconds\": {seconds:.1}, {}}}", fields.join(", "))
    };
    format!("[\n{}\n]\n", verdicts.iter().map(object).collect::<Vec<_>>().join(",\n"))
}
