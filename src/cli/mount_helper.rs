//! What mount(8) calls for `mount -t fuse.deployfs STORE MOUNTPOINT -o …` and for /etc/fstab: this program under the name
//! `mount.fuse.deployfs`. Translates its words into those of `deployfs mount`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Error, mount};

/// The name of the link to this program.
const NAME: &str = "mount.fuse.deployfs";
/// Said to mount(8) or systemd, or true of every mount of ours anyway.
const TAKEN_AS_READ: [&str; 20] = [
    "allow_other",
    "async",
    "atime",
    "auto",
    "default_permissions",
    "defaults",
    "exec",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "nosuid",
    "nouser",
    "relatime",
    "ro",
    "rw",
    "_netdev",
    "nomand",
    "silent",
];
/// Options of `deployfs mount` that make no sense there.
const NOT_THERE: [&str; 3] = ["check", "foreground", "help"];

/// True where this process was started by that name.
pub fn is_meant(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// The words of `deployfs mount`; none where mount(8) only pretends (`-f`).
pub fn translate(given: &[OsString]) -> Result<Option<Vec<OsString>>, Error> {
    let mut places = Vec::new();
    let mut flags = Vec::new();
    let mut tolerant = false;
    let mut options = String::new();
    let mut words = given.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-f") => return Ok(None),
            Some("-s") => tolerant = true,
            Some("-n" | "-v") => {}
            Some("-t") => {
                words.next();
            }
            Some("-o") => {
                let text = words.next().and_then(|word| word.to_str());
                options = format!("{options},{}", text.ok_or_else(usage)?);
            }
            Some(word) if word.starts_with('-') => {
                return Err(Error::Usage(format!("{NAME}: unknown flag '{word}'")));
            }
            _ => places.push(word.clone()),
        }
    }
    let [_, _] = places.as_slice() else {
        return Err(usage());
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match flag(option) {
            Ok(flag) => flags.extend(flag),
            Err(_) if tolerant => {}
            Err(error) => return Err(error),
        }
    }
    let words = std::iter::once("mount".into()).chain(flags.into_iter().map(OsString::from));
    Ok(Some(words.chain(["--".into()]).chain(places).collect()))
}

/// `control_group=www` becomes `--control-group=www`.
fn flag(option: &str) -> Result<Option<String>, Error> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let is_comment = name == "comment" || name.starts_with("x-") || name.starts_with("X-");
    if is_comment || TAKEN_AS_READ.contains(&option) {
        return Ok(None);
    }
    let long = name.replace('_', "-");
    let known = known();
    let Some((_, takes_value)) = known.iter().find(|(known, _)| *known == long) else {
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::Usage(format!(
            "{NAME}: unknown option '{option}'; there are: {}",
            names.join(", ").replace('-', "_")
        )));
    };
    match (takes_value, value) {
        (true, Some(value)) => Ok(Some(format!("--{long}={value}"))),
        (false, None) => Ok(Some(format!("--{long}"))),
        (true, None) => Err(Error::Usage(format!("{NAME}: write '{name}=VALUE'"))),
        (false, Some(_)) => Err(Error::Usage(format!("{NAME}: '{name}' takes no value"))),
    }
}

/// The options of `deployfs mount`, and whether they take a value.
fn known() -> Vec<(String, bool)> {
    let command = <mount::Args as clap::Args>::augment_args(clap::Command::new("mount"));
    command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| {
            let name = argument.get_long()?.to_owned();
            Some((name, argument.get_action().takes_values()))
        })
        .filter(|(name, _)| !NOT_THERE.contains(&name.as_str()))
        .collect()
}

fn usage() -> Error {
    Error::Usage(format!(
        "usage: mount -t fuse.deployfs STORE MOUNTPOINT [-o OPTION,…] (this is {NAME}, which mount calls)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Option<Vec<OsString>>, Error> {
        translate(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn conventions_of_fstab_are_taken_as_read_and_the_rest_become_flags() {
        let options = "rw,_netdev,nofail,noexec,x-systemd.before=nginx.service,uid=7,control_group=www,no_allow_other";
        let translated = words(&format!(
            "/srv/store /srv/site -n -o {options} -t fuse.deployfs"
        ));
        assert_eq!(
            translated.unwrap().unwrap(),
            [
                "mount",
                "--noexec",
                "--uid=7",
                "--control-group=www",
                "--no-allow-other",
                "--",
                "/srv/store",
                "/srv/site"
            ]
        );
        assert!(
            words("/srv/store /srv/site -f -o nonsense")
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_there_is() {
        for (line, said) in [
            (
                "/a /b -o sync",
                "unknown option 'sync'; there are: uid, gid, fsname",
            ),
            ("/a /b -o foreground", "unknown option 'foreground'"),
            ("/a /b -o uid", "write 'uid=VALUE'"),
            ("/a /b -o no_allow_other=1", "takes no value"),
            ("/a /b -q", "unknown flag '-q'"),
            ("/a", "usage: "),
            ("/a /b -o", "usage: "),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.to_string().contains(said), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let tolerant = words("/a /b -s -o sometimes,uid=1").unwrap().unwrap();
        assert!(tolerant.contains(&"--uid=1".into()));
    }
}
