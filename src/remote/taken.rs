//! A service that does not start because another one has its port: says who that is.

use crate::remote::{
    host::Host,
    listeners::{self, Listener},
    protocol::Failure,
};

/// What programs say when a port is taken, in lower case.
const COMPLAINTS: &[&str] = &["address already in use", "cannot bind socket", "could not bind"];

/// `failure` with who has the port, where its last lines complain about one. `unit` is the service that did
/// not start.
pub(crate) fn explain(host: &Host, unit: &str, mut failure: Failure) -> Failure {
    let mut ports: Vec<u16> = failure.last_lines.iter().flat_map(|line| ports_of(line)).collect();
    ports.sort_unstable();
    ports.dedup();
    let is_other = |listener: &Listener| {
        listener.process.as_ref().is_none_or(|process| process.unit.as_deref() != Some(unit))
    };
    if let Some(rival) = listeners::on(host, &ports).into_iter().find(is_other) {
        failure.message = format!("{unit} does not start: {rival}");
        failure.next_step = Some(rival.advice());
    }
    failure
}

/// The ports that a line names, if it is a complaint about one.
fn ports_of(line: &str) -> Vec<u16> {
    let lower = line.to_lowercase();
    if !COMPLAINTS.iter().any(|complaint| lower.contains(complaint)) {
        return Vec::new();
    }
    let words = lower.split(|c: char| c.is_whitespace() || "[]\"',;()".contains(c));
    let port = |word: &str| {
        let digits = word.rsplit_once(':').map_or("", |(_, port)| port);
        digits.parse().ok().filter(|port| *port != 0)
    };
    words.filter_map(|word| port(word.trim_end_matches([':', '.']))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn ports_are_read_from_what_programs_say() {
        let lines = [
            r#"{"level":"fatal","msg":"discovery failed","error":"listen tcp 0.0.0.0:2379: bind: address already in use"}"#,
            "[ALERT]    (812) : Starting frontend primary: cannot bind socket (Address already in use) [0.0.0.0:5431]",
            "[ALERT]    (812) : Binding [/etc/haproxy/haproxy.cfg:20] for frontend stats: cannot bind socket (Address already in use) for [:::7000]",
            "LOG:  listening on IPv4 address \"0.0.0.0\", port 5432",
        ];
        let found: Vec<_> = lines.iter().map(|line| ports_of(line)).collect();
        assert_eq!(found, [vec![2379], vec![5431], vec![20, 7000], vec![]]);
    }

    #[test]
    fn the_one_who_has_the_port_is_named() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        let complaint = |port: u16| Failure {
            message: "`systemctl start x` failed".to_owned(),
            last_lines: vec![format!("listen tcp 127.0.0.1:{port}: bind: address already in use")],
            ..Failure::default()
        };
        let explained = explain(&Host::at("/"), "x.service", complaint(port));
        let own = format!("(process {}", std::process::id());
        assert!(explained.message.contains(&own), "{explained}");
        assert!(explained.next_step.is_some_and(|next| next.contains("Then run")));
        drop(socket);
        assert_eq!(explain(&Host::at("/"), "x.service", complaint(port)), complaint(port));
    }
}
