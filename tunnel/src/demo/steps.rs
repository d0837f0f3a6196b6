//! The steps, one after the other.

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anode_platform::netns::NetNs;
use anode_wire::{Address, PeerId, Zone};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::Teller;
use super::place::{Directory, NATS, Program, RELAY, World, command, output, own_program};
use crate::Error;
use crate::control::api::{Kind, PingAnswer, PingRequest, RelayStatus};
use crate::control::client::Client;
use crate::names::short;
use crate::output::{bit_rate, bytes, rtt};
use crate::state::StateDir;
use crate::state::book::Book;
use crate::state::identity;
use crate::zone::make::{self, Offers, RelayAt};

/// Bytes of the file.
const FILE_SIZE: usize = 64 << 20;
/// Datagrams of the echo.
const DATAGRAMS: u32 = 1000;
/// The zone of the demo; it stands in both addresses.
const ZONE: Zone = Zone(0xcb00_710a);
/// Where the relay listens.
const RELAY_PORT: u16 = 8737;
/// Bytes a second that the relay passes on for each: 10 Gbit/s, so that the steps do not measure its default of 0.1.
const RELAY_RATE: u32 = 1_250_000_000;
/// Where bob's server listens.
const PORT: u16 = 8080;
/// A node is up in a fraction of this.
const START_LIMIT: Duration = Duration::from_secs(5);
/// From the start of the nodes to the first answer: both must have registered with the relay.
const MEET_LIMIT: Duration = Duration::from_secs(5);
/// From the first answer to one that takes no relay.
const DIRECT_LIMIT: Duration = Duration::from_secs(5);
/// For each program: the slowest machine that is of use.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// One of the two.
struct Party<'a> {
    name: &'static str,
    state: PathBuf,
    netns: &'a NetNs,
    address: Address,
    zone_file: PathBuf,
}

impl Party<'_> {
    fn ipv6(&self) -> Ipv6Addr {
        self.address.ipv6(PeerId::ANY)
    }

    fn dir(&self) -> Result<StateDir, Error> {
        StateDir::find(Some(&self.state))
    }

    /// This program inside the party's namespace.
    fn anode(&self) -> Result<Command, Error> {
        let mut anode = command(self.netns, own_program()?)?;
        anode.arg("--state").arg(&self.state);
        Ok(anode)
    }

    fn start(&self) -> Result<Program, Error> {
        let mut anode = self.anode()?;
        anode.args(["up", "--die-with-parent", "--zone-file"]);
        anode.arg(&self.zone_file);
        Program::start(anode, &format!("{}'s node", self.name))
    }
}

/// All of them; the first that fails ends it.
pub(super) async fn all(teller: &mut Teller) -> Result<(), Error> {
    let directory = Directory::make()?;
    let world = match World::make() {
        Ok(world) => world,
        Err(error) => return teller.step("nat", Err(error)),
    };
    let [nat_a, nat_b] = NATS;
    teller.step(
        "nat",
        Ok(format!(
            "alice behind {nat_a}, bob behind {nat_b}; neither lets anybody in who was not asked"
        )),
    )?;
    let (zone, mut relay) = match Outside::start(&world, &directory) {
        Ok(outside) => outside,
        Err(error) => return teller.step("relay", Err(error)),
    };
    let up = relay.ready(START_LIMIT).await;
    teller.step("relay", up.map(|()| zone.started()))?;

    let alice = introduce("alice", &directory, &world.alice, &zone)?;
    let bob = introduce("bob", &directory, &world.bob, &zone)?;
    befriend(&alice, &bob)?;
    befriend(&bob, &alice)?;
    let since = Instant::now();
    let mut nodes = [alice.start()?, bob.start()?];
    for (node, party) in nodes.iter_mut().zip([&alice, &bob]) {
        let up = node.ready(START_LIMIT).await;
        teller.step("anode up", up.map(|()| started(party, since)))?;
    }
    let mut outcome = talk(teller, &directory, &alice, &bob, since).await;
    if outcome.is_ok() {
        outcome = teller.step("relayed", zone.relayed([&alice, &bob]).await);
    }
    if outcome.is_err() {
        let said = nodes.iter().map(Program::said).chain([relay.said()]);
        for (who, said) in ["alice's node", "bob's node", "the relay"].iter().zip(said) {
            teller.line(&format!("what {who} said:\n{said}"))?;
        }
    }
    outcome
}

