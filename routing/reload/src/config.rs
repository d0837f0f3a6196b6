//! The overlay configuration document, and where to get it (R122 to R125, RD58, RD70).
use crate::ReloadError;
use crate::security::Certificate;
use crate::usage::turn::MAX_DENSITY;
use roxmltree::{Document, Node, ParsingOptions};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// MIME type of the document (R124).
pub const CONTENT_TYPE: &str = "application/p2p-overlay+xml";
/// Namespace of its elements (R124).
pub const NAMESPACE: &str = "urn:ietf:params:xml:ns:p2p:overlay";
/// Bytes of a document that are looked at (RD58).
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// Path of the document on the overlay's enrollment server (R123).
pub const ENROLL_PATH: &str = "/p2psip/enroll";
/// Elements of one kind in a document.
const MAX_ELEMENTS: usize = 256;
const MAX_NODES: u32 = 10_000;

/// How an enrollment server is found (R122).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Discovery {
    /// The name is an address: ask there.
    Address(IpAddr),
    /// DNS SRV.
    Srv(String),
    /// DNS-SD over multicast DNS, then DNS SRV.
    Local {
        /// Service to browse for; the user name may be the instance.
        service: String,
        /// What to ask if nobody answers.
        srv: String,
    },
}

/// How the enrollment server of an overlay name is found (R122).
pub fn discovery(overlay: &str) -> Discovery {
    let name = overlay.trim_end_matches('.').to_ascii_lowercase();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Discovery::Address(ip);
    }
    let srv = format!("_p2p_enroll._tcp.{name}");
    match name.ends_with(".local") {
        true => Discovery::Local {
            service: "_p2p_menroll._tcp.local".to_owned(),
            srv,
        },
        false => Discovery::Srv(srv),
    }
}

/// Where the document of an overlay is (R123). The server's certificate must match the overlay's name.
pub fn enroll_url(overlay: &str) -> String {
    let name = overlay.trim_end_matches('.').to_ascii_lowercase();
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("https://[{ip}]{ENROLL_PATH}"),
        _ => format!("https://{name}{ENROLL_PATH}"),
    }
}

/// What a step of a migration does (R14, RD70).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrationStage {
    /// Write to both, read from the first.
    WriteBoth,
    /// Write to both, read from the second, then from the first.
    ReadSecond,
}

/// One overlay of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayConfig {
    /// Name of the overlay.
    pub name: String,
    /// How long this document is good, from when it was fetched.
    pub expiration: Duration,
    /// DHT algorithm.
    pub dht: String,
    /// Certificates that sign peers' certificates.
    pub roots: Vec<Certificate>,
    /// Usages that peers must support.
    pub required_usages: Vec<String>,
    /// Where credentials are issued; always https.
    pub credential_servers: Vec<String>,
    /// Peers to begin with.
    pub bootstrap: Vec<SocketAddr>,
    /// Multicast addresses to begin with.
    pub multicast: Vec<SocketAddr>,
    /// How often a TURN server stores itself, 1 to 100.
    pub turn_density: u8,
    /// File with the shared key; never the key itself.
    pub shared_key_file: Option<String>,
    /// Between UPDATEs.
    pub update_frequency: Duration,
    /// Between finger checks.
    pub ping_frequency: Duration,
    /// Fingers, where their number is fixed (RD53).
    pub finger_count: Option<u8>,
    /// Whether ids may be self-made.
    pub self_signed: bool,
    /// Bytes of a message.
    pub max_message: usize,
    /// A second overlay that this one moves to.
    pub migration: Option<(String, MigrationStage)>,
}

