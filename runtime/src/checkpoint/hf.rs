//! A Hugging Face folder: `model.safetensors`, or several files with `model.safetensors.index.json`.

use std::collections::{BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::disk::read_text;
use super::tensor_set::TensorSet;
use crate::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights and the `config.json` of a folder. Which tensors a model wants is the reader's affair.
#[derive(Debug)]
pub struct HfFolder {
    /// The folder.
    pub dir: PathBuf,
    /// Text of `config.json`, if there is one.
    pub config_json: Option<String>,
    /// `tokenizer.json`, if there is one.
    pub tokenizer: Option<PathBuf>,
    /// All tensors of all files.
    pub tensors: TensorSet,
}

impl HfFolder {
    /// Reads the headers of all files.
    ///
    /// # Errors
    /// If a file is missing or damaged, or files and index disagree.
    pub fn open(dir: &Path) -> Result<Self> {
        let tensors = match dir.join(SINGLE) {
            path if path.exists() => TensorSet::open(&[path])?,
            _ if dir.join(INDEX).exists() => open_sharded(dir)?,
            _ => {
                return Err(Error::input(format!(
                    "{} holds neither {SINGLE} nor {INDEX}; hint: convert other formats with \
                     `save_pretrained` of transformers",
                    dir.display()
                )));
            }
        };
        let existing = |name| Some(dir.join(name)).filter(|path| path.exists());
        let config_json = existing("config.json").map(|path| read_text(&path)).transpose()?;
        Ok(HfFolder { dir: dir.into(), config_json, tokenizer: existing("tokenizer.json"), tensors })
    }
}

/// Whether [`HfFolder::open`] has something to open.
pub(super) fn is_hf_folder(dir: &Path) -> bool {
    dir.join(SINGLE).exists() || dir.join(INDEX).exists()
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

fn open_sharded(dir: &Path) -> Result<TensorSet> {
    let path = dir.join(INDEX);
    let wrong = |why: String| Error::input(format!("{}: {why}; hint: copy the folder again", path.display()));
    let index: Index = serde_json::from_str(&read_text(&path)?).map_err(|e| wrong(e.to_string()))?;
    let WeightMap(map) = index.weight_map;
    let names: BTreeSet<_> = map.iter().map(|(_, file)| file.as_str()).collect();
    for name in &names {
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(wrong(format!("file name `{name}` leads out of the folder")));
        }
    }
    let files: Vec<_> = names.iter().map(|name| dir.join(name)).collect();
    let tensors = TensorSet::open(&files)?;
    for (name, file) in &map {
        if tensors.path_of(name) != Some(&dir.join(file)) {
            return Err(wrong(format!("tensor `{name}` is not in {file}")));
        }
    }
    Ok(tensors)
}

/// Tensor to file, every name once.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensor and file names")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<WeightMap, M::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(M::Error::custom(format!("`{name}` occurs twice")));
                    }
                    entries.push((name, file));
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}
