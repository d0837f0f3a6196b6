//! SIP-REGISTRATION, GRUUs, and the bounded way from a URI to a route (R131, R132, R145).
//!
//! No SIP is parsed here: RELOAD stores and finds registrations, a local SIP stack does the rest.
use super::{Claim, Kind, forbid};
use crate::body::TunnelRequest;
use crate::codec::{self, Reader, Write};
use crate::{Code, DataModel, DataValue, Id, ReloadError, TypeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// URIs followed one after the other for one call (R145).
pub const MAX_RETARGETS: usize = 8;
/// Routes and URIs followed in all for one call (R145).
pub const MAX_BRANCHES: usize = 16;

/// Where a user is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SipRegistration {
    /// 1: look there instead.
    Uri(String),
    /// 2: a route to the user's device.
    Route {
        /// Caller preferences, not looked at.
        preferences: String,
        /// Ids to visit; the last one is the device.
        route: Vec<Id>,
    },
}

impl SipRegistration {
    /// Reads a value.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        const WHAT: &str = "a SIP registration";
        let mut r = Reader::new(bytes, WHAT);
        let registration = match r.u8()? {
            1 => Self::Uri(r.string()?),
            2 => Self::Route {
                preferences: r.string()?,
                route: codec::ids(r.vec16()?, WHAT)?,
            },
            tag => {
                return Err(ReloadError::Tag {
                    what: WHAT,
                    tag: tag.into(),
                });
            }
        };
        r.end()?;
        Ok(registration)
    }

    /// The value.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        match self {
            Self::Uri(uri) => {
                out.u8(1);
                out.bytes16("a URI", uri.as_bytes())?;
            }
            Self::Route { preferences, route } => {
                out.u8(2);
                out.bytes16("contact preferences", preferences.as_bytes())?;
                out.vec16("a route", |out| {
                    route.iter().for_each(|id| out.raw(&id.0));
                    Ok(())
                })?;
            }
        }
        Ok(out)
    }
}

/// A `sip:` URI with its host in lower case, parameters and headers cut off: the seed of a user's registrations (RD57).
pub fn canonical_uri(uri: &str) -> Option<String> {
    let rest = uri
        .get(..4)
        .filter(|scheme| scheme.eq_ignore_ascii_case("sip:"))
        .map(|_| &uri[4..])?;
    let end = rest.find([';', '?']).unwrap_or(rest.len());
    let (user, host) = rest[..end].rsplit_once('@')?;
    let good = !user.is_empty() && !host.is_empty() && !host.contains(char::is_whitespace);
    good.then(|| format!("sip:{user}@{}", host.to_ascii_lowercase()))
}

/// Where the registrations of a URI stand.
pub fn resource(uri: &str) -> Option<Id> {
    Some(Id::of_seed(canonical_uri(uri)?.as_bytes()))
}

/// Whether a URI is resolved in this overlay and not by RFC 3263 (R131).
pub fn is_in_overlay(uri: &str, overlay: &str) -> bool {
    let overlay = overlay.trim_end_matches('.').to_ascii_lowercase();
    canonical_uri(uri).is_some_and(|uri| {
        let host = uri.rsplit('@').next().unwrap_or_default();
        let host = host.trim_end_matches('.');
        host == overlay || host.ends_with(&format!(".{overlay}"))
    })
}

pub(super) fn kind() -> Kind {
    Kind {
        id: TypeId::SIP_REGISTRATION,
        name: "SIP-REGISTRATION".into(),
        model: DataModel::Dictionary,
        max_value: 10 * 1024,
        max_values: 10,
        max_lifetime: 24 * 3600,
        findable: false,
        permission: Arc::new(permit),
    }
}

