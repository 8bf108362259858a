//! Wrong inventories. A case is a file, or a folder with `inventory.yml` and what lies beside it; lines that
//! begin with `#-e ` are given as arguments of `-e`.

use pgfleet::inventory::Inventory;
use std::fs;

#[test]
fn wrong_inventories_are_explained() {
    super::check("inventory", 25, |case| {
        let file = if case.is_dir() { case.join("inventory.yml") } else { case.to_owned() };
        let text = fs::read_to_string(&file).unwrap_or_default();
        let extra: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("#-e ")).map(str::to_owned).collect();
        match Inventory::inspect(&file, &extra) {
            Err(wrong) => wrong.render(false),
            Ok(inventory) => {
                assert!(!inventory.warnings.is_empty(), "{} is not wrong", file.display());
                inventory
                    .warnings
                    .iter()
                    .map(|warning| warning.render(false))
                    .collect::<Vec<_>>()
                    .join("\n\n")
            }
        }
    });
}
