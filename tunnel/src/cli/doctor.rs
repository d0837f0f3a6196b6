//! `anode doctor`: layer by layer, what is active and what is wrong here, with the fix.

use std::net::{Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use anode_platform::netlink::Netlink;
use anode_platform::privileges::{Capability, has};
use anode_platform::tun;
use serde::Serialize;

use super::args::Common;
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{Confinement, Peer, Status};
use crate::dns::zone::address_name;
use crate::node::overlay_prefixes;
use crate::output::{self, Style};
use crate::policy::Policy;
use crate::state::StateDir;
use crate::state::book::Book;
use crate::state::identity;

/// Where a node listens unless it is told otherwise (DESIGN §5).
const ANODE_PORT: u16 = 8737;

/// How long the system may take to find a name.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(3);

/// How a layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warn,
    /// A node cannot start or cannot be reached.
    Fail,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
struct Check {
    layer: &'static str,
    state: Health,
    /// What is.
    text: String,
    /// What to do, where something is wrong.
    fix: Option<String>,
}

/// `anode doctor --json`
#[derive(Serialize)]
struct Report {
    /// No check failed.
    ok: bool,
    /// From the kernel up.
    checks: Vec<Check>,
    /// What the running node has given up; `null` without one.
    confined: Option<Confinement>,
}

impl Check {
    fn ok(layer: &'static str, text: impl Into<String>) -> Self {
        Self {
            layer,
            state: Health::Ok,
            text: text.into(),
            fix: None,
        }
    }

    fn bad(
        layer: &'static str,
        state: Health,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            layer,
            state,
            text: text.into(),
            fix: Some(fix.into()),
        }
    }
}

/// What a running node says of itself.
struct Running {
    status: Status,
    peers: Vec<Peer>,
}

pub(super) fn run(common: &Common) -> Result<Done, Error> {
    let running = block_on(async {
        let mut client = common.client().await?;
        Ok(Running {
            status: client.get("/v1/status").await?,
            peers: client.get("/v1/peers").await?,
        })
    });
    let dir = common.dir()?;
    let mut checks = vec![device(), capabilities(running.is_ok()), ipv6()];
    checks.push(routes(running.as_ref().ok()));
    checks.push(state(&dir));
    checks.push(policy(common, &dir));
    checks.push(port(running.as_ref().ok()));
    checks.push(node(&running));
    checks.extend(running.as_ref().ok().map(|running| peers(&running.peers)));
    checks.extend(
        running
            .as_ref()
            .ok()
            .map(|running| confinement(&running.status.confined)),
    );
    checks.push(dns(running.as_ref().ok()));
    let report = Report {
        ok: checks.iter().all(|check| check.state != Health::Fail),
        checks,
        confined: running.ok().map(|running| running.status.confined),
    };
    if common.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.ok { Done::Yes } else { Done::No })
}

fn print(report: &Report) -> Result<(), Error> {
    let style = Style::stdout();
    let mut text = String::new();
    for check in &report.checks {
        let state = match check.state {
            Health::Ok => style.green("ok  "),
            Health::Warn => style.bold("warn"),
            Health::Fail => style.red("fail"),
        };
        text.push_str(&format!("{state}  {:<12}  {}\n", check.layer, check.text));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{:20}{} {fix}\n", "", style.dim("fix:")));
        }
    }
    output::print(&text)
}

fn device() -> Check {
    match tun::probe_driver() {
        Ok(()) => Check::ok("tun", "/dev/net/tun can be opened"),
        // The message carries its fix.
        Err(error) => {
            let message = error.to_string();
            let (text, fix) = message.split_once("; ").unwrap_or((&message, "see above"));
            Check::bad("tun", Health::Fail, text, fix)
        }
    }
}

fn capabilities(running: bool) -> Check {
    if has(Capability::NetAdmin) {
        return Check::ok(
            "capabilities",
            "CAP_NET_ADMIN is here, to make the interface",
        );
    }
    let state = if running { Health::Ok } else { Health::Fail };
    Check {
        state,
        ..Check::bad(
            "capabilities",
            state,
            "this user has no CAP_NET_ADMIN, which making an interface needs",
            "run `anode up` as root or by the service; `anode up --no-tun` needs no rights",
        )
    }
}