impl OverlayConfig {
    /// The defaults of an overlay of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            expiration: Duration::from_secs(86_400),
            dht: "chord-128-2-8".to_owned(),
            roots: Vec::new(),
            required_usages: Vec::new(),
            credential_servers: Vec::new(),
            bootstrap: Vec::new(),
            multicast: Vec::new(),
            turn_density: 1,
            shared_key_file: None,
            update_frequency: Duration::from_secs(600),
            ping_frequency: Duration::from_secs(3600),
            finger_count: None,
            self_signed: false,
            max_message: 65_535,
            migration: None,
        }
    }

    /// Whether members need certificates of a credential server (R126).
    pub fn needs_certificate(&self) -> bool {
        !self.self_signed && self.shared_key_file.is_none()
    }

    /// Parameters of the ring.
    pub fn chord(&self) -> crate::chord::Config {
        crate::chord::Config {
            update_every: self.update_frequency,
            ping_every: self.ping_frequency,
            fingers: self.finger_count,
            ..crate::chord::Config::default()
        }
    }
}

fn wrong(text: impl Into<String>) -> ReloadError {
    ReloadError::Config(text.into())
}

/// Reads a document: one `overlay`, or several within `overlays` (RD58). Elements it does not know are passed over;
/// document types and entities are refused.
pub fn parse(text: &str) -> Result<Vec<OverlayConfig>, ReloadError> {
    if text.len() > MAX_DOCUMENT {
        return Err(wrong("it has more than 256 KiB"));
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options).map_err(|e| wrong(e.to_string()))?;
    let root = document.root_element();
    let overlays: Vec<OverlayConfig> = match root.tag_name().name() {
        "overlay" => vec![overlay(root)?],
        "overlays" => children(root, "overlay")
            .map(overlay)
            .collect::<Result<_, _>>()?,
        other => return Err(wrong(format!("its root is {other}, not overlay"))),
    };
    match overlays.is_empty() {
        true => Err(wrong("it has no overlay")),
        false => Ok(overlays),
    }
}

/// Children of a name, in the document's namespace or in none (the draft's example has none).
fn children<'a, 'd: 'a>(
    parent: Node<'a, 'd>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'd>> {
    let ours = |namespace: Option<&str>| namespace.is_none_or(|it| it == NAMESPACE);
    parent
        .children()
        .filter(move |node| node.is_element() && node.tag_name().name() == name)
        .filter(move |node| ours(node.tag_name().namespace()))
        .take(MAX_ELEMENTS)
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, ReloadError> {
    node.attribute(name).ok_or_else(|| {
        let element = node.tag_name().name();
        wrong(format!("{element} has no attribute {name}"))
    })
}

fn number<T: std::str::FromStr + PartialOrd>(
    text: &str,
    what: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ReloadError> {
    let number = text.trim().parse().ok();
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| wrong(format!("{what} cannot be {text:?}")))
}

fn address(node: Node<'_, '_>) -> Result<SocketAddr, ReloadError> {
    let (ip, port) = (attribute(node, "address")?, attribute(node, "port")?);
    let parsed = ip
        .parse()
        .map_err(|_| wrong(format!("{ip:?} is no IP address")))?;
    Ok(SocketAddr::new(
        parsed,
        number(port, "a port", 1..=u16::MAX)?,
    ))
}

