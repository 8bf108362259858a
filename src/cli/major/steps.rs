//! The steps of an upgrade as they are carried out: playbooks, the agents' keys in the store, and a note of how
//! far it is before each.

use super::{Args, store};
use crate::{
    cli::{
        Exit,
        common::Format,
        context::Context,
        deploy::{self, Deploy, Held},
        error::Error,
    },
    cluster::{
        self, Access, Kv, Status, Topology,
        major::{self, Control, Facts, Mark, MovedOn, Phase, Place, Point, Record, Step, Touched, Wish},
        probe::Probe,
    },
    engine::Report,
    journal::Holder,
    model::{HostName, PgMajor},
    remote::resource::Transfer,
    ui,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long a cluster may take to be well.
const SETTLES: Duration = Duration::from_secs(30);

/// How long a primary may take to lead.
const LEADS: Duration = Duration::from_secs(300);

/// How long a copy of many terabytes may take.
const COPIES: Duration = Duration::from_secs(72 * 3600);

/// An upgrade, or what undoes or ends it.
pub struct Upgrade<'a> {
    pub args: &'a Args,
    /// The cluster with the old version's variables, and with the new one's.
    pub old: &'a Context,
    pub new: &'a Context,
    pub versions: (PgMajor, PgMajor),
    pub topology: &'a Topology,
    pub access: &'a Access,
    pub kv: &'a Arc<Kv>,
    pub holder: &'a Holder,
    /// Cancelled when the deploy lock is lost.
    pub stop: &'a CancellationToken,
    /// Where it stands.
    pub record: Option<Record>,
    /// What is noted once the cluster is shut down.
    pub draft: Option<Record>,
    /// The steps that are over, with the milliseconds that they took.
    pub done: Vec<(Step, u64)>,
    pub points: Vec<Point>,
    /// It was left before clients get to the new data.
    pub held: bool,
}

/// The data and programs of a version, by host.
fn places(context: &Context) -> IndexMap<HostName, Place> {
    let place = |host: &crate::inventory::Host| {
        let text = |name: &str| host.text(name).unwrap_or_default().to_owned();
        let place = Place { data_dir: text("postgres_data_dir"), bin_dir: text("postgres_bin_dir") };
        (host.name.clone(), place)
    };
    context.inventory.group("postgres").map(place).collect()
}

