//! Questions, good and hostile, to the whole responder: bytes in at its sockets, bytes out.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anode_platform::wake::Wake;
use anode_wire::Address;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::message::{Heard, QUESTION_MAX, read};
use super::server::Sockets;
use super::zone::address_name;
use super::{Names, State};
use crate::command::{Command, DataHandle};
use crate::names::Given;
use crate::state::book::Book;

const ONE: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
const TWO: &str = "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";
const TWO_IP: &str = "fda0:cd00:8989:4303:c3ee:44a0:16e:9720";
const TWO_REVERSE: &str =
    "0.2.7.9.e.6.1.0.0.a.4.4.e.e.3.c.3.0.3.4.9.8.9.8.0.0.d.c.0.a.d.f.ip6.arpa.";
/// In no book: addresses of the test vectors of other zones.
const THREE: &str = "aeaaaaabaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

fn bytes(text: &str, kind: RecordType) -> Vec<u8> {
    question(text, kind).to_vec().unwrap()
}

/// A responder of the machine `me` (address 1), which trusts `box` (address 2).
struct Running {
    names: Arc<Names>,
    at: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
    commands: Receiver<Command>,
}

impl Running {
    fn start(servers: &[SocketAddr]) -> Self {
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = sockets.listen();
        let (data, commands) = DataHandle::new(Arc::new(Wake::new().unwrap()));
        let mut book = Book::default();
        book.trust(address(TWO), Some("box".parse().unwrap()))
            .unwrap();
        let others = [
            ("given".parse().unwrap(), address(THREE)),
            // The trust book comes first.
            ("box".parse().unwrap(), address(THREE)),
        ];
        let given = Given::new(address(ONE), Some("me".parse().unwrap()), others.into());
        let names = Arc::new(Names::new(
            Arc::new(Mutex::new(book)),
            given,
            servers.to_vec(),
            State::Listening(at),
            data,
        ));
        let serving = tokio::spawn(sockets.serve(Arc::clone(&names)));
        Self {
            names,
            at,
            serving,
            commands,
        }
    }

    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.at).await.unwrap();
        socket
    }

    /// What comes back for these bytes, if anything does.
    async fn send(&self, bytes: &[u8]) -> Option<Message> {
        let socket = self.client().await;
        socket.send(bytes).await.unwrap();
        receive(&socket).await
    }

    async fn ask(&self, text: &str, kind: RecordType) -> Message {
        self.send(&bytes(text, kind)).await.expect("an answer")
    }

    /// Addresses that the data thread was told of.
    fn told(&self) -> Vec<Address> {
        self.commands
            .try_iter()
            .map(|command| match command {
                Command::AddPeer {
                    address,
                    places,
                    pinned: false,
                    ..
                } if places.is_empty() => address,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn count(&self, name: &str) -> u64 {
        let all = self.names.counters.all();
        let found: Vec<u64> = all
            .iter()
            .filter(|(counter, _)| counter.contains(name))
            .map(|(_, value)| *value)
            .collect();
        assert!(!found.is_empty(), "{name} is no counter");
        found.iter().sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(socket: &UdpSocket) -> Option<Message> {
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_millis(300), socket.recv(&mut buffer))
        .await
        .ok()?
        .unwrap();
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

fn addresses(message: &Message) -> Vec<String> {
    let ip = |data: &RData| match data {
        RData::AAAA(ip) => ip.0.to_string(),
        other => panic!("{other:?}"),
    };
    message
        .answers
        .iter()
        .map(|record| ip(&record.data))
        .collect()
}

#[tokio::test]
async fn names_and_reverse_names_are_answered_and_made_known() {
    let running = Running::start(&[]);
    let split = address_name(&address(THREE)) + ".";
    let three_ip = address(THREE).ipv6(anode_wire::PeerId::ANY).to_string();
    let one_ip = address(ONE).ipv6(anode_wire::PeerId::ANY).to_string();
    let cases = [
        ("box.anode.", TWO_IP),
        ("BoX.aNoDe.", TWO_IP),
        (split.as_str(), three_ip.as_str()),
        ("given.anode.", &three_ip),
        ("me.anode.", &one_ip),
    ];
    for (text, ip) in cases {
        let answer = running.ask(text, RecordType::AAAA).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{text}"
        );
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
        // As it was asked, letter by letter: some resolvers check that.
        assert!(answer.queries[0].name().eq_case(&name(text)), "{text}");
        assert!(answer.answers[0].name.eq_case(&name(text)), "{text}");
        assert_eq!(addresses(&answer), [ip], "{text}");
    }
    // Each of them once, and this machine never.
    assert_eq!(running.told(), [address(TWO), address(THREE)]);

    let reverse = [
        (TWO_REVERSE.to_owned(), "box.anode."),
        // With a peer digit.
        (TWO_REVERSE.replacen('0', "7", 1), "box.anode."),
    ];
    for (text, expected) in reverse {
        let answer = running.ask(&text, RecordType::PTR).await;
        let RData::PTR(target) = &answer.answers[0].data else {
            panic!("{answer}");
        };
        assert_eq!(target.0.to_ascii(), expected, "{text}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_denied_in_the_right_way() {
    use RecordType as T;
    use ResponseCode as R;
    let running = Running::start(&[]);
    let half = format!("{}.anode.", &TWO[..32]);
    // The code, whether there are answers, whether the zone's SOA says how long the denial holds.
    let cases: &[(&str, T, R, usize, bool)] = &[
        ("nobody.anode.", T::AAAA, R::NXDomain, 0, true),
        ("box.anode.", T::A, R::NoError, 0, true),
        ("box.anode.", T::TXT, R::NoError, 0, true),
        ("box.anode.", T::HTTPS, R::NoError, 0, true),
        ("box.anode.", T::Unknown(65000), R::NoError, 0, true),
        ("box.anode.", T::ANY, R::NoError, 1, false),
        ("www.box.anode.", T::AAAA, R::NXDomain, 0, true),
        (&half, T::NS, R::NoError, 0, true),
        ("anode.", T::SOA, R::NoError, 1, false),
        ("anode.", T::NS, R::NoError, 1, false),
        ("anode.", T::AAAA, R::NoError, 0, true),
        ("0.a.d.f.ip6.arpa.", T::SOA, R::NoError, 1, false),
        ("1.0.a.d.f.ip6.arpa.", T::PTR, R::NoError, 0, true),
        (TWO_REVERSE, T::AAAA, R::NoError, 0, true),
        ("1.a.d.f.ip6.arpa.", T::SOA, R::NoError, 1, false),
        ("x.1.a.d.f.ip6.arpa.", T::PTR, R::NXDomain, 0, true),
        ("x.y.onion.anode.", T::AAAA, R::NXDomain, 0, true),
        ("example.com.", T::A, R::Refused, 0, false),
        (".", T::NS, R::Refused, 0, false),
        ("2.a.d.f.ip6.arpa.", T::PTR, R::Refused, 0, false),
    ];
    for (text, kind, code, answers, denied) in cases {
        let answer = running.ask(text, *kind).await;
        assert_eq!(answer.metadata.response_code, *code, "{text} {kind}");
        assert_eq!(answer.answers.len(), *answers, "{text} {kind}");
        let soa = matches!(
            answer.authorities.as_slice(),
            [record] if record.record_type() == T::SOA
        );
        assert_eq!(soa, *denied, "{text} {kind}: {answer}");
        assert_eq!(answer.metadata.authoritative, *code != R::Refused, "{text}");
    }
    // Only what was asked for as an address is worth a peer.
    assert_eq!(running.told(), [address(TWO)]);
}

#[tokio::test]
async fn edns_is_echoed_and_its_faults_are_told() {
    let running = Running::start(&[]);
    let with = |version: u8, payload: u16| {
        let mut message = question("box.anode.", RecordType::AAAA);
        let mut edns = Edns::new();
        edns.set_version(version);
        edns.set_max_payload(payload);
        message.set_edns(edns);
        message.to_vec().unwrap()
    };
    let good = running.send(&with(0, 4096)).await.unwrap();
    assert_eq!(good.edns.as_ref().unwrap().max_payload(), 1232);
    assert_eq!(addresses(&good), [TWO_IP]);
    let bad = running.send(&with(1, 4096)).await.unwrap();
    // 16 is BADVERS here, and BADSIG where a signature was checked (RFC 6895 §2.3).
    assert_eq!(u16::from(bad.metadata.response_code), 16);
    let plain = running.ask("box.anode.", RecordType::AAAA).await;
    assert_eq!(plain.edns, None);
}

#[test]
fn what_is_no_question_is_complained_about_or_left_alone() {
    // S28
    let good = bytes("box.anode.", RecordType::AAAA);
    assert!(matches!(read(&good), Heard::Question(_)));
    let code = |bytes: &[u8]| match read(bytes) {
        Heard::Question(_) => panic!("a question: {bytes:02x?}"),
        Heard::Nothing => None,
        Heard::Complain(answer) => {
            assert_eq!(answer[..2], bytes[..2], "the asker's id");
            assert!(answer.len() <= bytes.len(), "no amplification");
            Some(Message::from_vec(&answer).unwrap().metadata.response_code)
        }
    };
    let form = Some(ResponseCode::FormErr);
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let header = |questions: u8| {
        let mut bytes = good[..12].to_vec();
        bytes[5] = questions;
        bytes
    };
    let with_name = |name: &[u8]| [&header(1)[..], name, &[0, 28, 0, 1]].concat();
    let cases: Vec<(&str, Vec<u8>, Option<ResponseCode>)> = vec![
        ("nothing", vec![], None),
        ("less than a header", good[..11].to_vec(), None),
        ("an answer", edit(&|bytes| bytes[2] |= 0x80), None),
        (
            "an update",
            edit(&|bytes| bytes[2] |= 5 << 3),
            Some(ResponseCode::NotImp),
        ),
        ("no question", header(0), form),
        ("a question cut off", good[..good.len() - 1].to_vec(), form),
        ("more questions than there are", header(255), form),
        (
            "two questions",
            [&header(2)[..], &good[12..], &good[12..]].concat(),
            form,
        ),
        (
            "more records than there are",
            edit(&|bytes| bytes[7] = 0xff),
            form,
        ),
        ("a pointer to itself", with_name(&[0xc0, 12]), form),
        (
            "a pointer forward",
            with_name(&[0xc0, 14, 1, b'a', 0]),
            form,
        ),
        ("a pointer past the end", with_name(&[0xff, 0xff]), form),
        (
            "two pointers in a ring",
            with_name(&[1, b'a', 0xc0, 12]),
            form,
        ),
        (
            "a label of 64 bytes",
            with_name(&[&[64][..], &[b'a'; 64], &[0]].concat()),
            form,
        ),
        ("a label type of no RFC", with_name(&[0x80, b'a', 0]), form),
        ("a name without an end", with_name(&[3, b'a']), form),
        (
            "a name of 300 bytes",
            with_name(&[[&[49][..], &[b'a'; 49]].concat().repeat(6), vec![0]].concat()),
            form,
        ),
        (
            "another class",
            edit(&|bytes| *bytes.last_mut().unwrap() = 3),
            Some(ResponseCode::Refused),
        ),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(code(&bytes), expected, "{what}");
    }
}

#[test]
fn no_bytes_make_the_reader_panic_and_no_complaint_is_longer_than_its_cause() {
    // S1, S20, S28
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(53);
    let good = bytes("host.example.com.anode.", RecordType::AAAA);
    let check = |bytes: &[u8]| {
        if let Heard::Complain(answer) = read(bytes) {
            assert!(answer.len() <= bytes.len().max(12), "{bytes:02x?}");
        }
    };
    for length in 0..=good.len() {
        check(&good[..length]);
    }
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.next_u32() % 4 {
            let place = random.next_u32() as usize % bytes.len();
            bytes[place] = random.next_u32() as u8;
        }
        check(&bytes);
        let mut noise = vec![0; random.next_u32() as usize % QUESTION_MAX];
        random.fill_bytes(&mut noise);
        check(&noise);
    }
}

#[tokio::test]
async fn floods_and_oversized_datagrams_are_counted_and_the_next_question_is_answered() {
    let running = Running::start(&[]);
    let socket = running.client().await;
    for _ in 0..200 {
        socket.send(&[0xff; QUESTION_MAX + 1]).await.unwrap();
        socket.send(&[0; 5]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = running.ask("box.anode.", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), [TWO_IP]);
    assert!(running.count("oversized") > 0 && running.count("malformed") > 0);
    // The kernel may have dropped some; none of those that came was answered.
    assert_eq!(receive(&socket).await, None);
}

#[tokio::test]
async fn questions_that_wait_for_servers_outside_are_bounded() {
    // A server that never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(&[silent.local_addr().unwrap()]);
    let socket = running.client().await;
    for number in 0..200 {
        let text = format!("host{number}.example.com.anode.");
        socket.send(&bytes(&text, RecordType::AAAA)).await.unwrap();
        tokio::task::yield_now().await;
    }
    // Names of this machine are not held up.
    let answer = running.ask("box.anode.", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), [TWO_IP]);
    assert!(
        running.count("real_asked") <= 16,
        "{}",
        running.count("real_asked")
    );
    assert!(running.count("busy") >= 180, "{}", running.count("busy"));
    // Who found no place is told so.
    let refused = receive(&socket).await.unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
}

/// A TXT server that answers by a rule, and counts.
async fn txt_server(
    rule: impl Fn(&mut Message, &str) + Send + 'static,
) -> (
    SocketAddr,
    Arc<std::sync::atomic::AtomicUsize>,
    JoinHandle<()>,
) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let task = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.add_queries(query.queries.clone());
            let host = query.queries[0].name().to_ascii();
            rule(&mut answer, host.trim_end_matches('.'));
            let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        }
    });
    (at, asked, task)
}

