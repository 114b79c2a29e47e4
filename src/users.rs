//! User and group names of this machine, as its name service knows them.

use std::ffi::{CStr, CString};

use crate::model::report::Caller;

/// The group of somebody who is in none: the kernel's overflow id.
const NO_GROUP: u32 = 65_534;

/// The user's name, or the number where there is none.
pub fn name_of(uid: u32) -> String {
    let mut buffer = vec![0; 16 << 10];
    // SAFETY: an all-zero passwd is a valid value of that plain C struct.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, and the length is the buffer's.
    let answer = unsafe {
        libc::getpwuid_r(
            uid,
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if answer != 0 || found.is_null() {
        return uid.to_string();
    }
    // SAFETY: on success the name points to a C string in the buffer.
    unsafe { CStr::from_ptr(entry.pw_name) }
        .to_string_lossy()
        .into_owned()
}

/// The number of a group, given its name or number.
pub fn group_id(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let name = CString::new(group).ok()?;
    let mut buffer = vec![0; 64 << 10];
    // SAFETY: an all-zero group is a valid value of that plain C struct.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, and the length is the buffer's.
    let answer = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    (answer == 0 && !found.is_null()).then_some(entry.gr_gid)
}

/// The group's name, if it has one.
pub fn group_name(gid: u32) -> Option<String> {
    let mut buffer = vec![0; 64 << 10];
    // SAFETY: an all-zero group is a valid value of that plain C struct.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, and the length is the buffer's.
    let answer = unsafe {
        libc::getgrgid_r(
            gid,
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if answer != 0 || found.is_null() {
        return None;
    }
    // SAFETY: on success the name points to a C string in the buffer.
    let name = unsafe { CStr::from_ptr(entry.gr_name) };
    Some(name.to_string_lossy().into_owned())
}

/// A user as the name service knows them: name, primary group and all groups. One without a name is in no group.
pub fn user(uid: u32) -> Caller {
    let mut buffer = vec![0; 16 << 10];
    // SAFETY: an all-zero passwd is a valid value of that plain C struct.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, and the length is the buffer's.
    let answer = unsafe {
        libc::getpwuid_r(
            uid,
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if answer != 0 || found.is_null() {
        return Caller {
            name: uid.to_string(),
            uid,
            gid: NO_GROUP,
            groups: Vec::new(),
        };
    }
    // SAFETY: on success the name points to a C string in the buffer.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    let mut groups = vec![0; 65_536];
    let mut count = groups.len() as libc::c_int;
    // SAFETY: the name is a live C string, and `count` the length of the vector.
    let answer =
        unsafe { libc::getgrouplist(name.as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &mut count) };
    groups.truncate(if answer < 0 { 0 } else { count as usize });
    Caller {
        name: name.to_string_lossy().into_owned(),
        uid,
        gid: entry.pw_gid,
        groups,
    }
}

/// This process's user, as a caller.
pub fn this_process() -> Caller {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let groups = rustix::process::getgroups().unwrap_or_default();
    let groups = groups.into_iter().map(|group| group.as_raw()).collect();
    Caller {
        name: name_of(uid),
        uid,
        gid,
        groups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_names() {
        assert_eq!(name_of(0), "root");
        assert_eq!(name_of(4_000_000_000), "4000000000");
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("7"), Some(7));
        assert_eq!(group_id("no such group"), None);
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(group_name(4_000_000_000), None);
        let root = user(0);
        assert_eq!((root.name.as_str(), root.gid), ("root", 0));
        assert!(root.groups.contains(&0));
        let nobody = user(4_000_000_000);
        assert_eq!((nobody.gid, nobody.groups), (NO_GROUP, Vec::new()));
    }
}
