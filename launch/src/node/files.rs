//! Open files from the first rank of a machine to the others, over the socket between them (SCM_RIGHTS, unix(7)): the
//! file system is asked for each once, and all read by the same open file.
//!
//! A request is the length of a path (u32, little endian) and its bytes; the answer is one byte, with the file beside it
//! if it could be opened.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tisserand_runtime::opener::Opener;

use super::PATIENCE;

/// The longest path that Linux takes.
const PATH_MAX: usize = 4096;

const OPENED: u8 = 1;
const FAILED: u8 = 0;

/// Answers requests until the other end is closed.
pub(super) fn serve(mut stream: &UnixStream, opener: &Opener) -> io::Result<()> {
    loop {
        let path = match receive_path(&mut stream) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        match opener.open(&path) {
            Ok(file) => send_file(stream, &file)?,
            // Who asked will try by itself, and say why.
            Err(_) => stream.write_all(&[FAILED])?,
        }
    }
}

/// Opens files by way of the rank at the other end; by itself what that one cannot open, and all when it has gone.
pub(super) fn opener(stream: UnixStream) -> Opener {
    let stream = Mutex::new(Some(stream));
    Opener::new(move |path| {
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.as_ref().map(|stream| ask(stream, path)) {
            Some(Ok(Some(file))) => return Ok(file),
            Some(Ok(None)) | None => {}
            // What comes later may be the answer to this.
            Some(Err(_)) => *stream = None,
        }
        File::open(path)
    })
}

/// The file, if the other end could open it.
fn ask(mut stream: &UnixStream, path: &Path) -> io::Result<Option<File>> {
    let bytes = path.as_os_str().as_bytes();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&(bytes.len() as u32).to_le_bytes())?;
    stream.write_all(bytes)?;
    receive_file(stream)
}

fn receive_path(stream: &mut &UnixStream) -> io::Result<PathBuf> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > PATH_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut path = vec![0; length];
    stream.read_exact(&mut path)?;
    Ok(OsString::from_vec(path).into())
}

fn send_file(stream: &UnixStream, file: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !beside.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(stream, &[IoSlice::new(&[OPENED])], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_file(stream: &UnixStream) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [FAILED];
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut answer)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let files = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    match (answer[0], files.flatten().next()) {
        (OPENED, Some(file)) => Ok(Some(file.into())),
        // It was open there; here there is no room for one more.
        (OPENED, None) => Err(io::ErrorKind::InvalidData.into()),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::thread;

    use super::*;

    #[test]
    fn a_file_is_opened_at_the_other_end_and_read_at_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        fs::write(&path, "first").unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let opened = Opener::once();
        let server = thread::spawn({
            let opened = opened.clone();
            move || serve(&there, &opened)
        });
        let opener = opener(here);
        assert_eq!(opener.open(&path).unwrap().metadata().unwrap().len(), 5);
        // What has replaced it would be seen by a second opening.
        let inode = fs::metadata(&path).unwrap().ino();
        fs::write(dir.path().join("new"), "second").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(opener.open(&path).unwrap().metadata().unwrap().ino(), inode);
        let missing = opener.open(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        drop(opener);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn without_the_other_end_files_are_opened_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        fs::write(&path, "first").unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        let opener = opener(here);
        for _ in 0..2 {
            assert_eq!(opener.open(&path).unwrap().metadata().unwrap().len(), 5);
        }
    }

    #[test]
    fn a_path_that_no_system_has_ends_the_service() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve(&there, &Opener::default()));
        here.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(server.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
