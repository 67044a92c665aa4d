//! Pipelines, made in the background or when first used; bind groups, kept as long as their buffers.

use super::builder::Builder;
use super::kept::Kept;
use super::kernels::Kernel;
use super::memory::Block;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Most bindings of a kernel.
const BINDINGS_MAX: usize = 8;

/// A kernel ready to be recorded.
pub(super) struct Dispatch {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroup,
    pub params: Vec<u8>,
    pub grid: [u32; 2],
    /// Estimated operations: what submissions are cut by.
    pub cost: f64,
}

struct Layout {
    group: wgpu::BindGroupLayout,
    serial: usize,
}

#[derive(Default)]
pub(super) struct Pipelines {
    layouts: HashMap<&'static [bool], Layout>,
    /// Made by whoever gets to it first.
    pipelines: HashMap<Kernel, Arc<OnceLock<wgpu::ComputePipeline>>>,
    groups: HashMap<(usize, [u32; BINDINGS_MAX]), wgpu::BindGroup>,
    /// Done before what was compiled is kept.
    builder: Option<Builder>,
    kept: Option<Kept>,
}

impl Pipelines {
    /// None yet; what compiling them takes is `kept` from one process to the next.
    pub(super) fn new(kept: Option<Kept>) -> Pipelines {
        Pipelines { kept, ..Pipelines::default() }
    }

    /// Begins to make pipelines, beside whatever else is done.
    pub(super) fn prepare(&mut self, device: &wgpu::Device, kernels: impl Iterator<Item = Kernel>) {
        for kernel in kernels {
            if self.pipelines.contains_key(&kernel) {
                continue;
            }
            let slot = Arc::default();
            self.pipelines.insert(kernel, Arc::clone(&slot));
            let layout = layout(&mut self.layouts, device, kernel).group.clone();
            let (device, cache) = (device.clone(), self.kept.as_ref().map(Kept::cache).cloned());
            self.builder.get_or_insert_with(Builder::start).begin(move || {
                slot.get_or_init(|| compile(&device, kernel, &layout, cache.as_ref()));
            });
        }
    }

    /// Makes a pipeline at once, for its faults.
    #[cfg(test)]
    pub(super) fn make(&mut self, device: &wgpu::Device, kernel: Kernel) {
        compile(device, kernel, &layout(&mut self.layouts, device, kernel).group, None);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.pipelines.len()
    }

    #[cfg(test)]
    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// `kernel` over `grid` workgroups with these buffers, whole.
    pub(super) fn dispatch(
        &mut self,
        device: &wgpu::Device,
        kernel: Kernel,
        blocks: &[&Block],
        params: &impl bytemuck::Pod,
        grid: [u32; 2],
        cost: f64,
    ) -> Dispatch {
        let Pipelines { layouts, pipelines, groups, kept, .. } = self;
        let Layout { group: own, serial } = layout(layouts, device, kernel);
        let cache = kept.as_ref().map(Kept::cache);
        let slot = pipelines.entry(kernel).or_default();
        let pipeline = slot.get_or_init(|| compile(device, kernel, own, cache)).clone();
        let mut serials = [0; BINDINGS_MAX];
        blocks.iter().zip(&mut serials).for_each(|(block, serial)| *serial = block.serial);
        let group =
            groups.entry((*serial, serials)).or_insert_with(|| bind(device, own, blocks)).clone();
        Dispatch { pipeline, group, params: bytemuck::bytes_of(params).to_vec(), grid, cost }
    }

    /// Drops what refers to a block that is released.
    pub(super) fn forget(&mut self, block: &Block) {
        self.groups.retain(|(_, serials), _| !serials.contains(&block.serial));
    }
}

fn layout<'a>(
    layouts: &'a mut HashMap<&'static [bool], Layout>,
    device: &wgpu::Device,
    kernel: Kernel,
) -> &'a Layout {
    let (writes, serial) = (kernel.spec().writes, layouts.len());
    let new = || Layout { group: group_layout(device, writes), serial };
    layouts.entry(writes).or_insert_with(new)
}

fn group_layout(device: &wgpu::Device, writes: &[bool]) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = writes
        .iter()
        .zip(0..)
        .map(|(&writes, binding)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !writes },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    })
}

fn bind(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    blocks: &[&Block],
) -> wgpu::BindGroup {
    let entries: Vec<_> = blocks
        .iter()
        .zip(0..)
        .map(|(block, binding)| wgpu::BindGroupEntry { binding, resource: block.binding() })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

fn compile(
    device: &wgpu::Device,
    kernel: Kernel,
    layout: &wgpu::BindGroupLayout,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let spec = kernel.spec();
    let module = wgpu::ShaderModuleDescriptor {
        label: Some(spec.file),
        source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
    };
    // SAFETY: the kernels of shaders/ index within their operands for every call whose buffers have
    // the documented sizes, and their loops end. (Vulkan and D3D12 clamp what a wrong call would touch.)
    let module = unsafe {
        device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked())
    };
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(spec.file),
        bind_group_layouts: &[Some(layout)],
        immediate_size: spec.params as u32,
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(spec.file),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // No kernel reads workgroup memory it did not write.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    })
}
