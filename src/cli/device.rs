//! `--device`: what it names, and opening it.

use super::exit::CliError;
use super::kernel_files::KernelFiles;
use crate::backend::cpu::CpuDevice;
use crate::backend::gpu::{self, GpuDevice, KernelStore, Options, Selector};
use crate::backend::reference::ReferenceDevice;
use crate::backend::{Device, DeviceError};
use crate::sample::limit_threads;
use std::sync::Arc;

/// A device as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Auto,
    Cpu,
    Gpu(Selector),
    Reference,
}

impl Choice {
    /// `adapter_count` tells the index of the cpu device, which is listed after the adapters.
    fn parse(text: &str, adapter_count: impl Fn() -> usize) -> Choice {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Choice::Auto,
            "cpu" => Choice::Cpu,
            "gpu" => Choice::Gpu(Selector::Best),
            "reference" => Choice::Reference,
            name => match name.parse::<usize>() {
                Ok(index) if index == adapter_count() => Choice::Cpu,
                Ok(index) => Choice::Gpu(Selector::Index(index)),
                Err(_) => Choice::Gpu(Selector::Name(text.to_string())),
            },
        }
    }
}

/// Opens the device that `text` names. `auto` is the best real GPU, else the cpu.
pub(super) fn open(text: &str, threads: Option<usize>) -> anyhow::Result<Box<dyn Device>> {
    if text.trim().is_empty() {
        return Err(CliError::Usage("--device is empty".to_string()).into());
    }
    if let Some(threads) = threads {
        limit_threads(threads);
    }
    let cpu = || -> anyhow::Result<Box<dyn Device>> { Ok(Box::new(CpuDevice::new(threads)?)) };
    let device: Box<dyn Device> = match Choice::parse(text, || gpu::adapters().len()) {
        Choice::Cpu => cpu()?,
        Choice::Reference => Box::new(ReferenceDevice::new()),
        Choice::Gpu(selector) => Box::new(open_gpu(&selector)?),
        Choice::Auto => match open_gpu(&Selector::Best) {
            Ok(device) => Box::new(device),
            Err(error @ DeviceError::Unavailable(_)) => {
                tracing::debug!("{error}");
                cpu()?
            }
            Err(error) => return Err(error.into()),
        },
    };
    Ok(device)
}

fn open_gpu(selector: &Selector) -> Result<GpuDevice, DeviceError> {
    let store = KernelFiles::open().map(|files| Arc::new(files) as Arc<dyn KernelStore>);
    GpuDevice::open_with(selector, Options { store, ..Options::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_kind_index_or_part_of_a_name() {
        let parse = |text| Choice::parse(text, || 2);
        assert_eq!(parse("auto"), Choice::Auto);
        assert_eq!(parse("CPU"), Choice::Cpu);
        assert_eq!(parse("gpu"), Choice::Gpu(Selector::Best));
        assert_eq!(parse("reference"), Choice::Reference);
        assert_eq!(parse("1"), Choice::Gpu(Selector::Index(1)));
        assert_eq!(parse("2"), Choice::Cpu);
        assert_eq!(parse("llvmpipe"), Choice::Gpu(Selector::Name("llvmpipe".to_string())));
    }
}