fn overlay(node: Node<'_, '_>) -> Result<OverlayConfig, ReloadError> {
    let mut config = OverlayConfig::new(attribute(node, "name")?);
    if config.name.is_empty() || config.name.len() > 255 || !config.name.is_ascii() {
        return Err(wrong("the overlay's name is no host name"));
    }
    let seconds =
        |text: &str, what: &str, max: u64| number(text, what, 1..=max).map(Duration::from_secs);
    const MONTH: u64 = 31 * 86_400;
    if let Some(text) = node.attribute("expiration") {
        config.expiration = seconds(text, "expiration", 12 * MONTH)?;
    }
    let text = |name: &'static str| {
        let first = children(node, name).next()?;
        Some(first.text().unwrap_or_default().trim().to_owned())
    };
    if let Some(dht) = children(node, "dht").next() {
        config.dht = attribute(dht, "name")?.to_owned();
    }
    for root in children(node, "root-cert") {
        let der = from_base64(root.text().unwrap_or_default())?;
        config.roots.push(Certificate::from_der(&der)?);
    }
    for usage in children(node, "required-usage") {
        config
            .required_usages
            .push(attribute(usage, "name")?.to_owned());
    }
    for server in children(node, "credential-server") {
        // an attribute in the example, an element in the text (RD58)
        let inner = children(server, "url").next();
        let url = match (server.attribute("url"), inner) {
            (Some(url), _) => url,
            (None, Some(url)) => url.text().unwrap_or_default().trim(),
            (None, None) => server.text().unwrap_or_default().trim(),
        };
        let secure = url
            .get(..8)
            .is_some_and(|it| it.eq_ignore_ascii_case("https://"));
        if !secure || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong(format!("a credential server must be https: {url:?}")));
        }
        config.credential_servers.push(url.to_owned());
    }
    for name in ["bootstrap-peer", "broadcast-peers"] {
        for peer in children(node, name) {
            config.bootstrap.push(address(peer)?);
        }
    }
    for group in children(node, "multicast-bootstrap") {
        let group = address(group)?;
        if !group.ip().is_multicast() {
            return Err(wrong(format!("{} is no multicast address", group.ip())));
        }
        config.multicast.push(group);
    }
    for name in ["turn-density", "turnDensity"] {
        if let Some(text) = text(name) {
            config.turn_density = number(&text, "turn-density", 1..=MAX_DENSITY)?;
        }
    }
    config.shared_key_file = text("shared-key-file");
    if let Some(text) = text("chord-128-2-8-update-frequency") {
        config.update_frequency = seconds(&text, "the update frequency", MONTH)?;
    }
    if let Some(text) = text("chord-128-2-8-ping-frequency") {
        config.ping_frequency = seconds(&text, "the ping frequency", MONTH)?;
    }
    if let Some(text) = text("finger-count") {
        config.finger_count = Some(number(&text, "finger-count", 8..=127)?);
    }
    if let Some(text) = text("max-message-size") {
        config.max_message = number(&text, "max-message-size", 1200..=65_535)?;
    }
    if let Some(node) = children(node, "self-signed-permitted").next() {
        let digest = node.attribute("digest").unwrap_or("sha256");
        if !digest.eq_ignore_ascii_case("sha256") {
            return Err(wrong(format!("self-made ids use sha256, not {digest}")));
        }
        let value = node.text().unwrap_or_default().trim();
        config.self_signed = matches!(value, "true" | "1");
    }
    if let Some(node) = children(node, "migration").next() {
        let stage = match attribute(node, "stage")? {
            "1" => MigrationStage::WriteBoth,
            "2" => MigrationStage::ReadSecond,
            other => return Err(wrong(format!("a migration has no stage {other:?}"))),
        };
        config.migration = Some((attribute(node, "overlay")?.to_owned(), stage));
    }
    Ok(config)
}

/// Writes a document that [`parse`] reads.
pub fn write(overlays: &[OverlayConfig]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let wrapped = overlays.len() != 1;
    let namespace = format!(" xmlns=\"{NAMESPACE}\"");
    if wrapped {
        let _ = writeln!(out, "<overlays{namespace}>");
    }
    for overlay in overlays {
        let namespace = if wrapped { "" } else { namespace.as_str() };
        write_overlay(&mut out, overlay, namespace);
    }
    if wrapped {
        out.push_str("</overlays>\n");
    }
    out
}

