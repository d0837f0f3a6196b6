//! Network and user namespaces, veth pairs.