fn ipv6() -> Check {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        std::fs::read_to_string(path).map(|text| text.trim() == "1")
    };
    match (read("all"), read("default")) {
        (Err(_), _) | (_, Err(_)) => Check::bad(
            "ipv6",
            Health::Fail,
            "the kernel has no IPv6, on which overlay addresses rest",
            "boot without ipv6.disable=1, and load the module: `modprobe ipv6`",
        ),
        (Ok(true), _) => Check::bad(
            "ipv6",
            Health::Fail,
            "IPv6 is switched off for all interfaces",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        ),
        (Ok(false), Ok(true)) => Check::bad(
            "ipv6",
            Health::Warn,
            "IPv6 is switched off for new interfaces: `anode up` switches it on for its own",
            "sysctl -w net.ipv6.conf.default.disable_ipv6=0",
        ),
        (Ok(false), Ok(false)) => Check::ok("ipv6", "IPv6 is on"),
    }
}

fn routes(running: Option<&Running>) -> Check {
    let own = running.and_then(|running| running.status.interface.as_deref());
    match conflict(own) {
        Ok(None) => Check::ok("routes", "nothing else uses fda0::/16"),
        Ok(Some(route)) => Check::bad(
            "routes",
            Health::Fail,
            format!("fda0::/16 is in use by a route \"{route}\""),
            format!("ip -6 route del {route}"),
        ),
        Err(error) => Check::bad(
            "routes",
            Health::Warn,
            format!("the routes cannot be read: {error}"),
            "run it in a namespace with netlink",
        ),
    }
}

fn conflict(own: Option<&str>) -> Result<Option<String>, Error> {
    let mut netlink = Netlink::open()?;
    let own = match own {
        Some(name) => netlink.link(name)?.map(|link| link.index),
        None => None,
    };
    let [prefix, _] = overlay_prefixes();
    let found = netlink.conflicts(prefix, own)?;
    Ok(found.first().map(|conflict| conflict.route.to_string()))
}

fn state(dir: &StateDir) -> Check {
    let shown = dir.path().display();
    match identity::load(dir) {
        Ok(Some(identity)) => Check::ok("identity", format!("{} in {shown}", identity.address())),
        Ok(None) => Check::ok(
            "identity",
            format!("none in {shown} yet: `anode up` makes one"),
        ),
        Err(error) => Check::bad(
            "identity",
            Health::Fail,
            error.to_string(),
            "as the line says; without a key there is no address",
        ),
    }
}

fn policy(common: &Common, dir: &StateDir) -> Check {
    let made = Book::load(dir).and_then(|book| {
        let config = common.config(dir)?;
        let members = super::zone::members(&config, dir)?;
        Ok((
            Policy::new(&config.inbound, &book, &members)?,
            config.security,
        ))
    });
    match made {
        Ok((policy, security)) => Check::ok(
            "policy",
            format!(
                "{} trusted, {} allow, {} deny, default {}; plain {}, post-quantum {}",
                policy.trusted.len(),
                policy.allow.len(),
                policy.deny.len(),
                policy.otherwise.as_str(),
                security.plain.as_str(),
                security.pq.as_str()
            ),
        ),
        Err(error) => Check::bad(
            "policy",
            Health::Fail,
            error.to_string(),
            "correct that line, then `anode policy reload`",
        ),
    }
}

fn port(running: Option<&Running>) -> Check {
    if let Some(running) = running {
        return Check::ok(
            "port",
            format!("listening on {}", running.status.listen.join(" ")),
        );
    }
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ANODE_PORT)) {
        Ok(_) => Check::ok("port", format!("udp {ANODE_PORT} is free")),
        Err(error) => Check::bad(
            "port",
            Health::Warn,
            format!("udp {ANODE_PORT} cannot be had ({error}): a node would take another port"),
            format!(
                "stop the program on udp {ANODE_PORT} (`ss -ulpn`), or name a port with --listen"
            ),
        ),
    }
}