fn write_overlay(out: &mut String, it: &OverlayConfig, namespace: &str) {
    // writing to a String cannot fail
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        "<overlay{namespace} name=\"{}\" expiration=\"{}\">",
        escape(&it.name),
        it.expiration.as_secs()
    ));
    line(format!("  <dht name=\"{}\"/>", escape(&it.dht)));
    for root in &it.roots {
        line(format!(
            "  <root-cert>{}</root-cert>",
            to_base64(root.der())
        ));
    }
    for usage in &it.required_usages {
        line(format!("  <required-usage name=\"{}\"/>", escape(usage)));
    }
    for url in &it.credential_servers {
        line(format!("  <credential-server url=\"{}\"/>", escape(url)));
    }
    for (name, list) in [
        ("bootstrap-peer", &it.bootstrap),
        ("multicast-bootstrap", &it.multicast),
    ] {
        for at in list {
            let (ip, port) = (at.ip(), at.port());
            line(format!("  <{name} address=\"{ip}\" port=\"{port}\"/>"));
        }
    }
    let mut element = |name: &str, value: String| line(format!("  <{name}>{value}</{name}>"));
    element("turn-density", it.turn_density.to_string());
    if let Some(file) = &it.shared_key_file {
        element("shared-key-file", escape(file));
    }
    let update = it.update_frequency.as_secs().to_string();
    element("chord-128-2-8-update-frequency", update);
    let ping = it.ping_frequency.as_secs().to_string();
    element("chord-128-2-8-ping-frequency", ping);
    if let Some(count) = it.finger_count {
        element("finger-count", count.to_string());
    }
    element("max-message-size", it.max_message.to_string());
    if it.self_signed {
        line("  <self-signed-permitted digest=\"sha256\">true</self-signed-permitted>".into());
    }
    if let Some((second, stage)) = &it.migration {
        let stage = match stage {
            MigrationStage::WriteBoth => 1,
            MigrationStage::ReadSecond => 2,
        };
        let second = escape(second);
        line(format!(
            "  <migration overlay=\"{second}\" stage=\"{stage}\"/>"
        ));
    }
    line("</overlay>".into());
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no other control characters
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

fn to_base64(bytes: &[u8]) -> String {
    crate::usage::sip::base64(bytes).replace('~', "=")
}

