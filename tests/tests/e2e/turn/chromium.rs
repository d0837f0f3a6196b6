//! A browser as client: WebRTC data channels of headless Chromium that may use nothing but our server.

use super::{Family, World};
use anode_tests::lab::{command, default_route, heavy};
use anode_tests::programs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Messages there and back, of each transport.
const MESSAGES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(90);

/// Two connections of one page, which reach each other through relayed addresses alone; what came back is told to whoever
/// served the page.
const PAGE: &str = r#"<!doctype html><script>
const messages = MESSAGES, urls = URLS;
async function through(url) {
  const config = {
    iceServers: [{urls: url, username: 'alice', credential: 'secret'}], iceTransportPolicy: 'relay'
  };
  const [a, b] = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
  a.onicecandidate = e => e.candidate && b.addIceCandidate(e.candidate);
  b.onicecandidate = e => e.candidate && a.addIceCandidate(e.candidate);
  b.ondatachannel = e => e.channel.onmessage = m => e.channel.send(m.data);
  const channel = a.createDataChannel('test');
  let back = 0;
  const done = new Promise(all => {
    channel.onopen = () => { for (let i = 0; i < messages; i++) channel.send('message ' + i); };
    channel.onmessage = m => { if (m.data === 'message ' + back && ++back === messages) all(); };
    setTimeout(all, 20000);
  });
  await a.setLocalDescription();
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription();
  await a.setRemoteDescription(b.localDescription);
  await done;
  let protocols = [];
  for (const entry of (await a.getStats()).values())
    if (entry.type === 'local-candidate') protocols.push(entry.candidateType + '/' + entry.relayProtocol);
  a.close(); b.close();
  return back + ' of ' + messages + ' ' + [...new Set(protocols)].join(' ');
}
(async () => {
  let said = [];
  for (const url of urls)
    said.push(await through(url).catch(error => String(error)));
  fetch('/result', {method: 'POST', body: said.join('\n')});
})();
</script>"#;

/// Serves the page until the result comes.
fn result(listener: &TcpListener, page: &str) -> Option<String> {
    listener.set_nonblocking(true).expect("a listener");
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(result) = answer(stream, page) {
                    return Some(result);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    None
}

/// One request: the page, or the result that it brings.
fn answer(stream: TcpStream, page: &str) -> Option<String> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let posted = first.starts_with("POST");
    let answer = if posted { "" } else { page };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(answer.as_bytes()).ok()?;
    posted.then(|| String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn data_channels_of_a_browser_go_through_udp_tcp_and_tls() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let _alone = heavy();
    // Without a default route Chromium gathers nothing.
    default_route(&world.client, Ipv4Addr::new(192, 0, 2, 254).into());
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let listener = world.client.run(|| TcpListener::bind(at)).expect("a port");
    let at = listener.local_addr().expect("bound");
    let urls: Vec<String> = [("udp", "?transport=udp"), ("tcp", ""), ("tls", "")]
        .map(|(transport, end)| world.uri(transport) + end)
        .into();
    let page = PAGE
        .replace("MESSAGES", &MESSAGES.to_string())
        .replace("URLS", &serde_json::to_string(&urls).expect("text"));
    let profile = world.lab.directory().join("chromium");
    let mut chromium = command(programs::need("chromium"));
    chromium
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        // The certificate of the test is nobody's; what is shown here is TURN over TLS.
        .arg("--ignore-certificate-errors")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{at}/"))
        .env("HOME", world.lab.directory());
    let begin = Instant::now();
    let browser = world.client.start(chromium);
    let result = result(&listener, &page);
    let said =
        result.unwrap_or_else(|| panic!("nothing within {PATIENCE:?}: {}", browser.stderr()));
    println!("{said}\n{:?} in all", begin.elapsed());
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        ["udp", "tcp", "tls"].map(|protocol| format!("{MESSAGES} of {MESSAGES} relay/{protocol}"))
    );
}
