//! Ordinary programs, as a user has them, and the servers they talk to. None of them knows of anode.

use crate::lab::{Done, Ns, Proc, command};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Programs that tests use, with the Debian package of each.
const PACKAGES: [(&str, &str); 17] = [
    ("capsh", "libcap2-bin"),
    ("curl", "curl"),
    ("dbus-daemon", "dbus-daemon"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ethtool", "ethtool"),
    ("i2pd", "i2pd"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("tinyproxy", "tinyproxy-bin"),
];

const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Where a program is, or which package has it.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed = std::env::split_paths(&path).chain(DIRECTORIES.iter().map(PathBuf::from));
    let found = listed
        .map(|directory| directory.join(program))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        let package = PACKAGES
            .iter()
            .find(|(name, _)| *name == program)
            .map_or(program, |(_, package)| package);
        format!("`{program}` is missing: apt-get install {package}")
    })
}

/// The same for a test that cannot go on without it.
///
/// # Panics
/// If it is missing, with the package that has it.
#[track_caller]
pub fn need(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|missing| panic!("{missing}"))
}

/// What `ping` measured.
#[derive(Clone, Debug, Default)]
pub struct Pinged {
    /// Replies that came.
    pub received: u32,
    /// Round trip of each, in milliseconds.
    pub rtt_ms: Vec<f64>,
}

/// Pings `count` times with `size` bytes of data, 20 ms apart.
pub fn ping(ns: &Ns, target: IpAddr, size: usize, count: u32) -> Pinged {
    ping_every(ns, target, size, count, Duration::from_millis(20))
}

/// The same, `interval` apart.
pub fn ping_every(ns: &Ns, target: IpAddr, size: usize, count: u32, interval: Duration) -> Pinged {
    let mut command = command(need("ping"));
    // Without a deadline ping waits for two round trips after its last packet, once anything has been answered: a machine that
    // is busy for some milliseconds then loses that one. With one it waits, and goes on sending meanwhile; those are not counted.
    let deadline = (interval * count + Duration::from_secs(2)).as_secs() + 1;
    command.args(["-n", "-i", &interval.as_secs_f64().to_string()]);
    command.args(["-c", &count.to_string(), "-w", &deadline.to_string()]);
    command.args(["-s", &size.to_string(), &target.to_string()]);
    let done = ns.finish(command, Duration::from_secs(20) + interval * count);
    assert!(done.code() <= 1, "{done}");
    let field = |line: &str, name: &str| {
        let value = line.split(name).nth(1)?.split_whitespace().next()?;
        value.parse::<f64>().ok()
    };
    let text = done.stdout();
    let replies: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter(|line| field(line, "icmp_seq=").is_some_and(|sequence| sequence <= count.into()))
        .collect();
    Pinged {
        received: replies.len() as u32,
        // Without room for a timestamp (16 bytes) ping measures nothing, but counts.
        rtt_ms: replies
            .iter()
            .filter_map(|line| field(line, "time="))
            .collect(),
    }
}

/// Pings `count` times, `interval` apart; when each answer came, in seconds of the wall clock.
pub fn ping_times(ns: &Ns, target: IpAddr, count: u32, interval: Duration) -> Vec<f64> {
    let mut command = command(need("ping"));
    command.args([
        "-n",
        "-D",
        "-W",
        "2",
        "-i",
        &interval.as_secs_f64().to_string(),
    ]);
    command.args(["-c", &count.to_string(), &target.to_string()]);
    let done = ns.finish(command, Duration::from_secs(20) + interval * count);
    assert!(done.code() <= 1, "{done}");
    let time = |line: &str| {
        let (time, _) = line.strip_prefix('[')?.split_once(']')?;
        line.contains("bytes from").then(|| time.parse().ok())?
    };
    done.stdout().lines().filter_map(time).collect()
}