fn from_base64(text: &str) -> Result<Vec<u8>, ReloadError> {
    let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    crate::usage::sip::from_base64(&packed.replace('=', "~"))
        .map_err(|_| wrong("a root certificate is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::CredentialServer;

    // R122, R123
    #[test]
    fn servers_are_found_by_address_srv_or_multicast() {
        assert_eq!(
            discovery("192.0.2.1"),
            Discovery::Address("192.0.2.1".parse().unwrap())
        );
        assert_eq!(
            discovery("[2001:db8::1]"),
            Discovery::Address("2001:db8::1".parse().unwrap())
        );
        assert_eq!(
            discovery("Example.com."),
            Discovery::Srv("_p2p_enroll._tcp.example.com".into())
        );
        let Discovery::Local { service, srv } = discovery("home.local") else {
            panic!("a local name");
        };
        assert_eq!(service, "_p2p_menroll._tcp.local");
        assert_eq!(srv, "_p2p_enroll._tcp.home.local");
        assert_eq!(
            enroll_url("Example.com"),
            "https://example.com/p2psip/enroll"
        );
        assert_eq!(
            enroll_url("2001:db8::1"),
            "https://[2001:db8::1]/p2psip/enroll"
        );
    }

    // R125: the draft's example, its malformed element repaired (RD58)
    #[test]
    fn the_example_of_the_draft_is_read() {
        let text = r#"<?xml version="1.0" encoding="US-ASCII"?>
            <overlay name="chord.example.com" expiration="86400">
              <dht name="chord-128-2-8"/>
              <required-usage name="SIP"/>
              <credential-server url="https://www.example.com/csr"/>
              <bootstrap-peer address="192.0.2.2" port="5678"/>
              <bootstrap-peer address="192.0.2.3" port="5678"/>
              <multicast-bootstrap address="224.0.2.99" port="5678"/>
              <something-new/>
            </overlay>"#;
        let config = parse(text).unwrap().remove(0);
        assert_eq!(config.name, "chord.example.com");
        assert_eq!(config.expiration, Duration::from_secs(86_400));
        assert_eq!(config.bootstrap.len(), 2);
        assert_eq!(config.multicast.len(), 1);
        assert_eq!(config.required_usages, ["SIP"]);
        assert_eq!(config.credential_servers, ["https://www.example.com/csr"]);
        assert_eq!(config.update_frequency, Duration::from_secs(600));
        // the original is not well-formed
        assert!(parse(&text.replace("bootstrap address=\"224", "bootstrap=\"224")).is_err());
    }

    fn full() -> OverlayConfig {
        let server = CredentialServer::new(&[7; 32], "a--00000001.net", (0, 4_000_000_000));
        OverlayConfig {
            roots: vec![server.unwrap().root().clone()],
            required_usages: vec!["ANODE & \"more\"".into()],
            credential_servers: vec!["https://a--00000001.net/c?a=1&b=2".into()],
            bootstrap: vec!["[2001:db8::1]:6084".parse().unwrap()],
            multicast: vec!["[ff02::1]:6084".parse().unwrap()],
            turn_density: 7,
            shared_key_file: Some("/etc/anode/key".into()),
            update_frequency: Duration::from_secs(60),
            ping_frequency: Duration::from_secs(61),
            finger_count: Some(16),
            self_signed: true,
            max_message: 5000,
            migration: Some(("b.net".into(), MigrationStage::ReadSecond)),
            ..OverlayConfig::new("a--00000001.net")
        }
    }

    // R14, R124, R125, RD58, RD70
    #[test]
    fn what_is_written_is_read_again() {
        let one = vec![full()];
        assert_eq!(parse(&write(&one)).unwrap(), one);
        let two = vec![full(), OverlayConfig::new("b.net")];
        assert_eq!(parse(&write(&two)).unwrap(), two);
        assert!(write(&one).contains(NAMESPACE));
        assert_eq!(two[0].chord().fingers, Some(16));
    }

    // RD58: entities, size, and every value that is none
    #[test]
    fn hostile_documents_are_refused() {
        let bomb = r#"<!DOCTYPE o [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>
            <overlay name="x.net">&b;</overlay>"#;
        assert!(parse(bomb).is_err());
        assert!(parse(&" ".repeat(MAX_DOCUMENT + 1)).is_err());
        let many = "<a/>".repeat(20_000);
        assert!(parse(&format!("<overlay name=\"x\">{many}</overlay>")).is_err());
        let deep = "<a>".repeat(50_000);
        assert!(parse(&deep).is_err());
        for inner in [
            "<credential-server url=\"http://x.net/\"/>",
            "<credential-server url=\"https://x.net/ y\"/>",
            "<bootstrap-peer address=\"x\" port=\"1\"/>",
            "<bootstrap-peer address=\"192.0.2.1\" port=\"0\"/>",
            "<bootstrap-peer address=\"192.0.2.1\" port=\"65536\"/>",
            "<bootstrap-peer address=\"192.0.2.1\"/>",
            "<multicast-bootstrap address=\"192.0.2.1\" port=\"1\"/>",
            "<turn-density>0</turn-density>",
            "<turn-density>101</turn-density>",
            "<finger-count>200</finger-count>",
            "<root-cert>!!!!</root-cert>",
            "<root-cert>AAAA</root-cert>",
            "<max-message-size>99999999999999999999</max-message-size>",
            "<self-signed-permitted digest=\"md5\">true</self-signed-permitted>",
            "<migration overlay=\"b\" stage=\"3\"/>",
            "<chord-128-2-8-update-frequency>0</chord-128-2-8-update-frequency>",
        ] {
            let text = format!("<overlay name=\"x.net\">{inner}</overlay>");
            assert!(parse(&text).is_err(), "{inner}");
        }
        for root in [
            "<overlay/>",
            "<overlay name=\"\"/>",
            "<x/>",
            "<overlays/>",
            "",
        ] {
            assert!(parse(root).is_err(), "{root}");
        }
    }

    // every cut and many changes of a good document: no panic
    #[test]
    fn cut_and_changed_documents_do_no_harm() {
        let text = write(&[full()]);
        for len in (0..text.len()).filter(|len| text.is_char_boundary(*len)) {
            let _ = parse(&text[..len]);
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b'<';
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = parse(&text);
            }
        }
    }
}
