//! What is to become of installed packages when the distribution upgrades by itself.

use super::dpkg::Packages;
use crate::remote::{
    command::Invocation,
    host::{Context, Finding, Manage},
    protocol::Failure,
};
use serde::{Deserialize, Serialize};

/// `dpkg_selections`: installed packages are held at their version, against unattended upgrades too, or not. Of
/// packages that aren't installed there is nothing to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpkgSelections {
    pub name: Vec<String>,
    pub selection: Selection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    Hold,
    /// It goes with the distribution's upgrades.
    Install,
}

impl DpkgSelections {
    /// Installed packages that are selected otherwise.
    fn others<'a>(&'a self, packages: &Packages) -> Vec<&'a str> {
        let wanted = self.selection == Selection::Hold;
        let differs = |name: &&str| {
            packages.is_installed(name) && packages.get(name).is_some_and(|package| package.is_held != wanted)
        };
        self.name.iter().map(String::as_str).filter(differs).collect()
    }
}

impl Manage for DpkgSelections {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let packages = Packages::read(context.host)?;
        let (from, to) = match self.selection {
            Selection::Hold => ("install", "hold"),
            Selection::Install => ("hold", "install"),
        };
        let mut finding = Finding::unchanged();
        for name in self.others(&packages) {
            finding.differs(format!("{name}: {from} -> {to}"));
        }
        // Those that an earlier step of the plan installs.
        let coming =
            |name: &&String| !packages.is_installed(name) && context.is_promised(&format!("package {name}"));
        if self.selection == Selection::Hold {
            let coming = self.name.iter().filter(coming);
            coming.for_each(|name| finding.differs(format!("{name}: absent -> {to}")));
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let verb = if self.selection == Selection::Hold { "hold" } else { "unhold" };
        let names = self.others(&Packages::read(context.host)?);
        let mark = Invocation::new("apt-mark").arg(verb).arg("--").args(names.iter().copied());
        mark.success(context.host, &format!("could not {verb} {}", names.join(" "))).await.map(drop)
    }
}
