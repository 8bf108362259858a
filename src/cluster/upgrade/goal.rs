//! What is asked for, judged before anybody is asked.

use super::Component;
use crate::model::PgMajor;

/// What an upgrade is to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Newer versions of these, the newest ones unless one is named.
    Newer { components: Vec<Component>, to: Option<String> },
    /// Another major version of PostgreSQL.
    Major { to: u16 },
}

/// What of a cluster decides what can be asked for.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Components that some host has.
    pub has: Vec<Component>,
    /// As the inventory says it; none where the distribution decides.
    pub postgres: Option<PgMajor>,
    /// This very program, which becomes the agent.
    pub own: &'static str,
}

/// Why it makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the components have no version in common that `--to {0}` could name")]
    ToOfAll(String),
    #[error("the distribution has no version as a whole that `--to {0}` could name")]
    ToOfSystem(String),
    #[error("no host of the inventory has {0}")]
    Nowhere(Component),
    #[error("`--to {to}`: the agent is this very program, which is {own}")]
    OtherAgent { to: String, own: &'static str },
    #[error("`--to {0}` is no version of PostgreSQL")]
    NoVersion(String),
}

impl Refusal {
    pub fn next_step(&self) -> String {
        match self {
            Self::ToOfAll(_) => "name the one that is meant with `--component`".to_owned(),
            Self::ToOfSystem(_) => "leave `--to` out: the newest of every package is meant".to_owned(),
            Self::Nowhere(component) => {
                format!(
                    "give the inventory a host in the group `{}`, or name another component",
                    component.group()
                )
            }
            Self::OtherAgent { to, .. } => {
                format!("run `pgfleet upgrade --component agent` of pgfleet {to}: it brings itself")
            }
            Self::NoVersion(_) => "write a minor version such as 17.6, or a major one such as 17".to_owned(),
        }
    }
}

/// What `--component` and `--to` mean.
pub fn goal(component: Option<Component>, to: Option<&str>, fleet: &Fleet) -> Result<Goal, Refusal> {
    let Some(component) = component else {
        return match to {
            Some(to) => Err(Refusal::ToOfAll(to.to_owned())),
            None => Ok(Goal::Newer { components: fleet.has.clone(), to: None }),
        };
    };
    if !fleet.has.contains(&component) {
        return Err(Refusal::Nowhere(component));
    }
    let newer = |to: Option<&str>| Goal::Newer { components: vec![component], to: to.map(str::to_owned) };
    match (component, to) {
        (Component::System, Some(to)) => Err(Refusal::ToOfSystem(to.to_owned())),
        (Component::Agent, Some(to)) if to != fleet.own => {
            Err(Refusal::OtherAgent { to: to.to_owned(), own: fleet.own })
        }
        (Component::Agent, _) => Ok(newer(None)),
        (Component::Postgres, Some(to)) => {
            let (major, is_minor) = version(to).ok_or_else(|| Refusal::NoVersion(to.to_owned()))?;
            match fleet.postgres.map(PgMajor::number) {
                Some(present) if present != major => Ok(Goal::Major { to: major }),
                // Where the distribution decides, it has one major version only.
                None if !is_minor => Ok(Goal::Major { to: major }),
                // The newest within its own.
                _ => Ok(newer(Some(to).filter(|_| is_minor))),
            }
        }
        (_, to) => Ok(newer(to)),
    }
}

/// The major version that a version of PostgreSQL is of, and whether it says more than that.
fn version(text: &str) -> Option<(u16, bool)> {
    let (major, minor) = match text.split_once('.') {
        Some((major, minor)) => (major, Some(minor)),
        None => (text, None),
    };
    let is_minor = match minor {
        Some(minor) if !minor.starts_with(|first: char| first.is_ascii_digit()) => return None,
        minor => minor.is_some(),
    };
    Some((major.parse().ok()?, is_minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Component::*;

    fn fleet(postgres: Option<u16>) -> Fleet {
        let postgres = postgres.map(|major| major.try_into().unwrap());
        Fleet { has: vec![Etcd, Agent, Postgres, Haproxy, System], postgres, own: "0.9.0" }
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let newer = |components: &[Component], to: Option<&str>| {
            Ok(Goal::Newer { components: components.to_vec(), to: to.map(str::to_owned) })
        };
        for (component, to, expected) in [
            (None, None, newer(&[Etcd, Agent, Postgres, Haproxy, System], None)),
            (None, Some("3"), Err(Refusal::ToOfAll("3".to_owned()))),
            (Some(Etcd), Some("3.5"), newer(&[Etcd], Some("3.5"))),
            (Some(Keepalived), None, Err(Refusal::Nowhere(Keepalived))),
            (Some(System), Some("12"), Err(Refusal::ToOfSystem("12".to_owned()))),
            (Some(Agent), None, newer(&[Agent], None)),
            (Some(Agent), Some("0.9.0"), newer(&[Agent], None)),
            (Some(Agent), Some("1.0.0"), Err(Refusal::OtherAgent { to: "1.0.0".to_owned(), own: "0.9.0" })),
            (Some(Postgres), None, newer(&[Postgres], None)),
            (Some(Postgres), Some("15.14"), newer(&[Postgres], Some("15.14"))),
            (Some(Postgres), Some("15.14-0+deb12u1"), newer(&[Postgres], Some("15.14-0+deb12u1"))),
            (Some(Postgres), Some("15"), newer(&[Postgres], None)),
            (Some(Postgres), Some("17"), Ok(Goal::Major { to: 17 })),
            (Some(Postgres), Some("17.6"), Ok(Goal::Major { to: 17 })),
            (Some(Postgres), Some("newest"), Err(Refusal::NoVersion("newest".to_owned()))),
            (Some(Postgres), Some("15.x"), Err(Refusal::NoVersion("15.x".to_owned()))),
        ] {
            assert_eq!(goal(component, to, &fleet(Some(15))), expected, "{component:?} {to:?}");
        }
        let of_distribution = fleet(None);
        let asked = |to| goal(Some(Postgres), Some(to), &of_distribution);
        assert_eq!(asked("17"), Ok(Goal::Major { to: 17 }));
        assert_eq!(asked("15.14"), newer(&[Postgres], Some("15.14")));
    }
}
