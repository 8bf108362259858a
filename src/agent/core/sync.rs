//! The order in which `synchronous_standby_names` and `/sync` change, so that at every moment who may
//! win holds all that was acknowledged.
//!
//! Commits wait for `count` of `names`. A winner is not behind `quorum + 1` of `voters`. The two sets
//! always meet while
//!
//! ```text
//! |voters ∪ names| <= quorum + count
//! ```
//!
//! In priority mode `count = |names|` and `quorum = 0`: each voter has everything. Commits that were
//! acknowledged under earlier names are covered by the earlier key until the new names have *settled*:
//! `count` of them have flushed the position at which they came into force. Until then a key may only
//! become more demanding.

use super::observation::{Running, SyncKey, SyncNames};
use crate::model::{Lsn, MemberName};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Names(SyncNames),
    Key(SyncKey),
    /// The standbys have to catch up first.
    Settle,
    Done,
}

fn member_names(names: &SyncNames) -> BTreeSet<MemberName> {
    names.names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Whether every winner under the key has every commit that waits for the names.
pub fn safe(names: &SyncNames, key: &SyncKey) -> bool {
    let all: BTreeSet<&str> =
        key.voters.iter().map(MemberName::as_str).chain(names.names.iter().map(String::as_str)).collect();
    key.voters.is_empty() || all.len() <= key.quorum + names.count
}

/// The key that belongs to names that have settled.
pub fn key_for(names: &SyncNames, leader: &MemberName) -> SyncKey {
    let voters = member_names(names);
    SyncKey { leader: leader.clone(), quorum: voters.len().saturating_sub(names.count), voters, revision: 0 }
}

/// Whether commits from before `since` are on enough of the names.
pub fn settled(server: &Running, since: Lsn) -> bool {
    let flushed = server
        .standbys
        .iter()
        .filter(|row| row.flushed >= since && server.names.names.contains(row.name.as_str()))
        .count();
    flushed >= server.names.count
}

fn same(a: &SyncKey, b: &SyncKey) -> bool {
    a.leader == b.leader && a.voters == b.voters && a.quorum == b.quorum
}

/// The next step from what is in force to what is wanted.
pub fn step(want: &SyncNames, current: &SyncNames, current_settled: bool, key: &SyncKey) -> Step {
    if want == current {
        let target = key_for(want, &key.leader);
        return match () {
            () if same(&target, key) => Step::Done,
            () if current_settled => Step::Key(target),
            () => Step::Settle,
        };
    }
    if safe(want, key) {
        return Step::Names(want.clone());
    }
    let bridge = bridge(want, current, key);
    if same(&bridge, key) { Step::Names(want.clone()) } else { Step::Key(bridge) }
}

/// A key that is safe under both names and at least as demanding as the present one.
fn bridge(want: &SyncNames, current: &SyncNames, key: &SyncKey) -> SyncKey {
    let (old, new) = (member_names(current), member_names(want));
    let demanding = |voters: BTreeSet<MemberName>| {
        let with =
            |names: &BTreeSet<MemberName>, count: usize| voters.union(names).count().saturating_sub(count);
        let added = voters.difference(&key.voters).count();
        let quorum = (key.quorum + added).max(with(&old, current.count)).max(with(&new, want.count));
        SyncKey { leader: key.leader.clone(), voters, quorum, revision: 0 }
    };
    let wide = demanding(key.voters.union(&new).cloned().collect());
    if wide.quorum < wide.voters.len() {
        return wide;
    }
    let narrow = demanding(key.voters.intersection(&new).cloned().collect());
    if narrow.quorum < narrow.voters.len() || narrow.voters.is_empty() {
        return narrow;
    }
    SyncKey { leader: key.leader.clone(), voters: BTreeSet::new(), quorum: 0, revision: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(any: bool, count: usize, names: &[&str]) -> SyncNames {
        SyncNames { any, count, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn key(voters: &[&str], quorum: usize) -> SyncKey {
        let voters = voters.iter().map(|name| name.parse().unwrap()).collect();
        SyncKey { leader: "l".parse().unwrap(), voters, quorum, revision: 0 }
    }

    #[test]
    fn adds_to_names_before_voters_and_takes_from_voters_before_names() {
        let (none, a) = (SyncNames::default(), names(false, 1, &["a"]));
        assert_eq!(step(&a, &none, true, &key(&[], 0)), Step::Names(a.clone()));
        assert_eq!(step(&a, &a, false, &key(&[], 0)), Step::Settle);
        assert_eq!(step(&a, &a, true, &key(&[], 0)), Step::Key(key(&["a"], 0)));
        assert_eq!(step(&a, &a, true, &key(&["a"], 0)), Step::Done);
        assert_eq!(step(&none, &a, true, &key(&["a"], 0)), Step::Key(key(&[], 0)));
        assert_eq!(step(&none, &a, true, &key(&[], 0)), Step::Names(none));
    }

    #[test]
    fn widens_the_quorum_before_more_may_confirm() {
        let (one, two) = (names(true, 1, &["a"]), names(true, 1, &["a", "b"]));
        assert_eq!(step(&two, &one, true, &key(&["a"], 0)), Step::Key(key(&["a", "b"], 1)));
        assert_eq!(step(&two, &one, true, &key(&["a", "b"], 1)), Step::Names(two.clone()));
        assert_eq!(step(&one, &two, true, &key(&["a", "b"], 1)), Step::Names(one.clone()));
        assert_eq!(step(&one, &one, false, &key(&["a", "b"], 1)), Step::Settle);
        assert_eq!(step(&one, &one, true, &key(&["a", "b"], 1)), Step::Key(key(&["a"], 0)));
    }

    const STANDBYS: [&str; 4] = ["a", "b", "c", "d"];

    fn some_names() -> impl Strategy<Value = SyncNames> {
        (0usize..16, any::<bool>(), 1usize..4).prop_map(|(mask, any, count)| {
            let chosen: Vec<_> = STANDBYS
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask >> bit & 1 == 1)
                .map(|(_, name)| *name)
                .collect();
            let count = if any { count.min(chosen.len()) } else { chosen.len() };
            names(any, count, &chosen)
        })
    }

    /// Each subset of the standbys as a bit mask.
    fn mask(members: &BTreeSet<MemberName>) -> u32 {
        STANDBYS
            .iter()
            .enumerate()
            .filter(|(_, name)| members.contains(**name))
            .map(|(bit, _)| 1 << bit)
            .sum()
    }

    /// Whether every election that the key allows meets every set of standbys that holds a commit.
    fn meets(key: &SyncKey, holders: &[u32]) -> bool {
        let voters = mask(&key.voters);
        (0u32..16)
            .filter(|electors| electors & !voters == 0 && electors.count_ones() as usize > key.quorum)
            .all(|electors| holders.iter().all(|holder| electors & holder != 0))
    }

    proptest! {
        /// From any names to any others, commits may be acknowledged at each step by the fewest standbys
        /// that are enough; none may be out of reach of an election, and the walk ends.
        #[test]
        fn every_election_meets_every_acknowledged_commit(walk in proptest::collection::vec(some_names(), 1..5)) {
            let mut current = SyncNames::default();
            let mut key = key(&[], 0);
            // Commits from before the names in force settled, and those under the names in force.
            let mut holders: Vec<u32> = vec![0];
            let acknowledged = |names: &SyncNames| -> Vec<u32> {
                let all = mask(&member_names(names));
                (0u32..16).filter(|set| set & !all == 0 && set.count_ones() as usize == names.count).collect()
            };
            for want in walk {
                let mut settled = false;
                for turn in 0.. {
                    prop_assert!(turn < 10, "no end from {current:?} to {want:?} at {key:?}");
                    match step(&want, &current, settled, &key) {
                        Step::Names(names) => { current = names; settled = false; holders.extend(acknowledged(&current)); }
                        Step::Key(next) => key = next,
                        // Everything older has reached one and the same `count` of the names, at least.
                        Step::Settle => { settled = true; holders = acknowledged(&current); }
                        Step::Done => break,
                    }
                    prop_assert!(meets(&key, &holders), "{key:?} misses a commit under {current:?}, {holders:?}");
                    prop_assert!(safe(&current, &key));
                }
            }
        }
    }
}