fn permit(claim: &Claim<'_>) -> Result<(), ReloadError> {
    let DataValue::Dictionary { key, value } = &claim.data.value else {
        return Err(ReloadError::Forbidden("a registration has a key"));
    };
    let own_key =
        <[u8; 16]>::try_from(key.as_slice()).is_ok_and(|key| claim.signer.is_peer(Id(key)));
    forbid("the key is not a Peer-ID of the signer", own_key)?;
    let own_name = claim
        .signer
        .names
        .iter()
        .any(|name| resource(&format!("sip:{name}")) == Some(claim.resource));
    forbid("the signer has not the user name of this place", own_name)?;
    if !value.is_empty() {
        SipRegistration::parse(value)?;
    }
    Ok(())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The `gr` parameter of a GRUU: a route list in base64 with `~` for `=` (R132).
pub fn gruu(route: &[Id]) -> String {
    let bytes: Vec<u8> = route.iter().flat_map(|id| id.0).collect();
    base64(&bytes)
}

/// Base64 with `~` for padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .chain(&[0; 2])
            .take(3)
            .fold(0u32, |group, byte| group << 8 | u32::from(*byte));
        for place in 0..4 {
            text.push(match place <= chunk.len() {
                true => ALPHABET[(group >> (18 - 6 * place) & 63) as usize].into(),
                false => '~',
            });
        }
    }
    text
}

/// The route list of a `gr` parameter.
pub fn parse_gruu(text: &str) -> Result<Vec<Id>, ReloadError> {
    if text.len() > 4096 {
        return Err(ReloadError::TooLong {
            what: "a GRUU",
            len: text.len(),
            limit: 4096,
        });
    }
    codec::ids(&from_base64(text)?, "a GRUU")
}

/// The application number of SIP, over CONNECT and TUNNEL (R133, R134).
pub const APPLICATION: u16 = 5060;

/// Whether a dialog of so many messages to come belongs on a connection of its own (R134): a CONNECT costs four messages
/// and the checks, a TUNNEL two for each.
pub fn wants_connect(messages: usize) -> bool {
    messages > 4
}

/// A SIP message on its way through the overlay, for a dialog that is soon over. What R63 asks of a usage:
///
/// - its application is [`APPLICATION`];
/// - a message is tunnelled while a dialog is short, or its CONNECT not done ([`wants_connect`]);
/// - then [`Node::connect`](crate::Node::connect) with the same application and the same route takes over, and SIP's own dialog goes on there;
/// - messages belong together by the destination's GRUU, which is the dialog's name here, and within it by SIP's Call-ID;
/// - it is for the instance that the last id of that GRUU names, an anonymous one included.
pub fn tunnel(route: &[Id], message: &[u8]) -> TunnelRequest {
    TunnelRequest {
        application: APPLICATION,
        dialog: gruu(route),
        pdu: message.to_vec(),
    }
}

/// For which instance a tunnelled message is: the last id of its GRUU.
///
/// # Errors
/// It is of another application, or its dialog is no GRUU.
pub fn destination(tunnel: &TunnelRequest) -> Result<Id, ReloadError> {
    let none = ReloadError::Refused(Code::NOT_FOUND);
    if tunnel.application != APPLICATION {
        return Err(none);
    }
    parse_gruu(&tunnel.dialog)?.last().copied().ok_or(none)
}

/// Bytes of base64 with `~` for padding.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, ReloadError> {
    let wrong = |why| ReloadError::Invalid {
        what: "base64",
        why,
    };
    if !text.len().is_multiple_of(4) || text.is_empty() {
        return Err(wrong("its length is not a multiple of four"));
    }
    let digits = text.trim_end_matches('~');
    if text.len() - digits.len() > 2 {
        return Err(wrong("it has too much padding"));
    }
    let (mut bytes, mut bits, mut have) = (Vec::new(), 0u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET
            .iter()
            .position(|letter| *letter == digit)
            .ok_or_else(|| wrong("it holds a character that does not belong to it"))?;
        bits = bits << 6 | value as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    match bits {
        0 => Ok(bytes),
        _ => Err(wrong("its last bits are not zero")),
    }
}