/// What stands outside of both NATs: the zone, its file and its relay.
struct Outside {
    directory: PathBuf,
}

impl Outside {
    /// As `anode zone new` and `anode relay` do.
    fn start(world: &World, directory: &Directory) -> Result<(Self, Program), Error> {
        let zone = Self {
            directory: directory.path().join("zone"),
        };
        make::new_zone(
            &zone.directory,
            &make::Wanted {
                zone: ZONE,
                relays: &[RelayAt::from_str(&format!("{RELAY}:{RELAY_PORT}"))?],
                title: "demo",
                contact: "",
                ttl: Duration::from_secs(3600),
                hosts: &[],
                offers: Offers {
                    turn: &[],
                    trackers: &[],
                    dht: None,
                },
            },
        )?;
        let config = zone.directory.join("relay-0.toml");
        let failed = || Error::io(format!("cannot write {}", config.display()));
        let mut file = std::fs::File::options()
            .append(true)
            .open(&config)
            .map_err(failed())?;
        write!(file, "rate = {RELAY_RATE}\nrate-in-all = {RELAY_RATE}\n").map_err(failed())?;
        let mut relay = command(&world.internet, own_program()?)?;
        relay
            .args(["relay", "--die-with-parent", "-c"])
            .arg(&config);
        Ok((zone, Program::start(relay, "the relay")?))
    }

    fn file(&self) -> PathBuf {
        self.directory.join("zone")
    }

    fn started(&self) -> String {
        format!("the relay of zone {ZONE} on {RELAY}:{RELAY_PORT}, outside of both")
    }

    /// What the relay itself counted.
    async fn relayed(&self, parties: [&Party<'_>; 2]) -> Result<String, Error> {
        let state = self.directory.join("relay-0");
        let socket = StateDir::find(Some(&state))?.socket();
        let mut client = Client::connect(&[socket]).await?;
        let status: RelayStatus = client.get("/v1/relay").await?;
        let place = |party: &Party<'_>| {
            let address = party.address.to_string();
            let mut peers = status.peers.iter();
            let known = peers.find(|known| known.address == address);
            let known = known.ok_or_else(|| {
                Error::refused(format!("{} is not registered with the relay", party.name))
            })?;
            Ok::<_, Error>(format!("{} at {}", party.name, known.endpoint))
        };
        let [one, other] = [place(parties[0])?, place(parties[1])?];
        if status.relayed_packets == 0 {
            return Err(Error::refused("the relay passed on nothing"));
        }
        Ok(format!(
            "{} packets, {} went through the relay before that, which can read none of them: {one}, {other}",
            status.relayed_packets,
            bytes(status.relayed_bytes)
        ))
    }
}

async fn talk(
    teller: &mut Teller,
    directory: &Directory,
    alice: &Party<'_>,
    bob: &Party<'_>,
    since: Instant,
) -> Result<(), Error> {
    teller.step("meet", meet(alice, bob, since).await)?;
    teller.step("direct", go_direct(alice, bob, Instant::now()).await)?;
    teller.step("ping", overlay_ping(alice, bob).await)?;
    if let Some(result) = system_ping(alice, bob).await {
        teller.step("ping(8)", result)?;
    }
    let file = match File::make(directory.path()) {
        Ok(file) => file,
        Err(error) => return teller.step("http", Err(error)),
    };
    let mut server = serve(bob, &file)?;
    if let Err(error) = server.ready(START_LIMIT).await {
        return teller.step("http", Err(error));
    }
    teller.step("http", fetch(alice, bob, &file, directory.path()).await)?;
    teller.step("udp", echo(alice, bob).await)
}

fn introduce<'a>(
    name: &'static str,
    directory: &Directory,
    netns: &'a NetNs,
    zone: &Outside,
) -> Result<Party<'a>, Error> {
    let state = directory.path().join(name);
    let locked = StateDir::find(Some(&state))?.lock()?;
    let address = *identity::create(&locked, ZONE, false)?.address();
    Ok(Party {
        name,
        state,
        netns,
        address,
        zone_file: zone.file(),
    })
}

