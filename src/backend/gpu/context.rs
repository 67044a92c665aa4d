//! A wgpu device and its queue: faults become errors, submissions stay short and few.

use super::adapter;
use crate::backend::{DeviceError, DeviceInfo, DeviceKind};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Submissions that may wait for a software adapter: one runs while the next is recorded.
const IN_FLIGHT_SOFTWARE: usize = 2;

/// For others: copies of a few megabytes are done before the next is recorded.
const IN_FLIGHT: usize = 8;

thread_local! {
    /// Whether wgpu is waited for: its panics then are told as what they mean.
    static POLLING: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics of [`Context::poll`] go by unseen, and no others.
fn quiet_polling() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match POLLING.get() {
            true => tracing::debug!("{panic}"),
            false => usual(panic),
        }));
    });
}

pub(super) struct Context {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: DeviceInfo,
    /// Fewest invocations of a subgroup, or 0 without subgroup operations.
    pub subgroup: u32,
    /// Whether buffers can lie in host memory for good.
    pub host_buffers: bool,
    fault: Arc<Mutex<Option<String>>>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    in_flight_max: usize,
}

impl Context {
    /// Opens `adapter` with all its limits, and with its matrix units if they are wanted.
    pub(super) fn open(adapter: &wgpu::Adapter, units: bool) -> Result<Context, DeviceError> {
        let (about, limits) = (adapter.get_info(), adapter.limits());
        let info = DeviceInfo {
            name: about.name.clone(),
            kind: adapter::kind(&about),
            driver: format!("{}, {}", about.backend.to_str(), adapter::driver(&about)),
            buffer_bytes_max: adapter::buffer_bytes_max(&limits),
            memory_bytes: super::vram::memory_bytes(adapter),
        };
        let subgroups = adapter.features() & wgpu::Features::SUBGROUP;
        let kept = adapter.features() & wgpu::Features::PIPELINE_CACHE;
        let mappable = adapter.features() & wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
        let matrix = if units { adapter::MATRIX_UNITS } else { wgpu::Features::empty() };
        let wanted = wgpu::DeviceDescriptor {
            label: Some("forebay"),
            required_features: wgpu::Features::IMMEDIATES | subgroups | mappable | kept | matrix,
            required_limits: limits,
            experimental_features: match units {
                // SAFETY: what they compute is compared with other kernels before it is used.
                true => unsafe { wgpu::ExperimentalFeatures::enabled() },
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            // Large blocks of spare memory would break the planner's accounts.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wanted))
            .map_err(|e| DeviceError::Unavailable(format!("{}: {e}", info.name)))?;
        quiet_polling();
        let fault = Arc::new(Mutex::new(None));
        let (for_errors, for_loss) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |e| note(&for_errors, e.to_string())));
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&for_loss, message);
            }
        });
        let subgroup = if subgroups.is_empty() { 0 } else { about.subgroup_min_size };
        let software = info.kind == DeviceKind::SoftwareGpu;
        Ok(Context {
            device,
            queue,
            info,
            subgroup,
            host_buffers: !mappable.is_empty(),
            fault,
            in_flight: VecDeque::new(),
            in_flight_max: if software { IN_FLIGHT_SOFTWARE } else { IN_FLIGHT },
        })
    }

    /// The first fault the device reported since it was opened, if any.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(self.lost(fault)),
            None => Ok(()),
        }
    }

    /// That the device is lost, and why.
    pub(super) fn lost(&self, why: impl Display) -> DeviceError {
        DeviceError::Lost(format!("{}: {why}", self.info.name))
    }

    /// Submits `commands`, waiting first while too many submissions are under way.
    pub(super) fn submit(
        &mut self,
        commands: wgpu::CommandBuffer,
    ) -> Result<wgpu::SubmissionIndex, DeviceError> {
        while self.in_flight.len() >= self.in_flight_max {
            if let Some(oldest) = self.in_flight.pop_front() {
                self.wait(oldest)?;
            }
        }
        let index = self.queue.submit([commands]);
        self.in_flight.push_back(index.clone());
        self.check()?;
        Ok(index)
    }

    /// Waits until a submission is done.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), DeviceError> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    /// Lets the device's callbacks run. wgpu panics where a device is lost meanwhile, after it has said so.
    fn poll(&self, how: wgpu::PollType) -> Result<(), DeviceError> {
        POLLING.set(true);
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        POLLING.set(false);
        self.check()?;
        match polled {
            Ok(polled) => polled.map(|_| ()).map_err(|e| self.lost(e)),
            Err(_) => Err(self.lost("the driver failed while it was waited for")),
        }
    }

    /// Creates a zeroed buffer of exactly `bytes`.
    pub(super) fn create(
        &self,
        bytes: u64,
        usage: wgpu::BufferUsages,
        what: &str,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let no_memory = || DeviceError::OutOfMemory {
            device: self.info.name.clone(),
            what: what.to_string(),
            bytes,
        };
        if bytes > self.info.buffer_bytes_max {
            return Err(no_memory());
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let wanted = wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes,
            usage,
            mapped_at_creation: false,
        };
        let buffer = self.device.create_buffer(&wanted);
        match pollster::block_on(scope.pop()) {
            Some(_) => Err(no_memory()),
            None => self.check().map(|()| buffer),
        }
    }

    /// Maps a staging buffer that `submission` was the last to use.
    pub(super) fn map(
        &self,
        buffer: &wgpu::Buffer,
        mode: wgpu::MapMode,
        bytes: u64,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<(), DeviceError> {
        let (done, result) = std::sync::mpsc::channel();
        buffer.map_async(mode, 0..bytes, move |mapped| {
            // The receiver outlives the poll below.
            let _ = done.send(mapped.is_ok());
        });
        match submission {
            Some(submission) => self.wait(submission)?,
            None => self.poll(wgpu::PollType::Poll)?,
        }
        match result.try_recv() {
            Ok(true) => Ok(()),
            _ => {
                self.check()?;
                Err(self.lost("mapping a buffer failed"))
            }
        }
    }
}

fn note(fault: &Mutex<Option<String>>, message: String) {
    tracing::error!("device fault: {message}");
    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}
