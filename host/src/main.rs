//! The `waymark` command: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    waymark_node::cli::main()
}
