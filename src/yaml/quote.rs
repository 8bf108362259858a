//! Quotes, in YAML that serde_yaml wrote, the words that YAML 1.1 takes for booleans.

/// `on`, `yes` and the like in quotes wherever they are a whole value. Block scalars are left alone.
pub(super) fn old_booleans(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut block: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches('\n');
        let indent = body.len() - body.trim_start().len();
        if block.is_some_and(|parent| indent > parent || body.trim().is_empty()) {
            written.push_str(line);
            continue;
        }
        block = opens_block(body).then_some(indent);
        match value_start(body) {
            Some(start) if is_old_boolean(&body[start..]) => {
                written.push_str(&body[..start]);
                written.push_str(&format!("'{}'", &body[start..]));
                written.push_str(&line[body.len()..]);
            }
            _ => written.push_str(line),
        }
    }
    written
}

fn opens_block(body: &str) -> bool {
    let last = body.rsplit([' ']).next().unwrap_or_default();
    last.starts_with(['|', '>']) && last[1..].chars().all(|c| matches!(c, '-' | '+' | '1'..='9'))
}

/// Where the value of a one-line entry begins: behind `key: `, behind `- `, or at the start.
fn value_start(body: &str) -> Option<usize> {
    let start = body.rfind(' ').map_or(0, |space| space + 1);
    let before = body[..start].trim_end();
    (before.is_empty() || before.ends_with(':') || before.ends_with('-')).then_some(start)
}

fn is_old_boolean(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "y" | "yes" | "n" | "no" | "on" | "off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leaves_block_scalars_and_longer_texts_alone() {
        let text = "a: on\nb:\n- yes\n- - no\nc: |\n  d: on\n\n  off\ne: turn on\nf: off\n";
        let quoted = "a: 'on'\nb:\n- 'yes'\n- - 'no'\nc: |\n  d: on\n\n  off\ne: turn on\nf: 'off'\n";
        assert_eq!(old_booleans(text), quoted);
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(
            texts in proptest::collection::vec("(on|off|yes|a: on|- no|x\n  y: on\n|[ -~\n]{0,12})", 0..6),
        ) {
            let value = serde_json::json!({"list": texts, "map": {"k": texts.first(), "on": texts}});
            let written = crate::yaml::to_string(&value);
            let read = crate::yaml::Document::parse("x", written.clone());
            prop_assert_eq!(read.map(|document| document.value().clone()).ok(), Some(value), "{}", written);
        }
    }
}
