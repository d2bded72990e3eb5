//! The header of a safetensors file, read with suspicion: whatever the bytes, the answer is a list of
//! tensors that lie inside the file without overlap, or a reason.
//!
//! Format: 8-byte little-endian length, JSON object of that length, data
//! (<https://github.com/huggingface/safetensors#format>). Own parser because duplicate names must be
//! refused, and because positioned reads need only the header.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tisserand_kernels::DType;

/// Longest header that is read: the limit of the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Element types that a safetensors file may hold.
#[allow(missing_docs)] // The names are the definition.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum StoredDType {
    F64,
    F32,
    F16,
    BF16,
    F8_E4M3,
    F8_E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    BOOL,
}

impl StoredDType {
    const ALL: [Self; 15] = {
        use StoredDType::*;
        [F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U64, U32, U16, U8, BOOL]
    };

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        use StoredDType::*;
        match self {
            F64 | I64 | U64 => 8,
            F32 | I32 | U32 => 4,
            F16 | BF16 | I16 | U16 => 2,
            F8_E4M3 | F8_E5M2 | I8 | U8 | BOOL => 1,
        }
    }

    /// The name in the header.
    pub const fn name(self) -> &'static str {
        use StoredDType::*;
        match self {
            F64 => "F64",
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            F8_E4M3 => "F8_E4M3",
            F8_E5M2 => "F8_E5M2",
            I64 => "I64",
            I32 => "I32",
            I16 => "I16",
            I8 => "I8",
            U64 => "U64",
            U32 => "U32",
            U16 => "U16",
            U8 => "U8",
            BOOL => "BOOL",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl From<DType> for StoredDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => StoredDType::F32,
            DType::Bf16 => StoredDType::BF16,
            DType::U32 => StoredDType::U32,
            DType::I32 => StoredDType::I32,
            DType::U8 => StoredDType::U8,
        }
    }
}

impl std::fmt::Display for StoredDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Extents, row-major.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: StoredDType,
    /// First byte, from the start of the file.
    pub offset_bytes: u64,
    /// Number of elements; the product of `shape`.
    pub num_elements: usize,
}

impl TensorInfo {
    /// Bytes of all elements.
    pub fn size_bytes(&self) -> u64 {
        self.num_elements as u64 * self.dtype.size_bytes() as u64
    }
}

