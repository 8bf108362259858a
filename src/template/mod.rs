//! The only user of Tera: environment, filters, and the shipped templates.
