//! Gateways that open ports when they are asked: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD, honest and otherwise.

use crate::lab::Nat;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// The port of PCP and NAT-PMP.
const PORT: u16 = 5351;
/// Where devices listen for whoever looks for them (UPnP Device Architecture 1.1 §1.1).
const SSDP: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 255, 255, 250), 1900);

/// Has a gateway answer datagrams at its port as it is told to. Its thread ends with the process.
pub fn serve(nat: &Nat, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let at = SocketAddr::new(inside(nat).into(), PORT);
    let socket = nat.ns().run(|| UdpSocket::bind(at));
    let socket = socket.expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..len]), from);
        }
    });
}

/// The address that the machines behind it see.
fn inside(nat: &Nat) -> Ipv4Addr {
    let all = nat.ns().netlink(|netlink| netlink.addresses(None));
    let all = all.iter().map(|address| address.prefix.address());
    let mut inner = all.filter_map(|ip| match ip {
        IpAddr::V4(ip) if ip.octets()[0] == 10 => Some(ip),
        _ => None,
    });
    inner.next().expect("its inner address")
}

/// What a real NAT-PMP gateway says: version 0 alone, our address, and this port.
pub fn nat_pmp(outside: Ipv4Addr, port: u16) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
    move |request| match request {
        [0, 0] => [&[0, 128, 0, 0, 0, 0, 1, 0][..], &outside.octets()].concat(),
        [0, 1, ..] if request.len() == 12 => [
            &[0, 129, 0, 0, 0, 0, 1, 0][..],
            &request[4..6],
            &port.to_be_bytes(),
            &request[8..12],
        ]
        .concat(),
        // Unsupported version: PCP is told to go back to version 0.
        _ => vec![0, 128, 0, 1, 0, 0, 1, 0],
    }
}

/// What a PCP gateway says to MAP: this address and port, for the nonce that was sent.
pub fn pcp(outside: Ipv4Addr, port: u16) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
    move |request| {
        if request.len() < 60 || request[..2] != [2, 1] {
            return Vec::new();
        }
        // §7.2: version, R and opcode, reserved, result 0, lifetime, epoch, reserved; §11.1: nonce, protocol, ports, address.
        [
            &[2, 0x81, 0, 0][..],
            &request[4..8],
            &[0, 0, 1, 0],
            &[0; 12],
            &request[24..42],
            &port.to_be_bytes(),
            &outside.to_ipv6_mapped().octets(),
        ]
        .concat()
    }
}

/// The same for a nonce that nobody sent.
pub fn pcp_for_another(outside: Ipv4Addr, port: u16) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
    let honest = pcp(outside, port);
    move |request| {
        let mut answer = honest(request);
        if let Some(nonce) = answer.get_mut(24) {
            *nonce ^= 0xff;
        }
        answer
    }
}

/// A UPnP gateway: it answers the search, describes itself, and maps every port to this place. `location`: who it says that
/// it is, if not itself.
pub fn serve_upnp(nat: &Nat, outside: &str, port: u16, location: Option<Ipv4Addr>) {
    let own = inside(nat);
    let bind = || -> std::io::Result<(UdpSocket, TcpListener)> {
        let search = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SSDP.1))?;
        search.join_multicast_v4(&SSDP.0, &own)?;
        Ok((search, TcpListener::bind((own, 0))?))
    };
    let (search, listener) = nat.ns().run(bind).expect("the ports are free");
    let web = listener.local_addr().expect("it listens");
    let shown = SocketAddr::new(location.unwrap_or(own).into(), web.port());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = search.recv_from(&mut buffer) {
            if !buffer[..len].starts_with(b"M-SEARCH") {
                continue;
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=60\r\nEXT:\r\nLOCATION: http://{shown}/device.xml\r\n\
                 ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nUSN: uuid:1\r\n\r\n"
            );
            let _ = search.send_to(answer.as_bytes(), from);
        }
    });
    let outside = outside.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer_http(stream, &outside, port);
        }
    });
}

const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

fn answer_http(mut stream: TcpStream, outside: &str, port: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let answer = if request.contains("/device.xml") {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
             <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><serviceList><service>\
             <serviceType>{SERVICE}</serviceType><SCPDURL>/service.xml</SCPDURL><controlURL>/control</controlURL>\
             </service></serviceList></device></root>"
        )
    } else if request.contains("/service.xml") {
        let argument = |name: &&str| {
            format!("<argument><name>{name}</name><direction>in</direction></argument>")
        };
        let arguments: String = [
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration",
        ]
        .iter()
        .map(argument)
        .collect();
        format!(
            "<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>\
             <action><name>GetExternalIPAddress</name><argumentList></argumentList></action>\
             <action><name>AddAnyPortMapping</name><argumentList>{arguments}</argumentList></action>\
             </actionList></scpd>"
        )
    } else {
        let (action, result) = if body.contains("GetExternalIPAddress") {
            let ip = format!("<NewExternalIPAddress>{outside}</NewExternalIPAddress>");
            ("GetExternalIPAddress", ip)
        } else if body.contains("AddAnyPortMapping") {
            let port = format!("<NewReservedPort>{port}</NewReservedPort>");
            ("AddAnyPortMapping", port)
        } else {
            ("DeletePortMapping", String::new())
        };
        format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
             <u:{action}Response xmlns:u=\"{SERVICE}\">{result}</u:{action}Response></s:Body></s:Envelope>"
        )
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    )
}
