//! The virtual address and those who share it.

use super::{Subject, warning};
use crate::diagnostic::Diagnostics;
use ipnet::IpNet;
use std::net::IpAddr;

pub(super) fn check(subject: &Subject<'_>, wrong: &mut Diagnostics) {
    let holders = subject.size("keepalived");
    let vip: Option<IpNet> = subject.text("vip").and_then(|vip| vip.parse().ok());
    let is_set = subject.drafts.values().any(|draft| draft.vars.contains_key("vip"));
    if holders > 0 && !is_set {
        let message = "the hosts of `keepalived` have no virtual address to share".to_owned();
        let diagnostic = subject.at_group("keepalived", message).label("expected the variable `vip`");
        wrong.push(diagnostic.help("add `vip: ADDRESS/PREFIX` below `vars:` of `all:`"));
    }
    let Some(vip) = vip else { return };
    if holders == 0 {
        let message = "nobody holds the virtual address: no host is in the group `keepalived`".to_owned();
        let diagnostic = subject.about("vip", message).label("expected hosts in `keepalived`");
        wrong.push(
            diagnostic.help("name the hosts of `haproxy` below `children: {keepalived: {hosts: ...}}`"),
        );
        return;
    }
    if holders == 1 {
        let message = "one host alone holds the virtual address".to_owned();
        wrong.push(
            warning(subject.at_group("keepalived", message)).label("when it fails, nobody takes it over"),
        );
    }
    for host in subject.group("keepalived").filter(|host| !host.is_in("haproxy")) {
        let message = format!("host `{}` shares the virtual address but runs no HAProxy", host.name);
        let written =
            subject.at_host(host.name.as_str(), message).label("expected it in the group `haproxy` too");
        wrong.push(written.help("clients that reach the address on this host would find nothing there"));
    }
    address(subject, vip, wrong);
}

fn address(subject: &Subject<'_>, vip: IpNet, wrong: &mut Diagnostics) {
    for host in subject.hosts.values() {
        if host.address().parse() == Ok(vip.addr()) {
            let message = format!("the virtual address is host `{}`'s own", host.name);
            wrong.push(subject.about("vip", message).label("expected an address that no machine has"));
            return;
        }
    }
    // Hosts that are known by name cannot be compared.
    let outside = subject.group("keepalived").find(|host| match host.address().parse::<IpAddr>() {
        Ok(address) => !vip.contains(&address),
        Err(_) => false,
    });
    if let Some(host) = outside {
        let message = format!("the virtual address is in another network than host `{}`", host.name);
        let diagnostic = subject.about("vip", message);
        wrong.push(diagnostic.label(format!("{} does not contain {}", vip.trunc(), host.address())));
    }
}
