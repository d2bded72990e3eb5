//! `[data]`: sources or text to prepare, validation, skipped steps.

use std::path::PathBuf;

use super::model_check::limit;
use super::raw::{Bound, Section};
use super::sections::{Data, Prepare, Source, Validation};
use crate::Result;

/// 256 bytes and one end-of-document token: the least that a byte-level tokenizer has.
const LEAST_PREPARED_VOCAB: usize = 257;

/// Reads the section.
pub(super) fn data(section: &Section<'_>) -> Result<Data> {
    let sources = sources(section)?;
    let prepare = prepare(section)?;
    match (sources.is_empty(), &prepare) {
        (false, Some(_)) => {
            return Err(section.conflict("prepare", "data.sources is given too; keep one of them"));
        }
        (true, None) if section.given("sources") => {
            return Err(section.wrong("sources", "at least one source, as in [{ path = \"tok/fr\" }]"));
        }
        (true, None) => {
            return Err(section
                .missing("sources", "[{ path = \"tok/fr\" }], or [data.prepare] with text and vocab_size"));
        }
        _ => {}
    }
    let validation = validation(section)?;
    let validation_fraction = section.number("validation_fraction", Bound::BelowOne)?.unwrap_or(0.0);
    if validation_fraction > 0.0 && !validation.is_empty() {
        return Err(section.conflict("validation_fraction", "data.validation is given too; keep one of them"));
    }
    Ok(Data {
        sources,
        validation,
        validation_fraction,
        document_mask: section.boolean("document_mask")?.unwrap_or(true),
        prefetch_batches: section.size("prefetch_batches", 1..=65_536)?.unwrap_or(8),
        skip: skip(section)?,
        prepare,
    })
}

fn path(section: &Section<'_>) -> Result<PathBuf> {
    Ok(PathBuf::from(section.required_string("path", "the path of a dataset without .bin or .idx")?))
}

fn sources(section: &Section<'_>) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for item in section.tables("sources")? {
        let source = Source {
            path: path(&item)?,
            weight: item.number("weight", Bound::Positive)?.unwrap_or(1.0),
            max_epochs: item.number("max_epochs", Bound::Positive)?,
        };
        if sources.iter().any(|other| other.path == source.path) {
            return Err(item.conflict("path", "this source stands twice; hint: add the weights"));
        }
        sources.push(source);
    }
    Ok(sources)
}

fn validation(section: &Section<'_>) -> Result<Vec<Validation>> {
    let mut sets: Vec<Validation> = Vec::new();
    for item in section.tables("validation")? {
        let name = item.required_string("name", "a name for reports")?.to_owned();
        if name.chars().any(|c| !(c.is_alphanumeric() || "_-.".contains(c))) {
            return Err(item.wrong("name", "letters, digits, \"_\", \"-\" and \".\" only"));
        }
        if sets.iter().any(|other| other.name == name) {
            return Err(item.conflict("name", "two validation sets have this name"));
        }
        sets.push(Validation { name, path: path(&item)? });
    }
    Ok(sets)
}

fn skip(section: &Section<'_>) -> Result<Vec<(u64, u64)>> {
    let expected = "an array of [first, last] with 1 <= first <= last, increasing and disjoint";
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for item in section.array("skip", expected)? {
        let ends = item.as_array().filter(|ends| ends.len() == 2);
        let step = |i: usize| u64::try_from(ends?[i].as_integer()?).ok().filter(|step| *step >= 1);
        match (step(0), step(1)) {
            (Some(first), Some(last))
                if first <= last && ranges.last().is_none_or(|range| range.1 < first) =>
            {
                ranges.push((first, last));
            }
            _ => return Err(section.wrong("skip", expected)),
        }
    }
    Ok(ranges)
}

fn prepare(section: &Section<'_>) -> Result<Option<Prepare>> {
    let section = section.sub("prepare")?;
    if !section.is_written() {
        return Ok(None);
    }
    let text = section.strings("text")?;
    let expected = "at least one glob of text files, as in [\"**/*.md\"]";
    match (text.is_empty(), section.given("text")) {
        (true, true) => return Err(section.wrong("text", expected)),
        (true, false) => return Err(section.missing("text", expected)),
        _ => {}
    }
    for pattern in &text {
        if let Err(error) = glob::Pattern::new(pattern) {
            return Err(section.conflict("text", &format!("{pattern:?} is not a glob: {error}")));
        }
    }
    let vocab_size = section.size("vocab_size", LEAST_PREPARED_VOCAB..=limit::VOCAB_SIZE)?;
    let vocab_size = vocab_size.ok_or_else(|| {
        section.missing("vocab_size", &format!("an integer of at least {LEAST_PREPARED_VOCAB}"))
    })?;
    Ok(Some(Prepare { text, vocab_size }))
}
