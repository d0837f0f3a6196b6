//! Requests written by hand and signed, one at a time: what our own client never asks.

use super::*;
use anode_tests::traffic;
use anode_turn::stun::text::Text;
use anode_turn::stun::{Class, Key, KeyDigest, Mac, Message, Writer, attr, method};
use std::net::UdpSocket;

/// The realm of a server that is given none.
const REALM: &str = "anode";

struct Probe {
    socket: UdpSocket,
    name: String,
    nonce: String,
    asked: u8,
}

struct Answer(Vec<u8>);

impl Answer {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("STUN")
    }

    /// 0 is success.
    fn code(&self) -> u16 {
        self.message().error_code().map_or(0, |(code, _)| code)
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        let all = self.message().xor_addresses(attr::XOR_RELAYED_ADDRESS);
        let all: Result<_, _> = all.collect();
        all.expect("addresses")
    }
}

impl Probe {
    fn new(host: &Host, server: SocketAddr) -> Self {
        let socket = traffic::udp(host, SocketAddr::new(host.ip_address(), 0));
        socket.connect(server).expect("a way there");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut probe = Self {
            socket,
            name: "alice".into(),
            nonce: String::new(),
            asked: 0,
        };
        let challenge = probe.send(|w| w, method::ALLOCATE);
        assert_eq!(challenge.code(), 401);
        probe.take_nonce(&challenge);
        probe
    }

    /// With an allocation, and the answer to that.
    fn allocated(
        host: &Host,
        server: SocketAddr,
        more: impl Fn(Writer) -> Writer,
    ) -> (Self, Answer) {
        let mut probe = Self::new(host, server);
        let answer = probe.ask(method::ALLOCATE, |w| {
            more(w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]))
        });
        assert_eq!(answer.code(), 0);
        (probe, answer)
    }

    fn take_nonce(&mut self, answer: &Answer) {
        let nonce = answer.message().text(Text::Nonce).expect("a text");
        self.nonce = nonce.expect("a nonce").to_owned();
    }

    fn send(&mut self, build: impl FnOnce(Writer) -> Writer, method: u16) -> Answer {
        self.asked += 1;
        let request = build(Writer::new(Class::Request, method, [self.asked; 12]));
        self.socket.send(&request.finish()).expect("sent");
        Answer(self.receive())
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).expect("an answer");
        buffer[..length].to_vec()
    }

    /// Asks with name, nonce and signature.
    fn ask(&mut self, method: u16, build: impl Fn(Writer) -> Writer) -> Answer {
        let (name, nonce) = (self.name.clone(), self.nonce.clone());
        let key = Key::long_term(KeyDigest::Md5, &name, REALM, "secret").expect("a key");
        let signed = |writer| {
            build(writer)
                .raw(attr::USERNAME, name.as_bytes())
                .raw(attr::REALM, REALM.as_bytes())
                .raw(attr::NONCE, nonce.as_bytes())
                .sign(&key, Mac::Sha1)
        };
        self.send(signed, method)
    }

    fn bind(&mut self, number: u16, peer: SocketAddr) -> u16 {
        let [high, low] = number.to_be_bytes();
        let answer = self.ask(method::CHANNEL_BIND, |w| {
            w.raw(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, peer)
        });
        answer.code()
    }

    fn refresh(&mut self) -> Answer {
        self.ask(method::REFRESH, |w| w.number(attr::LIFETIME, 600))
    }
}

