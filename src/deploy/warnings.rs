//! What a deploy holds that its owner may not mean: files that the web server cannot read, and files that visitors should not.

use std::path::Path;

use super::draft::DraftDir;

/// Paths that a warning names.
const NAMED_MAX: usize = 3;

/// Paths of one kind: the first of them, and how many.
#[derive(Default)]
struct Found {
    named: Vec<String>,
    count: usize,
}

impl Found {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("'{}'", path.display()));
        }
    }

    /// As `'a', 'b', 'c' and 7 more`.
    fn list(&self) -> Option<String> {
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (self.count > 0).then(|| self.named.join(", ") + &more)
    }
}

/// Warnings about what is new in the draft.
pub fn warnings(draft: &DraftDir) -> Vec<String> {
    let (mut unreadable, mut secret) = (Found::default(), Found::default());
    draft.each(&mut |path, mode, is_dir| {
        let needed = if is_dir { 0o005 } else { 0o004 };
        if mode & needed != needed {
            unreadable.add(path);
        }
        if is_secret(path) {
            secret.add(path);
        }
    });
    let unreadable = unreadable.list().map(|paths| {
        format!(
            "only their owner and group may read {paths}: a web server that runs as another user answers 403; 'chmod -R o+rX' the folder (umask 022) and deploy it again"
        )
    });
    let secret = secret.list().map(|paths| {
        format!(
            "visitors may find {paths}: every deploy can be read at its address; leave out what is not for them, or have the web server deny names with a dot at their start, as the shipped configurations do"
        )
    });
    unreadable.into_iter().chain(secret).collect()
}

/// True for names that mostly hold passwords, keys or a repository.
fn is_secret(path: &Path) -> bool {
    const NAMES: [&str; 15] = [
        ".git",
        ".svn",
        ".hg",
        ".env",
        ".htpasswd",
        ".npmrc",
        ".netrc",
        ".pgpass",
        ".ssh",
        ".aws",
        ".git-credentials",
        ".dockercfg",
        "id_rsa",
        "id_ecdsa",
        "id_ed25519",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    NAMES.contains(&&*name) || name.starts_with(".env.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for path in [
            ".git",
            "sub/.env",
            ".env.production",
            ".htpasswd",
            "keys/id_rsa",
        ] {
            assert!(is_secret(Path::new(path)), "{path}");
        }
        for path in [
            "env",
            ".well-known",
            ".envoy",
            "git",
            "a.env",
            ".htaccess",
            ".gitignore",
        ] {
            assert!(!is_secret(Path::new(path)), "{path}");
        }
    }
}