/// Waits until `target` answers one ping; how long that took.
///
/// # Panics
/// If none is answered within `limit`.
#[track_caller]
pub fn first_ping(ns: &Ns, target: IpAddr, limit: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let mut command = command(need("ping"));
        command.args(["-n", "-c", "1", "-W", "0.2", &target.to_string()]);
        if ns.finish(command, Duration::from_secs(5)).ok() {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < limit,
            "{target} does not answer within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a TCP server answers.
///
/// # Panics
/// If it does not within ten seconds, with what it said.
#[track_caller]
fn wait_for_port(ns: &Ns, server: &mut Proc, address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while ns
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))
        .is_err()
    {
        assert!(
            server.running() && Instant::now() < deadline,
            "no server at {address}:\n{}{}",
            server.stdout(),
            server.stderr()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Python's HTTP server with the files of `directory`.
pub fn http_server(ns: &Ns, address: SocketAddr, directory: &Path) -> Proc {
    let mut command = command(need("python3"));
    command.args([
        "-m",
        "http.server",
        &address.port().to_string(),
        "--bind",
        &address.ip().to_string(),
    ]);
    command.arg("--directory").arg(directory);
    let mut server = ns.start(command);
    wait_for_port(ns, &mut server, address);
    server
}

/// `curl URL`, the body in [`Done::out`].
pub fn curl(ns: &Ns, url: &str, limit: Duration) -> Done {
    let mut command = command(need("curl"));
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--globoff",
    ]);
    command.args(["--max-time", &limit.as_secs_f64().to_string(), url]);
    ns.finish(command, limit + Duration::from_secs(5))
}

/// An SSH server with keys and configuration of its own.
pub struct Sshd {
    process: Proc,
    address: SocketAddr,
    client_key: PathBuf,
}

impl Sshd {
    /// Starts one for the user who runs the tests.
    pub fn start(ns: &Ns, address: SocketAddr, directory: &Path) -> Self {
        let directory = directory.join("sshd");
        fs::create_dir(&directory).expect("a directory for sshd");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("its mode");
        // Where sshd locks its unprivileged half in; the package leaves it to the service to make.
        fs::create_dir_all("/run/sshd").expect("/run/sshd");
        for name in ["host", "client"] {
            let mut keygen = command(need("ssh-keygen"));
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.join(name));
            ns.finish(keygen, Duration::from_secs(10)).expect_ok();
        }
        let config = format!(
            "AddressFamily any\nListenAddress [{}]:{}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/client.pub\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
             StrictModes no\nPidFile none\nUseDNS no\n",
            address.ip(),
            address.port(),
            dir = directory.display()
        );
        let file = directory.join("sshd_config");
        fs::write(&file, config).expect("sshd_config");
        let mut server = command(need("sshd"));
        server.args(["-D", "-e", "-f"]).arg(&file);
        let mut process = ns.start(server);
        wait_for_port(ns, &mut process, address);
        Self {
            process,
            address,
            client_key: directory.join("client"),
        }
    }

    /// `ssh HOST COMMAND`, not yet started.
    pub fn client(&self, remote_command: &str) -> std::process::Command {
        let mut client = command(need("ssh"));
        client.args([
            "-F",
            "/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        client.args([
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ConnectTimeout=10",
        ]);
        client
            .arg("-i")
            .arg(&self.client_key)
            .arg("-p")
            .arg(self.address.port().to_string());
        client
            .arg(self.address.ip().to_string())
            .arg(remote_command);
        client
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

/// What iperf3 measured, in bits per second as the receiver saw it, and the share of datagrams lost in percent.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// 0 for TCP.
    pub lost_percent: f64,
    /// Datagrams that arrived; 0 for TCP.
    pub packets: u64,
}

/// An iperf3 server.
pub fn iperf3_server(ns: &Ns, address: SocketAddr) -> Proc {
    let mut command = command(need("iperf3"));
    command.args([
        "--server",
        "--forceflush",
        "--bind",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    let mut server = ns.start(command);
    if let Err(why) = server.wait_stdout_line("Server listening", Duration::from_secs(10)) {
        panic!("{why}");
    }
    server
}

/// `iperf3 --client` for `seconds`, with further arguments.
///
/// # Panics
/// If it fails, with its words.
#[track_caller]
pub fn iperf3(ns: &Ns, server: SocketAddr, seconds: u32, arguments: &[&str]) -> Measured {
    let mut command = command(need("iperf3"));
    command.args([
        "--json",
        "--client",
        &server.ip().to_string(),
        "--port",
        &server.port().to_string(),
    ]);
    command
        .args(["--time", &seconds.to_string()])
        .args(arguments);
    let done = ns.finish(command, Duration::from_secs(u64::from(seconds) + 30));
    assert!(done.ok(), "{done}");
    let answer: Value = serde_json::from_slice(&done.out).unwrap_or_else(|e| panic!("{e}: {done}"));
    let end = &answer["end"];
    // TCP: `sum_received`. UDP: `sum`, whose loss the receiver reported.
    let sum = if end["sum_received"].is_object() {
        &end["sum_received"]
    } else {
        &end["sum"]
    };
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let lost = number(&end["sum"]["lost_percent"]);
    let packets = number(&end["sum"]["packets"]) - number(&end["sum"]["lost_packets"]);
    let received = number(&sum["bits_per_second"]);
    let bits_per_second = if end["sum_received"].is_object() {
        received
    } else {
        received * (100.0 - lost) / 100.0
    };
    Measured {
        bits_per_second,
        lost_percent: lost,
        packets: packets as u64,
    }
}

/// A DNS server that knows `name` as `answer`, over UDP.
pub fn dns_server(ns: &Ns, address: SocketAddr, name: &str, answer: Ipv6Addr) -> Proc {
    dnsmasq(ns, address, &[format!("--host-record={name},{answer}")])
}

/// A DNS server with these records, as dnsmasq's options have them. It writes the questions that come to standard error.
pub fn dnsmasq(ns: &Ns, address: SocketAddr, records: &[String]) -> Proc {
    let mut command = command(need("dnsmasq"));
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
    ]);
    command.args(["--log-facility=-", "--pid-file=", "--user=root"]);
    command.args([
        format!("--listen-address={}", address.ip()),
        format!("--port={}", address.port()),
    ]);
    command.arg("--log-queries").args(records);
    let mut server = ns.start(command);
    // It answers TCP on the same port, and opens that after UDP.
    wait_for_port(ns, &mut server, address);
    server
}

/// `dig NAME AAAA` over UDP; the addresses found.
#[track_caller]
pub fn dig(ns: &Ns, server: SocketAddr, name: &str) -> Vec<Ipv6Addr> {
    let mut command = command(need("dig"));
    command.args([
        &format!("@{}", server.ip()),
        "-p",
        &server.port().to_string(),
    ]);
    command.args(["+notcp", "+short", "+time=2", "+tries=2", name, "AAAA"]);
    let done = ns.finish(command, Duration::from_secs(15)).expect_ok();
    done.stdout()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}
