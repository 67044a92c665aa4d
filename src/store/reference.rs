//! From what a user writes after `-m` to a path.

use super::error::StoreError;
use std::path::{Path, PathBuf};

/// The GGUF file or Hugging Face folder that `reference` names.
pub(super) fn resolve(reference: &str) -> Result<PathBuf, StoreError> {
    let path = Path::new(reference);
    if path.is_dir() {
        return resolve_folder(reference, path);
    }
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    Err(not_found(reference, "no such file or folder".into()))
}

/// A folder is a Hugging Face model if it has a config.json and weights, else it must hold one GGUF model.
fn resolve_folder(reference: &str, folder: &Path) -> Result<PathBuf, StoreError> {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    if folder.join("config.json").exists() && weights.iter().any(|w| folder.join(w).exists()) {
        return Ok(folder.to_path_buf());
    }
    let models = gguf_models(folder)?;
    match models.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(not_found(
            reference,
            "the folder has neither config.json with model.safetensors(.index.json) nor a .gguf \
             file"
                .into(),
        )),
        several => {
            let detail = format!("the folder has several models, name one: {}", names(several));
            Err(not_found(reference, detail))
        }
    }
}

/// The GGUF models in a folder: files, and the first parts of split ones; sorted.
pub(super) fn gguf_models(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = |e| StoreError::io(folder, "list the folder", e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let later_part = name.contains("-of-") && !name.contains("-00001-of-");
        if name.to_ascii_lowercase().ends_with(".gguf") && !later_part {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn names(paths: &[PathBuf]) -> String {
    let names = paths.iter().filter_map(|path| path.file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>().join(", ")
}

fn not_found(reference: &str, detail: String) -> StoreError {
    StoreError::NotFound { reference: reference.to_string(), detail }
}