/// Follows registrations from one URI, and stops before they explode (R145): at most [`MAX_RETARGETS`] URIs deep and
/// [`MAX_BRANCHES`] steps in all, no URI twice.
#[derive(Debug)]
pub struct Resolver {
    overlay: String,
    /// URIs to look up, with their depth.
    pending: Vec<(String, usize)>,
    seen: BTreeSet<String>,
    branches: usize,
    /// Routes found, in the order found.
    pub routes: Vec<Vec<Id>>,
    /// URIs of other domains: RFC 3263 has to look for them.
    pub foreign: Vec<String>,
    /// Branches that were not followed.
    pub cut: u64,
}

impl Resolver {
    /// Starts at a URI.
    pub fn new(overlay: &str, uri: &str) -> Self {
        let mut resolver = Self {
            overlay: overlay.to_owned(),
            pending: Vec::new(),
            seen: BTreeSet::new(),
            branches: 0,
            routes: Vec::new(),
            foreign: Vec::new(),
            cut: 0,
        };
        resolver.add(uri, 0);
        resolver
    }

    fn add(&mut self, uri: &str, depth: usize) {
        let Some(canonical) = canonical_uri(uri) else {
            self.cut += 1;
            return;
        };
        if !self.seen.insert(canonical.clone()) {
            return;
        }
        match is_in_overlay(&canonical, &self.overlay) {
            true => self.pending.push((canonical, depth)),
            false => self.foreign.push(canonical),
        }
    }

    /// The next resource to fetch; hand what it holds to [`Resolver::found`] with the same depth.
    pub fn next_fetch(&mut self) -> Option<(Id, usize)> {
        let (uri, depth) = self.pending.pop()?;
        Some((resource(&uri)?, depth))
    }

