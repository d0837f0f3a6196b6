//! The command line: one file for each family of commands, exit statuses and the error line here.

pub(crate) mod args;
mod dht;
mod doctor;
mod i2p;
mod identity;
mod netcheck;
mod paths;
mod ping;
mod places;
mod policy;
mod relay;
pub(crate) mod save;
mod show;
mod tickets;
mod tracker;
mod trust;
mod turn;
mod up;
mod zone;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nix::unistd::Uid;

use crate::Error;
use crate::config::{Config, ConfigSource};
use crate::control::api::Source;
use crate::control::client::Client;
use crate::demo::programs;
use crate::output::Style;
use crate::state::{SYSTEM_STATE, StateDir};
use args::{Cli, Command, Common, DemoTool, Guard, Via};

/// What a command that ended in order has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Done {
    /// Exit status 0.
    Yes,
    /// Exit status 1: it ran, and the answer is no (no reply came).
    No,
}

/// Runs the program; 0 done, 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    // Usage errors leave from here with status 2.
    let cli = Cli::parse();
    match run(cli) {
        Ok(Done::Yes) => ExitCode::SUCCESS,
        Ok(Done::No) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{} {error}", Style::stderr().red("error:"));
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(cli: Cli) -> Result<Done, Error> {
    let common = &cli.common;
    match cli.command {
        Command::Up(flags) => up::run(common, *flags),
        Command::Relay(flags) => relay::run(common, *flags),
        Command::Status => show::status(common),
        Command::Peers => show::peers(common),
        Command::Paths { watch } => paths::run(common, watch),
        Command::Ping(flags) => ping::run(common, &flags),
        Command::Address => identity::address(common),
        Command::Key(key) => identity::key(common, key),
        Command::Lookup(flags) => match flags.via {
            None => show::lookup(common, &flags.whom.target, None),
            Some(Via::Dht) => show::lookup(common, &flags.whom.target, Some(Source::Dht)),
            Some(Via::Tracker) => tracker::lookup(common, &flags.whom.target),
        },
        Command::Resolve(whom) => show::resolve(common, &whom.target),
        Command::Trust(flags) => trust::trust(common, &flags),
        Command::Distrust(whom) => trust::distrust(common, &whom.target),
        Command::Invite(flags) => tickets::invite(common, &flags),
        Command::Join(flags) => tickets::join(common, &flags),
        Command::Policy(action) => policy::run(common, action),
        Command::I2p(action) => i2p::run(common, action),
        Command::Zone(action) => zone::run(common, action),
        Command::Dht(action) => dht::run(common, action),
        Command::Netcheck => netcheck::run(common),
        Command::Rendezvous(action) => tracker::rendezvous(common, action),
        Command::Tracker(action) => tracker::tracker(common, action),
        Command::Turn(action) => turn::run(common, action),
        Command::Doctor => doctor::run(common),
        Command::Guard(guard) => guard_routes(common, guard),
        Command::KeepRoutes { interface, own } => {
            crate::routes::keep(&interface, own).map(|()| Done::Yes)
        }
        Command::Demo => crate::demo::run(common.json),
        Command::DemoTool {
            die_with_parent,
            tool,
        } => demo_tool(die_with_parent, &tool),
    }
}

fn demo_tool(leashed: bool, tool: &DemoTool) -> Result<Done, Error> {
    if leashed {
        die_with_parent()?;
    }
    match tool {
        DemoTool::Serve { listen, file } => programs::serve(*listen, file)?,
        DemoTool::Fetch { server, target } => programs::fetch(*server, target)?,
        DemoTool::Echo { server, count } => programs::echo(*server, *count)?,
    }
    Ok(Done::Yes)
}

/// A demo that is killed leaves no node behind.
fn die_with_parent() -> Result<(), Error> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| Error::io("cannot bind to the parent process")(error.into()))
}

fn guard_routes(common: &Common, guard: Guard) -> Result<Done, Error> {
    let prefixes = crate::node::overlay_prefixes();
    match guard {
        Guard::Add => anode_platform::netlink::guard_add(&prefixes)?,
        Guard::Remove => anode_platform::netlink::guard_remove(&prefixes)?,
    }
    if common.json {
        let routes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        crate::output::json(
            &serde_json::json!({ "routes": routes, "guarded": matches!(guard, Guard::Add) }),
        )?;
    }
    Ok(Done::Yes)
}

impl Common {
    fn dir(&self) -> Result<StateDir, Error> {
        let configured = match (&self.state, &self.config) {
            (None, Some(_)) => self.named_config().state()?,
            _ => None,
        };
        StateDir::find(self.state.as_deref().or(configured.as_deref()))
    }

    /// What `--config` names, and nothing else.
    fn named_config(&self) -> ConfigSource {
        ConfigSource::new(self.config.as_deref(), false)
    }

    fn config(&self, dir: &StateDir) -> Result<Config, Error> {
        self.config_source(dir).read()
    }

    fn config_source(&self, dir: &StateDir) -> ConfigSource {
        ConfigSource::new(self.config.as_deref(), dir.is_system())
    }

    /// Where the control socket of `dir` is.
    fn socket(&self, dir: &StateDir, config: &Config) -> PathBuf {
        config
            .control
            .as_ref()
            .map_or_else(|| dir.socket(), |path| path.0.0.clone())
    }

    /// Where a node may answer: the own one, then, for an ordinary user who did not say which, the service's.
    fn sockets(&self) -> Result<Vec<PathBuf>, Error> {
        let dir = self.dir()?;
        let mut sockets = vec![self.socket(&dir, &self.config(&dir)?)];
        if self.state.is_none() && self.config.is_none() && !Uid::effective().is_root() {
            let system = StateDir::find(Some(SYSTEM_STATE.as_ref()))?;
            // A configuration that this user may not read says nothing to this user.
            let config = self.config(&system).unwrap_or_default();
            sockets.push(self.socket(&system, &config));
        }
        Ok(sockets)
    }

    async fn client(&self) -> Result<Client, Error> {
        Client::connect(&self.sockets()?).await
    }
}

/// Runs a command's talk with the node.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start"))?
        .block_on(work)
}
