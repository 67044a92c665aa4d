//! Tests of the shader files without a device: every one parses, validates and binds what the table
//! says, and host structs lie in memory as the shaders' do.

use super::adapter::MATRIX_WORKGROUP_BYTES;
use super::kernels::{ENTRIES, FRAGMENTS, Kernel, Units};
use super::pipelines::Pipelines;
use std::collections::BTreeSet;
use std::path::Path;
use wgpu::naga;

fn parse(kernel: Kernel) -> naga::Module {
    let source = kernel.source();
    naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)))
}

fn in_folder(folder: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(path).unwrap().map(|f| f.unwrap().file_name());
    let names = files.map(|name| name.into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".wgsl").map(str::to_string)).collect()
}

#[test]
fn every_file_is_in_the_table_and_used() {
    let names = |table: &[(&str, &str)]| table.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(in_folder("shaders"), names(ENTRIES));
    assert_eq!(in_folder("shaders/shared"), names(FRAGMENTS));
    let used: BTreeSet<_> = Kernel::all().iter().map(|k| k.spec().file.to_string()).collect();
    assert_eq!(used, names(ENTRIES));
}

#[test]
fn every_kernel_validates_and_binds_what_the_table_says() {
    use naga::valid::Capabilities as Can;
    let capabilities = Can::IMMEDIATES
        | Can::SUBGROUP
        | Can::SHADER_FLOAT16_IN_FLOAT32
        | Can::SHADER_FLOAT16
        | Can::COOPERATIVE_MATRIX;
    for kernel in Kernel::all() {
        let module = parse(kernel);
        let mut validator =
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
        validator
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all());
        let info = validator.validate(&module);
        let info = info.unwrap_or_else(|e| panic!("{kernel:?}: {e:?}"));
        let vulkan = naga::back::spv::Options { lang_version: (1, 6), ..Default::default() };
        naga::back::spv::write_vec(&module, &info, &vulkan, None)
            .unwrap_or_else(|e| panic!("{kernel:?} for Vulkan: {e}"));
        assert_eq!(module.entry_points.len(), 1, "{kernel:?}");
        assert_eq!(module.entry_points[0].name, "main", "{kernel:?}");
        let spec = kernel.spec();
        let mut bound = 0;
        for (_, global) in module.global_variables.iter() {
            let (Some(at), naga::AddressSpace::Storage { access }) =
                (&global.binding, global.space)
            else {
                continue;
            };
            let writes = access.contains(naga::StorageAccess::STORE);
            assert_eq!(spec.writes.get(at.binding as usize), Some(&writes), "{kernel:?} {at:?}");
            bound += 1;
        }
        assert_eq!(bound, spec.writes.len(), "{kernel:?}");
    }
}

/// wgpu does not compare what a workgroup takes with what the adapter has.
#[test]
fn workgroups_fit_the_memory_that_is_asked_for() {
    let everywhere = wgpu::Limits::default().max_compute_workgroup_storage_size;
    for kernel in Kernel::all() {
        let module = parse(kernel);
        let globals = module.global_variables.iter().map(|(_, global)| global);
        let shared = globals.filter(|global| global.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 =
            shared.map(|global| module.types[global.ty].inner.size(module.to_ctx())).sum();
        match kernel {
            Kernel::Matrices(Units::Matrix, _) => assert_eq!(bytes, MATRIX_WORKGROUP_BYTES),
            // Runs in tests alone.
            Kernel::Matrices(Units::Loops, _) => (),
            _ => assert!(bytes <= everywhere, "{kernel:?}: {bytes}"),
        }
    }
}

#[test]
fn parameters_lie_in_memory_as_the_shaders_read_them() {
    for kernel in Kernel::all() {
        let module = parse(kernel);
        let mut immediates = module
            .global_variables
            .iter()
            .filter(|(_, global)| global.space == naga::AddressSpace::Immediate);
        let (_, global) = immediates.next().unwrap();
        let naga::TypeInner::Struct { ref members, span } = module.types[global.ty].inner else {
            panic!("{kernel:?}: parameters are no struct");
        };
        assert_eq!(span as usize, kernel.spec().params, "{kernel:?}");
        assert!(span <= super::params::BYTES_MAX, "{kernel:?}");
        // Host structs hold 4-byte numbers only, so order and count decide the layout.
        for (index, member) in members.iter().enumerate() {
            assert_eq!(member.offset as usize, 4 * index, "{kernel:?}: {:?}", member.name);
        }
    }
}

/// wgpu's own checks, which every real adapter makes: bindings, immediates, workgroups within the limits that
/// every adapter has.
#[test]
fn every_kernel_becomes_a_pipeline_of_a_real_adapter() {
    let device = noop();
    let mut pipelines = Pipelines::new(None);
    for kernel in Kernel::all() {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        pipelines.make(&device, kernel);
        let fault = pollster::block_on(scope.pop());
        assert!(fault.is_none(), "{kernel:?}: {fault:?}");
    }
}

/// A device that computes nothing, with what kernels of all kinds ask for.
fn noop() -> wgpu::Device {
    let mut wanted = wgpu::InstanceDescriptor::new_without_display_handle();
    wanted.backends = wgpu::Backends::NOOP;
    wanted.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let instance = wgpu::Instance::new(wanted);
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let wanted = wgpu::DeviceDescriptor {
        required_features: wgpu::Features::IMMEDIATES
            | wgpu::Features::SUBGROUP
            | super::adapter::MATRIX_UNITS,
        required_limits: wgpu::Limits {
            max_immediate_size: super::params::BYTES_MAX,
            ..wgpu::Limits::default()
        },
        // SAFETY: nothing is computed.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&wanted)).unwrap().0
}
