//! Where the demo happens: a directory, three network namespaces, two NATs, and the programs in them. All end with their
//! owner.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anode_platform::netlink::Netlink;
use anode_platform::netns::NetNs;
use anode_platform::{PlatformError, Prefix};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{failed, nat};
use crate::Error;

/// A private directory that is removed with this value.
pub(super) struct Directory(PathBuf);

/// A killed demo (SIGKILL) could not remove its directory: the next one does.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    let me = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("anode-demo-")?.parse::<u32>().ok());
        let mine = entry
            .metadata()
            .is_ok_and(|found| found.is_dir() && found.uid() == me);
        if let Some(number) = number
            && mine
            && !Path::new(&format!("/proc/{number}")).exists()
        {
            // Whoever else removes it at this moment is welcome to.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Directory {
    pub(super) fn make() -> Result<Self, Error> {
        remove_leftovers();
        let path = std::env::temp_dir().join(format!("anode-demo-{}", std::process::id()));
        // An existing one is refused: somebody else may have laid it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io(format!("cannot make {}", path.display())))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Two machines, each behind a NAT of its own, and what lies between the NATs.
pub(super) struct World {
    pub(super) alice: NetNs,
    pub(super) bob: NetNs,
    pub(super) internet: NetNs,
}

/// The outer addresses of the NATs, and that of the relay: 203.0.113.0/24 is for documentation (RFC 5737).
pub(super) const NATS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
pub(super) const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

impl World {
    pub(super) fn make() -> Result<Self, Error> {
        let (alice, bob, internet) = (NetNs::new()?, NetNs::new()?, NetNs::new()?);
        internet.run(populate)??;
        for (inner, public) in [&alice, &bob].into_iter().zip(NATS) {
            nat::start(inner, &internet, public)?;
        }
        Ok(Self {
            alice,
            bob,
            internet,
        })
    }
}

/// The calling thread's namespace has the public addresses on its loopback: from there to there, nothing else is needed.
fn populate() -> Result<(), PlatformError> {
    let mut netlink = Netlink::open()?;
    // Every namespace has one.
    let Some(link) = netlink.link("lo")? else {
        return Ok(());
    };
    for address in NATS.into_iter().chain([RELAY]) {
        netlink.address_add(link.index, Prefix::host(address))?;
    }
    Ok(())
}

/// This program's own file.
pub(super) fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(Error::io("cannot find the program's own file"))
}

/// A command inside `netns` that ends when this process drops or loses it.
pub(super) fn command(netns: &NetNs, program: impl AsRef<OsStr>) -> Result<Command, Error> {
    let mut command = std::process::Command::new(program);
    command.stdin(Stdio::null());
    netns.command(&mut command)?;
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    Ok(command)
}

/// Runs a program to its end; its standard output, or an error with the last line of what it said.
pub(super) async fn output(
    mut command: Command,
    name: &str,
    limit: Duration,
) -> Result<String, Error> {
    let run = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = match tokio::time::timeout(limit, run).await {
        Ok(output) => output.map_err(Error::io(format!("cannot run {name}")))?,
        Err(_) => {
            return Err(Error::refused(format!(
                "{name} did not end within {limit:?}"
            )));
        }
    };
    if !output.status.success() {
        return Err(failed(
            name,
            output.status,
            &[output.stdout, output.stderr].concat(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lines that are kept of what a program says.
const KEPT_LINES: usize = 40;

/// A program that runs beside the steps.
pub(super) struct Program {
    name: String,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    ready: watch::Receiver<bool>,
}

impl Program {
    /// Starts it; ready is a line on standard error that starts with "ready".
    pub(super) fn start(mut command: Command, name: &str) -> Result<Self, Error> {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io(format!("cannot start {name}")))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = watch::channel(false);
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let is_ready = line.starts_with("ready");
                    keep(&said, line);
                    if is_ready {
                        sender.send_replace(true);
                    }
                }
            });
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            said,
            ready,
        })
    }

    /// Waits until it is ready, or has ended, or `limit` is over.
    pub(super) async fn ready(&mut self, limit: Duration) -> Result<(), Error> {
        let told = tokio::time::timeout(limit, self.ready.wait_for(|ready| *ready))
            .await
            .map(|told| told.is_ok());
        match told {
            Ok(true) => Ok(()),
            // It closed its standard error: it has ended, or is about to.
            Ok(false) => {
                let status = self
                    .child
                    .wait()
                    .await
                    .map_err(Error::io(format!("cannot wait for {}", self.name)))?;
                Err(failed(&self.name, status, self.said().as_bytes()))
            }
            Err(_) => Err(Error::refused(format!(
                "{} was not ready within {limit:?}: {}",
                self.name,
                self.said()
            ))),
        }
    }

    /// The last lines that it said.
    pub(super) fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .join("\n")
    }
}

fn keep(said: &Mutex<Vec<String>>, line: String) {
    let mut said = said
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if said.len() == KEPT_LINES {
        said.remove(0);
    }
    said.push(line);
}
