//! Prometheus text of the counters.

use std::fmt::Write;

/// One line of type and one of value for each: a name that ends in `_total` counts, any other is a gauge.
pub fn render(counters: &[(String, u64)]) -> String {
    let mut text = String::new();
    let mut family = "";
    for (name, value) in counters {
        let base = name.split('{').next().unwrap_or(name);
        if base != family {
            let kind = if base.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {base} {kind}");
            family = base;
        }
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_labels_are_prometheus_text() {
        let counters = [
            ("anode_rx_bytes_total".to_owned(), 5),
            ("anode_dropped_total{why=\"hops\"}".to_owned(), 1),
            ("anode_dropped_total{why=\"mac\"}".to_owned(), 2),
            ("anode_peers".to_owned(), 3),
        ];
        let expected = "# TYPE anode_rx_bytes_total counter\nanode_rx_bytes_total 5\n\
            # TYPE anode_dropped_total counter\nanode_dropped_total{why=\"hops\"} 1\nanode_dropped_total{why=\"mac\"} 2\n\
            # TYPE anode_peers gauge\nanode_peers 3\n";
        assert_eq!(render(&counters), expected);
    }
}
