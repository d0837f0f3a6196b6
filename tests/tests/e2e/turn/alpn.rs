//! One port for the relay's TLS and for TURN's: the name of the protocol decides where there is one, else the first bytes inside.

use super::beside::Beside;
use anode_tests::lab::{Host, Internet};
use anode_turn::stun::{Class, Message, Writer, method};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Neither STUN nor a packet of ours in its frame: data of a channel that nobody has bound.
const CHANNEL_DATA: [u8; 8] = [0x40, 0, 0, 4, 1, 2, 3, 4];

fn tls(
    client: &Host,
    at: SocketAddr,
    ca: &Path,
    protocols: &[&str],
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::IpAddress(at.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let limit = Duration::from_secs(5);
    let socket = anode_tests::traffic::connect(client, at, limit).expect("it listens");
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    StreamOwned::new(connection, socket)
}

/// Says some words, then asks with a Binding request where it comes from.
fn is_turn(stream: &mut StreamOwned<ClientConnection, TcpStream>, words: &[u8]) -> bool {
    let request = Writer::new(Class::Request, method::BINDING, [7; 12]).finish();
    let mut buffer = [0; 1024];
    let asked = stream
        .write_all(words)
        .and_then(|()| stream.write_all(&request));
    let Ok(length) = asked.and_then(|()| stream.read(&mut buffer)) else {
        return false;
    };
    let answer = Message::parse(&buffer[..length]);
    answer.is_ok_and(|m| m.class() == Class::Success && m.method() == method::BINDING)
}

// RFC 7443
#[test]
fn alpn_alone_leads_to_turn_and_without_it_the_first_bytes_do() {
    let Some(internet) = Internet::new(0) else {
        return;
    };
    let beside = Beside::start(&internet, "");
    let client = internet.lan().host("client");
    let at = SocketAddr::new(beside.host.v4().into(), 443);
    for (protocols, words, expected) in [
        (&["stun.turn"][..], &CHANNEL_DATA[..], true),
        (&["stun.turn"], &[], true),
        (&[], &[], true),
        (&["http/1.1"], &[], true),
        (&[], &CHANNEL_DATA, false),
        (&["http/1.1"], &CHANNEL_DATA, false),
    ] {
        let mut stream = tls(&client, at, &beside.ca, protocols);
        let found = is_turn(&mut stream, words);
        assert_eq!(found, expected, "{protocols:?}, {words:?}");
        let chosen = stream.conn.alpn_protocol();
        assert_eq!(chosen, protocols.first().map(|name| name.as_bytes()));
    }
}
