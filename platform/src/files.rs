//! Files that survive a crash (write beside, sync, rename) and secrets that only their owner reads.
use std::path::Path;
/// Replaces `path` atomically with `bytes`, mode as given.
pub fn write_atomic(_path: &Path, _bytes: &[u8], _mode: u32) -> Result<(), crate::PlatformError> {
    todo!()
}
/// Reads a secret: refused when group or others may read it, when it is no regular file, foreign-owned, or over `max` bytes.
pub fn read_secret(_path: &Path, _max: usize) -> Result<Vec<u8>, crate::PlatformError> {
    todo!()
}
