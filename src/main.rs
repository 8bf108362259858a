//! Parses the command line, calls one function, maps the outcome to an exit code.

fn main() -> std::process::ExitCode {
    pgfleet::cli::main()
}