// T16: channels that only RFC 5766 knows carry data both ways, until the file says that they do not
#[test]
fn old_channels_are_taken_as_the_file_says() {
    const OLD: u16 = 0x6789;
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let (_echo, echo) = ground.echo();
    let mut server = ground.serve("");
    let allocated = || Probe::allocated(&ground.client, ground.own(), |w| w).0;
    let mut probe = allocated();
    assert_eq!(probe.bind(OLD, echo), 0);
    let data = [&OLD.to_be_bytes()[..], &[0, 5], b"hello"].concat();
    probe.socket.send(&data).expect("sent");
    assert_eq!(probe.receive(), data);
    assert_eq!(probe.bind(0x8000, echo), 400);

    server.reread("old-channels = false");
    let mut probe = allocated();
    for (number, code) in [(OLD, 400), (0x5000, 400), (0x4FFF, 0)] {
        assert_eq!(probe.bind(number, echo), code, "{number:#x}");
    }
}

// T2: a port of both families at once, asked for by the RFC's number and by that of its draft
#[test]
fn two_families_are_given_by_either_number() {
    let Some(ground) = Ground::open(Family::Both) else {
        return;
    };
    let (v4, v6) = (ground.at.v4(), ground.at.v6());
    let _server = ground.serve(&format!("relay = [\"{v4}\", \"{v6}\"]"));
    for number in [
        attr::ADDITIONAL_ADDRESS_FAMILY,
        attr::ADDITIONAL_ADDRESS_FAMILY_DRAFT,
    ] {
        let both = |w: Writer| w.raw(number, &[2, 0, 0, 0]);
        let (_probe, answer) = Probe::allocated(&ground.client, ground.own(), both);
        let relayed: Vec<IpAddr> = answer.relayed().iter().map(SocketAddr::ip).collect();
        assert_eq!(relayed, [IpAddr::from(v4), v6.into()], "{number:#x}");
    }
    let (_probe, answer) = Probe::allocated(&ground.client, ground.own(), |w| w);
    assert_eq!(answer.relayed().len(), 1);
}

// T2: the port above an even one is kept for whoever shows the token
#[test]
fn a_reserved_port_goes_to_who_has_the_token() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let _server = ground.serve("");
    let even = |w: Writer| w.raw(attr::EVEN_PORT, &[0x80]);
    let (_first, answer) = Probe::allocated(&ground.client, ground.own(), even);
    let below = answer.relayed()[0];
    assert_eq!(below.port() % 2, 0);
    let message = answer.message();
    let token = message.raw(attr::RESERVATION_TOKEN).expect("a token");
    let with_token = |w: Writer| w.raw(attr::RESERVATION_TOKEN, token);
    let (_second, answer) = Probe::allocated(&ground.client, ground.own(), with_token);
    let above = SocketAddr::new(below.ip(), below.port() + 1);
    assert_eq!(answer.relayed(), [above]);
}

// S33, S34: nobody touches another one's allocation, with whatever he has seen of it
#[test]
fn allocations_of_others_are_out_of_reach() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let own = ground.own();
    let head = format!(
        "[turn]\nlisten = [\"{own}\"]\nusers = {{ alice = \"secret\", bob = \"secret\" }}\n"
    );
    let _server = ground.serve_with(head, "");
    let (mut alice, _) = Probe::allocated(&ground.client, own, |w| w);
    let mut elsewhere = Probe::new(&ground.client, own);
    assert_eq!(elsewhere.refresh().code(), 437, "her name, another port");
    elsewhere.nonce.clone_from(&alice.nonce);
    assert_eq!(elsewhere.refresh().code(), 438, "her nonce");
    alice.name = "bob".into();
    assert_eq!(alice.refresh().code(), 441, "her port, another name");
    alice.name = "alice".into();
    assert_eq!(alice.refresh().code(), 0);
}

// T24: a nonce ends with its time, and a fresh one comes with the refusal
#[test]
fn a_nonce_is_good_as_long_as_the_file_says() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let _server = ground.serve("nonce-ttl-s = 1");
    let (mut probe, _) = Probe::allocated(&ground.client, ground.own(), |w| w);
    std::thread::sleep(Duration::from_millis(2500));
    let stale = probe.refresh();
    assert_eq!(stale.code(), 438);
    probe.take_nonce(&stale);
    assert_eq!(probe.refresh().code(), 0);
}
