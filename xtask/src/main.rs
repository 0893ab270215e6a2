//! The one entry point for building, testing, demonstrating and measuring ISMS.
//!
//! One command a file. Each installs what it lacks, says so, shows progress on stderr, and ends with
//! what to do next. Data goes to stdout.

mod bench;
mod build;
mod command;
mod demo;
mod hostile;
mod image;
mod install;
mod ledger;
mod platform;
mod progress;
mod report;
mod test;
mod workspace;

use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  bench [--quick] [PART…]
                  measure all or the named parts, print a table, write target/bench/results.json
  demo [--once]   start the platform with the example and replay real data; --once ends after it
  guest [--quick] test the sandbox and attack the platform in a virtual machine with control groups of version 2;
                  --quick does what `test` does of it, which is less where the machine is emulated
  hostile [--backend native|apptainer] [--image FILE] [--binaries DIR] [--json]
                  attack the platform from inside its workers; prints what was contained; makes an image for
                  Apptainer where none is given
  hostile --ablation [--only LAYER]... [--save] [--json]
                  the same in a virtual machine, with layers of the sandbox left out; --save writes docs/hostile.md,
                  for the others as it was
  image [NAME…]   make images for Doees to run in, of Debian's packages: minimal, python (default: both)
  test [--fast]   check, build and test everything, as CI does; --fast leaves out the whole-system tests

Every command installs what it lacks (as root or with passwordless sudo; else it says how).
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["bench", arguments @ ..] => bench::run(arguments),
        ["demo"] => demo::run(false),
        ["demo", "--once"] => demo::run(true),
        ["guest"] => hostile::run_in_guest(hostile::Part::All),
        ["guest", "--quick"] => hostile::run_in_guest(hostile::Part::Quick),
        ["hostile", options @ ..] => hostile::run(options),
        ["image", names @ ..] => match image::Image::named(names) {
            Some(images) => image::run(&images),
            None => {
                eprint!("{USAGE}");
                return ExitCode::from(2);
            }
        },
        ["test"] => test::run(test::Extent::Everything),
        ["test", "--fast"] => test::run(test::Extent::WithoutWholeSystem),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
