//! Anode keys as TURN credentials (docs/operation.md): whoever is trusted, or belongs to the zone, needs no password that somebody
//! has to hand out.
//!
//! The name is the client's address, the password what both ends can make of their keys: base64 of CMAC-AES under the draft's
//! agreed key (A27, A28), over "turn" ‖ realm ‖ name. A name that is not let in costs no key agreement.

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anode_turn::server::{Authority, Keys};
use anode_wire::{Address, Identity, MacKey, PeerId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::config::turn::AnodeUsers;
use crate::zone::Members;

/// Agreed keys that are remembered; beyond that they are agreed on anew.
const MAX_KEYS: usize = 4096;

/// The password of a name in a realm, by the key that client and server agree on.
pub fn password(key: &MacKey, realm: &str, name: &str) -> Zeroizing<String> {
    let message = ["turn", realm, name].concat();
    let tag = Zeroizing::new(key.tag(message.as_bytes()));
    Zeroizing::new(STANDARD.encode(tag.as_slice()))
}

/// Who may use the server by its key.
pub struct KeyUsers {
    identity: Identity,
    allowed: RwLock<Allowed>,
    agreed: Mutex<HashMap<Address, Arc<MacKey>>>,
}

#[derive(Default)]
struct Allowed {
    whom: AnodeUsers,
    trusted: HashSet<Ipv6Addr>,
    members: Members,
}

impl Allowed {
    fn holds(&self, address: &Address) -> bool {
        let ipv6 = address.ipv6(PeerId::ANY);
        let trusted = || self.trusted.contains(&ipv6);
        let member = || {
            let members = self.members.of(address.zone());
            members.is_some_and(|members| members.contains(&ipv6))
        };
        match self.whom {
            AnodeUsers::Off => false,
            AnodeUsers::Trusted => trusted(),
            AnodeUsers::Zone => trusted() || member(),
        }
    }
}

impl KeyUsers {
    /// Of the server with this key; nobody yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            allowed: RwLock::default(),
            agreed: Mutex::default(),
        }
    }

    /// What the configuration says.
    pub fn set_whom(&self, whom: AnodeUsers) {
        self.change(|allowed| allowed.whom = whom);
    }

    /// Whom this machine trusts now, and who belongs to its zone.
    pub fn follow(&self, trusted: &HashSet<Ipv6Addr>, members: &Members) {
        self.change(|allowed| {
            allowed.trusted.clone_from(trusted);
            allowed.members.clone_from(members);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Allowed)) {
        change(&mut self.allowed.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn agree(&self, address: &Address) -> Arc<MacKey> {
        let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = agreed.get(address) {
            return Arc::clone(key);
        }
        if agreed.len() >= MAX_KEYS {
            agreed.clear();
        }
        let key = Arc::new(self.identity.agree(address));
        agreed.insert(*address, Arc::clone(&key));
        key
    }

    #[cfg(test)]
    fn agreements(&self) -> usize {
        self.agreed.lock().unwrap().len()
    }
}

impl Authority for KeyUsers {
    fn keys(&self, name: &str, realm: &str) -> Option<Keys> {
        let address: Address = name.parse().ok()?;
        // One spelling: quotas count by the name.
        if address.to_string() != name {
            return None;
        }
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        if !allowed.holds(&address) {
            return None;
        }
        drop(allowed);
        let password = password(&self.agree(&address), realm, name);
        Some(Keys::of(name, realm, &password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anode_wire::Zone;

    fn identity(number: u8) -> Identity {
        let mut scalar = [0; 32];
        scalar[31] = number;
        Identity::from_scalar(Zone(0x2a), &scalar).unwrap()
    }

    fn ipv6(of: &Identity) -> Ipv6Addr {
        of.address().ipv6(PeerId::ANY)
    }

    #[test]
    fn both_ends_make_the_same_password_and_nobody_else() {
        let (server, client, other) = (identity(1), identity(2), identity(3));
        let name = client.address().to_string();
        let make = |own: &Identity, far: &Identity| password(&own.agree(far.address()), "r", &name);
        assert_eq!(make(&server, &client), make(&client, &server));
        assert_ne!(make(&server, &client), make(&other, &client));
        assert_ne!(
            make(&server, &client),
            password(&server.agree(client.address()), "s", &name)
        );
    }

    #[test]
    fn only_who_is_let_in_costs_a_key_agreement() {
        let (trusted, member, stranger) = (identity(2), identity(3), identity(4));
        let users = KeyUsers::new(identity(1));
        let of_zone = Arc::new(HashSet::from([ipv6(&member)]));
        users.follow(
            &HashSet::from([ipv6(&trusted)]),
            &Members(Some((Zone(0x2a), of_zone))),
        );
        let known = |who: &Identity| users.keys(&who.address().to_string(), "r").is_some();
        for (whom, expected) in [
            (AnodeUsers::Off, [false, false, false]),
            (AnodeUsers::Trusted, [true, false, false]),
            (AnodeUsers::Zone, [true, true, false]),
        ] {
            users.set_whom(whom);
            let found = [&trusted, &member, &stranger].map(known);
            assert_eq!(found, expected, "{whom:?}");
        }
        assert_eq!(users.agreements(), 2);
        assert!(users.keys("alice", "r").is_none());
        let shouted = trusted.address().to_string().to_uppercase();
        assert!(users.keys(&shouted, "r").is_none());
    }
}