fn node(running: &Result<Running, Error>) -> Check {
    match running {
        Ok(running) => {
            let status = &running.status;
            let interface = status.interface.as_deref().unwrap_or("no interface");
            let up = output::span(status.uptime_s);
            Check::ok(
                "node",
                format!("up for {up} on {interface}, pid {}", status.pid),
            )
        }
        Err(Error::NotRunning { .. }) => {
            Check::bad("node", Health::Fail, "not running", "anode up")
        }
        Err(error) => Check::bad(
            "node",
            Health::Fail,
            error.to_string(),
            "restart it: `systemctl restart anode`, or `anode up` by hand",
        ),
    }
}

fn peers(peers: &[Peer]) -> Check {
    let reachable = peers
        .iter()
        .filter(|peer| peer.paths.iter().any(|path| path.active))
        .count();
    let sealed = peers.iter().filter(|peer| peer.sealed).count();
    let text = format!(
        "{} known, {reachable} reachable, {sealed} sealed",
        peers.len()
    );
    if peers.is_empty() {
        let fix = "on another machine: `anode invite`; here: `anode join TICKET`";
        return Check::bad("peers", Health::Warn, text, fix);
    }
    // No traffic, no keep-alives: a node that nobody has used yet is well.
    if peers.iter().all(|peer| peer.tx_bytes == 0) {
        let text = format!("{text}: none of them was called yet");
        return Check::ok("peers", text);
    }
    if reachable == 0 {
        let fix = "is the other machine up, and is udp 8737 open between them? `anode lookup NAME` says where it was last";
        return Check::bad("peers", Health::Warn, text, fix);
    }
    Check::ok("peers", text)
}

/// Whether a program that knows nothing of anode finds a name.
fn dns(running: Option<&Running>) -> Check {
    let Some(running) = running else {
        return Check::ok("dns", "names are served while a node runs");
    };
    let status = &running.status;
    let text = status.dns.text();
    let Some(listen) = &status.dns.listen else {
        return match &status.dns.problem {
            Some(problem) => Check::bad("dns", Health::Warn, text, problem.clone()),
            None => Check::ok("dns", text),
        };
    };
    let own = status.address.parse().map(|address| address_name(&address));
    match own.map(|name| (system_finds(&name, status.ipv6), name)) {
        Ok((true, _)) => Check::ok("dns", format!("programs find names, {text}")),
        Ok((false, name)) => {
            let fix = status.dns.problem.clone();
            let fix = fix.unwrap_or_else(|| {
                format!("`dig @{} {name} AAAA` asks the node alone", host(listen))
            });
            let text = format!("programs do not find this node's own name {name}; {text}");
            Check::bad("dns", Health::Warn, text, fix)
        }
        Err(_) => Check::ok("dns", text),
    }
}

fn host(listen: &str) -> &str {
    listen.rsplit_once(':').map_or(listen, |(host, _)| host)
}

/// Asks as every program does, by the C library; one that waits for a dead server has not found it.
fn system_finds(name: &str, ip: Ipv6Addr) -> bool {
    let question = (name.to_owned(), 0);
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let found = question.to_socket_addrs();
        let _ = answer.send(found.is_ok_and(|mut all| all.any(|found| found.ip() == ip)));
    });
    answered.recv_timeout(LOOKUP_PATIENCE).unwrap_or(false)
}

fn confinement(confined: &Confinement) -> Check {
    let rights = match confined.capabilities.as_slice() {
        [] => "no capabilities".to_owned(),
        some => some.join(" "),
    };
    let on = |active: bool| if active { "on" } else { "off" };
    let text = format!(
        "{rights}, seccomp {}, landlock {}, core dumps off, memory lock {}",
        on(confined.seccomp),
        confined.landlock,
        on(confined.memory_locked)
    );
    let fix = if confined.landlock != "full" {
        "a kernel with Landlock (5.13 or later, all of it from 6.12, lsm=landlock)"
    } else if !confined.memory_locked {
        "LimitMEMLOCK=infinity for the service, or no swap: keys could be swapped out"
    } else if !confined.seccomp {
        "none: the system call filter does not know this processor"
    } else {
        return Check::ok("confinement", text);
    };
    Check::bad("confinement", Health::Warn, text, fix)
}
