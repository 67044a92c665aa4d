//! From what a user writes after `-m` to a path.

use super::error::StoreError;
use super::parts::split_name;
use std::path::{Path, PathBuf};

/// How deep below a snapshot GGUF files are looked for (repositories with a folder per
/// quantization).
const DEPTH: usize = 2;
/// The quantization taken where a repository has several and the user names none (llama.cpp's
/// choice).
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The GGUF file or Hugging Face folder that `reference` names; `env` looks up variables.
pub(super) fn resolve(
    reference: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, StoreError> {
    let path = Path::new(reference);
    if path.is_dir() {
        return resolve_folder(reference, path, None);
    }
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    match split_repo(reference) {
        Some((repo, selector)) => resolve_repo(reference, repo, selector, env),
        None => resolve_name(reference, env),
    }
}

/// A model that `scripts/get-model` brought: `NAME.gguf` in forebay's own cache.
fn resolve_name(
    reference: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, StoreError> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = get("FOREBAY_MODELS")
        .or_else(|| Some(get("XDG_CACHE_HOME")?.join("forebay/models")))
        .or_else(|| Some(get("HOME")?.join(".cache/forebay/models")));
    let plain = !reference.contains(['/', '\\']);
    let path = folder.map(|folder| folder.join(format!("{reference}.gguf")));
    path.filter(|path| plain && path.exists()).ok_or_else(|| {
        let detail = "no such file or folder, and no model of that name was brought by \
                      `scripts/get-model` (`scripts/get-model --list` shows the names)";
        not_found(reference, detail.into())
    })
}

/// `org/repo[:selector]` taken apart; `None` for anything else.
fn split_repo(reference: &str) -> Option<(&str, Option<&str>)> {
    let (repo, selector) = match reference.split_once(':') {
        Some((repo, selector)) => (repo, Some(selector)),
        None => (reference, None),
    };
    let (org, name) = repo.split_once('/')?;
    let plain = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && part.bytes().all(allowed) && part != "." && part != ".."
    };
    (plain(org) && plain(name)).then_some((repo, selector))
}

/// Where the Hugging Face cache is: the same variables, in the same order, as huggingface_hub.
fn cache_folder(env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let get = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    get("HF_HUB_CACHE")
        .or_else(|| get("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(get("HF_HOME")?.join("hub")))
        .or_else(|| Some(get("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| {
            Some(get("HOME").or_else(|| get("USERPROFILE"))?.join(".cache/huggingface/hub"))
        })
}

fn resolve_repo(
    reference: &str,
    repo: &str,
    selector: Option<&str>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, StoreError> {
    let Some(cache) = cache_folder(&env) else {
        let detail = "neither HF_HOME nor HOME says where the Hugging Face cache is".into();
        return Err(not_found(reference, detail));
    };
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    match snapshot(&folder)? {
        Some(snapshot) => resolve_folder(reference, &snapshot, selector),
        None => {
            let detail = format!(
                "no such path, and the repository is not in the cache {}; download it with \
                 `hf download {repo}` or give the path of a file",
                cache.display()
            );
            Err(not_found(reference, detail))
        }
    }
}

/// The snapshot that `refs/main` names, else the only one or the newest.
fn snapshot(repo: &Path) -> Result<Option<PathBuf>, StoreError> {
    let snapshots = repo.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    if let Ok(revision) = std::fs::read_to_string(repo.join("refs/main")) {
        let revision = revision.trim();
        let hex = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_alphanumeric());
        if hex && snapshots.join(revision).is_dir() {
            return Ok(Some(snapshots.join(revision)));
        }
    }
    let list = |e| StoreError::io(&snapshots, "list the folder", e);
    let mut newest = None;
    for entry in std::fs::read_dir(&snapshots).map_err(list)? {
        let entry = entry.map_err(list)?;
        let changed = entry.metadata().and_then(|m| m.modified()).ok();
        newest = newest.max(Some((changed, entry.path())));
    }
    Ok(newest.map(|(_, path)| path))
}

/// A folder is a Hugging Face model if it has a config.json and weights, else it must hold the one
/// GGUF model that `selector` picks.
fn resolve_folder(
    reference: &str,
    folder: &Path,
    selector: Option<&str>,
) -> Result<PathBuf, StoreError> {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    let whole =
        folder.join("config.json").exists() && weights.iter().any(|w| folder.join(w).exists());
    if whole && selector.is_none() {
        return Ok(folder.to_path_buf());
    }
    let mut models = Vec::new();
    gguf_models(folder, DEPTH, &mut models)?;
    models.sort();
    if models.is_empty() {
        let detail = format!(
            "{} has neither config.json with model.safetensors(.index.json) nor a .gguf file",
            folder.display()
        );
        return Err(not_found(reference, detail));
    }
    match (pick(folder, &models, selector), selector) {
        (Some(path), _) => Ok(path),
        (None, Some(selector)) => {
            let detail = format!("`{selector}` does not name one of: {}", names(folder, &models));
            Err(not_found(reference, detail))
        }
        (None, None) => {
            let detail = format!("there are several models, name one: {}", names(folder, &models));
            Err(not_found(reference, detail))
        }
    }
}

/// The one model of several that the selector means: a file name, else a quantization's name.
fn pick(folder: &Path, models: &[PathBuf], selector: Option<&str>) -> Option<PathBuf> {
    let shown = |path: &Path| relative(folder, path).to_ascii_lowercase();
    let only = |mut found: Vec<&PathBuf>| match found.len() {
        1 => found.pop().cloned(),
        _ => None,
    };
    let language: Vec<&PathBuf> = models.iter().filter(|p| !shown(p).contains("mmproj")).collect();
    let wanted = match selector {
        Some(selector) => selector.to_ascii_lowercase(),
        None if language.len() == 1 => return only(language),
        None => DEFAULT_QUANT.to_ascii_lowercase(),
    };
    if let Some(exact) = models.iter().find(|p| shown(p) == wanted) {
        return Some(exact.clone());
    }
    let bounded = |path: &&PathBuf| contains_word(&shown(path), &wanted);
    let loose = |path: &&PathBuf| shown(path).contains(&wanted);
    only(language.iter().copied().filter(bounded).collect())
        .or_else(|| only(language.into_iter().filter(loose).collect()))
}

/// Whether `word` stands in `text` with no letter, digit or underscore beside it (`Q4_K` is not in
/// `Q4_K_M`).
fn contains_word(text: &str, word: &str) -> bool {
    let joins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            !text[..at].ends_with(joins) && !text[at + word.len()..].starts_with(joins)
        })
}

/// The GGUF models below a folder: files, and the first parts of split ones.
fn gguf_models(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    let list = |e| StoreError::io(folder, "list the folder", e);
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let later_part = split_name(name).is_some_and(|(_, number, _)| number > 1);
        if path.is_dir() {
            // Not what was named: what may not be read there is nobody's model.
            if depth > 1
                && let Err(error) = gguf_models(&path, depth - 1, found)
            {
                tracing::debug!("{error}");
            }
        } else if name.to_ascii_lowercase().ends_with(".gguf") && !later_part {
            found.push(path);
        }
    }
    Ok(())
}

