//! The FUSE side: decode, count, one call, reply; and the one place where an error becomes an errno.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::counters::Counters;
use super::listable::Listable;
use super::nodes::{CHANNELS, DEPLOYS, DISCARDED, ROOT};
use super::tree_fs::{Attr, Found, FsError, Kind, TreeFs};

/// 136 years: as good as for ever, and far from overflowing the kernel's clock.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
const BLOCK: u32 = 4096;
/// Without these every open is an upcall, so the mount is refused.
const NEEDED: InitFlags = InitFlags::FUSE_NO_OPEN_SUPPORT.union(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
const WANTED: [InitFlags; 3] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
];

/// What fuser drives.
pub(super) struct FuseView {
    pub(super) fs: Arc<TreeFs>,
    pub(super) counters: Arc<Counters>,
    pub(super) store: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) listable: Listable,
}

fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Stale => Errno::ESTALE,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        FsError::WrongKind => Errno::EINVAL,
        FsError::Content => Errno::EIO,
    }
}

/// True for the mount's own folders, whose names change.
fn own_folder(ino: u64) -> bool {
    matches!(ino, ROOT | DEPLOYS | CHANNELS)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

/// linux/fs.h, fsverity.h and fscrypt.h: the requests that would change a file and that the kernel leaves to the filesystem.
const FS_IOC_SETVERSION: u32 = 0x4008_7602;
const FS_IOC_SETFSLABEL: u32 = 0x4100_9432;
/// What chattr(1) calls. From Linux 5.13 on the kernel refuses them by itself.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800c_6613;

/// What a read-only ext4 answers to an ioctl, without the features that some of them are about. `user` calls it on a file of `owner`.
fn ioctl_errno(request: u32, user: u32, owner: u32) -> Errno {
    let owner = user == owner || user == 0;
    match request {
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS | FS_IOC_FSSETXATTR if !owner => Errno::EACCES,
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS | FS_IOC_FSSETXATTR => Errno::EROFS,
        FS_IOC_SETVERSION if !owner => Errno::EPERM,
        FS_IOC_SETFSLABEL if user != 0 => Errno::EPERM,
        FS_IOC_SETFSLABEL => Errno::EROFS,
        FS_IOC_ENABLE_VERITY | FS_IOC_SET_ENCRYPTION_POLICY => Errno::EOPNOTSUPP,
        _ => Errno::ENOTTY,
    }
}

impl FuseView {
    fn file_attr(&self, attr: &Attr) -> FileAttr {
        let time = UNIX_EPOCH
            .checked_add(Duration::from_secs(attr.mtime))
            .unwrap_or(UNIX_EPOCH);
        let (mode, gid) = match own_folder(attr.ino) {
            true => self.listable.rights(self.gid),
            false if attr.kind == Kind::Dir => (self.listable.sealed_folder(attr.mode), self.gid),
            false => (attr.mode, self.gid),
        };
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: file_type(attr.kind),
            perm: mode,
            nlink: 1,
            uid: self.uid,
            gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// Node 0 with a lifetime tells the kernel to remember that there is no such name.
    fn never(&self) -> FileAttr {
        self.file_attr(&Attr {
            ino: 0,
            kind: Kind::File,
            mode: 0,
            size: 0,
            mtime: 0,
        })
    }

    fn refuse(&self) -> Errno {
        Counters::add(&self.counters.refused);
        Errno::EROFS
    }

    /// For calls the kernel never makes again once it has this answer.
    fn unsupported(&self) -> Errno {
        Counters::add(&self.counters.other);
        Errno::ENOSYS
    }
}

impl Filesystem for FuseView {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(NEEDED).map_err(|missing| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this kernel's FUSE lacks {missing:?}: Linux 5.6 or later is needed"),
            )
        })?;
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                log::info!("this kernel's FUSE lacks {flag:?}; going on without");
            }
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 != DISCARDED {
            Counters::add(&self.counters.lookup);
        }
        match self.fs.lookup(parent.0, name.as_bytes()) {
            Ok(Found::Node(attr)) => {
                reply.entry(&FOR_EVER, &self.file_attr(&attr), Generation(0));
            }
            Ok(Found::Uncached(attr)) => {
                reply.entry(&Duration::ZERO, &self.file_attr(&attr), Generation(0));
            }
            Ok(Found::Never) => reply.entry(&FOR_EVER, &self.never(), Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        Counters::add(&self.counters.forget);
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        Counters::add(&self.counters.getattr);
        match self.fs.getattr(ino.0) {
            Ok(attr) => reply.attr(&FOR_EVER, &self.file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        Counters::add(&self.counters.readlink);
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        Counters::add(&self.counters.read);
        match self.fs.read(ino.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        Counters::add(&self.counters.readdir);
        let listed = self.fs.readdir(ino.0, offset, &mut |line| {
            let name = OsStr::from_bytes(line.name);
            reply.add(INodeNo(line.ino), line.next, file_type(line.kind), name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        Counters::add(&self.counters.statfs);
        match rustix::fs::statvfs(&self.store) {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_bsize as u32,
                255,
                stat.f_frsize as u32,
            ),
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        Counters::add(&self.counters.open);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        Counters::add(&self.counters.opendir);
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unsupported());
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(self.unsupported());
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(self.unsupported());
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(self.unsupported());
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(self.unsupported());
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(self.unsupported());
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(self.unsupported());
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        Counters::add(&self.counters.other);
        reply.error(ioctl_errno(cmd, req.uid(), self.uid));
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        Counters::add(&self.counters.other);
        reply.ok();
    }

    /// Answered otherwise, each fsync of a folder would take the folder's lock for itself alone.
    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unsupported());
    }

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(self.refuse());
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse());
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse());
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse());
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse());
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(self.refuse());
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_linux_5_13_chattr_is_refused_as_by_a_read_only_ext4() {
        for request in [FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR] {
            for user in [0, 1] {
                assert_eq!(ioctl_errno(request, user, 1).code(), libc::EROFS);
            }
            assert_eq!(ioctl_errno(request, 2, 1).code(), libc::EACCES);
        }
        assert_eq!(ioctl_errno(FS_IOC_SETVERSION, 2, 1).code(), libc::EPERM);
        assert_eq!(
            ioctl_errno(0x8008_6601, 0, 1).code(),
            libc::ENOTTY,
            "FS_IOC_GETFLAGS"
        );
    }
}