/// As `anode trust ADDRESS NAME` does.
fn befriend(one: &Party<'_>, other: &Party<'_>) -> Result<(), Error> {
    let locked = one.dir()?.lock()?;
    let mut book = Book::load(locked.dir())?;
    let name = other.name.parse()?;
    book.trust(other.address, Some(name))
        .map_err(Error::refused)?;
    book.save(&locked)
}

fn started(party: &Party<'_>, since: Instant) -> String {
    let address = short(&party.address.to_string());
    let spent = rtt(since.elapsed().as_secs_f64() * 1e3);
    format!(
        "{} is {address}, {}, ready after {spent}",
        party.name,
        party.ipv6()
    )
}

async fn ping_once(
    client: &mut Client,
    to: &Party<'_>,
    timeout: Duration,
) -> Result<PingAnswer, Error> {
    let request = PingRequest {
        target: to.address.to_string(),
        size: 56,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    client.post("/v1/ping", &request).await
}

async fn control(party: &Party<'_>) -> Result<Client, Error> {
    Client::connect(&[party.dir()?.socket()]).await
}

/// Until alice has reached bob through the relay, from nothing but the zone's file and bob's address.
async fn meet(alice: &Party<'_>, bob: &Party<'_>, since: Instant) -> Result<String, Error> {
    let mut client = control(alice).await?;
    while since.elapsed() < MEET_LIMIT {
        if let PingAnswer::Reply { path, via, .. } =
            ping_once(&mut client, bob, Duration::from_millis(250)).await?
        {
            let spent = since.elapsed().as_secs_f64();
            let way = path.as_str();
            return Ok(format!(
                "alice reached bob, {way} over {via}, first echo {spent:.2} s after the start"
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Error::refused(format!(
        "alice did not find bob within {MEET_LIMIT:?}"
    )))
}

/// Until the echoes no longer take the relay.
async fn go_direct(alice: &Party<'_>, bob: &Party<'_>, since: Instant) -> Result<String, Error> {
    let mut client = control(alice).await?;
    while since.elapsed() < DIRECT_LIMIT {
        if let PingAnswer::Reply {
            path: Kind::Direct,
            via,
            ..
        } = ping_once(&mut client, bob, Duration::from_secs(1)).await?
        {
            let spent = since.elapsed().as_secs_f64() * 1e3;
            return Ok(format!(
                "through both NATs to {via}, {} after the first echo",
                rtt(spent)
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Error::refused(format!(
        "still over the relay after {DIRECT_LIMIT:?}"
    )))
}

async fn overlay_ping(alice: &Party<'_>, bob: &Party<'_>) -> Result<String, Error> {
    const COUNT: usize = 10;
    let mut client = control(alice).await?;
    let mut times = Vec::new();
    let mut way = String::new();
    for _ in 0..COUNT {
        if let PingAnswer::Reply {
            rtt_ms, path, via, ..
        } = ping_once(&mut client, bob, Duration::from_secs(1)).await?
        {
            times.push(rtt_ms);
            way = format!("{} over {via}", path.as_str());
        }
    }
    if times.len() < COUNT {
        return Err(Error::refused(format!(
            "bob answered {} of {COUNT} echoes",
            times.len()
        )));
    }
    times.sort_by(f64::total_cmp);
    Ok(format!(
        "bob answered {COUNT} of {COUNT} echoes, median {}, {way}",
        rtt(times[COUNT / 2])
    ))
}

/// Whether there is such a program, and says so when asked for its version.
async fn installed(party: &Party<'_>, program: &str, flag: &str, word: &str) -> bool {
    let Ok(mut asked) = command(party.netns, program) else {
        return false;
    };
    asked.arg(flag);
    output(asked, program, START_LIMIT)
        .await
        .is_ok_and(|said| said.contains(word))
}

/// The machine's own ping, where there is one that we know the flags of.
async fn system_ping(alice: &Party<'_>, bob: &Party<'_>) -> Option<Result<String, Error>> {
    if !installed(alice, "ping", "-V", "iputils").await {
        return None;
    }
    Some(run_system_ping(alice, bob).await)
}

async fn run_system_ping(alice: &Party<'_>, bob: &Party<'_>) -> Result<String, Error> {
    let mut ping = command(alice.netns, "ping")?;
    ping.args(["-6", "-n", "-c", "4", "-i", "0.2", "-W", "2"])
        .arg(bob.ipv6().to_string());
    let said = output(ping, "ping", PROGRAM_LIMIT).await?;
    let summary = |word: &str| {
        said.lines()
            .find(|line| line.contains(word))
            .unwrap_or_default()
            .trim()
    };
    Ok(format!("{}; {}", summary("transmitted"), summary("rtt")))
}

/// A file that cannot be guessed or compressed, and its digest.
struct File {
    path: PathBuf,
    digest: [u8; 32],
}

impl File {
    fn make(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("file");
        let failed = || Error::io(format!("cannot make {}", path.display()));
        let mut content = vec![0; FILE_SIZE];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut content))
            .map_err(failed())?;
        let mut file = std::fs::File::create(&path).map_err(failed())?;
        file.write_all(&content).map_err(failed())?;
        Ok(Self {
            digest: Sha256::digest(&content).into(),
            path,
        })
    }
}

fn serve(bob: &Party<'_>, file: &File) -> Result<Program, Error> {
    let mut server = bob.anode()?;
    let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    server
        .args(["demo-tool", "--die-with-parent", "serve"])
        .arg(listen.to_string())
        .arg(&file.path);
    Program::start(server, "bob's server")
}

async fn fetch(
    alice: &Party<'_>,
    bob: &Party<'_>,
    file: &File,
    directory: &Path,
) -> Result<String, Error> {
    let target = directory.join("fetched");
    let server = SocketAddr::from((bob.ipv6(), PORT));
    let (program, client) = if installed(alice, "curl", "--version", "curl").await {
        let mut curl = command(alice.netns, "curl")?;
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--globoff",
            "--noproxy",
            "*",
            "--write-out",
            "%{time_total}",
        ]);
        curl.arg("--output")
            .arg(&target)
            .arg(format!("http://{server}/file"));
        ("curl", curl)
    } else {
        let mut own = alice.anode()?;
        own.args(["demo-tool", "fetch"])
            .arg(server.to_string())
            .arg(&target);
        ("a plain HTTP client", own)
    };
    let said = output(client, program, PROGRAM_LIMIT).await?;
    let seconds: f64 = said
        .trim()
        .parse()
        .map_err(|_| Error::refused(format!("{program} said {said:?}")))?;
    let content = std::fs::read(&target).map_err(Error::io("cannot read what was fetched"))?;
    let digest: [u8; 32] = Sha256::digest(&content).into();
    if digest != file.digest {
        return Err(Error::refused(format!(
            "{program} fetched {} bytes that are not bob's file",
            content.len()
        )));
    }
    let size = content.len() as u64;
    let rate = bit_rate(size, seconds);
    Ok(format!(
        "{program} fetched http://{server}/file, {} in {seconds:.2} s: {rate}, SHA-256 equal",
        bytes(size)
    ))
}

async fn echo(alice: &Party<'_>, bob: &Party<'_>) -> Result<String, Error> {
    let mut own = alice.anode()?;
    let server = SocketAddr::from((bob.ipv6(), PORT));
    own.args(["demo-tool", "echo"])
        .arg(server.to_string())
        .arg(DATAGRAMS.to_string());
    let said = output(own, "the UDP client", PROGRAM_LIMIT).await?;
    let seconds: f64 = said
        .trim()
        .parse()
        .map_err(|_| Error::refused(format!("the UDP client said {said:?}")))?;
    let rate = f64::from(DATAGRAMS) / seconds.max(1e-9);
    Ok(format!(
        "{DATAGRAMS} of {DATAGRAMS} datagrams came back from [{}]:{PORT} in {seconds:.2} s, {rate:.0} a second",
        bob.ipv6()
    ))
}
