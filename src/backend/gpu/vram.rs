//! How much memory an adapter has: wgpu does not say, Vulkan does.

/// Bytes of the largest device-local heap that are this process's to use: its budget where the driver
/// reports one (VK_EXT_memory_budget), else its size. `None` where neither is known.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    use ash::vk;
    // SAFETY: the handle is used for queries only, while the adapter lives.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, physical) =
        (vulkan.shared_instance().raw_instance(), vulkan.raw_physical_device());
    // SAFETY: as above.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) };
    let budgets = extensions
        .unwrap_or_default()
        .iter()
        .any(|extension| extension.extension_name_as_c_str() == Ok(vk::EXT_MEMORY_BUDGET_NAME));
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if budgets {
        properties = properties.push_next(&mut budget);
    }
    // SAFETY: as above; wgpu's Vulkan backend needs version 1.1, which has this query.
    unsafe { instance.get_physical_device_memory_properties2(physical, &mut properties) };
    let memory = properties.memory_properties;
    let heaps = memory.memory_heaps_as_slice().iter().enumerate();
    let local = heaps.filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    let (largest, heap) = local.max_by_key(|(_, heap)| heap.size)?;
    let available = budget.heap_budget[largest];
    Some(if available > 0 { available } else { heap.size })
}

/// Metal does not tell through wgpu.
#[cfg(target_vendor = "apple")]
pub(super) fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}
