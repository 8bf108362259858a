//! Timeline history: which timeline left which other one, and where.

use crate::model::{Lsn, Timeline};

/// The end of a timeline: the next one begins at `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    pub timeline: Timeline,
    pub at: Lsn,
    pub reason: String,
}

/// A timeline and the ones that it descends from, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub timeline: Timeline,
    pub switches: Vec<Switch>,
}

impl History {
    /// Reads a `.history` file of `timeline`. Lines that hold no timeline and position are comments.
    pub fn parse(timeline: Timeline, text: &str) -> History {
        let switches = text
            .lines()
            .filter_map(|line| {
                let mut words = line.trim().splitn(3, char::is_whitespace);
                Some(Switch {
                    timeline: words.next()?.parse().ok()?,
                    at: words.next()?.parse().ok()?,
                    reason: words.next().unwrap_or_default().trim().to_owned(),
                })
            })
            .collect();
        History { timeline, switches }
    }

    /// Where this history and another one left the same timeline at different points: at the earlier of both.
    /// Two promotions that knew nothing of each other give the next timeline the same number.
    pub fn fork(&self, other: &History) -> Option<Lsn> {
        let differ = |switch: &Switch| {
            other.end_of(switch.timeline).filter(|at| *at != switch.at).map(|at| at.min(switch.at))
        };
        self.switches.iter().find_map(differ)
    }

    /// Where `timeline` was left on the way here; `None`: it is not an ancestor.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.switches.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ancestors_with_their_ends() {
        let history =
            History::parse(3, "1\t0/5000000\tno recovery target specified\n\n2\t0/7000060\tby hand\n");
        assert_eq!(history.end_of(1), Some(Lsn(0x500_0000)));
        assert_eq!(history.end_of(2), Some(Lsn(0x700_0060)));
        assert_eq!(history.end_of(3), None);
        assert_eq!(history.switches[0].reason, "no recovery target specified");
    }
}