    /// Takes the verified registrations of a resource.
    pub fn found(
        &mut self,
        depth: usize,
        registrations: impl IntoIterator<Item = SipRegistration>,
    ) {
        for registration in registrations {
            if self.branches == MAX_BRANCHES {
                self.cut += 1;
                continue;
            }
            self.branches += 1;
            match registration {
                SipRegistration::Route { route, .. } => self.routes.push(route),
                SipRegistration::Uri(_) if depth == MAX_RETARGETS => self.cut += 1,
                SipRegistration::Uri(uri) => self.add(&uri, depth + 1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoredData;
    use crate::security::Signer;
    use crate::vectors::{bytes, vector};

    // R131, RD2, RD4
    #[test]
    fn registrations_are_those_of_the_vectors() {
        let uri = SipRegistration::Uri("sip:bob@example.com".into());
        assert_eq!(uri.emit().unwrap(), bytes("sip_registration-uri"));
        let route = SipRegistration::Route {
            preferences: String::new(),
            route: vec![Id([0x22; 16]), Id([0x11; 16])],
        };
        assert_eq!(route.emit().unwrap(), bytes("sip_registration-route"));
        for registration in [uri, route] {
            let bytes = registration.emit().unwrap();
            assert_eq!(SipRegistration::parse(&bytes).unwrap(), registration);
            for len in 0..bytes.len() {
                assert!(SipRegistration::parse(&bytes[..len]).is_err());
            }
        }
    }

    // R132
    #[test]
    fn gruus_are_those_of_the_vectors() {
        let text = vector("gruu-gr-value")["hex"].as_str().unwrap();
        assert_eq!(gruu(&[Id([0x11; 16])]), text);
        assert_eq!(parse_gruu(text).unwrap(), [Id([0x11; 16])]);
        let long: Vec<Id> = (0..9).map(|n| Id([n; 16])).collect();
        assert_eq!(parse_gruu(&gruu(&long)).unwrap(), long);
        // RD5: the example of the draft has 20 bytes
        for wrong in [
            "MDEyMzQ1Njc4OTAxMjM0NTY3ODk~",
            "",
            "EREREREREREREREREREREQ==",
            "EREREREREREREREREREREQ~",
            "EREREREREREREREREREREf~~",
            "~~~~",
        ] {
            assert!(parse_gruu(wrong).is_err(), "{wrong}");
        }
    }

    // R131, RD57
    #[test]
    fn uris_have_one_form() {
        assert_eq!(
            resource("SIP:alice@EXAMPLE.com;transport=tcp?x=y"),
            Some(Id::of_seed(b"sip:alice@example.com"))
        );
        assert_ne!(
            resource("sip:Alice@example.com"),
            resource("sip:alice@example.com")
        );
        for wrong in [
            "",
            "sip:",
            "sip:example.com",
            "sip:@x",
            "tel:+1@x",
            "sïp:a@b",
        ] {
            assert_eq!(resource(wrong), None, "{wrong}");
        }
        assert!(is_in_overlay("sip:a@dht.example.com", "example.com"));
        assert!(is_in_overlay("sip:a@example.com", "Example.com."));
        assert!(!is_in_overlay("sip:a@badexample.com", "example.com"));
    }

    // R131, R139
    #[test]
    fn a_registration_needs_the_user_name_and_the_peer_id() {
        let peer = Id([5; 16]);
        let signer = Signer::new(vec![peer], vec!["alice@Example.com".into()], None);
        let place = resource("sip:alice@example.com").unwrap();
        let check = |resource, key: &[u8], value: &[u8]| {
            permit(&Claim {
                resource,
                data: &StoredData::missing(DataValue::Dictionary {
                    key: key.to_vec(),
                    value: value.to_vec(),
                }),
                signer: &signer,
            })
            .is_ok()
        };
        let value = bytes("sip_registration-uri");
        assert!(check(place, &peer.0, &value));
        assert!(check(place, &peer.0, &[]));
        assert!(!check(place, &[6; 16], &value));
        assert!(!check(place, &peer.0[..15], &value));
        assert!(!check(Id([1; 16]), &peer.0, &value));
        assert!(!check(place, &peer.0, &value[1..]));
    }

    // R145: every user forwards to two others
    #[test]
    fn a_fork_explosion_ends() {
        let mut resolver = Resolver::new("x.net", "sip:0@x.net");
        let (mut fetches, mut fresh) = (0, 0);
        while let Some((_, depth)) = resolver.next_fetch() {
            fetches += 1;
            let two = [0, 1].map(|_| {
                fresh += 1;
                SipRegistration::Uri(format!("sip:{fresh}@x.net"))
            });
            resolver.found(depth, two);
        }
        assert!(fetches <= MAX_BRANCHES + 1);
        assert!(resolver.cut > 0);
    }

    // R145: a line of forwards, and a circle
    #[test]
    fn retargets_end_after_eight_and_circles_at_once() {
        let mut resolver = Resolver::new("x.net", "sip:0@x.net");
        let mut deepest = 0;
        while let Some((_, depth)) = resolver.next_fetch() {
            deepest = depth;
            let next = format!("sip:{}@x.net", depth + 1);
            resolver.found(depth, [SipRegistration::Uri(next)]);
        }
        assert_eq!((deepest, resolver.cut), (MAX_RETARGETS, 1));

        let mut circle = Resolver::new("x.net", "sip:a@x.net");
        let (_, depth) = circle.next_fetch().unwrap();
        let route = SipRegistration::Route {
            preferences: String::new(),
            route: vec![Id([1; 16])],
        };
        let registrations = [
            SipRegistration::Uri("sip:a@X.net".into()),
            SipRegistration::Uri("sip:b@other.net".into()),
            route,
        ];
        circle.found(depth, registrations);
        assert_eq!(circle.next_fetch(), None);
        assert_eq!(circle.routes, [vec![Id([1; 16])]]);
        assert_eq!(circle.foreign, ["sip:b@other.net"]);
    }
}
