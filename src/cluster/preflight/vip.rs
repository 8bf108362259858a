//! Is the virtual address free, and VRRP's number for it, or are they the cluster's own already?

use super::{Findings, Found, Machine};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// What all hosts say of it together.
pub struct Holders {
    /// A host of ours has it.
    is_held: bool,
    /// Every host that may have it has been asked.
    all_are_known: bool,
    /// The addresses of the hosts that share it.
    addresses: BTreeSet<Ipv4Addr>,
    /// The names of hosts that have it.
    names: Vec<String>,
}

impl Holders {
    pub fn of(machines: &[Machine], everyone: bool) -> Self {
        let found =
            || machines.iter().filter_map(|machine| Some((&machine.name, machine.found.as_ref().ok()?)));
        let holds = |found: &Found| matches!(&found.survey.vip, Some(Ok(vip)) if vip.answers.held_here);
        let names: Vec<_> =
            found().filter(|(_, found)| holds(found)).map(|(name, _)| name.to_string()).collect();
        let sharers = found().filter(|(_, found)| found.needs.vip.is_some());
        let addresses = sharers.flat_map(|(_, found)| found.facts.all_ipv4_addresses.iter());
        Self {
            is_held: !names.is_empty(),
            all_are_known: everyone && machines.iter().all(|machine| machine.found.is_ok()),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            names,
        }
    }

    pub fn judge(&self, found: &Found, own: &mut Findings<'_>) {
        let (Some((vip, router_id)), Some(seen)) = (&found.needs.vip, &found.survey.vip) else { return };
        let address = vip.address;
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                return own.warn(
                    "vip",
                    format!("nobody can be asked who has {address}: {why}"),
                    "Is `vip` in a network of this host? Otherwise name the interface by `vip_interface`.",
                );
            }
        };
        let others = seen.answers.others.join(", ");
        if seen.answers.held_here && !found.survey.own_keepalived {
            own.fail(
                "vip",
                format!("{address} is an address of this very host, and not by keepalived"),
                format!(
                    "Choose a `vip` that no machine has, or take it away: `ip address del {address} dev ...`."
                ),
            );
        } else if seen.answers.held_here && !others.is_empty() {
            own.fail(
                "vip",
                format!("{address} is here, and at {others} as well"),
                "Do the hosts of `keepalived` hear each other? Let IP protocol 112 (VRRP) through between them.",
            );
        } else if !others.is_empty() && !self.is_held && self.all_are_known {
            own.fail(
                "vip",
                format!("{address} answers already, and is with none of the cluster's hosts but at {others}"),
                "Choose a `vip` that no machine has, or free that one.",
            );
        }
        let rival = seen.adverts.iter().find(|advert| {
            advert.router_id == *router_id && self.all_are_known && !self.addresses.contains(&advert.from)
        });
        if let Some(rival) = rival {
            let addresses: Vec<_> = rival.addresses.iter().map(ToString::to_string).collect();
            let taken: BTreeSet<u8> = seen.adverts.iter().map(|advert| advert.router_id).collect();
            let free = (1..=255).find(|id| !taken.contains(id)).unwrap_or(1);
            own.fail(
                "vip",
                format!(
                    "virtual router id {router_id} is taken on this network by {}, for {}",
                    rival.from,
                    addresses.join(", ")
                ),
                format!("Choose another by `vip_router_id`, for example {free}."),
            );
        }
        own.otherwise("vip", || match self.names.as_slice() {
            [] => format!("{address} is free, and so is virtual router id {router_id}"),
            names => format!("{address} is with {}", names.join(", ")),
        });
    }
}
