//! Peer certificates: reading, checking, asking for them and issuing them (R126, R127, RD59, RD62). Pure functions of
//! bytes, time and randomness.
use crate::{Id, ReloadError};
use anode_wire::{Address, Zone};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{GeneralizedTime, Ia5String, UtcTime};
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{DateTime, Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, ExtensionReq, RequestBuilder};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

/// Bytes of a certificate that are looked at. Ours have 400; the CERTIFICATE type stores 1 K (R137).
pub const MAX_CERTIFICATE: usize = 4096;
/// Peer-IDs or names in one certificate.
const MAX_NAMES: usize = 16;
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

/// A certificate with a P-256 key, read once.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    key: VerifyingKey,
    spki: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    valid: (u64, u64),
    peers: Vec<PeerName>,
    ids: Vec<Id>,
    names: Vec<String>,
}

/// A Peer-ID in a certificate: `reload://0110<32 hex>@<overlay>/`, perhaps with `;peer=N` (RD62).
#[derive(Clone, PartialEq, Eq, Debug)]
struct PeerName {
    id: Id,
    overlay: String,
    digit: u8,
}

/// The URI that holds a Peer-ID in a certificate (RD62).
pub fn peer_uri(peer: Id, overlay: &str, digit: u8) -> String {
    match digit {
        0 => format!("reload://0110{peer}@{overlay}/"),
        digit => format!("reload://0110{peer}@{overlay}/;peer={digit}"),
    }
}

impl PeerName {
    fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("reload://0110")?;
        let (hex, rest) = rest.split_once('@')?;
        let (overlay, rest) = rest.split_once('/')?;
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digit = match rest {
            "" => 0,
            rest => rest.strip_prefix(";peer=")?.parse().ok()?,
        };
        let id = Id::from_number(u128::from_str_radix(hex, 16).ok()?);
        (digit < 16 && id.is_valid_peer()).then(|| Self {
            id,
            overlay: overlay.to_ascii_lowercase(),
            digit,
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("peers", &self.peers)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

pub(super) fn wrong(what: &str, error: impl fmt::Display) -> ReloadError {
    ReloadError::Certificate(format!("{what}: {error}"))
}

impl Certificate {
    /// Reads a DER certificate with a P-256 key. Checks its form, not whether to believe it.
    pub fn from_der(der: &[u8]) -> Result<Self, ReloadError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(ReloadError::TooLong {
                what: "a certificate",
                len: der.len(),
                limit: MAX_CERTIFICATE,
            });
        }
        let parsed =
            x509_cert::Certificate::from_der(der).map_err(|e| wrong("it cannot be read", e))?;
        let tbs = parsed.tbs_certificate();
        let encode = |e| wrong("it cannot be written again", e);
        let spki = tbs.subject_public_key_info().to_der().map_err(encode)?;
        let key = VerifyingKey::from_public_key_der(&spki)
            .map_err(|e| wrong("its key is not for P-256", e))?;
        let (mut peers, mut names) = (Vec::new(), Vec::new());
        let alternative = tbs
            .get_extension::<SubjectAltName>()
            .map_err(|e| wrong("its alternative names", e))?;
        for name in alternative.map_or(Vec::new(), |(_, names)| names.0) {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => {
                    peers.extend(PeerName::parse(uri.as_str()));
                }
                GeneralName::Rfc822Name(name) => names.push(name.as_str().to_owned()),
                _ => {}
            }
        }
        if peers.len() > MAX_NAMES || names.len() > MAX_NAMES {
            return Err(ReloadError::Certificate("it holds too many names".into()));
        }
        let signature = match parsed.signature_algorithm().oid == ECDSA_SHA256 {
            true => parsed.signature().raw_bytes().to_vec(),
            // RSA roots may be read; what they sign is not believed
            false => Vec::new(),
        };
        let validity = tbs.validity();
        Ok(Self {
            der: der.to_vec(),
            signed: tbs.to_der().map_err(encode)?,
            signature,
            key,
            spki,
            issuer: tbs.issuer().to_der().map_err(encode)?,
            subject: tbs.subject().to_der().map_err(encode)?,
            valid: (
                validity.not_before.to_unix_duration().as_secs(),
                validity.not_after.to_unix_duration().as_secs(),
            ),
            ids: peers.iter().map(|peer| peer.id).collect(),
            peers,
            names,
        })
    }

    /// Its DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The Anode address that this key makes in a zone.
    pub fn address(&self, zone: Zone) -> Option<Address> {
        let key = self.key.to_sec1_point(true);
        let mut bytes = [0; 40];
        bytes[0] = 1;
        bytes[1..5].copy_from_slice(&zone.0.to_be_bytes());
        bytes.get_mut(7..)?.copy_from_slice(key.as_bytes());
        Address::from_bytes(&bytes).ok()
    }

    /// Peer-IDs it may speak for.
    pub fn peers(&self) -> &[Id] {
        &self.ids
    }

