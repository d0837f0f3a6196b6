//! What the program promises, shown with real programs on real interfaces. A file per theme.
//!
//! One test program for all of it, so that heavy tests can wait for each other ([`anode_tests::lab::heavy`]).

mod attack;
mod bad_input;
mod cleanup;
mod command_line;
mod common;
mod datagrams;
mod demo;
mod dht;
mod dht_applications;
mod dht_enroll;
mod direct;
mod extended_trackers;
mod gateways;
mod harness;
mod i2p;
mod i2p_command;
mod i2p_lab;
mod i2p_routers;
mod ice;
mod large;
mod moves;
mod named_peer;
mod names;
mod nat_matrix;
mod plain;
mod policy;
mod programs;
mod reach;
mod real_trackers;
mod relay;
mod reload_links;
mod rendezvous;
mod round_trips;
mod sealed;
mod streams;
mod tickets;
mod tracker;
mod transports;
mod turn;
mod zone_relay;
mod zone_trouble;
mod zones;