/// A header whose tensors fill the rest of the file exactly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes before the first tensor.
    pub size_bytes: u64,
    /// Tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// The strings of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads the header of an open file.
    ///
    /// # Errors
    /// The reason, without the file's name.
    pub fn read(file: &File) -> Result<Self, String> {
        let file_bytes = file.metadata().map_err(|e| e.to_string())?.len();
        let mut length = [0; 8];
        if file_bytes < 8 {
            return Err(format!("{file_bytes} bytes are too few for a safetensors file"));
        }
        file.read_exact_at(&mut length, 0).map_err(|e| e.to_string())?;
        let json_bytes = Self::check_length(u64::from_le_bytes(length), file_bytes)?;
        let mut json = vec![0; json_bytes];
        file.read_exact_at(&mut json, 8).map_err(|e| e.to_string())?;
        Self::parse_json(&json, file_bytes)
    }

    /// Reads the header of a file that lies in memory.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (length, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| format!("{} bytes are too few for a safetensors file", bytes.len()))?;
        let json_bytes = Self::check_length(u64::from_le_bytes(*length), bytes.len() as u64)?;
        Self::parse_json(&rest[..json_bytes], bytes.len() as u64)
    }

    fn check_length(json_bytes: u64, file_bytes: u64) -> Result<usize, String> {
        if json_bytes > MAX_HEADER_BYTES {
            return Err(format!("header of {json_bytes} bytes; at most {MAX_HEADER_BYTES} are read"));
        }
        if json_bytes > file_bytes - 8 {
            return Err(format!("header of {json_bytes} bytes in a file of {file_bytes}: truncated"));
        }
        Ok(json_bytes as usize)
    }

    fn parse_json(json: &[u8], file_bytes: u64) -> Result<Self, String> {
        if json.first() != Some(&b'{') {
            return Err("header is not a JSON object".into());
        }
        let raw: RawHeader = serde_json::from_slice(json).map_err(|e| format!("header: {e}"))?;
        let start = 8 + json.len() as u64;
        let mut entries = raw.entries;
        entries.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut tensors = Vec::with_capacity(entries.len());
        let mut end_of_last = 0;
        for (name, entry) in entries {
            let tensor = entry.check(name, start, end_of_last)?;
            end_of_last += tensor.size_bytes();
            tensors.push(tensor);
        }
        if start + end_of_last != file_bytes {
            return Err(format!("tensors end at byte {}, file at {file_bytes}", start + end_of_last));
        }
        Ok(Header { size_bytes: start, tensors, metadata: raw.metadata })
    }
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawEntry {
    /// `start`: byte of the file where data begins; `end_of_last`: where the tensor before this one ends.
    fn check(self, name: String, start: u64, end_of_last: u64) -> Result<TensorInfo, String> {
        let RawEntry { dtype, shape, data_offsets: (begin, end) } = self;
        let dtype = StoredDType::parse(&dtype)
            .ok_or_else(|| format!("tensor `{name}` has unknown dtype `{dtype}`"))?;
        if begin != end_of_last || end < begin {
            return Err(format!(
                "tensor `{name}` has offsets {begin}..{end}, expected them to begin at {end_of_last}"
            ));
        }
        let product = shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim));
        let num_elements =
            product.filter(|n| n.checked_mul(dtype.size_bytes() as u64) == Some(end - begin)).ok_or_else(
                || format!("tensor `{name}` of shape {shape:?} and dtype {dtype} has {} bytes", end - begin),
            )?;
        let offset_bytes = start
            .checked_add(begin)
            .filter(|_| start.checked_add(end).is_some())
            .ok_or_else(|| format!("tensor `{name}` has offsets {begin}..{end}"))?;
        let shape = shape.into_iter().map(|dim| dim as usize).collect();
        Ok(TensorInfo { name, shape, dtype, offset_bytes, num_elements: num_elements as usize })
    }
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, RawEntry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawHeader, M::Error> {
        let mut header = RawHeader { metadata: BTreeMap::new(), entries: Vec::new() };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(M::Error::custom(format!("`{name}` occurs twice")));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
            } else {
                let entry =
                    map.next_value().map_err(|e| M::Error::custom(format!("tensor `{name}`: {e}")))?;
                header.entries.push((name, entry));
            }
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: usize) -> Result<Header, String> {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data_bytes, 0);
        Header::parse(&file)
    }

    #[test]
    fn each_defect_is_refused_by_name() {
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        assert!(parse(&format!("{{{a}}}"), 8).is_ok());
        let tensor = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{{a},"b":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        for (json, bytes, expected) in [
            (tensor("F32", "[1]", "[8,12]"), 4, "tensors end at byte"),
            (tensor("F32", "[1]", "[4,8]"), 8, "expected them to begin at 8"),
            (tensor("F32", "[1]", "[12,16]"), 16, "expected them to begin at 8"),
            (tensor("F32", "[1]", "[12,8]"), 16, "expected them to begin at 8"),
            (tensor("F32", "[3]", "[8,16]"), 16, "of shape [3] and dtype F32 has 8 bytes"),
            (tensor("F32", "[4294967296,4294967296,4]", "[8,8]"), 8, "has 0 bytes"),
            (tensor("F7", "[2]", "[8,16]"), 16, "unknown dtype `F7`"),
            (tensor("F32", "[-2]", "[8,16]"), 16, "tensor `b`"),
            (format!("{{{a},{a}}}"), 8, "`a` occurs twice"),
            ("[]".into(), 0, "not a JSON object"),
            ("{".into(), 0, "EOF"),
        ] {
            let error = parse(&json, bytes).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
        let mut long = u64::MAX.to_le_bytes().to_vec();
        assert!(Header::parse(&long).unwrap_err().contains("at most"));
        long[..8].copy_from_slice(&9_u64.to_le_bytes());
        assert!(Header::parse(&long).unwrap_err().contains("truncated"));
    }
}
