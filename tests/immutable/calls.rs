//! Every system call that changes a file, a folder or a symlink, as a table to run through.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

/// What a call came to.
pub type Outcome = Result<(), Errno>;

/// A call on one path.
pub type Call = (&'static str, fn(&Path) -> Outcome);

/// A call on two paths.
pub type PairCall = (&'static str, fn(&Path, &Path) -> Outcome);

/// A file capability, version 2, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// An access list of mode 0777, as `setfacl` writes it.
const ACL: [u8; 28] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255,
    255, 255, 255,
];

/// Request numbers of linux/fs.h, fsverity.h and fscrypt.h, and of 64-bit ioctl encodings.
const FS_IOC_SETVERSION: u64 = 0x4008_7602;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
const FS_IOC_SETFSLABEL: u64 = 0x4100_9432;
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;
const FS_IOC_SET_ENCRYPTION_POLICY: u64 = 0x800c_6613;
const FS_IOC_RESVSP64: u64 = 0x4030_582a;
const FS_IOC_ZERO_RANGE: u64 = 0x4030_5839;
const FICLONE: u64 = 0x4004_9409;
const FIDEDUPERANGE: u64 = 0xc018_9436;

/// All calls on one path.
pub const CALLS: &[Call] = &[
    ("open O_WRONLY", |path| open(path, OFlags::WRONLY)),
    ("open O_RDWR", |path| open(path, OFlags::RDWR)),
    ("open O_WRONLY|O_TRUNC", |path| {
        open(path, OFlags::WRONLY | OFlags::TRUNC)
    }),
    ("open O_RDONLY|O_TRUNC", |path| {
        open(path, OFlags::RDONLY | OFlags::TRUNC)
    }),
    ("open O_WRONLY|O_APPEND", |path| {
        open(path, OFlags::WRONLY | OFlags::APPEND)
    }),
    ("open O_WRONLY|O_NOFOLLOW", |path| {
        open(path, OFlags::WRONLY | OFlags::NOFOLLOW)
    }),
    ("open O_WRONLY|O_DIRECT", |path| {
        open(path, OFlags::WRONLY | OFlags::DIRECT)
    }),
    ("open O_WRONLY|O_CREAT", |path| {
        open(path, OFlags::WRONLY | OFlags::CREATE)
    }),
    ("open O_RDONLY|O_CREAT", |path| {
        open(path, OFlags::RDONLY | OFlags::CREATE)
    }),
    ("open O_WRONLY|O_CREAT|O_TRUNC", |path| {
        open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
    }),
    ("open O_RDONLY|O_CREAT|O_EXCL", |path| {
        open(path, OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL)
    }),
    ("open O_RDWR|O_CREAT|O_EXCL", |path| {
        open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }),
    ("open O_WRONLY|O_TMPFILE", |path| {
        open(path, OFlags::WRONLY | OFlags::TMPFILE)
    }),
    ("open O_RDWR|O_TMPFILE", |path| {
        open(path, OFlags::RDWR | OFlags::TMPFILE)
    }),
    ("open O_RDWR of /proc/thread-self/fd/N", |path| {
        let fd = open_path(path)?;
        open(&in_proc(&fd), OFlags::RDWR)
    }),
    ("open O_WRONLY|O_TRUNC of /proc/thread-self/fd/N", |path| {
        let fd = opened(path)?;
        open(&in_proc(&fd), OFlags::WRONLY | OFlags::TRUNC)
    }),
    ("open_by_handle_at O_RDWR", open_by_handle),
    ("write to a descriptor opened O_RDONLY", |path| {
        rustix::io::write(opened(path)?, b"x").map(drop)
    }),
    ("copy_file_range into it", |path| {
        let from = temporary(b"bytes");
        rustix::fs::copy_file_range(from, None, opened(path)?, None, 5).map(drop)
    }),
    ("copy_file_range into it, opened O_RDWR", |path| {
        let from = temporary(b"bytes");
        let to = rustix::fs::open(path, OFlags::RDWR, Mode::empty())?;
        rustix::fs::copy_file_range(from, None, to, None, 5).map(drop)
    }),
    ("sendfile into it", |path| {
        let from = temporary(b"bytes");
        rustix::fs::sendfile(opened(path)?, from, None, 5).map(drop)
    }),
    ("truncate", |path| {
        let path = c_path(path);
        // SAFETY: the path is a C string that outlives the call.
        answer(unsafe { libc::truncate(path.as_ptr(), 1) })
    }),
    ("truncate to a longer one", |path| {
        let path = c_path(path);
        // SAFETY: the path is a C string that outlives the call.
        answer(unsafe { libc::truncate(path.as_ptr(), 1 << 30) })
    }),
    ("ftruncate", |path| rustix::fs::ftruncate(opened(path)?, 0)),
    ("fallocate", |path| {
        rustix::fs::fallocate(opened(path)?, FallocateFlags::empty(), 0, 1 << 20)
    }),
    ("fallocate FALLOC_FL_PUNCH_HOLE", |path| {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(opened(path)?, hole, 0, 4096)
    }),
    ("fallocate FALLOC_FL_COLLAPSE_RANGE", |path| {
        rustix::fs::fallocate(opened(path)?, FallocateFlags::COLLAPSE_RANGE, 0, 4096)
    }),
    ("mkdir", |path| rustix::fs::mkdir(path, Mode::RWXU)),
    ("mknod fifo", |path| mknod(path, FileType::Fifo, 0)),
    ("mknod file", |path| mknod(path, FileType::RegularFile, 0)),
    ("mknod socket", |path| mknod(path, FileType::Socket, 0)),
    ("mknod character device", |path| {
        mknod(path, FileType::CharacterDevice, makedev(1, 3))
    }),
    ("mknod block device", |path| {
        mknod(path, FileType::BlockDevice, makedev(7, 0))
    }),
    (
        "bind a Unix socket",
        |path| match std::os::unix::net::UnixListener::bind(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(errno_of(&error)),
        },
    ),
    ("symlink", |path| rustix::fs::symlink("target", path)),
    ("unlink", |path| rustix::fs::unlink(path)),
    ("rmdir", |path| rustix::fs::rmdir(path)),
    ("unlinkat AT_REMOVEDIR", |path| {
        rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
    }),
    ("linkat of a descriptor, into it", |path| {
        let file = temporary(b"bytes");
        let from = in_proc(&file);
        rustix::fs::linkat(CWD, &*from, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }),
    ("chmod", |path| rustix::fs::chmod(path, Mode::RWXU)),
    ("chmod to the same mode", |path| {
        let mode = rustix::fs::stat(path)?.st_mode;
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))
    }),
    ("fchmod", |path| {
        rustix::fs::fchmod(opened(path)?, Mode::RWXU)
    }),
    ("fchmodat", |path| {
        rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty())
    }),
    ("fchmodat2 AT_SYMLINK_NOFOLLOW", |path| {
        let path = c_path(path);
        let (flags, mode) = (libc::AT_SYMLINK_NOFOLLOW, 0o700);
        // SAFETY: the path is a C string that outlives the call; the other arguments are integers.
        long_answer(unsafe {
            libc::syscall(SYS_FCHMODAT2, libc::AT_FDCWD, path.as_ptr(), mode, flags)
        })
    }),
    ("chown", |path| rustix::fs::chown(path, uid(), gid())),
    ("chown to nobody new", |path| {
        rustix::fs::chown(path, None, None)
    }),
    ("lchown", |path| {
        rustix::fs::chownat(CWD, path, uid(), gid(), AtFlags::SYMLINK_NOFOLLOW)
    }),
    ("fchown", |path| {
        rustix::fs::fchown(opened(path)?, uid(), gid())
    }),
    ("fchownat AT_EMPTY_PATH of an O_PATH descriptor", |path| {
        rustix::fs::chownat(open_path(path)?, "", uid(), gid(), AtFlags::EMPTY_PATH)
    }),
    ("utimensat now", |path| {
        utimens(path, UTIME_NOW, AtFlags::empty())
    }),
    ("utimensat", |path| utimens(path, 0, AtFlags::empty())),
    ("utimensat mtime only", |path| {
        let times = Timestamps {
            last_access: time(UTIME_OMIT),
            last_modification: time(7),
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())
    }),
    ("utimensat AT_SYMLINK_NOFOLLOW now", |path| {
        utimens(path, UTIME_NOW, AtFlags::SYMLINK_NOFOLLOW)
    }),
    ("utimensat AT_SYMLINK_NOFOLLOW", |path| {
        utimens(path, 0, AtFlags::SYMLINK_NOFOLLOW)
    }),
    ("futimens", |path| {
        let times = Timestamps {
            last_access: time(1),
            last_modification: time(1),
        };
        rustix::fs::futimens(opened(path)?, &times)
    }),
    ("setxattr user.", |path| set_xattr(path, "user.x", b"x")),
    ("setxattr trusted.", |path| {
        set_xattr(path, "trusted.x", b"x")
    }),
    ("setxattr security.", |path| {
        set_xattr(path, "security.x", b"x")
    }),
    ("setxattr security.capability", |path| {
        set_xattr(path, "security.capability", &CAPABILITY)
    }),
    ("setxattr posix_acl_access", |path| {
        set_xattr(path, "system.posix_acl_access", &ACL)
    }),
    ("setxattr posix_acl_default", |path| {
        set_xattr(path, "system.posix_acl_default", &ACL)
    }),
    ("setxattr without a namespace", |path| {
        set_xattr(path, "x", b"x")
    }),
    ("lsetxattr user.", |path| {
        rustix::fs::lsetxattr(path, "user.x", b"x", XattrFlags::empty())
    }),
    ("lsetxattr trusted.", |path| {
        rustix::fs::lsetxattr(path, "trusted.x", b"x", XattrFlags::empty())
    }),
    ("fsetxattr user.", |path| {
        rustix::fs::fsetxattr(opened(path)?, "user.x", b"x", XattrFlags::CREATE)
    }),
    ("removexattr user.", |path| {
        rustix::fs::removexattr(path, "user.x")
    }),
    ("removexattr trusted.", |path| {
        rustix::fs::removexattr(path, "trusted.x")
    }),
    ("removexattr security.capability", |path| {
        rustix::fs::removexattr(path, "security.capability")
    }),
    ("removexattr posix_acl_access", |path| {
        rustix::fs::removexattr(path, "system.posix_acl_access")
    }),
    ("lremovexattr trusted.", |path| {
        rustix::fs::lremovexattr(path, "trusted.x")
    }),
    ("fremovexattr user.", |path| {
        rustix::fs::fremovexattr(opened(path)?, "user.x")
    }),
    ("file_setattr", |path| {
        let path = c_path(path);
        let mut attributes = [0u64; 3];
        // SAFETY: the path is a C string and the attributes a buffer of the size given; both outlive the call.
        long_answer(unsafe {
            libc::syscall(
                SYS_FILE_SETATTR,
                libc::AT_FDCWD,
                path.as_ptr(),
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
                0,
            )
        })
    }),
    ("ioctl FS_IOC_SETFLAGS", |path| {
        ioctl(path, FS_IOC_SETFLAGS, 0)
    }),
    ("ioctl FS_IOC_SETFLAGS immutable", |path| {
        ioctl(path, FS_IOC_SETFLAGS, 0x10)
    }),
    ("ioctl FS_IOC_FSSETXATTR", |path| {
        ioctl(path, FS_IOC_FSSETXATTR, 0)
    }),
    ("ioctl FS_IOC_SETVERSION", |path| {
        ioctl(path, FS_IOC_SETVERSION, 1)
    }),
    ("ioctl FS_IOC_SETFSLABEL", |path| {
        ioctl(path, FS_IOC_SETFSLABEL, 0x78)
    }),
    ("ioctl FS_IOC_ENABLE_VERITY", |path| {
        // Version 1, SHA-256, blocks of 4096 bytes.
        ioctl_with(path, FS_IOC_ENABLE_VERITY, &mut verity())
    }),
    ("ioctl FS_IOC_SET_ENCRYPTION_POLICY", |path| {
        ioctl(path, FS_IOC_SET_ENCRYPTION_POLICY, 0)
    }),
    ("ioctl FS_IOC_RESVSP64", |path| {
        ioctl(path, FS_IOC_RESVSP64, 0)
    }),
    ("ioctl FS_IOC_ZERO_RANGE", |path| {
        ioctl(path, FS_IOC_ZERO_RANGE, 0)
    }),
    ("ioctl FICLONE", |path| {
        let (from, to) = (temporary(b"bytes"), opened(path)?);
        // SAFETY: FICLONE takes a descriptor by value.
        answer(unsafe { libc::ioctl(to.as_raw_fd(), FICLONE as _, from.as_raw_fd()) })
    }),
    ("ioctl FIDEDUPERANGE", |path| ioctl(path, FIDEDUPERANGE, 0)),
    ("mmap PROT_WRITE MAP_SHARED", |path| {
        Map::new(path, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)?.put(b'!')
    }),
    ("mmap PROT_READ MAP_SHARED, mprotect PROT_WRITE", |path| {
        let map = Map::new(path, libc::PROT_READ, libc::MAP_SHARED)?;
        // SAFETY: the mapping is this long and alive.
        answer(unsafe { libc::mprotect(map.0, Map::LEN, libc::PROT_READ | libc::PROT_WRITE) })?;
        map.put(b'!')
    }),
    ("write to a shared mapping through /proc/self/mem", |path| {
        use std::os::unix::fs::FileExt;
        let map = Map::new(path, libc::PROT_READ, libc::MAP_SHARED)?;
        let memory = File::options().write(true).open("/proc/thread-self/mem");
        let memory = memory.map_err(|error| errno_of(&error))?;
        match memory.write_at(b"!", map.0 as u64) {
            Ok(_) => Ok(()),
            Err(error) => Err(errno_of(&error)),
        }
    }),
];

