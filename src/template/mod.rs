//! Renders templates, and the only user of Tera.
//!
//! Owns the environment (filters, tests, Ansible's spelling), the embedded `templates/` and what overrides
//! them. An undefined variable is an error with its place, never an empty text. Never reads an inventory
//! and never decides what is rendered where.

mod data;
mod dialect;
mod files;
mod filters;
mod lexer;
mod lists;
mod place;

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Location},
    model::Digest,
};
use dialect::{Translation, translate};
use files::Files;
use place::{Complaint, Origin, explain, undefined_variable};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};
use tera::{Context, Tera};

pub use files::shipped;

/// What `omit` renders to: an argument with this value is left out, as in Ansible.
pub const OMIT: &str = "__omit_place_holder__";

/// The environment that every template of a run is rendered in.
pub struct Templates {
    base: Tera,
    files: Files,
    /// Variables that are the same for every host, in Tera's form once for all.
    shared: Vec<(String, tera::Value)>,
}

impl Templates {
    /// An environment that looks for template files in `search`, in this order, and then among the embedded
    /// ones. The error names a directory that does not exist.
    pub fn new(search: Vec<PathBuf>) -> Result<Templates, Diagnostics> {
        let missing = search.iter().filter(|path| !path.is_dir());
        let missing: Vec<Diagnostic> = missing
            .map(|path| Diagnostic::error(format!("there is no directory of templates `{}`", path.display())))
            .collect();
        if !missing.is_empty() {
            return Err(Diagnostics(missing));
        }
        let mut base = Tera::new();
        base.autoescape_on(Vec::<&'static str>::new());
        filters::register(&mut base);
        Ok(Templates { base, files: Files::new(search), shared: Vec::new() })
    }

    /// Makes variables known to every template without handing them in each time. For large values that all
    /// hosts have in common (`hostvars`, `groups`): they are converted once. A host's own variables win.
    pub fn share(&mut self, vars: &Map<String, Value>) -> Result<(), Diagnostic> {
        for (name, value) in vars {
            let value = data::tera(value).map_err(|error| {
                Diagnostic::error(format!("variable `{name}` can't be used in templates: {error}"))
            })?;
            self.shared.retain(|(known, _)| known != name);
            self.shared.push((name.clone(), value));
        }
        Ok(())
    }

    /// Whether a template file of this name exists.
    pub fn exists(&self, name: &str) -> bool {
        self.files.find(name).is_some()
    }

    /// The digest of every template that comes with pgfleet, as it is with what overrides it.
    pub fn digest(&self) -> Digest {
        let texts = shipped().into_iter().filter_map(|(name, _)| Some((name, self.files.find(name)?.1)));
        let all: Vec<String> = texts.map(|(name, text)| format!("{name}\n{text}\n")).collect();
        Digest::of(all.concat().as_bytes())
    }

    /// Compiles a template file with everything that it includes; needs no variables.
    pub fn check_file(&self, name: &str) -> Result<(), Diagnostic> {
        self.files.compiled(&self.base, name).map(|_| ())
    }

    /// Compiles a text that may contain templates; needs no variables.
    pub fn check(&self, text: &str, at: &Location) -> Result<(), Diagnostic> {
        if !is_template(text) {
            return Ok(());
        }
        let translation = translate(text);
        let mut tera = self.base.clone();
        match tera.add_raw_template(ONE_OFF, &translation.text) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.complaint(&error, &translation, text, at, &[])),
        }
    }

    /// Compiles an expression such as a `when`.
    pub fn check_condition(&self, expression: &str, at: &Location) -> Result<(), Diagnostic> {
        self.check(&braced(expression), at).map_err(|wrong| unbraced(wrong, expression, at))
    }

    /// Renders a template file. The error names file, line and column within the template.
    pub fn render_file(&self, name: &str, vars: &Map<String, Value>) -> Result<String, Diagnostic> {
        let file = self.files.compiled(&self.base, name)?;
        let nowhere = Location::new(name, 1, 1);
        let context = self.context(file.names(), Within { vars, at: &nowhere, depth: 0 })?;
        let known = self.known(vars);
        file.refuse_undefined_conditions(&known)?;
        file.render(&context, &known)
    }

    /// Renders a text. `at` is where its author wrote it.
    pub fn render(&self, text: &str, vars: &Map<String, Value>, at: &Location) -> Result<String, Diagnostic> {
        self.text(text, Within { vars, at, depth: 0 })
    }

    /// Renders every text within a value. A text that is exactly one `{{ expression }}` becomes the
    /// expression's own value: a number, a list, a map, true or false. Map entries and list items that
    /// come to `omit` are left out.
    pub fn value(
        &self,
        value: &Value,
        vars: &Map<String, Value>,
        at: &Location,
    ) -> Result<Value, Diagnostic> {
        self.deep_value(value, Within { vars, at, depth: 0 })
    }

    /// Whether an expression such as a `when` holds. Texts that say neither yes nor no are an error.
    pub fn condition(
        &self,
        expression: &str,
        vars: &Map<String, Value>,
        at: &Location,
    ) -> Result<bool, Diagnostic> {
        let within = Within { vars, at, depth: 0 };
        let value = match expression.trim() {
            "true" | "True" => return Ok(true),
            "false" | "False" => return Ok(false),
            // Ansible lets people write `{{ }}` around a condition, with a warning.
            other if translate(other).lone.is_some() => self.text_value(other, within)?,
            other => {
                let text = braced(other);
                let mut translation = translate(&text);
                for used in &mut translation.uses {
                    used.in_condition = true;
                }
                self.native(&translation, &text, within).map_err(|wrong| unbraced(wrong, other, at))?
            }
        };
        data::truth(&value).map_err(|error| {
            let origin = Origin { text: expression, at, file: self.files.source(&at.file) };
            origin
                .complain(format!("the condition is neither true nor false: {error}"), 0..expression.len())
                .label("expected a condition")
                .help("write `| bool` behind a variable that holds yes or no as text")
        })
    }

    fn deep_value(&self, value: &Value, within: Within<'_>) -> Result<Value, Diagnostic> {
        match value {
            Value::String(text) => self.text_value(text, within),
            Value::Array(list) => {
                let rendered: Result<Vec<Value>, Diagnostic> =
                    list.iter().map(|item| self.deep_value(item, within)).collect();
                Ok(Value::Array(rendered?.into_iter().filter(|item| !is_omitted(item)).collect()))
            }
            Value::Object(map) => {
                let mut rendered = Map::with_capacity(map.len());
                for (key, value) in map {
                    let value = self.deep_value(value, within)?;
                    if !is_omitted(&value) {
                        rendered.insert(self.text(key, within)?, value);
                    }
                }
                Ok(Value::Object(rendered))
            }
            other => Ok(other.clone()),
        }
    }

    fn text(&self, text: &str, within: Within<'_>) -> Result<String, Diagnostic> {
        if !is_template(text) {
            return Ok(text.to_owned());
        }
        self.translated(&translate(text), text, within)
    }

    fn text_value(&self, text: &str, within: Within<'_>) -> Result<Value, Diagnostic> {
        if !is_template(text) {
            return Ok(Value::String(text.to_owned()));
        }
        let translation = translate(text);
        if translation.lone.is_some() {
            self.native(&translation, text, within)
        } else {
            self.translated(&translation, text, within).map(Value::String)
        }
    }

    /// The value of a lone expression.
    fn native(&self, translation: &Translation, text: &str, within: Within<'_>) -> Result<Value, Diagnostic> {
        let lone = translation.lone.clone().unwrap_or(0..text.len());
        let wrapped = format!(
            "{{{{ ({}) | {} }}}}",
            translate(&format!("{{{{{}}}}}", &text[lone]))
                .text
                .trim_start_matches("{{")
                .trim_end_matches("}}"),
            filters::NATIVE
        );
        self.refuse_undefined_conditions(translation, text, within)?;
        let context = self.context(translation.names(), within)?;
        let known = || self.known(within.vars);
        match self.base.render_str(&wrapped, &context, false) {
            Ok(json) => serde_json::from_str(&json).map_err(|error| {
                Diagnostic::error(format!("the value of `{}` can't be used: {error}", text.trim()))
                    .at(within.at.clone())
            }),
            // Rendered as it was written, the error has the author's positions and the variable's name.
            Err(error) => match self.base.render_str(&translation.text, &context, false) {
                Err(plain) => Err(self.complaint(&plain, translation, text, within.at, &known())),
                Ok(_) => Err(self.complaint(&error, translation, text, within.at, &known())),
            },
        }
    }

    fn translated(
        &self,
        translation: &Translation,
        text: &str,
        within: Within<'_>,
    ) -> Result<String, Diagnostic> {
        self.refuse_undefined_conditions(translation, text, within)?;
        let context = self.context(translation.names(), within)?;
        self.base
            .render_str(&translation.text, &context, false)
            .map_err(|error| self.complaint(&error, translation, text, within.at, &self.known(within.vars)))
    }

    /// Tera takes an undefined variable in a condition for false. A typing mistake would pass unseen.
    fn refuse_undefined_conditions(
        &self,
        translation: &Translation,
        text: &str,
        within: Within<'_>,
    ) -> Result<(), Diagnostic> {
        match undefined_in_condition(translation, &self.known(within.vars)) {
            Some(complaint) => {
                let origin = Origin { text, at: within.at, file: self.files.source(&within.at.file) };
                Err(dress(&origin, complaint))
            }
            None => Ok(()),
        }
    }

    fn complaint(
        &self,
        error: &tera::Error,
        translation: &Translation,
        text: &str,
        at: &Location,
        known: &[&str],
    ) -> Diagnostic {
        let origin = Origin { text, at, file: self.files.source(&at.file) };
        dress(
            &origin,
            explain(
                error,
                |_| text,
                |name| (name == ONE_OFF || name.is_empty()).then_some(translation),
                known,
            ),
        )
    }

    /// The names of all variables that a template could use.
    fn known<'v>(&'v self, vars: &'v Map<String, Value>) -> Vec<&'v str> {
        let shared = self.shared.iter().map(|(name, _)| name.as_str());
        vars.keys().map(String::as_str).chain(shared).chain(["omit"]).collect()
    }

    /// The variables that a text uses, and no others: converting all of them for each text would make a run
    /// over many hosts quadratic.
    fn context<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
        within: Within<'_>,
    ) -> Result<Context, Diagnostic> {
        let mut context = Context::new();
        for name in names {
            if context.contains_key(name) {
                continue;
            }
            let value = match within.vars.get(name) {
                Some(value) => {
                    let value = self.settled(name, value, within)?;
                    data::tera(&value).map_err(|error| {
                        Diagnostic::error(format!("variable `{name}` can't be used in templates: {error}"))
                    })?
                }
                None => match self.shared.iter().find(|(known, _)| known == name) {
                    Some((_, value)) => value.clone(),
                    None if name == "omit" => tera::Value::from(OMIT),
                    None => continue,
                },
            };
            context.insert_value(name.to_owned(), value);
        }
        Ok(context)
    }

    /// A variable's value, where the value holds templates itself: rendered when it is used, as in Ansible.
    /// What `register` stored is left alone: text that a command printed is not a template.
    fn settled<'v>(
        &self,
        name: &str,
        value: &'v Value,
        within: Within<'_>,
    ) -> Result<Cow<'v, Value>, Diagnostic> {
        let registered = value.get("changed").is_some_and(Value::is_boolean);
        if registered || !holds_template(value) {
            return Ok(Cow::Borrowed(value));
        }
        if within.depth >= DEEPEST {
            return Err(Diagnostic::error(format!("variable `{name}` is defined by itself"))
                .help("its value leads back to it"));
        }
        let nowhere = Location::new(format!("variable {name}"), 1, 1);
        self.deep_value(value, Within { at: &nowhere, depth: within.depth + 1, ..within }).map(Cow::Owned)
    }

    /// Remembers the text of a file, so that complaints about templates in it can show the line. Files that
    /// are on disk are found without.
    pub fn remember(&mut self, file: &Path, text: Arc<str>) {
        self.files.remember(file, text);
    }
}

