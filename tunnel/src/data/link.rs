//! The virtual interface: made, or taken as it is.

use std::net::Ipv6Addr;

use anode_platform::tun::{Tun, TunConfig};
use anode_routing::i2p::PREFIX as I2P_PREFIX;

use super::PREFIX;
use crate::Error;
use crate::node::{Interface as Wanted, Settings};

/// Names tried for an interface that was not named.
const INTERFACE_NAMES: u32 = 100;

/// The interface, and what people should know of it.
pub(super) struct Link {
    pub tun: Option<Tun>,
    /// In bytes.
    pub mtu: u16,
    /// Commands that would give a given interface what it lacks; `None`: it is our own.
    pub lacks: Option<Vec<String>>,
}

impl Link {
    pub(super) fn open(settings: &Settings, local: &[Ipv6Addr]) -> Result<Self, Error> {
        let mtu = settings.mtu;
        let wanted = |name: &str| wanted(settings, local, name);
        let made = |name: &str| Tun::create_beside(&wanted(name), &settings.sharing);
        let own = |tun| Self {
            tun,
            mtu,
            lacks: None,
        };
        match &settings.interface {
            Wanted::None => Ok(own(None)),
            Wanted::Named(name) => Ok(own(Some(made(name)?))),
            Wanted::FirstFree => {
                for number in 0..INTERFACE_NAMES {
                    match made(&format!("anode{number}")) {
                        Err(error) if error.is_name_taken() => {}
                        result => return Ok(own(Some(result?))),
                    }
                }
                Err(Error::refused(format!(
                    "anode0 to anode{} exist already: name one with --name",
                    INTERFACE_NAMES - 1
                )))
            }
            Wanted::Given(given) => {
                let tun = given.open()?;
                let mtu = tun.mtu()?;
                let lacks = tun.lacks(&wanted(tun.name()))?;
                Ok(Self {
                    tun: Some(tun),
                    mtu,
                    lacks: Some(lacks),
                })
            }
        }
    }
}

fn wanted(settings: &Settings, local: &[Ipv6Addr], name: &str) -> TunConfig {
    TunConfig {
        name: name.to_owned(),
        mtu: settings.mtu,
        offload: true,
        addresses: local.iter().map(|address| (*address, 128)).collect(),
        routes: [Some(PREFIX), settings.i2p.as_ref().map(|_| I2P_PREFIX)]
            .into_iter()
            .flatten()
            .collect(),
    }
}
