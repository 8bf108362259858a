//! Which host comes when: the one that would be missed most comes last, when all others have shown that it works.

use super::Component;
use crate::{cluster::status::Status, model::HostName};

/// The hosts in the order in which a component is upgraded on them. PostgreSQL itself follows `rolling`, which
/// makes another member the leader on the way.
pub fn order(component: Component, hosts: &[HostName], status: &Status) -> Vec<HostName> {
    let most_missed = match component {
        Component::Etcd => {
            status.dcs.members.iter().find(|member| member.leader).map(|member| member.name.as_str())
        }
        Component::Agent | Component::Postgres | Component::System => {
            status.leader().map(|leader| leader.name.as_str())
        }
        Component::Haproxy | Component::Keepalived => {
            status.vip.as_ref().and_then(|address| address.holder.as_deref())
        }
    };
    let mut hosts = hosts.to_vec();
    hosts.sort_by_key(|host| Some(host.as_str()) == most_missed);
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Dcs, DcsMember, Member, Vip};

    fn status() -> Status {
        let member = |name: &str, role: &str| Member {
            name: name.to_owned(),
            host: String::new(),
            port: 5432,
            role: role.to_owned(),
            state: "running".to_owned(),
            timeline: None,
            lag_bytes: None,
            pending_restart: false,
            pending_restart_reason: Default::default(),
        };
        let store = |name: &str, leader| DcsMember { name: name.to_owned(), healthy: true, leader };
        Status {
            cluster: "demo".to_owned(),
            healthy: true,
            problems: Vec::new(),
            pause: false,
            scheduled_switchover: None,
            members: vec![member("a", "leader"), member("b", "replica"), member("c", "replica")],
            dcs: Dcs { kind: "etcd", members: vec![store("a", false), store("b", true), store("c", false)] },
            haproxy: Vec::new(),
            vip: Some(Vip { address: "10.0.0.9".to_owned(), holder: Some("b".to_owned()) }),
        }
    }

    #[test]
    fn who_would_be_missed_most_comes_last() {
        let hosts: Vec<HostName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).into();
        for (component, expected) in [
            (Component::Etcd, "a c b"),
            (Component::Agent, "b c a"),
            (Component::Postgres, "b c a"),
            (Component::Haproxy, "a c b"),
            (Component::Keepalived, "a c b"),
            (Component::System, "b c a"),
        ] {
            let order = order(component, &hosts, &status());
            let order: Vec<&str> = order.iter().map(HostName::as_str).collect();
            assert_eq!(order.join(" "), expected, "{component}");
        }
        let nobody = Status { members: Vec::new(), vip: None, ..status() };
        assert_eq!(order(Component::Haproxy, &hosts, &nobody), hosts);
    }
}
