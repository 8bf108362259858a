//! What systemd runs.

use crate::remote::{
    host::{Context, Finding, Manage, failure, failure_with},
    protocol::{Effect, Failure},
    systemd::{self, Unit, systemctl},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `service` (alias `systemd`): a unit runs or not, now and after a boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    #[serde(alias = "unit")]
    pub name: String,
    #[serde(default)]
    pub state: Option<ServiceState>,
    #[serde(default)]
    pub enabled: Option<bool>,
    #[serde(default)]
    pub masked: Option<bool>,
    /// Read unit files anew first; it is done anyway where systemd says that they changed.
    #[serde(default)]
    pub daemon_reload: bool,
    /// How long a unit must stay active after it was started, in milliseconds.
    #[serde(default = "second_ms")]
    pub settle_ms: u64,
    /// How long starting or stopping may take, in seconds.
    #[serde(default = "two_minutes_secs")]
    pub timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    #[serde(alias = "running")]
    Started,
    Stopped,
    /// Always a change; meant for handlers.
    Restarted,
    /// Always a change, a start when the unit is down; meant for handlers.
    Reloaded,
}

fn second_ms() -> u64 {
    1000
}

fn two_minutes_secs() -> u64 {
    120
}

impl Service {
    fn unit(&self) -> String {
        systemd::full_name(&self.name)
    }

    fn is_enabled(unit: &Unit) -> bool {
        // What has no [Install] section, or is started by others, is as enabled as it can be.
        matches!(
            unit.get("UnitFileState"),
            "enabled" | "enabled-runtime" | "static" | "alias" | "indirect" | "generated" | "transient"
        )
    }

    fn is_disabled(unit: &Unit) -> bool {
        !matches!(unit.get("UnitFileState"), "enabled" | "enabled-runtime" | "alias")
    }

    /// Whether the state is to be changed, with what that means for those who use the unit.
    fn transition(&self, unit: &Unit) -> Option<(&'static str, Effect)> {
        let active = unit.is_active();
        match self.state? {
            ServiceState::Started if active => None,
            ServiceState::Started => Some(("started", Effect::None)),
            ServiceState::Stopped if active || unit.get("ActiveState") == "activating" => {
                Some(("stopped", Effect::Outage))
            }
            ServiceState::Stopped => None,
            ServiceState::Restarted => {
                Some(("restarted", if active { Effect::Restart } else { Effect::None }))
            }
            ServiceState::Reloaded => Some(("reloaded", if active { Effect::Reload } else { Effect::None })),
        }
    }

    async fn start(&self, context: &Context<'_>, verb: &str) -> Result<(), Failure> {
        let (host, unit) = (context.host, self.unit());
        // A unit that failed too often is refused without this.
        systemctl(host, &["reset-failed", &unit], Duration::from_secs(20)).await.ok();
        let begun = systemctl(host, &[verb, &unit], Duration::from_secs(self.timeout)).await;
        match begun {
            Ok(_) => self.stays(context).await,
            Err(failure) => Err(systemd::with_journal(host, &unit, failure).await),
        }
    }

    /// A service that was started is running a moment later, and is still the same one.
    async fn stays(&self, context: &Context<'_>) -> Result<(), Failure> {
        let (host, name) = (context.host, self.unit());
        let before = Unit::show(host, &name).await?;
        tokio::time::sleep(Duration::from_millis(self.settle_ms)).await;
        let after = Unit::show(host, &name).await?;
        if after.has_finished() {
            return Ok(());
        }
        let restarted = after.get("InvocationID") != before.get("InvocationID")
            || after.get("NRestarts") != before.get("NRestarts");
        if after.is_active() && !restarted {
            return Ok(());
        }
        let what =
            if restarted { "was restarted by systemd".to_owned() } else { format!("is {}", after.state()) };
        let message = format!("{name} {what} {} ms after it was started", self.settle_ms);
        Err(systemd::with_journal(host, &name, failure(message)).await)
    }
}

