//! Where forebay keeps what it can make again.

use sha2::{Digest, Sha256};
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// The file in `folder_name` of this user's cache that holds what belongs to `key`.
pub(super) fn file(folder_name: &str, key: &[u8]) -> Option<PathBuf> {
    let digest = Sha256::digest(key);
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(folder()?.join(folder_name).join(format!("{name}.json")))
}

/// The folder of this user's cache; `None` where the environment names none.
pub(super) fn folder() -> Option<PathBuf> {
    folder_by(|name| env::var_os(name))
}

/// `$XDG_CACHE_HOME/forebay`, else `~/.cache/forebay`, else `%LOCALAPPDATA%\forebay`. Relative paths are
/// no answer (XDG Base Directory Specification).
fn folder_by(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .or_else(|| absolute("LOCALAPPDATA"))?;
    Some(cache.join("forebay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_environment_names_the_folder() {
        let by = |set: &'static [(&str, &str)]| {
            folder_by(|name| Some(set.iter().find(|(key, _)| *key == name)?.1.into()))
        };
        assert_eq!(by(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/forebay".into()));
        assert_eq!(by(&[("XDG_CACHE_HOME", ""), ("HOME", "/h")]), Some("/h/.cache/forebay".into()));
        assert_eq!(by(&[("XDG_CACHE_HOME", "c")]), None);
    }
}
