//! Passing an open file along with the first bytes of a request.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends these bytes, at least the first of them, with the file; how many were sent.
pub fn send_with(stream: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a file in a message"));
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

/// Reads a stream and keeps the first file that comes with it; any other is closed.
pub struct WithDescriptor<'a> {
    stream: &'a UnixStream,
    /// The file.
    pub descriptor: Option<OwnedFd>,
}

impl<'a> WithDescriptor<'a> {
    /// Reads this stream.
    pub fn new(stream: &'a UnixStream) -> Self {
        WithDescriptor {
            stream,
            descriptor: None,
        }
    }
}

impl Read for WithDescriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.stream,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                self.descriptor = self.descriptor.take().or_else(|| files.next());
            }
        }
        Ok(received.bytes)
    }
}
