//! `--kv-format auto`.

use super::prepare::Setup;
use crate::kernel::KvFormat;

pub(super) fn choose(_setup: &Setup<'_>) -> anyhow::Result<KvFormat> {
    Ok(KvFormat::F16)
}
