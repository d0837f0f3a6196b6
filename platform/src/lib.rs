//! What anode needs of Linux. The only crate with `unsafe`.

pub mod files;
pub mod netlink;
pub mod netns;
pub mod privileges;
pub mod tun;

/// What the machine refused, in words that name the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// Anything of the system, with what was tried.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        source: std::io::Error,
    },
}