impl Manage for Service {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let name = self.unit();
        let unit = Unit::show(context.host, &name).await?;
        let mut finding =
            Finding::unchanged().with("name", name.as_str()).with("state", unit.get("ActiveState"));
        if !unit.exists() {
            if context.is_promised(&format!("unit {name}")) {
                finding.differs(format!("{name}: a unit that is yet to be installed"));
                return Ok(finding);
            }
            if self.state.is_none_or(|state| state == ServiceState::Stopped)
                && self.enabled != Some(true)
                && self.masked != Some(true)
            {
                return Ok(finding);
            }
            return Err(failure_with(
                format!("there is no unit {name} on the host"),
                "install the package or add the `systemd_unit` that brings it before this task, or correct the name",
            ));
        }
        if let Some(masked) = self.masked.filter(|masked| *masked != unit.is_masked()) {
            finding.differs(format!(
                "{name}: {}",
                if masked { "unmasked -> masked" } else { "masked -> unmasked" }
            ));
        }
        match self.enabled {
            Some(true) if !Self::is_enabled(&unit) => finding.differs(format!("{name}: disabled -> enabled")),
            Some(false) if !Self::is_disabled(&unit) => {
                finding.differs(format!("{name}: enabled -> disabled"))
            }
            _ => {}
        }
        if unit.needs_daemon_reload() && self.state != Some(ServiceState::Stopped) {
            finding.differs(format!("{name}: on disk -> loaded"));
        }
        if let Some((verb, effect)) = self.transition(&unit) {
            finding.differs(format!("{name}: {} -> {verb}", unit.state()));
            finding.effect = effect;
        }
        Ok(finding)
    }

    async fn apply(&self, context: &Context<'_>, finding: &mut Finding) -> Result<(), Failure> {
        let (host, name) = (context.host, self.unit());
        let unit = Unit::show(host, &name).await?;
        let short = Duration::from_secs(90);
        if self.daemon_reload || unit.needs_daemon_reload() {
            systemctl(host, &["daemon-reload"], short).await?;
        }
        match self.masked {
            Some(true) if !unit.is_masked() => systemctl(host, &["mask", &name], short).await.map(drop)?,
            Some(false) if unit.is_masked() => systemctl(host, &["unmask", &name], short).await.map(drop)?,
            _ => {}
        }
        match self.enabled {
            Some(true) if !Self::is_enabled(&unit) => {
                systemctl(host, &["enable", &name], short).await.map(drop)?
            }
            Some(false) if !Self::is_disabled(&unit) => {
                systemctl(host, &["disable", &name], short).await.map(drop)?;
            }
            _ => {}
        }
        match self.transition(&unit).and(self.state) {
            None => {}
            Some(ServiceState::Started) => self.start(context, "start").await?,
            Some(ServiceState::Restarted) => self.start(context, "restart").await?,
            Some(ServiceState::Reloaded) if unit.is_active() => self.start(context, "reload").await?,
            Some(ServiceState::Reloaded) => self.start(context, "start").await?,
            Some(ServiceState::Stopped) => {
                systemctl(host, &["stop", &name], Duration::from_secs(self.timeout)).await.map(drop)?;
            }
        }
        let unit = Unit::show(host, &name).await?;
        finding.result.insert("state".to_owned(), unit.get("ActiveState").into());
        Ok(())
    }

    /// Starting has proved itself by staying up; the rest must read back.
    async fn verify(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let name = self.unit();
        let unit = Unit::show(context.host, &name).await?;
        let wrong = [
            self.enabled == Some(true) && !Self::is_enabled(&unit),
            self.enabled == Some(false) && !Self::is_disabled(&unit),
            self.masked.is_some_and(|masked| masked != unit.is_masked() && unit.exists()),
            self.state == Some(ServiceState::Stopped) && unit.is_active(),
        ];
        if !wrong.contains(&true) {
            return Ok(());
        }
        let state = format!("{name} is {}, {}", unit.state(), unit.get("UnitFileState"));
        Err(systemd::with_journal(context.host, &name, failure(format!("it does not hold: {state}"))).await)
    }
}