    /// User names it may speak for (`user@domain`).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Unix seconds from and until which it is good.
    pub fn validity(&self) -> (u64, u64) {
        self.valid
    }

    /// Whether it is good at this time.
    pub fn check_time(&self, unix: u64) -> Result<(), ReloadError> {
        match (self.valid.0..=self.valid.1).contains(&unix) {
            true => Ok(()),
            false => Err(ReloadError::Unverified("the certificate is not valid now")),
        }
    }

    /// Whether all its Peer-IDs are of this overlay.
    pub fn check_overlay(&self, overlay: &str) -> Result<(), ReloadError> {
        let overlay = overlay.to_ascii_lowercase();
        match self.peers.iter().all(|peer| peer.overlay == overlay) {
            true => Ok(()),
            false => Err(ReloadError::Unverified(
                "the certificate is for another overlay",
            )),
        }
    }

    /// Whether `root` signed it.
    pub fn is_issued_by(&self, root: &Certificate) -> bool {
        self.issuer == root.subject && self.is_signed_by(&root.key)
    }

    fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        DerSignature::from_bytes(&self.signature)
            .is_ok_and(|signature| key.verify(&self.signed, &signature).is_ok())
    }

    /// Whether it is signed by its own key, every Peer-ID is the hash of that key, and it claims no names, which nobody
    /// has granted (RD62).
    pub fn is_self_made(&self) -> bool {
        !self.peers.is_empty()
            && self.names.is_empty()
            && self
                .peers
                .iter()
                .all(|peer| peer.id == Id::of_public_key(&self.spki, peer.digit))
            && self.is_signed_by(&self.key)
    }
}

/// The first certificate of an answer: itself, or within a degenerate CMS, as the draft has it (RD59).
///
/// # Errors
/// It is neither.
pub fn certificate_answer(der: &[u8]) -> Result<Certificate, ReloadError> {
    match first_of_cms(der) {
        Some(inner) => Certificate::from_der(inner),
        None => Certificate::from_der(der),
    }
}

/// RFC 5652 §5.1: ContentInfo { signedData, [0] { version, digests, content, [0] certificates … } }.
fn first_of_cms(der: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const INTEGER: u8 = 0x02;
    const CONTEXT_0: u8 = 0xa0;
    const SIGNED_DATA: &[u8] = &[
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02,
    ];
    let (info, _) = element(der, SEQUENCE)?;
    let (signed, _) = element(info.strip_prefix(SIGNED_DATA)?, CONTEXT_0)?;
    let (signed, _) = element(signed, SEQUENCE)?;
    let (_, rest) = element(signed, INTEGER)?;
    let (_, rest) = element(rest, SET)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (certificates, _) = element(rest, CONTEXT_0)?;
    let (_, behind) = element(certificates, SEQUENCE)?;
    certificates.get(..certificates.len() - behind.len())
}

/// Contents of an element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length).filter(|_| found == tag)
}

/// Certificates as we issue them: names in the alternative names, an empty subject where there is an issuer.
pub(super) struct Profile {
    pub issuer: Option<Name>,
    pub subject: Name,
    pub names: Vec<GeneralName>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, subject: &Name) -> Name {
        self.issuer.clone().unwrap_or_else(|| subject.clone())
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _spk: SubjectPublicKeyInfoRef<'_>,
        _issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        if self.names.is_empty() {
            return Ok(Vec::new());
        }
        let names = SubjectAltName(self.names.clone());
        Ok(vec![names.to_extension(tbs.subject(), &[])?])
    }
}

pub(super) fn uri(text: &str) -> Result<GeneralName, ReloadError> {
    let text = Ia5String::new(text).map_err(|e| wrong("a URI", e))?;
    Ok(GeneralName::UniformResourceIdentifier(text))
}

pub(super) fn mail(name: &str) -> Result<GeneralName, ReloadError> {
    let name = Ia5String::new(name).map_err(|e| wrong("a user name", e))?;
    Ok(GeneralName::Rfc822Name(name))
}

fn time(unix: u64) -> Result<Time, ReloadError> {
    let since = Duration::from_secs(unix);
    // RFC 5280 §4.1.2.5: UTCTime through 2049
    if let Ok(time) = UtcTime::from_unix_duration(since) {
        return Ok(Time::UtcTime(time));
    }
    DateTime::from_unix_duration(since)
        .map(|time| Time::GeneralTime(GeneralizedTime::from_date_time(time)))
        .map_err(|e| wrong("a time", e))
}

pub(super) fn validity(from: u64, until: u64) -> Result<Validity, ReloadError> {
    Ok(Validity::new(time(from)?, time(until)?))
}

