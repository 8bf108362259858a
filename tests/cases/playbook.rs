//! Wrong playbooks. A case is a file, or a folder with `play.yml` and what lies beside it.

use pgfleet::{
    playbook::{Playbook, Sources},
    template::Templates,
};
use std::path::PathBuf;

#[test]
fn wrong_playbooks_are_explained() {
    super::check("playbook", 25, |case| {
        let file = if case.is_dir() { case.join("play.yml") } else { case.to_owned() };
        let beside: PathBuf = file.parent().map(PathBuf::from).unwrap_or_default();
        let found = Playbook::load(&file.to_string_lossy(), &Sources::default())
            .and_then(|playbook| playbook.check_templates(&Templates::new(vec![beside])?));
        found.err().unwrap_or_else(|| panic!("{} is not wrong", file.display())).render(false)
    });
}