/// All calls on two paths: the second is the new name, or what the first is exchanged with.
pub const PAIR_CALLS: &[PairCall] = &[
    ("rename", |from, to| rustix::fs::rename(from, to)),
    ("renameat2 RENAME_NOREPLACE", |from, to| {
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
    }),
    ("renameat2 RENAME_EXCHANGE", |from, to| {
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)
    }),
    ("renameat2 RENAME_WHITEOUT", |from, to| {
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::WHITEOUT)
    }),
    ("link", |from, to| rustix::fs::link(from, to)),
    ("linkat AT_SYMLINK_FOLLOW", |from, to| {
        rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)
    }),
];

#[cfg(target_arch = "x86_64")]
const SYS_FCHMODAT2: libc::c_long = 452;
#[cfg(not(target_arch = "x86_64"))]
const SYS_FCHMODAT2: libc::c_long = libc::SYS_fchmodat2;
/// The same on every architecture that took it up when it was new, in Linux 6.17.
const SYS_FILE_SETATTR: libc::c_long = 469;

/// Changes the first byte of a file in memory that no one else sees.
pub fn write_private_mapping(path: &Path, byte: u8) -> Outcome {
    Map::new(path, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)?.put(byte)
}

fn open(path: &Path, flags: OFlags) -> Outcome {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RWXU).map(drop)
}

