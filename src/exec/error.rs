//! What stops an executor.

use crate::backend::DeviceError;
use crate::model::TensorId;
use crate::schedule::RingTooSmall;
use crate::store::StoreError;

/// What stops a pass, or an executor from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// The model's files failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The files lack a tensor that the architecture needs.
    #[error("the model's files have no tensor for {0:?}")]
    MissingTensor(TensorId),
    /// The cache does not fit the device.
    #[error(
        "a KV cache of {pages} pages needs {bytes} bytes per layer, and {device} allows \
         {bytes_max}; lower --batch or --max-model-len"
    )]
    CacheTooLarge {
        /// Pages asked for.
        pages: usize,
        /// Bytes of one layer's cache.
        bytes: u64,
        /// Largest buffer of the device.
        bytes_max: u64,
        /// Which device.
        device: String,
    },
    /// The ring cannot hold the streams of one part.
    #[error("weights stream through {} bytes, and need {} at least", .0.bytes, .0.needed)]
    RingTooSmall(RingTooSmall),
    /// The host attends over RAM alone.
    #[error(
        "attention on the host needs the whole KV cache in RAM, and a part of it lives elsewhere; \
         leave out --kv, or --attention host"
    )]
    CacheNotInRam,
    /// The thread that attends on the host is gone.
    #[error("the thread that attends on the host ended; rerun the same command to resume")]
    HostGone,
    /// The threads that read weights are gone.
    #[error("the threads that read weights ended; rerun the same command to resume")]
    ReaderGone,
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    NoThread(std::io::Error),
}

impl From<RingTooSmall> for ExecError {
    fn from(error: RingTooSmall) -> ExecError {
        ExecError::RingTooSmall(error)
    }
}
