//! Which adapters there are, and which one to take.

use crate::backend::{DeviceError, DeviceKind};
use std::fmt;

/// An adapter as `forebay devices` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSummary {
    /// Position in the list; [`Selector::Index`] takes it.
    pub index: usize,
    /// Name the driver gives.
    pub name: String,
    /// Kind of device.
    pub kind: DeviceKind,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Largest single buffer, bytes: also what one shader binding can see.
    pub buffer_bytes_max: u64,
    /// Workgroup memory, bytes.
    pub workgroup_bytes: u32,
    /// Smallest and largest subgroup, or zeros without subgroup operations.
    pub subgroup: (u32, u32),
    /// Whether shaders can compute in 16-bit floats.
    pub f16: bool,
    /// Whether the adapter can run forebay's kernels.
    pub usable: bool,
}

/// Which adapter to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The best real GPU: discrete, then integrated, then others; never a software adapter.
    Best,
    /// The first adapter whose name contains this, in any case.
    Name(String),
    /// Position in [`adapters`].
    Index(usize),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Best => f.write_str("the best GPU"),
            Selector::Name(part) => write!(f, "an adapter named like '{part}'"),
            Selector::Index(index) => write!(f, "adapter {index}"),
        }
    }
}

/// All adapters of this machine, best kind first.
pub fn adapters() -> Vec<AdapterSummary> {
    found().iter().enumerate().map(|(index, adapter)| summary(index, adapter)).collect()
}

/// The adapter that `selector` names.
///
/// # Errors
/// [`DeviceError::Unavailable`] with the adapters there are.
pub(super) fn select(selector: &Selector) -> Result<wgpu::Adapter, DeviceError> {
    let mut all = found();
    let wanted = all.iter().position(|adapter| match selector {
        Selector::Best => kind(&adapter.get_info()) < DeviceKind::SoftwareGpu && usable(adapter),
        Selector::Name(part) => {
            adapter.get_info().name.to_lowercase().contains(&part.to_lowercase())
        }
        Selector::Index(_) => false,
    });
    let wanted = match selector {
        Selector::Index(index) => Some(*index).filter(|i| *i < all.len()),
        _ => wanted,
    };
    let Some(at) = wanted else {
        return Err(DeviceError::Unavailable(format!(
            "{selector} was asked for; {}",
            listed(&all)
        )));
    };
    let adapter = all.swap_remove(at);
    if usable(&adapter) {
        return Ok(adapter);
    }
    Err(DeviceError::Unavailable(format!(
        "{} offers no push constants (wgpu feature IMMEDIATES); update its driver or use the cpu \
         device",
        adapter.get_info().name
    )))
}

fn listed(all: &[wgpu::Adapter]) -> String {
    if all.is_empty() {
        return "this machine has no adapter: install a Vulkan driver or use the cpu device".into();
    }
    let names: Vec<String> =
        all.iter().map(|a| format!("'{}' ({})", a.get_info().name, kind(&a.get_info()))).collect();
    format!("there are: {}", names.join(", "))
}

fn found() -> Vec<wgpu::Adapter> {
    let mut wanted = wgpu::InstanceDescriptor::new_without_display_handle();
    // No GL: it lacks features used here, and EGL writes to stderr.
    wanted.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wanted.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(wanted);
    let mut all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    all.sort_by_key(|adapter| kind(&adapter.get_info()));
    all
}

/// What kernels for matrix units need.
pub(super) const MATRIX_UNITS: wgpu::Features =
    wgpu::Features::SHADER_F16.union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// Bytes of a workgroup's memory that they take; other kernels do with what every adapter has.
pub(super) const MATRIX_WORKGROUP_BYTES: u32 = 20_992;

/// Whether an adapter multiplies matrices of 16 x 16 halves, in groups of 32 invocations.
pub(super) fn has_matrix_units(adapter: &wgpu::Adapter) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let about = adapter.get_info();
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        [p.m_size, p.n_size, p.k_size] == [16; 3] && (p.ab_type, p.cr_type) == (F16, F32)
    };
    adapter.features().contains(MATRIX_UNITS)
        && adapter.limits().max_compute_workgroup_storage_size >= MATRIX_WORKGROUP_BYTES
        && (about.subgroup_min_size, about.subgroup_max_size) == (32, 32)
        && adapter.cooperative_matrix_properties().iter().any(fits)
}

fn usable(adapter: &wgpu::Adapter) -> bool {
    adapter.features().contains(wgpu::Features::IMMEDIATES)
        && adapter.limits().max_immediate_size >= super::params::BYTES_MAX
}

/// Bytes one buffer may have so that one binding sees all of it.
pub(super) fn buffer_bytes_max(limits: &wgpu::Limits) -> u64 {
    limits.max_buffer_size.min(limits.max_storage_buffer_binding_size) / 256 * 256
}

/// `driver version, backend`.
pub(super) fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_string()
}

pub(super) fn kind(info: &wgpu::AdapterInfo) -> DeviceKind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        wgpu::DeviceType::Cpu => DeviceKind::SoftwareGpu,
        _ => DeviceKind::OtherGpu,
    }
}

fn summary(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    AdapterSummary {
        index,
        kind: kind(&info),
        backend: info.backend.to_str().to_string(),
        driver: driver(&info),
        buffer_bytes_max: buffer_bytes_max(&limits),
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        subgroup: if subgroups { (info.subgroup_min_size, info.subgroup_max_size) } else { (0, 0) },
        f16: features.contains(wgpu::Features::SHADER_F16),
        usable: usable(adapter),
        name: info.name,
    }
}