fn opened(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn in_proc(fd: impl AsFd) -> Box<Path> {
    Path::new("/proc/thread-self/fd")
        .join(fd.as_fd().as_raw_fd().to_string())
        .into()
}

fn open_by_handle(path: &Path) -> Outcome {
    /// A file handle with room for the longest, MAX_HANDLE_SZ.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        handle: [0; 128],
    };
    let (name, mut mount) = (c_path(path), 0i32);
    // SAFETY: all pointers are to live values; the handle says how much room it has.
    long_answer(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            &mut handle,
            &mut mount,
            0,
        )
    })?;
    let mount = opened(path)?;
    // SAFETY: the descriptor is open, and the handle as the kernel filled it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &mut handle,
            libc::O_RDWR | libc::O_CLOEXEC,
        )
    };
    long_answer(fd)?;
    // SAFETY: the call has just made this descriptor, and nothing else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// An unnamed file with these bytes.
fn temporary(bytes: &[u8]) -> File {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create("bytes", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn mknod(path: &Path, kind: FileType, device: u64) -> Outcome {
    rustix::fs::mknodat(CWD, path, kind, Mode::RWXU, device)
}

fn uid() -> Option<Uid> {
    Some(Uid::from_raw(65_534))
}

fn gid() -> Option<Gid> {
    Some(Gid::from_raw(65_534))
}

fn time(nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: 1,
        tv_nsec: nanoseconds,
    }
}

fn utimens(path: &Path, nanoseconds: i64, flags: AtFlags) -> Outcome {
    let times = Timestamps {
        last_access: time(nanoseconds),
        last_modification: time(nanoseconds),
    };
    rustix::fs::utimensat(CWD, path, &times, flags)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Outcome {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
}

fn ioctl(path: &Path, request: u64, first: u64) -> Outcome {
    let mut argument = [0; 64];
    argument[0] = first;
    ioctl_with(path, request, &mut argument)
}

/// A request with an argument that is longer than any of those above take.
fn ioctl_with(path: &Path, request: u64, argument: &mut [u64; 64]) -> Outcome {
    let fd = opened(path)?;
    // SAFETY: the argument is alive and larger than the request's own size field says.
    answer(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, argument.as_mut_ptr()) })
}