impl Upgrade<'_> {
    /// What is asked before a step.
    pub fn question(&self, step: Step) -> Option<String> {
        let (from, to) = self.versions;
        let cluster = &self.old.inventory.cluster;
        Some(match step {
            Step::Stop => format!(
                "Shut {cluster} down and upgrade its data from PostgreSQL {from} to {to}? Nobody can write meanwhile."
            ),
            Step::Open => {
                format!(
                    "PostgreSQL {to} has the data. Let clients in? From their first write on there is no way back."
                )
            }
            Step::Finish => {
                format!("Delete the data and packages of PostgreSQL {from} on all members of {cluster}?")
            }
            _ => return None,
        })
    }

    /// Whether no more than this was asked for.
    pub fn ends_after(&mut self, step: Step) -> bool {
        self.held |= self.args.hold && step == Step::Upgrade;
        self.held || self.args.check && step == Step::Check
    }

    /// What has become of the new cluster, as far as it matters to what is wished.
    pub async fn touched(&self, wish: Wish) -> Result<Touched, Error> {
        let Some(record) = self.record.as_ref().filter(|_| wish == Wish::Back) else {
            return Ok(Touched::Never);
        };
        let (Some(fresh), true) = (&record.fresh, record.phase >= Phase::Opening) else {
            return Ok(Touched::Never);
        };
        let primary = self.primary()?;
        let (agent, superuser) = (self.agent(primary)?, self.superuser()?);
        let places = places(self.new);
        let place = self.place(&places, primary)?;
        let touched = major::touched(self.access, agent, superuser, (place, fresh)).await;
        touched.map_err(Error::failed)
    }

    pub async fn carry_out(&mut self, step: Step, probe: &Probe) -> Result<(), Error> {
        let begun = Instant::now();
        match step {
            Step::Check => self.check().await?,
            Step::Stop => {
                // A gap can only be measured from a commit before it.
                probe.acknowledged().await;
                self.shut_down().await?;
            }
            Step::Upgrade => self.upgrade().await?,
            Step::Open => {
                self.open().await?;
                probe.acknowledged().await;
                self.advance(|record| {
                    record.opened.get_or_insert_with(Timestamp::now);
                    record.phase = Phase::Opened;
                })
                .await?;
            }
            Step::Analyze => {
                let vars = json!({"primary": self.primary()?});
                self.playbook(self.new, "major-analyze", None, vars).await?;
            }
            Step::Replicas => {
                self.start(self.new, false).await?;
                // As `apply` leaves it.
                self.playbook(self.new, "kept", None, json!({})).await?;
                self.advance(|record| record.phase = Phase::Done).await?;
            }
            Step::GoBack => self.go_back().await?,
            Step::Finish => {
                let vars = json!({"places": self.old_places(), "former": self.versions.0});
                self.playbook(self.new, "major-finish", None, vars).await?;
                self.forget().await?;
            }
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.done.push((step, took));
        Ok(())
    }

    async fn check(&mut self) -> Result<(), Error> {
        let status = self.settled().await;
        let Some(leader) = status.leader().and_then(|leader| leader.name.parse::<HostName>().ok()) else {
            return Err(Error::failed(anyhow::anyhow!("nobody leads the cluster"))
                .next("A cluster is upgraded while it is well: see `pgfleet status`."));
        };
        let server = match self.superuser() {
            Ok(superuser) => major::server(self.access, self.agent(&leader)?, superuser).await.ok(),
            Err(_) => None,
        };
        let hosts = self.look_at_hosts().await;
        let transfer = self.args.transfer.unwrap_or_else(|| {
            let clones = hosts.iter().any(|(name, found)| {
                *name == leader.as_str()
                    && found.as_ref().is_ok_and(|found| found.reflink && found.one_file_system)
            });
            if clones { Transfer::Clone } else { Transfer::Copy }
        });
        let (from, to) = self.versions;
        let stale_packages = self.stale_packages();
        let mut facts = Facts { from, to, transfer, status, server, hosts, stale_packages };
        self.judge(major::before(&facts))?;

        let vars = json!({"primary": leader, "places": self.old_places(), "transfer": transfer});
        self.playbook(self.new, "major-check", None, vars).await?;
        facts.hosts = self.look_at_hosts().await;
        let unknown = self.unknown_settings(&leader).await?;
        self.judge(major::after(&facts, &unknown))?;
        let mut passed = Vec::from([Point {
            what: format!(
                "pg_upgrade --check has nothing against it; the data are taken over by {}",
                transfer.as_str()
            ),
            verdict: major::Verdict::Fine,
        }]);
        self.show(&passed);
        self.points.append(&mut passed);

        let store = major::saved(self.kv, &self.new.inventory.dcs_folder()).await.map_err(super::store)?;
        self.draft = Some(Record {
            from,
            to,
            phase: Phase::Stopping,
            transfer,
            primary: leader,
            stopped: Timestamp::now(),
            opened: None,
            store,
            fresh: None,
        });
        Ok(())
    }

    /// The state of the cluster; one that has just been changed may take a moment to be well.
    async fn settled(&self) -> Status {
        let begun = Instant::now();
        loop {
            let status = cluster::status(self.topology, self.access).await;
            if status.healthy || begun.elapsed() >= SETTLES {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Shows what was found, and refuses to go on where something stands in the way.
    fn judge(&mut self, points: Vec<Point>) -> Result<(), Error> {
        self.show(&points);
        let problems = points.iter().filter(|point| point.is_problem()).count();
        self.points.extend(points);
        match problems {
            0 => Ok(()),
            _ => Err(Error::failed(anyhow::anyhow!(
                "{problems} of these stand in the way; nothing was shut down"
            ))
            .next("Mend them, then look again with `--check`.")),
        }
    }

    fn show(&self, points: &[Point]) {
        if self.args.common.format == Format::Text {
            points.iter().for_each(super::tell::point);
        }
    }

    async fn look_at_hosts(&self) -> Vec<(String, Result<major::Found, String>)> {
        let (old, new) = (places(self.old), places(self.new));
        let looks = old.iter().filter_map(|(name, old)| {
            let new = new.get(name)?.clone();
            Some(async move {
                let found = major::found(self.access, name, old, &new).await;
                (name.to_string(), found.map_err(|error| error.to_string()))
            })
        });
        futures_util::future::join_all(looks).await
    }

    /// Packages of the new version's inventory that are named after the old one.
    fn stale_packages(&self) -> Vec<String> {
        let prefix = format!("postgresql-{}", self.versions.0);
        let hosts = self.new.inventory.group("postgres");
        let lists = hosts.filter_map(|host| host.vars.get("postgres_packages")?.as_array());
        let mut packages: Vec<String> =
            lists.flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        packages.retain(|name| name.starts_with(&prefix));
        packages.sort();
        packages.dedup();
        packages
    }

    /// Settings of the inventory that the new version does not have, with where they are set.
    async fn unknown_settings(
        &self,
        leader: &HostName,
    ) -> Result<Vec<(String, Option<crate::diagnostic::Location>)>, Error> {
        let inventory = &self.new.inventory;
        let parameters = inventory.hosts.get(leader).and_then(|host| host.vars.get("postgres_parameters"));
        let names: Vec<String> =
            parameters.and_then(Value::as_object).into_iter().flat_map(|map| map.keys().cloned()).collect();
        let places = places(self.new);
        let place = self.place(&places, leader)?;
        let unknown = major::unknown(self.access, leader, place, &names).await.map_err(Error::failed)?;
        let placed = |name: String| {
            let at = inventory.place("postgres_parameters", Some(&name));
            (name, at)
        };
        Ok(unknown.into_iter().map(placed).collect())
    }

    async fn shut_down(&mut self) -> Result<(), Error> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        let primary = draft.primary.clone();
        // Only for speed: the shutdown writes what is left.
        let _ = major::checkpoint(self.access, self.agent(&primary)?, self.superuser()?).await;
        let (inventory, by) = (&self.old.inventory, self.holder.describe());
        let namespace = inventory.dcs_folder();
        let namespace = namespace.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
        let mark = Mark::set(self.kv, (namespace, &inventory.cluster), &primary, &by).await;
        let mark = mark.map_err(store)?;
        self.record = Some(Record { stopped: Timestamp::now(), ..draft });
        self.advance(|_| {}).await?;
        let stopped = self.playbook(self.old, "major-stop", None, json!({"primary": primary})).await;
        mark.lift().await.map_err(store)?;
        stopped?;
        self.compare(&primary).await?;
        self.advance(|record| record.phase = Phase::Stopped).await
    }

    /// All members have what the primary had when it went down.
    async fn compare(&self, primary: &HostName) -> Result<(), Error> {
        let places = places(self.old);
        let controls = places.iter().map(|(name, place)| async move {
            let control = major::control(self.access, name, place).await;
            control.map(|control| (name, control)).map_err(Error::failed)
        });
        let controls: Vec<(&HostName, Control)> = futures_util::future::try_join_all(controls).await?;
        let Some((_, leading)) = controls.iter().find(|(name, _)| *name == primary) else {
            return Err(Error::failed(anyhow::anyhow!("{primary} is not in the inventory")));
        };
        let standbys: Vec<(String, Control)> = controls
            .iter()
            .filter(|(name, _)| *name != primary)
            .map(|(name, control)| (name.to_string(), control.clone()))
            .collect();
        let mut behind = major::behind(leading, &standbys);
        if leading.state != "shut down" {
            behind.push(format!("the primary was not shut down in order: it is {}", leading.state));
        }
        match behind.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::failed(anyhow::anyhow!("not all members have all data: {}", behind.join("; ")))
                    .next("See why it does not follow: `pgfleet status`, `pgfleet logs`."))
            }
        }
    }

    async fn upgrade(&mut self) -> Result<(), Error> {
        let primary = self.primary()?.clone();
        let transfer = self.record.as_ref().map(|record| record.transfer).unwrap_or_default();
        let vars = json!({"primary": primary, "places": self.old_places(), "transfer": transfer});
        self.playbook(self.new, "major-upgrade", None, vars).await?;
        let places = places(self.new);
        let fresh = major::control(self.access, &primary, self.place(&places, &primary)?).await;
        let fresh = fresh.map_err(Error::failed)?;
        self.advance(|record| {
            record.fresh = Some(fresh);
            record.phase = Phase::Upgraded;
        })
        .await
    }

    async fn open(&mut self) -> Result<(), Error> {
        self.advance(|record| record.phase = Phase::Opening).await?;
        let vars = json!({"primary": self.primary()?, "places": self.old_places()});
        self.playbook(self.new, "major-leftovers", None, vars).await?;
        self.playbook(self.new, "major-configure", None, json!({})).await?;
        let fresh = self.record.as_ref().and_then(|record| record.fresh.as_ref());
        let fresh = fresh.ok_or_else(|| Error::failed(anyhow::anyhow!("the data are not upgraded yet")))?;
        let folder = self.new.inventory.dcs_folder();
        let now = major::saved(self.kv, &folder).await.map_err(store)?;
        let known = now.get("initialize") == Some(&fresh.system_identifier);
        // A run that was stopped behind this may have left a primary.
        if !(known && self.serves().await) {
            major::renew(self.kv, &folder).await.map_err(moved_on)?;
        }
        self.start(self.new, true).await
    }

    /// Shuts the new cluster down, and makes sure that nobody has written to it; else it serves on.
    async fn shut_new_down(&self) -> Result<(), Error> {
        let Some(record) = self.record.as_ref().filter(|record| record.phase >= Phase::Opening) else {
            return Ok(());
        };
        let Some(fresh) = &record.fresh else { return Ok(()) };
        self.playbook(self.new, "major-stop", None, json!({"primary": record.primary})).await?;
        let places = places(self.new);
        let now = major::control(self.access, &record.primary, self.place(&places, &record.primary)?).await;
        let touched = Touched::since(fresh, &now.map_err(Error::failed)?);
        let Err(refusal) = major::course(Some(record), Wish::Back, touched) else { return Ok(()) };
        self.start(self.new, true).await?;
        Err(super::refused(refusal))
    }

    async fn go_back(&mut self) -> Result<(), Error> {
        self.shut_new_down().await?;
        self.advance(|record| record.phase = Phase::Stopping).await?;
        let vars = json!({"primary": self.primary()?, "places": self.old_places()});
        self.playbook(self.new, "major-back", None, vars).await?;
        let folder = self.old.inventory.dcs_folder();
        let now = major::saved(self.kv, &folder).await.map_err(store)?;
        let before = self.record.as_ref().map(|record| record.store.clone()).unwrap_or_default();
        if now.get("initialize") != before.get("initialize") {
            major::restore(self.kv, &folder, &before).await.map_err(moved_on)?;
        }
        self.playbook(self.old, "major-configure", None, json!({})).await?;
        self.start(self.old, true).await?;
        self.start(self.old, false).await?;
        self.forget().await
    }

    /// Whether a member leads.
    async fn serves(&self) -> bool {
        cluster::status(self.topology, self.access).await.leader().is_some()
    }

    /// Starts the member whose data were upgraded, or the others.
    async fn start(&self, context: &Context, primary: bool) -> Result<(), Error> {
        let leads = self.primary()?;
        let members = places(context);
        let members: Vec<&str> =
            members.keys().filter(|name| (*name == leads) == primary).map(HostName::as_str).collect();
        if members.is_empty() {
            return Ok(());
        }
        let patience = if primary { LEADS } else { COPIES };
        let vars = json!({"patience": patience.as_secs()});
        self.playbook(context, "major-start", Some(members.join(":")), vars).await
    }

    /// Carries a playbook out under the lock that is held.
    async fn playbook(
        &self,
        context: &Context,
        name: &str,
        limit: Option<String>,
        vars: Value,
    ) -> Result<(), Error> {
        let playbook = deploy::load(context, name)?;
        let held = Some(Held { holder: self.holder, stop: self.stop });
        let with = Deploy { held, limit, vars, ..Deploy::default() };
        let report = deploy::carry_out(context, &playbook, &with).await?;
        let exit = deploy::exit(&report);
        if exit == Exit::Done && !report.cancelled {
            return Ok(());
        }
        if context.common.format == Format::Text {
            ui::recap::recap(&report, false);
        }
        Err(failed(&report, name, exit))
    }

    /// Notes how far it is, before anything else is done.
    async fn advance(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let Some(record) = &mut self.record else { return Ok(()) };
        change(record);
        record.save(self.kv, &self.old.inventory.cluster).await.map_err(store)
    }

    async fn forget(&mut self) -> Result<(), Error> {
        Record::forget(self.kv, &self.old.inventory.cluster).await.map_err(store)?;
        self.record = None;
        Ok(())
    }

    /// The member whose data are upgraded.
    pub fn primary(&self) -> Result<&HostName, Error> {
        let record = self.record.as_ref();
        record
            .map(|record| &record.primary)
            .ok_or_else(|| Error::failed(anyhow::anyhow!("no upgrade is under way")))
    }

    fn agent(&self, name: &HostName) -> Result<&crate::cluster::AgentHost, Error> {
        let unknown = || Error::failed(anyhow::anyhow!("{name} is not in the inventory"));
        self.topology.agent(name.as_str()).ok_or_else(unknown)
    }

    fn superuser(&self) -> Result<&(String, crate::model::Secret), Error> {
        let none = || Error::failed(anyhow::anyhow!("the inventory has no superuser"));
        self.topology.superuser.as_ref().ok_or_else(none)
    }

    fn place<'p>(&self, places: &'p IndexMap<HostName, Place>, host: &HostName) -> Result<&'p Place, Error> {
        places.get(host).ok_or_else(|| Error::failed(anyhow::anyhow!("{host} is not in the inventory")))
    }

    /// Where the new version is on the member whose data are upgraded.
    pub fn new_place(&self) -> Option<(HostName, Place)> {
        let primary = self.primary().ok()?.clone();
        let place = places(self.new).shift_remove(&primary)?;
        Some((primary, place))
    }

    fn old_places(&self) -> Value {
        let places = places(self.old).into_iter().map(|(name, place)| {
            (name.to_string(), json!({"data_dir": place.data_dir, "bin_dir": place.bin_dir}))
        });
        Value::Object(places.collect())
    }
}

fn failed(report: &Report, playbook: &str, exit: Exit) -> Error {
    let failure = report.failures.first();
    let why = failure.map_or_else(
        || "stopped by Ctrl-C".to_owned(),
        |failure| format!("{}: {}: {}", failure.host, failure.step, failure.failure.message),
    );
    let error = anyhow::anyhow!("`{playbook}` did not come to its end: {why}");
    match exit {
        Exit::Unreachable => Error::Unreachable(error, Vec::new()),
        _ => Error::Failed(error, Vec::new()),
    }
}

fn moved_on(error: MovedOn) -> Error {
    Error::failed(error).next("See who leads with `pgfleet status`, then run the same command again.")
}
