//! What hosts find out with each other, and on their network.

use super::{super::*, DATA, ETCD, after, complaints, fit, listens, machine};
use crate::{
    cluster::preflight::{
        needs::{Needs, Port},
        routes::{Opened, doors, routes},
    },
    inventory::Inventory,
    remote::preflight::{
        self as answers, Advert, Answers, Syncs, Vip, VipFound,
        links::{At, Large, Measured, Reached, Unreached},
    },
};
use serde_json::Map;
use std::path::Path;

/// What was found out with host `b`.
fn contact(variable: &'static str, number: u16, result: Result<Reached, Unreached>) -> Contact {
    let port = Some(Port { number, variable, unit: "x.service", address: None });
    Contact { with: "b".parse().unwrap(), port: port.filter(|port| port.number > 0), result }
}

fn measured(round_trip_ms: f64, mtu: u32, large: Large) -> Result<Reached, Unreached> {
    let measured = Measured { round_trip_ms, ahead_ms: 0.0, mtu: Some(mtu), large };
    Ok(Reached { connect_ms: round_trip_ms, measured: Some(measured) })
}

#[test]
fn hosts_that_get_through_to_each_other() {
    let mut found = fit();
    found.contacts = vec![
        contact("", 0, measured(0.3, 1500, Large::Through)),
        contact("etcd_client_port", 2379, measured(0.4, 1500, Large::Through)),
        contact("etcd_peer_port", 2380, Ok(Reached { connect_ms: 0.6, measured: None })),
    ];
    let findings = judge(&[machine("a", found)], true);
    let rows = findings.iter().filter(|row| ["clock", "network", "links", "mtu"].contains(&row.check));
    let rows: Vec<_> = rows.map(|row| format!("{}: {}", row.check, row.message)).collect();
    assert_eq!(worst(&findings), Verdict::Ok);
    insta::assert_snapshot!(rows.join("\n"), @r"
    clock: within 0.1 ms of the others
    network: reaches all others, the farthest in 0.3 ms
    links: gets through to the 2 ports of another host that it needs
    mtu: packets of 1500 bytes get through to all others
    ");
}

#[test]
fn hosts_that_do_not() {
    let contacts = |contacts: Vec<Contact>| after(|found| found.contacts = contacts);
    let refused = |number, why: Unreached| contact("postgres_port", number, Err(why));
    let told = [
        contacts(vec![
            contact("etcd_client_port", 2379, Err(Unreached::Silent)),
            contact("etcd_peer_port", 2380, Err(Unreached::Silent)),
            contact("postgres_port", 5432, Err(Unreached::Refused)),
        ]),
        contacts(vec![refused(5432, Unreached::Stranger)]),
        contacts(vec![refused(5432, Unreached::Insecure("its certificate is for others".to_owned()))]),
        contacts(vec![contact("etcd_peer_port", 2380, measured(140.2, 1500, Large::Through))]),
        contacts(vec![contact("", 0, measured(0.3, 1500, Large::Lost { up_to: Some(1450) }))]),
        contacts(vec![contact("", 0, measured(0.3, 9000, Large::Lost { up_to: None }))]),
        // Where they were only to meet, a firewall may well be in the way.
        contacts(vec![contact("", 0, Err(Unreached::Silent))]),
        // Nothing of the other host answers: said once.
        after(|found| {
            found.survey.peers = vec![None];
            found.contacts = vec![contact("postgres_port", 5432, Err(Unreached::Silent))];
        }),
        // Its sshd alone is not for the others.
        after(|found| {
            found.survey.peers = vec![None];
            found.contacts = vec![contact("postgres_port", 5432, measured(0.3, 1500, Large::Through))];
        }),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a links Fail: does not get through to b:2379 (`etcd_client_port`), 2380 (`etcd_peer_port`): no answer within 2 s -> Let 10.0.0.1 through to port 2379,2380 of b in the firewalls there and on the way (`nft list ruleset`).
    a links Fail: does not get through to b:5432 (`postgres_port`): refused -> Let 10.0.0.1 through to port 5432 of b in the firewalls there and on the way (`nft list ruleset`).
    a links Fail: does not get through to b:5432 (`postgres_port`): somebody else answers -> Is 10.0.0.2 the address of b alone? `arping -D 10.0.0.2` tells; so does a proxy on the way.
    a links Fail: does not get through to b:5432 (`postgres_port`): no TLS: its certificate is for others -> `pgfleet certs` tells which certificate is presented; `pgfleet apply` installs the right one.
    a links Warn: a round trip to b takes 140 ms, and etcd's heartbeats come every 100 ms -> Set `etcd_heartbeat_interval_ms` to 141 or more, and `etcd_election_timeout_ms` to 1402 or more.
    a mtu Fail: packets of up to 1500 bytes to or from b get lost, those of up to 1450 arrive -> Set `ip link set dev INTERFACE mtu 1450` on both hosts and in their network's configuration, or let ICMP's `fragmentation needed` through on the way.
    a mtu Fail: a connection to b stands, and nothing large gets through it -> Find where it gets lost: `tracepath b`.
    a network Fail: does not reach b -> Are they up, and do routes and firewalls let the cluster's hosts reach each other?
    ");
}

#[test]
fn interfaces_that_differ_are_told_where_the_larger_one_is() {
    let mut found = fit();
    found.contacts = vec![contact("", 0, measured(0.3, 9000, Large::Through))];
    let mut other = fit();
    other.facts.machine_id = "bb".to_owned();
    other.facts.hostname = "b".to_owned();
    let back = contact("", 0, measured(0.3, 1500, Large::Through));
    other.contacts = vec![Contact { with: "a".parse().unwrap(), ..back }];
    insta::assert_snapshot!(complaints(&judge(&[machine("a", found), machine("b", other)], true)), @r"
    a mtu Warn: sends b packets of up to 9000 bytes, and gets such of up to 1500 from it -> Give both the same size (`ip link set dev INTERFACE mtu 1500`, and the same in the network's configuration): what has to come in one packet is lost on the way there.
    ");
}

#[test]
fn every_host_dials_what_its_roles_need() {
    let inventory = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(name);
        Inventory::inspect(&path, &["tls=true".to_owned()]).unwrap()
    };
    let told = |inventory: &Inventory, runs: bool| {
        let machines = inventory.hosts.values().map(|host| {
            let vars = inventory.complete(host, &Map::new()).unwrap();
            let mut found = Found { needs: Needs::of(inventory, host, &vars), ..fit() };
            if runs {
                let etcd = found.needs.etcd.as_ref();
                found.survey.etcd.data_dir = etcd.map(|etcd| etcd.data_dir.clone());
                found.survey.etcd.token = etcd.map(|etcd| etcd.token.clone());
                found.survey.agent = Some(answers::Agent {
                    scope: found.needs.cluster.clone(),
                    name: host.name.to_string(),
                    data_dir: DATA.to_owned(),
                });
                found.survey.listeners =
                    found.needs.ports.iter().map(|port| listens(port.number, port.unit)).collect();
            }
            machine(host.name.as_str(), found)
        });
        let machines: Vec<_> = machines.collect();
        let opened: Vec<_> = machines
            .iter()
            .map(|machine| {
                let doors = doors(machine, &machines);
                // Any port will do for the one where they only meet.
                Opened::of(&doors, doors.iter().map(|door| Ok(door.port)).collect())
            })
            .collect();
        let mut lines = String::new();
        for from in &machines {
            let routes = routes(from, &machines, &opened, Scope::Everything);
            assert_eq!(routes.iter().filter(|route| route.port.is_none()).count(), machines.len() - 1);
            for route in routes.iter().filter(|route| route.port.is_some()) {
                let how = match &route.dial.at {
                    At::Door(name) => format!("door of {name}"),
                    At::Service { tls: Some(tls), is_postgres } => {
                        let with = tls.client_cert.as_ref().and_then(|path| path.file_name());
                        let with = with.map_or("no certificate".into(), |name| name.to_string_lossy());
                        format!("TLS with {with}{}", if *is_postgres { ", as PostgreSQL has it" } else { "" })
                    }
                    At::Service { tls: None, .. } => "plain".to_owned(),
                };
                lines += &format!("{} -> {}:{} {how}\n", from.name, route.to, route.dial.port);
            }
        }
        lines
    };
    insta::assert_snapshot!(told(&inventory("two-nodes-and-a-vip.yml"), true), @r"
    pgdb1 -> pgdb2:2379 TLS with etcd.crt
    pgdb1 -> pgdb2:2380 TLS with etcd.crt
    pgdb1 -> pgdb2:5432 TLS with postgres.crt, as PostgreSQL has it
    pgdb1 -> pgdb2:8008 TLS with postgres.crt
    pgdb1 -> etcd1:2379 TLS with etcd.crt
    pgdb1 -> etcd1:2380 TLS with etcd.crt
    pgdb2 -> pgdb1:2379 TLS with etcd.crt
    pgdb2 -> pgdb1:2380 TLS with etcd.crt
    pgdb2 -> pgdb1:5432 TLS with postgres.crt, as PostgreSQL has it
    pgdb2 -> pgdb1:8008 TLS with postgres.crt
    pgdb2 -> etcd1:2379 TLS with etcd.crt
    pgdb2 -> etcd1:2380 TLS with etcd.crt
    etcd1 -> pgdb1:2379 TLS with etcd.crt
    etcd1 -> pgdb1:2380 TLS with etcd.crt
    etcd1 -> pgdb1:8008 TLS with etcd.crt
    etcd1 -> pgdb2:2379 TLS with etcd.crt
    etcd1 -> pgdb2:2380 TLS with etcd.crt
    etcd1 -> pgdb2:8008 TLS with etcd.crt
    ");
    let seven = told(&inventory("demo.yml"), false);
    let of = |host: &str| {
        let own = seven.lines().filter(|line| line.starts_with(&format!("{host} ")));
        own.map(|line| line.split(' ').nth(2).unwrap()).collect::<Vec<_>>().join(" ")
    };
    insta::assert_snapshot!(["etcd-1", "pg-1", "haproxy-1"].map(of).join("\n"), @r"
    etcd-2:2379 etcd-2:2380 etcd-3:2379 etcd-3:2380 pg-1:8008 pg-2:8008 pg-3:8008
    etcd-1:2379 etcd-2:2379 etcd-3:2379 pg-2:5432 pg-2:8008 pg-3:5432 pg-3:8008
    pg-1:5432 pg-1:8008 pg-2:5432 pg-2:8008 pg-3:5432 pg-3:8008
    ");
}

#[test]
fn ports_that_are_taken_are_not_listened_on() {
    let mut found = fit();
    found.survey.listeners = vec![listens(5432, "postgresql@17-main.service")];
    let mut other = fit();
    other.needs.dials = vec!["etcd_client_port", "postgres_port"];
    let machines = [machine("a", found), machine("b", other)];
    let ports = |machine| doors(machine, &machines).iter().map(|door| door.port).collect::<Vec<_>>();
    assert_eq!(ports(&machines[0]), [0, 2379]);
    assert_eq!(ports(&machines[1]), [0], "nobody needs another of its ports");
}

#[test]
fn disks_that_are_slow_to_write() {
    let wal = format!("{DATA}/pg_wal");
    let syncs = |path: &str, p50_ms, p99_ms| Syncs { path: path.to_owned(), p50_ms, p99_ms };
    let mut found = fit();
    found.survey.syncs = vec![syncs(&wal, 0.4, 30.0), syncs(ETCD, 0.5, 9.0)];
    let findings = judge(&[machine("a", found)], true);
    let row = findings.iter().find(|row| row.check == "fsync").map(|row| row.message.as_str());
    assert_eq!(row, Some("0.4 ms in /var/lib/postgresql/17/demo/pg_wal, 0.5 ms in /var/lib/etcd/demo"));
    let told = [
        after(|found| found.survey.syncs = vec![syncs(&wal, 12.0, 30.0)]),
        after(|found| found.survey.syncs = vec![syncs(ETCD, 2.0, 14.0)]),
    ];
    insta::assert_snapshot!(told.concat(), @r"
    a fsync Warn: an fdatasync in /var/lib/postgresql/17/demo/pg_wal takes 12.0 ms, one in a hundred 30.0 ms: every commit waits for one -> Put the WAL on a disk that is quicker to write, such as an SSD whose cache survives a power loss.
    a fsync Warn: an fdatasync in /var/lib/etcd/demo takes 2.0 ms, one in a hundred 14.0 ms: etcd wants it below 10 ms -> Put etcd on a faster disk that nobody else writes to (`etcd_data_dir`), or give it more time: `etcd_heartbeat_interval_ms`, `etcd_election_timeout_ms`.
    ");
}

#[test]
fn the_virtual_address() {
    let seen = |here: bool, others: &[&str], adverts: &[(&str, u8)]| {
        let adverts = adverts.iter().map(|(from, router_id)| Advert {
            from: from.parse().unwrap(),
            router_id: *router_id,
            addresses: vec!["10.0.0.99".parse().unwrap()],
        });
        let others = others.iter().map(|mac| (*mac).to_owned()).collect();
        Some(Ok(VipFound { answers: Answers { held_here: here, others }, adverts: adverts.collect() }))
    };
    let shares = |found: &mut Found, vip| {
        found.needs.keepalived = true;
        found.needs.vip = Some((Vip { address: "10.0.0.5".parse().unwrap(), interface: None }, 51));
        found.survey.vip = vip;
    };
    let row = |vip, own_keepalived| {
        let mut found = fit();
        shares(&mut found, vip);
        found.survey.own_keepalived = own_keepalived;
        let findings = judge(&[machine("a", found)], true);
        let rows = findings.iter().filter(|row| row.check == "vip");
        rows.map(|row| format!("{:?}: {}", row.verdict, row.message)).collect::<Vec<_>>().join("; ")
    };
    let told = [
        row(seen(false, &[], &[]), false),
        // Its own advertisements, and others' under other ids.
        row(seen(true, &[], &[("10.0.0.1", 51), ("10.0.0.9", 52)]), true),
        row(seen(true, &[], &[]), false),
        row(seen(true, &["02:00:00:00:00:07"], &[]), true),
        row(seen(false, &["02:00:00:00:00:07"], &[]), false),
        row(seen(false, &[], &[("10.0.0.9", 51)]), false),
        row(Some(Err("no interface has 10.0.0.5 in its network".to_owned())), false),
    ];
    insta::assert_snapshot!(told.join("\n"), @r"
    Ok: 10.0.0.5 is free, and so is virtual router id 51
    Ok: 10.0.0.5 is with a
    Fail: 10.0.0.5 is an address of this very host, and not by keepalived
    Fail: 10.0.0.5 is here, and at 02:00:00:00:00:07 as well
    Fail: 10.0.0.5 answers already, and is with none of the cluster's hosts but at 02:00:00:00:00:07
    Fail: virtual router id 51 is taken on this network by 10.0.0.9, for 10.0.0.99
    Warn: nobody can be asked who has 10.0.0.5: no interface has 10.0.0.5 in its network
    ");

    // The other host has it by its own keepalived.
    let (mut a, mut b) = (fit(), fit());
    shares(&mut a, seen(false, &["02:00:00:00:00:07"], &[("10.0.0.2", 51)]));
    shares(&mut b, seen(true, &[], &[]));
    b.survey.own_keepalived = true;
    b.facts = Facts { machine_id: "bb".to_owned(), hostname: "b".to_owned(), ..b.facts };
    b.facts.all_ipv4_addresses = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
    assert_eq!(complaints(&judge(&[machine("a", a.clone()), machine("b", b)], true)), "");
    // Whoever was not asked may have it.
    assert_eq!(complaints(&judge(&[machine("a", a)], false)), "");
}

#[test]
fn hosts_compare_their_clocks_better_than_we_can_from_afar() {
    let told = |ahead_ms, uncertainty_ms| {
        let mut found = fit();
        found.reading = Reading { ahead_ms: 0, uncertainty_ms };
        let measured = Measured { round_trip_ms: 0.4, ahead_ms, mtu: None, large: Large::Through };
        found.contacts = vec![contact("", 0, Ok(Reached { connect_ms: 0.4, measured: Some(measured) }))];
        let findings = judge(&[machine("a", found)], true);
        let row = findings.iter().find(|row| row.check == "clock").unwrap();
        format!("{:?}: {}", row.verdict, row.message)
    };
    assert_eq!(told(-1.0, 2000), "Ok: within 1.2 ms of the others");
    assert_eq!(told(-700.0, 2000), "Warn: 0.7 s ahead of b");
}