fn verity() -> [u64; 64] {
    let mut argument = [0; 64];
    argument[0] = 1 | 1 << 32;
    argument[1] = 4096;
    argument
}

/// A page of a file in memory.
struct Map(*mut libc::c_void);

impl Map {
    const LEN: usize = 4096;

    fn new(path: &Path, protection: i32, kind: i32) -> Result<Self, Errno> {
        let fd = opened(path)?;
        let (at, offset) = (std::ptr::null_mut(), 0);
        // SAFETY: a new mapping, anywhere.
        let map = unsafe { libc::mmap(at, Self::LEN, protection, kind, fd.as_raw_fd(), offset) };
        if map == libc::MAP_FAILED {
            return Err(errno_of(&io::Error::last_os_error()));
        }
        Ok(Map(map))
    }

    /// Writes the first byte.
    fn put(&self, byte: u8) -> Outcome {
        // SAFETY: the mapping is writable, or the call before would have failed, and alive.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this long, and nothing else has its address.
        unsafe { libc::munmap(self.0, Self::LEN) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn answer(returned: i32) -> Outcome {
    long_answer(returned.into())
}

fn long_answer(returned: libc::c_long) -> Outcome {
    match returned {
        -1 => Err(errno_of(&io::Error::last_os_error())),
        _ => Ok(()),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    match Errno::from_io_error(error) {
        Some(errno) => errno,
        // The standard library's own word for a socket's path that is too long.
        None if error.kind() == io::ErrorKind::InvalidInput => Errno::NAMETOOLONG,
        None => panic!("no error of the kernel: {error}"),
    }
}
