//! i2pd in a private network: real routers on one bridge, which know nobody else.

use crate::lab::{Done, Family, Host, Lab, Lan, Proc, command};
use crate::programs;
use anode_i2cp::destination::Destination;
use anode_i2cp::keys::LocalDestination;
use anode_platform::files::write_atomic;
use nix::sys::signal::Signal;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing that a router does at its start takes longer.
const LIMIT: Duration = Duration::from_secs(30);
/// Of the only range that this i2pd takes connections from although it is private (i2cp.md §4.1).
const NET: [u8; 3] = [198, 18, 77];
const FLOODFILLS: usize = 2;
const SEED: &str = "seed.zip";

/// Writes the keys of a new destination, in the form that i2pd and our nodes share.
///
/// # Panics
/// If the file cannot be written.
pub fn make_keys(file: &Path) -> Destination {
    fs::create_dir_all(file.parent().expect("a file in a directory")).expect("a directory");
    let keys = LocalDestination::generate(&mut UnwrapErr(SysRng));
    write_atomic(file, &keys.to_file(), 0o600).expect("a file");
    keys.destination().clone()
}

/// A router, and the machine that it runs on; nodes on that machine find it on loopback.
pub struct I2pd {
    /// The machine.
    pub host: Host,
    directory: PathBuf,
    process: Option<Proc>,
}

/// Routers that know each other. The last two are floodfills, which must serve no sessions: this i2pd cannot use a lease
/// set out of its own store. There are two because it leaves out the one that it asked last, and waits where there is no other.
pub struct I2pNet {
    /// The routers; nodes belong to all but the last two.
    pub routers: Vec<I2pd>,
    _lan: Lan,
}

impl I2pNet {
    /// `tunnels` for each router, as in tunnels.conf; two routers more are the floodfills. None of them has tunnels of more
    /// than no hop where others are not asked for.
    ///
    /// # Panics
    /// If a router does not start, with its log.
    pub fn start(lab: &Lab, tunnels: &[&str]) -> Self {
        let lan = Lan::new(lab, Family::V4);
        let count = tunnels.len() + FLOODFILLS;
        let mut routers: Vec<I2pd> = (1..=count)
            .map(|number| {
                let host = lan.host(&format!("i2p{number}"));
                let [a, b, c] = NET;
                let own = Ipv4Addr::new(a, b, c, number as u8);
                host.address_add(IpAddr::V4(own), 24);
                let directory = directory(lab, number);
                fs::create_dir_all(directory.join("none")).expect("a directory");
                let floodfill = number > tunnels.len();
                fs::write(directory.join("i2pd.conf"), config(own, number, floodfill))
                    .expect("a file");
                let lines = tunnels.get(number - 1).copied().unwrap_or("");
                fs::write(directory.join("tunnels.conf"), lines).expect("a file");
                I2pd {
                    host,
                    directory,
                    process: None,
                }
            })
            .collect();
        // once, so that each makes its own description
        for router in &mut routers {
            router.spawn();
        }
        for router in &mut routers {
            let info = router.directory.join("router.info");
            router.wait("router.info", || info.exists());
            router.stop();
        }
        seed(lab.directory(), &routers);
        for router in &mut routers {
            router.spawn();
        }
        for router in &mut routers {
            router.wait_open();
        }
        Self { routers, _lan: lan }
    }
}

/// Where the files of a router are, the first of which has number 1.
pub fn directory(lab: &Lab, number: usize) -> PathBuf {
    lab.directory().join(format!("i2pd{number}"))
}

fn config(own: Ipv4Addr, number: usize, floodfill: bool) -> String {
    let port = 20_000 + number;
    let nobody = "a".repeat(52);
    format!(
        "netid = 77\nipv4 = true\nipv6 = false\naddress4 = {own}\nhost = {own}\nport = {port}\nnat = false\n\
         reservedrange = false\nfloodfill = {floodfill}\nbandwidth = X\nlog = file\nloglevel = warn\n\
         [ntcp2]\nenabled = true\npublished = true\n[ssu2]\nenabled = false\n\
         [i2cp]\nenabled = true\naddress = 127.0.0.1\nport = 7654\n[sam]\nenabled = false\n[http]\nenabled = false\n\
         [httpproxy]\nenabled = false\n[socksproxy]\nenabled = false\n[upnp]\nenabled = false\n\
         [reseed]\nurls =\nyggurls =\nthreshold = 0\nzipfile = {SEED}\n\
         [addressbook]\ndefaulturl = http://{nobody}.b32.i2p/hosts.txt\nsubscriptions = http://{nobody}.b32.i2p/hosts.txt\n\
         [nettime]\nenabled = false\nfrompeers = false\n\
         [exploratory]\ninbound.length = 0\ninbound.quantity = 2\noutbound.length = 0\noutbound.quantity = 2\n"
    )
}

/// What a router is told of the others at its first start.
fn seed(directory: &Path, routers: &[I2pd]) {
    let mut infos = Vec::new();
    for (number, router) in routers.iter().enumerate() {
        let copy = directory.join(format!("routerInfo-{number}.dat"));
        fs::copy(router.directory.join("router.info"), &copy).expect("a copy");
        infos.push(copy);
    }
    let zip = directory.join(SEED);
    let script = "import sys, zipfile, os\nz = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
                  for f in sys.argv[2:]: z.write(f, os.path.basename(f))\nz.close()";
    let made = Command::new(programs::need("python3"))
        .args(["-c", script])
        .arg(&zip)
        .args(&infos)
        .status();
    assert!(made.expect("python3 runs").success());
    for router in routers {
        fs::copy(&zip, router.directory.join(SEED)).expect("a copy");
    }
}

impl I2pd {
    /// Runs it.
    fn spawn(&mut self) {
        let mut started = command(programs::need("i2pd"));
        let file = |name: &str| self.directory.join(name).display().to_string();
        started.current_dir(&self.directory).args([
            format!("--datadir={}", self.directory.display()),
            format!("--conf={}", file("i2pd.conf")),
            format!("--tunconf={}", file("tunnels.conf")),
            format!("--tunnelsdir={}", file("none")),
            format!("--logfile={}", file("log")),
            format!("--reseed.zipfile={}", file(SEED)),
            format!("--pidfile={}", file("pid")),
        ]);
        self.process = Some(self.host.start(started));
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_open();
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGINT);
            process.wait(Duration::from_secs(5));
        }
    }

    #[track_caller]
    fn wait(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            let process = self.process.as_mut().expect("it was started");
            if !process.running() || start.elapsed() > LIMIT {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                panic!(
                    "i2pd: no {what}\n{}\n{}\n{log}",
                    process.stdout(),
                    process.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_open(&mut self) {
        let ns = self.host.ns().clone();
        self.wait("I2CP port", || {
            ns.run(|| std::net::TcpStream::connect("127.0.0.1:7654").is_ok())
        });
    }

    /// The destination of one of its tunnels, by the name of its key file.
    ///
    /// # Panics
    /// If there is none within thirty seconds.
    pub fn destination(&mut self, keys: &str) -> Destination {
        let file = self.directory.join(keys);
        self.wait(keys, || {
            fs::metadata(&file).is_ok_and(|data| data.len() > 391)
        });
        let bytes = fs::read(&file).expect("keys");
        Destination::decode(&bytes[..391]).expect("an Ed25519 destination")
    }

    /// Runs a command on its machine.
    pub fn finish(&self, run: Command, limit: Duration) -> Done {
        self.host.finish(run, limit)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}
