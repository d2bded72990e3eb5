//! Event files for TensorBoard: scalars only, written without protobuf or TensorFlow.
//!
//! A file is a row of TFRecord frames: length (u64), masked CRC-32C of the length, payload, masked CRC-32C of
//! the payload, all little-endian. Each payload is a protobuf `Event`:
//! `wall_time = 1: double, step = 2: int64, file_version = 3: string, summary = 5: Summary, session_log = 7`;
//! `Summary { value = 1: repeated Value { tag = 1: string, simple_value = 2: float } }`;
//! `SessionLog { status = 1: enum, START = 1 }`. Sources: `tensorboard/compat/proto/event.proto` and
//! `summary.proto`; <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::clock::unix_seconds;
use super::record::{EvalRecord, StepRecord};
use crate::Result;
use crate::files::{Access, io_error};
use crate::run::host::host_name;

/// Writer of one event file; a run has one per start.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Starts an event file in `folder` (made if need be) for a run that goes on after `step`. TensorBoard
    /// then forgets what earlier files say about later steps.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn create(folder: &Path, access: &Access, step: u64) -> Result<Self> {
        access.create_dir_all(folder)?;
        // TensorBoard recognises `tfevents` and reads the files of a folder in the order of their names.
        let seconds = unix_seconds(SystemTime::now());
        let name = format!("events.out.tfevents.{seconds:017.6}.{}.{}", host_name(), std::process::id());
        let path = folder.join(name);
        let file = access.append(&path)?;
        let mut writer = TensorBoard { path, file };
        writer.write(&event(0, |out| bytes_field(out, 3, b"brain.Event:2")))?;
        if step > 0 {
            writer.write(&event(step + 1, |out| bytes_field(out, 7, &[0x08, 1])))?;
        }
        Ok(writer)
    }

    /// Writes `loss`, `grad_norm`, `lr` and `tokens_per_s` of a step.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn step(&mut self, record: &StepRecord) -> Result<()> {
        let values = [
            ("loss", record.loss),
            ("grad_norm", record.grad_norm),
            ("lr", record.lr as f32),
            ("tokens_per_s", record.tokens_per_s as f32),
        ];
        self.scalars(record.step, &values)
    }

    /// Writes the loss of an evaluation as `eval/<name>`.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn eval(&mut self, record: &EvalRecord) -> Result<()> {
        self.scalars(record.step, &[(&format!("eval/{}", record.name), record.loss as f32)])
    }

    /// Writes named values of a step as one event.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn scalars(&mut self, step: u64, values: &[(&str, f32)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, number) in values {
            let mut value = Vec::new();
            bytes_field(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5); // simple_value: 32 bits
            value.extend_from_slice(&number.to_le_bytes());
            bytes_field(&mut summary, 1, &value);
        }
        self.write(&event(step, |out| bytes_field(out, 5, &summary)))
    }

    fn write(&mut self, payload: &[u8]) -> Result<()> {
        self.file.write_all(&frame(payload)).map_err(|e| io_error("write", &self.path, &e))
    }
}

/// A protobuf `Event` of now with one more field.
fn event(step: u64, field: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1]; // wall_time: 64 bits
    out.extend_from_slice(&unix_seconds(SystemTime::now()).to_le_bytes());
    out.push(2 << 3); // step: varint
    varint(&mut out, step);
    field(&mut out);
    out
}

/// A length-delimited protobuf field; `number` below 16.
fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first, the top bit set on all but the last.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_le_bytes();
    [&len, &masked_crc(&len).to_le_bytes()[..], payload, &masked_crc(payload).to_le_bytes()].concat()
}

/// TFRecord masks its checksums, since a CRC over data that contains its own CRC is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes frames apart and checks their sums.
    fn payloads(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut payloads = Vec::new();
        while !bytes.is_empty() {
            let (len_bytes, rest) = bytes.split_at(8);
            let (len_crc, rest) = rest.split_at(4);
            let (payload, rest) = rest.split_at(u64::from_le_bytes(len_bytes.try_into().unwrap()) as usize);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(len_crc, masked_crc(len_bytes).to_le_bytes());
            assert_eq!(crc, masked_crc(payload).to_le_bytes());
            payloads.push(payload);
            bytes = rest;
        }
        payloads
    }

    #[test]
    fn checksums_are_crc32c_masked_as_tfrecord_does() {
        // CRC-32C of 32 zero bytes is 8a9136aa (RFC 3720, B.4).
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // ((crc >> 15 | crc << 17) + a282ead8) mod 2^32, worked out by hand.
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn a_resumed_file_has_version_restart_and_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(folder.path(), &Access::umask(), 299).unwrap();
        board.scalars(300, &[("loss", 1.5), ("eval/fr", f32::NAN)]).unwrap();
        let bytes = std::fs::read(&board.path).unwrap();
        let payloads = payloads(&bytes);
        assert_eq!(payloads.len(), 3);
        // Past wall_time (9 bytes); the step is a varint: 0, then 300 = 0b10_0101100.
        assert_eq!(&payloads[0][9..], b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(&payloads[1][9..], b"\x10\xac\x02\x3a\x02\x08\x01");
        let mut scalars = b"\x10\xac\x02\x2a\x1d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f".to_vec();
        scalars.extend_from_slice(b"\x0a\x0e\x0a\x07eval/fr\x15\x00\x00\xc0\x7f");
        assert_eq!(&payloads[2][9..], scalars);
        assert_eq!(payloads[0][0], 0x09);
        let wall_time = f64::from_le_bytes(payloads[0][1..9].try_into().unwrap());
        assert!((unix_seconds(SystemTime::now()) - wall_time).abs() < 60.0);
    }
}
