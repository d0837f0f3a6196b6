//! Targets for `anode-reload`: nothing may panic, what is accepted can be written again, and a node's tables keep their bounds
//! whatever its neighbours say.
use anode_reload::body::{
    ChordUpdate, ConnectBody, FetchResponse, FindRequest, FindResult, Generation, Membership,
    Packed, PingRequest, PingResponse, References, StoreRequest, TunnelRequest,
};
use anode_reload::contents::{Contents, ErrorBody};
use anode_reload::header::framed_len;
use anode_reload::route_log::LogTransport;
use anode_reload::security::{Certificate, SigningRequest};
use anode_reload::storage::Limits;
use anode_reload::usage::Kinds;
use anode_reload::usage::anode::{AnodeRecord, parse_key};
use anode_reload::usage::sip::{SipRegistration, gruu, parse_gruu, resource};
use anode_reload::usage::turn::TurnServer;
use anode_reload::{
    Chord, Header, Id, LinkId, LinkInfo, Node, NodeConfig, Now, SharedKey, chord, config,
};
use std::convert::Infallible;
use std::time::Duration;

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 3] = [("parsers", parsers), ("document", document), ("node", node)];

/// Bytes read as each thing that a message may hold.
pub fn parsers(bytes: &[u8]) {
    let kinds = Kinds::standard();
    let model = |kind| kinds.model(kind);
    let _ = framed_len(bytes, 65_535);
    if let Ok((header, contents)) = Header::parse(bytes)
        && header.log.is_none()
    {
        let again = header.emit(contents).expect("it was read");
        assert_eq!(Header::parse(&again).expect("it was written").0, header);
    }
    let _ = Contents::parse(bytes);
    macro_rules! round_trip {
        ($($parse:expr => $emit:expr;)*) => {
            $(if let Ok(body) = $parse {
                assert_eq!($emit(&body), bytes, "{}", stringify!($parse));
            })*
        };
    }
    round_trip! {
        ErrorBody::parse(bytes) => |it: &ErrorBody| it.emit().expect("it was read");
        PingRequest::parse(bytes) => |it: &PingRequest| it.emit().expect("it was read");
        TunnelRequest::parse(bytes) => |it: &TunnelRequest| it.emit().expect("it was read");
        ConnectBody::parse(bytes) => |it: &ConnectBody| it.emit().expect("it was read");
        Membership::parse(bytes) => Membership::emit;
        ChordUpdate::parse(bytes) => |it: &ChordUpdate| it.emit().expect("it was read");
        StoreRequest::parse(bytes, model) => |it: &StoreRequest| it.emit().expect("it was read");
        References::parse(bytes, model) => |it: &References| it.emit().expect("it was read");
        FindRequest::parse(bytes) => |it: &FindRequest| it.emit().expect("it was read");
        FindResult::parse_list(bytes) => |it: &Vec<FindResult>| FindResult::emit_list(it);
        Generation::parse_list(bytes) => |it: &Vec<Generation>| Generation::emit_list(it);
        FetchResponse::parse_list(bytes, model) => |it: &Vec<FetchResponse>| FetchResponse::emit_list(it).expect("it was read");
        TurnServer::parse(bytes) => TurnServer::emit;
        SipRegistration::parse(bytes) => |it: &SipRegistration| it.emit().expect("it was read");
    }
    let _ = PingResponse::parse(bytes);
    let _ = AnodeRecord::parse(bytes);
    let _ = parse_key(bytes);
    let _ = Certificate::from_der(bytes);
    let _ = SigningRequest::from_der(bytes);
}

/// Text as an overlay's document, as the answer of a server that says where one is, and as names of users.
pub fn document(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(overlays) = config::parse(&text) {
        assert!(!overlays.is_empty());
    }
    let _ = config::discovery(&text);
    let _ = resource(&text);
    if let Ok(route) = parse_gruu(&text) {
        assert_eq!(gruu(&route), text);
    }
}

/// The overlay of [`node`].
pub const OVERLAY: &str = "x.net";
/// The node of [`node`], a routable neighbour on link 1, and somebody who is no part of the ring on link 2.
pub const PLACES: [Id; 3] = [Id([0x50; 16]), Id([0x90; 16]), Id([0x20; 16])];
/// Seconds since 1970 when [`node`] begins.
pub const UNIX: u64 = 1_700_000_000;

const LIMITS: Limits = Limits {
    bytes: 20_000,
    group_bytes: 10_000,
    values: 50,
    removals: 20,
};

/// Numbers that are not random.
struct Counter(u64);

impl rand_core::TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| number as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = (self.try_next_u64()? >> 56) as u8;
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counter {}

/// What a node hears: again and again a link (1), tenths of seconds before (1), a length (2) and a message of that length, whose
/// own length field is set right, for what has a wrong one goes no further.
pub fn node(mut talk: &[u8]) {
    let [own, neighbour, other] = PLACES;
    let mut config = NodeConfig::new(OVERLAY);
    config.storage = LIMITS;
    config.tunnels.insert(5060);
    let topology = Chord::new(own, chord::Config::default(), 1);
    let mut node = Node::new(
        config,
        Box::new(SharedKey::new(own)),
        Box::new(topology),
        Box::new(Counter(1)),
    );
    let mut tenths = 0;
    let now = |tenths: u64| Now {
        at: Duration::from_millis(100 * tenths),
        unix: UNIX + tenths / 10,
    };
    node.create(now(0));
    for (link, peer) in [(1, neighbour), (2, other)] {
        let info = LinkInfo {
            peer,
            mtu: Some(1120),
            transport: LogTransport::Sealed,
            group: link,
        };
        node.link_up(now(0), LinkId(link), info);
    }
    let mut heard = 0;
    while let [link, later, high, low, rest @ ..] = talk {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, left) = rest.split_at(length);
        let mut message = message.to_vec();
        let announced = (length as u32).to_be_bytes();
        if let Some(place) = message.get_mut(13..16) {
            place.copy_from_slice(&announced[1..]);
        }
        talk = left;
        tenths += u64::from(*later);
        heard += 1;
        node.handle_timeout(now(tenths));
        node.handle(now(tenths), LinkId(1 + u64::from(link % 2)), &message);
        let mut sent = 0;
        while let Some(transmit) = node.poll_transmit() {
            let (header, _) = Header::parse(&transmit.bytes).expect("a node sends no garbage");
            assert!(header.ttl <= anode_reload::header::MAX_TTL);
            sent += 1;
        }
        assert!(sent < 300, "{sent} messages for one");
        while node.poll_event().is_some() {}
        assert!(node.storage().bytes() <= LIMITS.bytes && node.storage().values() <= LIMITS.values);
        assert!(node.pending_requests() <= 4096);
        assert!(node.links().count() <= 2);
        if heard == 200 {
            return;
        }
    }
}
