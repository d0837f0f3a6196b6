//! Word to systemd (`Type=notify`); without it these do nothing.

use sd_notify::NotifyState;

/// Traffic can flow; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A new line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The program is on its way out.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Still alive; due twice per [`watchdog_interval`].
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// After how long a silence systemd restarts the service (`WatchdogSec=`), if it does.
pub fn watchdog_interval() -> Option<std::time::Duration> {
    sd_notify::watchdog_enabled()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
