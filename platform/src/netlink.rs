//! Addresses, routes, links over rtnetlink; no `ip` calls.
