//! The options that the requirement list names: range, default, and who interprets each (I16 to I60).
/// Who acts upon an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interpreter {
    /// The router alone; it is passed on unchanged.
    Router,
    /// This client alone; it is not sent.
    Client,
    /// This client, and the router must know of it too.
    Both,
    /// Nobody any more: accepted and ignored.
    Nobody,
    /// It belongs to the connection and not to a session: refused here.
    Connection,
}

/// What values an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `true` or `false` in any case. (Java takes everything else as false; here it is an error.)
    Boolean,
    /// A whole number from … to, both included.
    Number(i64, i64),
    /// Numbers with commas between them, each from … to.
    Numbers(i64, i64),
    /// Milliseconds; what is below the minimum is raised to it (I46, I47).
    Milliseconds(i64),
    /// I2P base 64 of so many bytes.
    Base64(usize),
    /// `BestEffort` or `None`, in any case.
    Reliability,
    /// Any text.
    Text,
    /// Any text, which no log or error may show.
    Secret,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name; options with `inbound.` exist with `outbound.` as well, in a row of their own.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The value that holds when it is not set.
    pub default: Option<&'static str>,
    /// Who acts upon it.
    pub by: Interpreter,
}

const fn known(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    by: Interpreter,
) -> Known {
    Known {
        name,
        kind,
        default,
        by,
    }
}

use Interpreter::{Both, Client, Connection, Nobody, Router};
use Kind::{Base64, Boolean, Milliseconds, Number, Numbers, Reliability, Secret, Text};

pub(super) const MANY: i64 = i32::MAX as i64;

/// Every option that the requirement list names, with its default and range. The defaults are those that hold in this
/// program: where a default is sent explicitly it may differ from what routers assume (I22, I23, I25, I31, I32).
pub const KNOWN: &[Known] = &[
    known(
        "clientMessageTimeout",
        Number(8_000, 120_000),
        Some("60000"),
        Nobody,
    ),
    known("crypto.lowTagThreshold", Number(1, 128), Some("30"), Router),
    known("crypto.tagsToSend", Number(1, 128), Some("40"), Router),
    known(
        "crypto.ratchet.inboundTags",
        Number(1, MANY),
        Some("160"),
        Router,
    ),
    known(
        "crypto.ratchet.outboundTags",
        Number(1, MANY),
        Some("160"),
        Router,
    ),
    known("explicitPeers", Text, None, Router),
    known(
        "i2cp.closeIdleTime",
        Milliseconds(300_000),
        Some("1800000"),
        Client,
    ),
    known("i2cp.closeOnIdle", Boolean, Some("false"), Client),
    known("i2cp.domainSocket", Text, None, Connection),
    known("i2cp.dontPublishLeaseSet", Boolean, Some("false"), Both),
    known("i2cp.encryptLeaseSet", Boolean, Some("false"), Nobody),
    known("i2cp.fastReceive", Boolean, Some("true"), Both),
    known("i2cp.gzip", Boolean, Some("true"), Client),
    known("i2cp.leaseSetAuthType", Number(0, 2), Some("0"), Both),
    known(
        "i2cp.leaseSetBlindedType",
        Number(11, 11),
        Some("11"),
        Client,
    ),
    known("i2cp.leaseSetEncType", Numbers(0, 65_535), Some("4"), Both),
    known("i2cp.leaseSetKey", Secret, None, Nobody),
    known(
        "i2cp.leaseSetOfflineExpiration",
        Number(0, u32::MAX as i64),
        None,
        Both,
    ),
    known("i2cp.leaseSetOfflineSignature", Text, None, Both),
    known("i2cp.leaseSetPrivKey", Secret, None, Both),
    known("i2cp.leaseSetPrivateKey", Secret, None, Client),
    known("i2cp.leaseSetSecret", Secret, None, Both),
    known("i2cp.leaseSetSigningPrivateKey", Secret, None, Nobody),
    known("i2cp.leaseSetTransientPublicKey", Text, None, Both),
    known("i2cp.leaseSetType", Number(1, 255), Some("3"), Both),
    known("i2cp.messageReliability", Reliability, Some("none"), Both),
    known("i2cp.password", Secret, None, Connection),
    known(
        "i2cp.reduceIdleTime",
        Milliseconds(300_000),
        Some("1200000"),
        Client,
    ),
    known("i2cp.reduceOnIdle", Boolean, Some("false"), Client),
    known("i2cp.reduceQuantity", Number(1, 5), Some("1"), Client),
    known("i2cp.SSL", Boolean, Some("false"), Connection),
    known("i2cp.tcp.host", Text, Some("127.0.0.1"), Connection),
    known("i2cp.tcp.port", Number(1, 65_535), Some("7654"), Connection),
    known("i2cp.username", Secret, None, Connection),
    known("inbound.allowZeroHop", Boolean, Some("true"), Router),
    known("outbound.allowZeroHop", Boolean, Some("true"), Router),
    known("inbound.backupQuantity", Number(0, MANY), Some("0"), Router),
    known(
        "outbound.backupQuantity",
        Number(0, MANY),
        Some("0"),
        Router,
    ),
    known("inbound.IPRestriction", Number(0, 4), Some("2"), Router),
    known("outbound.IPRestriction", Number(0, 4), Some("2"), Router),
    known("inbound.length", Number(0, 7), Some("3"), Router),
    known("outbound.length", Number(0, 7), Some("3"), Router),
    known("inbound.lengthVariance", Number(-7, 7), Some("0"), Router),
    known("outbound.lengthVariance", Number(-7, 7), Some("0"), Router),
    known("inbound.nickname", Text, Some("anode"), Router),
    known("outbound.nickname", Text, Some("anode"), Router),
    known("outbound.priority", Number(-25, 25), Some("0"), Router),
    known("inbound.quantity", Number(1, 16), Some("2"), Router),
    known("outbound.quantity", Number(1, MANY), Some("2"), Router),
    known("inbound.randomKey", Base64(32), None, Router),
    known("outbound.randomKey", Base64(32), None, Router),
    known("shouldBundleReplyInfo", Boolean, Some("true"), Router),
];