pub(super) fn build(
    profile: Profile,
    serial: [u8; 16],
    validity: Validity,
    spki: &[u8],
    signer: &SigningKey,
) -> Result<Certificate, ReloadError> {
    // a positive number of 16 bytes
    let serial = [&[serial[0] & 0x7f | 0x40], &serial[1..]].concat();
    let serial = SerialNumber::new(&serial).map_err(|e| wrong("its serial number", e))?;
    let spki = SubjectPublicKeyInfoOwned::from_der(spki).map_err(|e| wrong("its key", e))?;
    let certificate = CertificateBuilder::new(profile, serial, validity, spki)
        .and_then(|builder| builder.build::<_, DerSignature>(signer))
        .map_err(|e| wrong("it cannot be made", e))?;
    let der = certificate
        .to_der()
        .map_err(|e| wrong("it cannot be written", e))?;
    Certificate::from_der(&der)
}

pub(super) fn key_from(scalar: &[u8; 32]) -> Result<(SigningKey, Vec<u8>), ReloadError> {
    let key = SigningKey::from_slice(scalar).map_err(|e| wrong("the private key", e))?;
    let spki = key
        .verifying_key()
        .to_public_key_der()
        .map_err(|e| wrong("the public key", e))?;
    Ok((key, spki.as_bytes().to_vec()))
}

/// A node's own certificate for links of an overlay that permits self-made ids: empty subject, one URI (RD62).
/// `valid` is in Unix seconds.
pub fn self_signed(
    scalar: &[u8; 32],
    overlay: &str,
    digit: u8,
    serial: [u8; 16],
    valid: (u64, u64),
) -> Result<Certificate, ReloadError> {
    let (key, spki) = key_from(scalar)?;
    let peer = Id::of_public_key(&spki, digit);
    let profile = Profile {
        issuer: None,
        subject: Name::default(),
        names: vec![uri(&peer_uri(peer, overlay, digit))?],
    };
    build(profile, serial, validity(valid.0, valid.1)?, &spki, &key)
}

/// A PKCS#10 request for a certificate with these user names, as DER: what a node posts to the credential server
/// (R126, RD59). It asks for no Peer-ID: the server chooses that.
pub fn certificate_request(scalar: &[u8; 32], names: &[&str]) -> Result<Vec<u8>, ReloadError> {
    let (key, _) = key_from(scalar)?;
    let mut builder = RequestBuilder::new(Name::default()).map_err(|e| wrong("the request", e))?;
    let names = names
        .iter()
        .map(|name| mail(name))
        .collect::<Result<Vec<_>, _>>()?;
    builder
        .add_extension(&SubjectAltName(names))
        .map_err(|e| wrong("the request", e))?;
    builder
        .build::<_, DerSignature>(&key)
        .map_err(|e| wrong("the request", e))?
        .to_der()
        .map_err(|e| wrong("the request", e))
}

/// A request that has been read and whose signature is good: its sender has the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SigningRequest {
    pub(super) spki: Vec<u8>,
    /// User names asked for; whether the user may have them is the server's business.
    pub names: Vec<String>,
}

impl SigningRequest {
    /// SHA-256 of the key that asks: whoever renews a certificate is known by it.
    pub fn key_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// Reads a PKCS#10 request and checks that it is signed by its own key.
    pub fn from_der(der: &[u8]) -> Result<Self, ReloadError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(ReloadError::TooLong {
                what: "a certificate request",
                len: der.len(),
                limit: MAX_CERTIFICATE,
            });
        }
        let request = CertReq::from_der(der).map_err(|e| wrong("the request", e))?;
        let encode = |e| wrong("the request", e);
        let spki = request.info.public_key.to_der().map_err(encode)?;
        let key = VerifyingKey::from_public_key_der(&spki)
            .map_err(|e| wrong("the request's key is not for P-256", e))?;
        let signature = DerSignature::from_bytes(request.signature.raw_bytes())
            .map_err(|e| wrong("the request's signature", e))?;
        let signed = request.info.to_der().map_err(encode)?;
        if request.algorithm.oid != ECDSA_SHA256 || key.verify(&signed, &signature).is_err() {
            return Err(ReloadError::Certificate(
                "the request is not signed by its own key".into(),
            ));
        }
        let mut names = Vec::new();
        for attribute in request.info.attributes.iter() {
            if attribute.oid != EXTENSION_REQUEST {
                continue;
            }
            for value in attribute.values.iter() {
                let extensions = value
                    .to_der()
                    .and_then(|der| ExtensionReq::from_der(&der))
                    .map_err(encode)?;
                for extension in extensions.0 {
                    if extension.extn_id != SubjectAltName::OID {
                        continue;
                    }
                    let alternative = SubjectAltName::from_der(extension.extn_value.as_bytes())
                        .map_err(encode)?;
                    names.extend(alternative.0.into_iter().filter_map(|name| match name {
                        GeneralName::Rfc822Name(name) => Some(name.as_str().to_owned()),
                        _ => None,
                    }));
                }
            }
        }
        if names.len() > MAX_NAMES {
            return Err(ReloadError::Certificate(
                "the request asks for too many names".into(),
            ));
        }
        Ok(Self { spki, names })
    }
}
