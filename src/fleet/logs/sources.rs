//! Where a host's logs are, and the command that tells them. Pure.

use super::Wanted;
use crate::ssh::quote;
use jiff::Timestamp;

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub since: Option<Timestamp>,
    /// Of each source on each host, the last ones.
    pub lines: Option<u32>,
    pub follow: bool,
}

/// One log of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Journal {
        units: Vec<String>,
    },
    /// PostgreSQL's own, by the file that it writes to at first.
    Postgres {
        file: String,
    },
}

/// The units that matter on a host of these groups, and whether PostgreSQL writes there.
pub fn units(groups: &[String]) -> (Vec<&'static str>, bool) {
    const UNITS: [(&str, &str); 5] = [
        ("etcd", "etcd"),
        ("zookeeper", "zookeeper"),
        ("postgres", "pgfleet-agent"),
        ("haproxy", "haproxy"),
        ("keepalived", "keepalived"),
    ];
    let in_group = |group: &str| groups.iter().any(|own| own == group);
    let units = UNITS.iter().filter(|(group, _)| in_group(group)).map(|(_, unit)| *unit).collect();
    (units, in_group("postgres"))
}

pub(super) fn of(wanted: &Wanted) -> Vec<Source> {
    let journal = (!wanted.units.is_empty()).then(|| Source::Journal { units: wanted.units.clone() });
    let postgres = wanted.postgres_log.clone().map(|file| Source::Postgres { file });
    journal.into_iter().chain(postgres).collect()
}

impl Source {
    pub(super) fn is_journal(&self) -> bool {
        matches!(self, Source::Journal { .. })
    }

    pub(super) fn script(&self, selection: &Selection) -> String {
        match self {
            Source::Journal { units } => journal_script(units, selection),
            Source::Postgres { file } => postgres_script(file, selection),
        }
    }
}

fn journal_script(units: &[String], selection: &Selection) -> String {
    let mut words = vec!["exec journalctl --no-pager --quiet --all -o json".to_owned()];
    words.push("--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,UNIT".to_owned());
    words.extend(units.iter().map(|unit| format!("-u {}", quote(unit))));
    if let Some(since) = selection.since {
        words.push(format!("--since @{}", since.as_second()));
    }
    match selection.lines {
        Some(lines) => words.push(format!("-n {lines}")),
        // Followed, it would show the last ten alone.
        None if selection.follow => words.push("--no-tail".to_owned()),
        None => {}
    }
    if selection.follow {
        words.push("-f".to_owned());
    }
    words.join(" ")
}

/// Tells first how far the host's clock is from UTC, which the lines may leave open; then the lines of the
/// file that is written to now: the collector's where there is one.
fn postgres_script(file: &str, selection: &Selection) -> String {
    let mut script = format!(
        "date +%z; f={file}; d=$(sed -n \"s/^ *data_dir: *//p\" /etc/pgfleet/agent.yml 2>/dev/null | tr -d \"\\\"'\"); \
         if test -n \"$d\" && test -f \"$d/current_logfiles\"; then \
         c=$(sed -n 's/^stderr //p' \"$d/current_logfiles\"); \
         case $c in '') ;; /*) f=$c;; *) f=$d/$c;; esac; fi; test -f \"$f\" || exit 0; ",
        file = quote(file),
    );
    let lines = selection.lines.map_or_else(|| "+1".to_owned(), |lines| lines.to_string());
    let Some(since) = selection.since else {
        let follow = if selection.follow { "-F " } else { "" };
        return format!("{script}exec tail -q -n {lines} {follow}-- \"$f\" 2>/dev/null");
    };
    // What is written while the older part is searched is the later command's.
    script.push_str(&format!(
        "b=$(wc -c <\"$f\"); s=$(date -d @{} '+%Y-%m-%d %H:%M:%S'); \
         head -c \"$b\" -- \"$f\" | awk -v s=\"$s\" 'p || (/^[0-9][0-9][0-9][0-9]-/ && $0 >= s) {{ p = 1; print }}' \
         | tail -n {lines}",
        since.as_second(),
    ));
    if selection.follow {
        script.push_str("; exec tail -q -c +$((b + 1)) -F -- \"$f\" 2>/dev/null");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_say_which_units_matter() {
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(units(&groups(&["etcd", "rack-1"])), (vec!["etcd"], false));
        let both = units(&groups(&["haproxy", "keepalived", "postgres"]));
        assert_eq!(both, (vec!["pgfleet-agent", "haproxy", "keepalived"], true));
        assert_eq!(units(&[]), (vec![], false));
    }

    #[test]
    fn the_journal_is_asked_for_what_is_wanted() {
        let journal = Source::Journal { units: vec!["etcd".to_owned(), "it's".to_owned()] };
        let since = Some(Timestamp::from_second(1_700_000_000).unwrap());
        let cases = [
            Selection { lines: Some(50), ..Selection::default() },
            Selection { since, follow: true, ..Selection::default() },
        ];
        let told: Vec<_> = cases
            .iter()
            .map(|selection| journal.script(selection).split_once("UNIT ").unwrap().1.to_owned())
            .collect();
        assert_eq!(
            told,
            [r"-u 'etcd' -u 'it'\''s' -n 50", r"-u 'etcd' -u 'it'\''s' --since @1700000000 --no-tail -f"]
        );
    }

    /// Runs the script on this machine's own shell.
    fn told(file: &str, selection: &Selection) -> Vec<String> {
        let script = Source::Postgres { file: file.to_owned() }.script(selection);
        let output =
            std::process::Command::new("sh").arg("-c").arg(script).env("TZ", "UTC").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_lines_of_postgres_from_a_moment_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("it's.log");
        std::fs::write(
            &file,
            "2026-01-01 10:00:00.000 UTC [1] LOG:  old\n2026-01-01 11:00:00.500 UTC [1] ERROR:  new\n\tits query\n",
        )
        .unwrap();
        let file = file.display().to_string();
        let since = Some("2026-01-01T11:00:00Z".parse().unwrap());
        let all = told(&file, &Selection::default());
        assert_eq!((all.len(), all[0].as_str()), (4, "+0000"), "{all:?}");
        let new = told(&file, &Selection { since, ..Selection::default() });
        assert_eq!(new[1..], ["2026-01-01 11:00:00.500 UTC [1] ERROR:  new", "\tits query"]);
        assert_eq!(told(&file, &Selection { lines: Some(1), ..Selection::default() })[1..], ["\tits query"]);
        assert_eq!(told("/nowhere", &Selection::default()), ["+0000"], "no file, no lines");
    }
}