#[tokio::test]
async fn a_real_name_is_asked_for_once_and_leads_back() {
    // A31, D13
    let (server, asked, _task) = txt_server(|answer, host| match host {
        "host.example.com" => {
            let owner = answer.queries[0].name().clone();
            let mut txt = |strings: &[&str]| {
                let text = hickory_proto::rr::rdata::TXT::new(
                    strings.iter().map(|s| (*s).to_owned()).collect(),
                );
                let record =
                    hickory_proto::rr::Record::from_rdata(owner.clone(), 60, RData::TXT(text));
                answer.add_answer(record);
            };
            txt(&["v=spf1 -all"]);
            txt(&["anode:nonsense"]);
            // Split where it likes, in any case of the prefix.
            txt(&[" ANODE:", &THREE[..20], &THREE[20..]]);
            txt(&[&format!("anode:{TWO}")]);
            txt(&[&format!("anode:{TWO}")]);
        }
        "empty.example.com" => {}
        "gone.example.com" => answer.metadata.response_code = ResponseCode::NXDomain,
        _ => answer.metadata.response_code = ResponseCode::ServFail,
    })
    .await;
    let running = Running::start(&[server]);
    let three: Ipv6Addr = address(THREE).ipv6(anode_wire::PeerId::ANY);
    for _ in 0..3 {
        let answer = running
            .ask("host.example.com.anode.", RecordType::AAAA)
            .await;
        assert_eq!(addresses(&answer), [three.to_string(), TWO_IP.to_owned()]);
        assert!(answer.answers[0].ttl <= 60);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(running.told(), [address(THREE), address(TWO)]);
    let other = running.ask("host.example.com.anode.", RecordType::A).await;
    assert_eq!(other.metadata.response_code, ResponseCode::NoError);
    assert!(other.answers.is_empty());

    let cases = [
        ("empty.example.com.anode.", ResponseCode::NoError),
        ("gone.example.com.anode.", ResponseCode::NXDomain),
        ("broken.example.com.anode.", ResponseCode::ServFail),
    ];
    for (text, code) in cases {
        let answer = running.ask(text, RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, code, "{text}");
        assert!(answer.answers.is_empty(), "{text}");
    }
    // People who use the name see it again.
    assert_eq!(running.names.name_of(&address(TWO)).as_deref(), Some("box"));
}

#[tokio::test]
async fn tcp_answers_in_order_and_hangs_up_on_who_is_slow_or_wrong() {
    let running = Running::start(&[]);
    let framed = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut stream = TcpStream::connect(running.at).await.unwrap();
    for text in ["box.anode.", "me.anode."] {
        let question = bytes(text, RecordType::AAAA);
        stream.write_all(&framed(&question)).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.queries[0].name().eq_case(&name(text)));
        assert_eq!(answer.answers.len(), 1);
    }

    for wrong in [vec![0, 0], vec![0xff, 0xff], framed(&[1, 2, 3])] {
        let mut stream = TcpStream::connect(running.at).await.unwrap();
        stream.write_all(&wrong).await.unwrap();
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok() && rest.is_empty(), "{wrong:?}");
    }
    assert!(running.count("oversized") == 1 && running.count("malformed") == 2);
}

#[tokio::test]
async fn slow_tcp_connections_end_and_there_are_never_many() {
    let running = Running::start(&[]);
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(running.at).await.unwrap();
        // Half of a length, and then nothing.
        let _ = stream.write_all(&[0]).await;
        slow.push(stream);
    }
    let mut closed = 0;
    for stream in &mut slow {
        let mut byte = [0];
        let gone = timeout(Duration::from_secs(60), stream.read(&mut byte)).await;
        assert!(matches!(gone, Ok(Ok(0) | Err(_))), "{gone:?}");
        closed += 1;
    }
    assert_eq!(closed, 40);
    assert_eq!(running.count("why=\"connections\""), 24);
    assert_eq!(running.count("why=\"slow\""), 16);
}

#[test]
fn another_class_of_question_is_refused_even_with_our_name() {
    let mut message = question("box.anode.", RecordType::TXT);
    message.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(
        read(&message.to_vec().unwrap()),
        Heard::Complain(_)
    ));
}
