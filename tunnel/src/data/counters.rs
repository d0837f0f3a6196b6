//! Every counter of the data path under its name in the metrics.

use anode_routing::{AnodeOverlay, I2pOverlay};
use anode_wire::sealed::Drop;

use crate::adapter::Adapter;

/// All counters and gauges, named as in the metrics.
pub fn all(adapter: &mut Adapter<AnodeOverlay>, tun_dropped: u64) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut add = |part: &str, counters: &mut dyn Iterator<Item = (&'static str, u64)>| {
        all.extend(counters.map(|(name, value)| (format!("anode_{part}_{name}_total"), value)));
    };
    add("netstack", &mut adapter.netstack.counters().iter());
    add("adapter", &mut adapter.counters().iter());
    add("tun", &mut [("dropped", tun_dropped)].into_iter());
    let policy = adapter.gate().counters();
    let refused = [
        ("not_carried", policy.not_carried),
        ("icmp_unrelated", policy.icmp_unrelated),
        ("ended", policy.ended),
        ("flows_evicted", adapter.gate().flows().1),
    ];
    add("policy", &mut refused.into_iter());
    all.extend(policy.verdicts().map(|(protocol, verdict, value)| {
        let name =
            format!("anode_policy_verdicts_total{{protocol=\"{protocol}\",verdict=\"{verdict}\"}}");
        (name, value)
    }));
    let mut add = |part: &str, counters: &mut dyn Iterator<Item = (&'static str, u64)>| {
        all.extend(counters.map(|(name, value)| (format!("anode_{part}_{name}_total"), value)));
    };
    if let Some(i2p) = adapter.other::<I2pOverlay>() {
        add("i2p", &mut i2p.counters().iter());
    }
    let policy_flows = adapter.gate().flows().0;
    let flows = adapter.netstack.flows();
    let overlay = adapter.first();
    add("overlay", &mut overlay.counters().iter());
    add("connections", &mut overlay.stream_counters().iter());
    let met = overlay.rendezvous_counters();
    let met = [
        ("probes", met.probes.sent),
        ("probes_over_budget", met.probes.over_budget),
        ("candidates_resting", met.probes.resting),
        ("candidates_no_room", met.probes.no_room),
        ("presence_refused", met.presence_refused),
        ("entries_scope", met.dropped.scope as u64),
        ("entries_private", met.dropped.private as u64),
        ("entries_own", met.dropped.own as u64),
        ("entries_port", met.dropped.port as u64),
        ("entries_denied", met.dropped.denied as u64),
        ("entries_repeated", met.dropped.repeated as u64),
        ("entries_surplus", met.dropped.surplus as u64),
    ];
    add("rendezvous", &mut met.into_iter());
    let memory = overlay.stream_memory();
    let streams = [
        ("windows_short", memory.short()),
        ("packets_refused", memory.refused()),
    ];
    add("streams", &mut streams.into_iter());
    let sessions = overlay.session_counters();
    let work = [
        ("hellos_sent", sessions.hellos_sent),
        ("welcomes_sent", sessions.welcomes_sent),
        ("cookies_sent", sessions.cookies_sent),
        ("errors_sent", sessions.errors_sent),
        ("kem_operations", sessions.kem_operations),
        ("handshakes", sessions.handshakes),
        ("peers_evicted", sessions.peers_evicted),
        ("agreements_evicted", sessions.agreements_evicted),
        ("sessions_evicted", sessions.sessions_evicted),
    ];
    add("sealed", &mut work.into_iter());
    // Every reason from the start, so that a monitor sees its first step.
    all.extend(Drop::ALL.iter().map(|why| {
        let name = format!("anode_sealed_dropped_total{{why=\"{}\"}}", why.name());
        (name, sessions.dropped(*why))
    }));
    let gauges = [
        ("anode_tcp_flows", flows),
        ("anode_policy_flows", policy_flows),
        ("anode_streams", overlay.stream_count()),
        ("anode_streams_memory_bytes", overlay.stream_memory().used()),
        ("anode_peers", overlay.peers().len()),
        ("anode_peers_connected", overlay.connected()),
        ("anode_connections", overlay.connections()),
    ];
    all.extend(gauges.map(|(name, value)| (name.to_owned(), value as u64)));
    all
}
