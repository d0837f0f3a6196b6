//! Targets for `anode-wire`: nothing may panic, and what is accepted must survive being written and read again.
use anode_wire::framing::{self, FrameDecoder};
use anode_wire::packet::{MIN_PACKET, Packet, raise_hop_count};
use anode_wire::throttle::{Complaint, ErrorThrottle};
use anode_wire::zonefile::{
    Fault, FaultKind, MAX_FAULTS, MAX_LEN, Reach, Report, ZoneFile, ZoneSigner,
};
use anode_wire::{Address, Endpoint, Identity, MacKey, Message, PeerId, WireError, Zone};
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Instant;

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("packet", packet),
    ("message", message),
    ("endpoint", endpoint),
    ("zonefile", zonefile),
    ("address_text", address_text),
    ("identity_string", identity_string),
    ("framing", framing),
];

struct Fixture {
    address: Address,
    key: MacKey,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let identity =
            Identity::from_scalar(Zone::LOCAL, &[7; 32]).expect("a small scalar is in range");
        let address = *identity.address();
        Fixture {
            address,
            key: identity.agree(&address),
        }
    })
}

/// A packet as it comes from a socket.
pub fn packet(data: &[u8]) {
    let Ok(packet) = Packet::new_checked(data) else {
        return;
    };
    let header = packet.header();
    let mut again = vec![0; header.len()];
    header.emit(&mut again);
    again.extend_from_slice(packet.body());
    assert_eq!(again.len(), data.len());
    let reread = Packet::new_checked(&again).expect("a written packet can be read");
    assert_eq!(reread.header(), header);

    let Fixture { address, key } = fixture();
    key.sign(&mut again);
    assert!(key.verify(&again));
    if let Some(count) = raise_hop_count(&mut again, u8::MAX) {
        assert!(count > header.hop_count && key.verify(&again));
    }
    let _ = Message::parse(packet.kind(), packet.body());

    let mut throttle = ErrorThrottle::new(NonZeroU32::MIN, NonZeroU32::MIN);
    let mut error = Vec::new();
    let complaint = Complaint::InvalidMessage(key);
    if throttle.reply(
        Instant::now(),
        address,
        PeerId::ANY,
        &packet,
        complaint,
        &mut error,
    ) {
        assert!(error.len() <= data.len() && key.verify(&error));
    }
}

/// The type in the first byte, the body in the rest.
pub fn message(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let Ok(message) = Message::parse(*kind, body) else {
        return;
    };
    assert_eq!(message.kind(), *kind);
    let mut again = Vec::new();
    message.emit(&mut again);
    assert_eq!(again.len(), message.body_len());
    assert_eq!(Message::parse(*kind, &again), Ok(message));
}

/// An endpoint in a message, and the same bytes as text.
pub fn endpoint(data: &[u8]) {
    if let Ok((endpoint, rest)) = Endpoint::parse(data) {
        let mut again = Vec::new();
        endpoint.emit(&mut again);
        assert_eq!(again.len(), endpoint.wire_len());
        assert_eq!([&again, rest].concat(), data);
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
    if let Some(Ok(endpoint)) = std::str::from_utf8(data).ok().map(str::parse::<Endpoint>) {
        let mut wire = Vec::new();
        endpoint.emit(&mut wire);
        assert!(Endpoint::parse(&wire).is_ok());
    }
}

/// A zone file as it comes from a web server.
pub fn zonefile(data: &[u8]) {
    let report = ZoneFile::check(data);
    assert!(report.faults.len() <= MAX_FAULTS);
    assert_eq!(
        report.zone.is_none(),
        report.faults.first().is_some_and(Fault::is_fatal)
    );
    for fault in &report.faults {
        assert!(!fault.to_string().is_empty());
    }
    let Some(zone) = report.zone else { return };
    let text = zone.emit();
    // escaping can push a file that is nearly too large over the limit
    let Report {
        zone: Some(again), ..
    } = ZoneFile::check(&text)
    else {
        assert!(text.len() > MAX_LEN);
        return;
    };
    assert!(zone.relays().eq(again.relays()));
    assert_eq!(
        (zone.revision(), zone.ttl(), zone.name()),
        (again.revision(), again.ttl(), again.name())
    );
    assert_eq!(text, again.emit());
    assert_eq!(
        (zone.zone(), zone.signer(), zone.members()),
        (again.zone(), again.signer(), again.members())
    );
    let _ = zone.relays_for(&fixture().address).count();
    for reach in [Reach::Public, Reach::Private, Reach::Local] {
        let refused = zone.clone().restrict(reach).len();
        assert!(refused <= zone.relays().count());
    }
    sign_anew(data);
}

/// What is signed verifies, whatever else stands in the file; what would be ambiguous is refused and never called forged.
fn sign_anew(data: &[u8]) {
    static SIGNER: OnceLock<ZoneSigner> = OnceLock::new();
    let signer = SIGNER.get_or_init(|| {
        ZoneSigner::from_text(concat!(
            "ANODE-ZONE-KEY:036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296:",
            "0000000000000000000000000000000000000000000000000000000000000001"
        ))
        .expect("a zone key")
    });
    let signed = ZoneFile::resign(data, Zone(0x2a), 7, signer);
    let report = ZoneFile::check(&signed);
    match report.zone {
        Some(zone) => assert_eq!(
            (zone.zone(), zone.revision(), zone.signer()),
            (Some(Zone(0x2a)), 7, Some(signer.public()))
        ),
        None => assert!(
            report
                .faults
                .iter()
                .all(|fault| fault.kind != FaultKind::Forged),
            "{:?}",
            report.faults
        ),
    }
}

/// An address that somebody typed, or 40 bytes of a packet, or a TXT record.
pub fn address_text(data: &[u8]) {
    let _ = Address::from_txt(&[data]);
    if let Ok(address) = Address::from_bytes(data) {
        assert_eq!(address.as_bytes().as_slice(), data);
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = text.parse::<Zone>();
    match text.parse::<Address>() {
        Ok(address) => assert_eq!(address.to_string(), text.to_ascii_lowercase()),
        Err(WireError::NotBase32 { character, place }) => {
            assert_eq!(text.chars().nth(place - 1), Some(character))
        }
        Err(_) => {}
    }
}

/// The content of a key file.
pub fn identity_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(identity) = Identity::from_identity_string(text) {
        assert!(identity.identity_string().eq_ignore_ascii_case(text));
    }
}

/// A TCP stream that arrives in pieces; the first byte says how large they are.
pub fn framing(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    let whole = decode(stream, stream.len().max(1));
    assert_eq!(whole, decode(stream, usize::from(*piece).max(1)));
    for packet in whole.unwrap_or_default() {
        assert!(packet.len() >= MIN_PACKET);
        assert!(framing::prefix(&packet).is_ok());
    }
}

fn decode(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, WireError> {
    let mut decoder = FrameDecoder::new();
    let mut packets = Vec::new();
    for mut piece in stream.chunks(piece) {
        while let Some(packet) = decoder.next_packet(&mut piece)? {
            packets.push(packet.to_vec());
        }
    }
    Ok(packets)
}