fn relative(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
}

fn names(folder: &Path, paths: &[PathBuf]) -> String {
    paths.iter().map(|path| relative(folder, path)).collect::<Vec<_>>().join(", ")
}

fn not_found(reference: &str, detail: String) -> StoreError {
    StoreError::NotFound { reference: reference.to_string(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A cache with one repository of GGUF files and one of safetensors.
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().expect("temporary folder");
        let quants = cache.path().join("models--org--quants");
        let snapshot = quants.join("snapshots/abc123");
        fs::create_dir_all(snapshot.join("Q8_0")).expect("folders");
        fs::create_dir_all(quants.join("refs")).expect("folders");
        fs::write(quants.join("refs/main"), "abc123\n").expect("ref");
        for name in
            ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-Q4_K_M.gguf", "Q8_0/m-00001-of-00002.gguf"]
        {
            fs::write(snapshot.join(name), "").expect("file");
        }
        let whole = cache.path().join("models--org--whole/snapshots/def");
        fs::create_dir_all(&whole).expect("folders");
        fs::write(whole.join("config.json"), "{}").expect("file");
        fs::write(whole.join("model.safetensors"), "").expect("file");
        cache
    }

    fn find(cache: &Path, reference: &str) -> Result<String, String> {
        let env = |name: &str| (name == "HF_HUB_CACHE").then(|| cache.display().to_string());
        let path = resolve(reference, env).map_err(|e| e.to_string())?;
        Ok(path.strip_prefix(cache).expect("in the cache").display().to_string())
    }

    #[test]
    fn repositories_are_found_in_the_cache() {
        let cache = cache();
        let find = |reference| find(cache.path(), reference);
        let quants = "models--org--quants/snapshots/abc123";
        for (reference, file) in [
            ("org/quants", "m-Q4_K_M.gguf"),
            ("org/quants:q4_k_s", "m-Q4_K_S.gguf"),
            ("org/quants:Q8_0", "Q8_0/m-00001-of-00002.gguf"),
            ("org/quants:m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
            ("org/quants:mmproj-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf"),
        ] {
            assert_eq!(find(reference), Ok(format!("{quants}/{file}")), "{reference}");
        }
        assert_eq!(find("org/whole"), Ok("models--org--whole/snapshots/def".into()));
        let several = find("org/quants:Q4_K").expect_err("two match");
        assert!(several.contains("m-Q4_K_M.gguf, m-Q4_K_S.gguf"), "{several}");
        // Not the second of several parts.
        let thoughts = cache.path().join("models--org--of/snapshots/1");
        fs::create_dir_all(&thoughts).expect("folders");
        fs::write(thoughts.join("Chain-of-Thought-Q4_K_M.gguf"), "").expect("file");
        assert!(find("org/of").expect("found").ends_with("Chain-of-Thought-Q4_K_M.gguf"));
        assert!(find("org/none").expect_err("absent").contains("hf download org/none"));
        assert!(find("no-such-file.gguf").expect_err("absent").contains("no such file"));
        assert!(find("../../x").expect_err("no repository").contains("no such file"));
    }

    #[test]
    fn the_cache_follows_the_variables_in_order() {
        let all = [
            ("HF_HUB_CACHE", "/a", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b", "/b"),
            ("HF_HOME", "/c", "/c/hub"),
            ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub"),
            ("HOME", "/e", "/e/.cache/huggingface/hub"),
        ];
        for first in 0..all.len() {
            let env =
                |name: &str| all[first..].iter().find(|v| v.0 == name).map(|v| v.1.to_string());
            assert_eq!(cache_folder(&env), Some(PathBuf::from(all[first].2)));
        }
    }
}
