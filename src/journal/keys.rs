//! The names of the keys. Pure.

use crate::model::Scope;

/// The folder of all clusters.
pub const ROOT: &str = "/pgfleet/";

pub fn lock(cluster: &Scope) -> String {
    format!("{ROOT}{cluster}/lock")
}

/// The folder of the runs; their keys are in the order of their beginnings.
pub fn history(cluster: &Scope) -> String {
    format!("{ROOT}{cluster}/history/")
}

pub fn run(cluster: &Scope, id: &str) -> String {
    format!("{}{id}", history(cluster))
}

pub fn inventory(cluster: &Scope) -> String {
    format!("{ROOT}{cluster}/inventory")
}

/// The cluster whose inventory a key holds.
pub fn cluster_of_inventory(key: &str) -> Option<Scope> {
    key.strip_prefix(ROOT)?.strip_suffix("/inventory")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_below_the_clusters_own_folder() {
        let demo: Scope = "demo".parse().unwrap();
        assert_eq!(lock(&demo), "/pgfleet/demo/lock");
        assert_eq!(run(&demo, "1"), "/pgfleet/demo/history/1");
        assert_eq!(cluster_of_inventory(&inventory(&demo)), Some(demo));
        assert_eq!(cluster_of_inventory("/pgfleet/demo/lock"), None);
    }
}