/// What a text is rendered with: variables, the place of the text, and how many variables led here.
#[derive(Clone, Copy)]
struct Within<'a> {
    vars: &'a Map<String, Value>,
    at: &'a Location,
    depth: usize,
}

/// The name that Tera gives to a text without a name.
const ONE_OFF: &str = "__tera_one_off";

/// How deep variables may be defined by variables.
const DEEPEST: usize = 12;

fn holds_template(value: &Value) -> bool {
    match value {
        Value::String(text) => is_template(text),
        Value::Array(list) => list.iter().any(holds_template),
        Value::Object(map) => map.iter().any(|(key, value)| is_template(key) || holds_template(value)),
        _ => false,
    }
}

fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

fn is_omitted(value: &Value) -> bool {
    value.as_str() == Some(OMIT)
}

fn braced(expression: &str) -> String {
    format!("{{{{ {expression} }}}}")
}

/// A complaint about `{{ expression }}`, moved to where the bare expression stands.
fn unbraced(mut wrong: Diagnostic, expression: &str, at: &Location) -> Diagnostic {
    // The braced text is not in the file, so the complaint points at the beginning of the value. Where the
    // offending word can be found in the expression, point there.
    let word = wrong.message.split('`').nth(1).unwrap_or_default().to_owned();
    if let (Some(source), Some(place)) =
        (&wrong.source, (!word.is_empty()).then(|| expression.find(&word)).flatten())
    {
        let origin = Origin { text: expression, at, file: Some(source.clone()) };
        let exact = origin.complain("", place..place + word.len());
        wrong.at = exact.at;
        wrong.length = exact.length;
    }
    wrong
}

fn undefined_in_condition(translation: &Translation, known: &[&str]) -> Option<Complaint> {
    translation
        .uses
        .iter()
        .find(|used| used.in_condition && !used.guarded && !known.contains(&used.name.as_str()))
        .map(|used| undefined_variable(used, known))
}

fn dress(origin: &Origin<'_>, complaint: Complaint) -> Diagnostic {
    origin.complain(complaint.message, complaint.part).label(complaint.label).helps(complaint.help)
}

#[cfg(test)]
mod tests;
