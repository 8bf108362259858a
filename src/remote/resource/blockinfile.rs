//! A block of lines, between markers, in a file that others own.

use super::{Presence, placement::Placement};
use crate::{
    model::Digest,
    remote::{
        arguments::Permissions,
        files,
        host::{Context, Finding, Manage, failure_with},
        memory::{Memory, Print, Thing, Trace},
        protocol::Failure,
    },
};
use serde::{Deserialize, Serialize};

/// `blockinfile`: the lines between two markers are exactly these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blockinfile {
    #[serde(alias = "dest")]
    pub path: String,
    /// Empty means that the block is to be absent.
    #[serde(default, alias = "content")]
    pub block: String,
    /// Holds `{mark}`, which becomes `BEGIN` and `END`.
    #[serde(default = "marker")]
    pub marker: String,
    /// A whole line that a new block is put after; `EOF`, and what is not found, is the end.
    #[serde(default)]
    pub insertafter: Option<String>,
    #[serde(default)]
    pub insertbefore: Option<String>,
    #[serde(default)]
    pub state: Presence,
    /// Make the file if there is none.
    #[serde(default)]
    pub create: bool,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub mode: Option<Permissions>,
    #[serde(default)]
    pub validate: Option<String>,
}

fn marker() -> String {
    "# {mark} PGFLEET MANAGED BLOCK".to_owned()
}

impl Blockinfile {
    pub(super) fn validate(&self) -> Result<(), String> {
        if !self.marker.contains("{mark}") {
            return Err("`marker`: expected `{mark}` in it".to_owned());
        }
        if self.insertafter.is_some() && self.insertbefore.is_some() {
            return Err("expected either `insertafter` or `insertbefore`, not both".to_owned());
        }
        Ok(())
    }
}

/// The lines between the markers, those included; none where there is no such block.
pub(in crate::remote) fn block_in(text: &str, marker: &str) -> Option<String> {
    let (begin, end) = (marker.replace("{mark}", "BEGIN"), marker.replace("{mark}", "END"));
    let mut lines = text.lines().skip_while(|line| *line != begin).peekable();
    lines.peek()?;
    let mut block = Vec::new();
    for line in lines {
        block.push(line);
        if line == end {
            break;
        }
    }
    Some(block.join("\n"))
}

impl Blockinfile {
    fn placement(&self) -> Placement<'_> {
        Placement {
            path: &self.path,
            owner: self.owner.as_deref(),
            group: self.group.as_deref(),
            mode: self.mode,
            validate: self.validate.as_deref(),
        }
    }

    /// What the file shall hold, given what it holds.
    fn wanted(&self, text: &str) -> String {
        let (begin, end) = (self.marker.replace("{mark}", "BEGIN"), self.marker.replace("{mark}", "END"));
        let mut lines: Vec<&str> = text.lines().collect();
        let first = lines.iter().position(|line| *line == begin);
        // An end is sought after its beginning only; a lone beginning loses just its own line.
        let last = first.map(|first| {
            lines.iter().skip(first).position(|line| *line == end).map_or(first, |distance| first + distance)
        });
        let place = match (first, last) {
            (Some(first), Some(last)) => {
                lines.drain(first..=last);
                first
            }
            _ => self.place(&lines),
        };
        if self.state == Presence::Present && !self.block.is_empty() {
            let block = std::iter::once(begin.as_str()).chain(self.block.lines()).chain([end.as_str()]);
            lines.splice(place..place, block);
        }
        let mut wanted = lines.join("\n");
        if !wanted.is_empty() {
            wanted.push('\n');
        }
        wanted
    }

    /// Of a file that others have lines in, the block alone is ours to answer for.
    fn recollect(&self, context: &Context<'_>, wanted: &str, finding: Finding) -> Result<Finding, Failure> {
        let thing = Thing { path: self.path.clone(), block: Some(self.marker.clone()) };
        let Some(block) = block_in(wanted, &self.marker) else {
            return Ok(finding.leaving(Trace::Gone(thing)));
        };
        let sha256 = Digest::of(block.as_bytes());
        let drift = if finding.changed {
            Memory::of(context.host).drift(context.host, &thing, sha256)?
        } else {
            None
        };
        let print = Print { sha256, attributes: files::Attributes::default() };
        Ok(Finding { drift, ..finding }.leaving(Trace::Put(thing, print)))
    }

    /// Where a new block goes.
    fn place(&self, lines: &[&str]) -> usize {
        match (&self.insertbefore, &self.insertafter) {
            (Some(before), _) if before == "BOF" => 0,
            (Some(before), _) => lines.iter().position(|line| line == before).unwrap_or(lines.len()),
            (None, Some(after)) => {
                lines.iter().rposition(|line| line == after).map_or(lines.len(), |place| place + 1)
            }
            (None, None) => lines.len(),
        }
    }
}

impl Manage for Blockinfile {
    async fn check(&self, context: &Context<'_>) -> Result<Finding, Failure> {
        let path = context.host.path(&self.path);
        if files::look(&path)?.is_none() && !self.create {
            if self.state == Presence::Absent {
                return Ok(Finding::unchanged());
            }
            if context.is_path_promised(&self.path) {
                return Ok(Finding::changed(format!(
                    "{}: block in a file that is yet to be made",
                    self.path
                )));
            }
            return Err(failure_with(
                format!("{} does not exist", self.path),
                "say `create: true`, or make the file before this task",
            ));
        }
        let text = files::read_text(&path)?;
        let wanted = self.wanted(&text);
        if wanted == text && files::look(&path)?.is_none() {
            return Ok(Finding::unchanged());
        }
        let finding =
            self.placement().check(context, Digest::of(wanted.as_bytes()), Some(wanted.as_bytes()))?;
        self.recollect(context, &wanted, finding.shared())
    }

    async fn apply(&self, context: &Context<'_>, _finding: &mut Finding) -> Result<(), Failure> {
        let text = files::read_text(&context.host.path(&self.path))?;
        self.placement().apply(context, self.wanted(&text).as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn block(args: serde_json::Value) -> Blockinfile {
        let mut all = json!({"path": "/f", "marker": "# {mark}"});
        for (key, value) in args.as_object().expect("a map") {
            all[key] = value.clone();
        }
        crate::remote::arguments::read(all).expect("arguments")
    }

    #[test]
    fn a_block_is_put_replaced_and_removed_without_touching_the_rest() {
        let one = block(json!({"block": "x\ny"})).wanted("a\nb\n");
        assert_eq!(one, "a\nb\n# BEGIN\nx\ny\n# END\n");
        assert_eq!(block(json!({"block": "x\ny"})).wanted(&one), one);
        let two = block(json!({"block": "z"})).wanted(&format!("{one}c\n"));
        assert_eq!(two, "a\nb\n# BEGIN\nz\n# END\nc\n");
        assert_eq!(block(json!({"state": "absent"})).wanted(&two), "a\nb\nc\n");
    }

    #[test]
    fn a_new_block_goes_where_it_is_told() {
        let text = "a\nb\n";
        assert_eq!(
            block(json!({"block": "x", "insertafter": "a"})).wanted(text),
            "a\n# BEGIN\nx\n# END\nb\n"
        );
        assert_eq!(
            block(json!({"block": "x", "insertbefore": "BOF"})).wanted(text),
            "# BEGIN\nx\n# END\na\nb\n"
        );
        assert_eq!(
            block(json!({"block": "x", "insertafter": "EOF"})).wanted(text),
            "a\nb\n# BEGIN\nx\n# END\n"
        );
    }
}
