//! `protoc` for build scripts: writes a descriptor set, with the pure Rust compiler `protox`.
//!
//! It understands what `prost-build` passes (`-I`, `-o`, `--include_imports`,
//! `--include_source_info`, `--version` and the files) and refuses anything else by name.

use std::{env, error::Error, fs, path::PathBuf, process::ExitCode};

use prost::Message as _;

#[derive(Default)]
struct Options {
    includes: Vec<PathBuf>,
    output: Option<PathBuf>,
    imports: bool,
    source_info: bool,
    files: Vec<PathBuf>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        if arg == "-I" || arg == "-o" {
            let value = args.next().ok_or_else(|| format!("{arg} wants a path"))?;
            if arg == "-I" {
                options.includes.push(value.into());
            } else {
                options.output = Some(value.into());
            }
        } else if let Some(path) = arg.strip_prefix("-I").or_else(|| arg.strip_prefix("--proto_path=")) {
            options.includes.push(path.into());
        } else if let Some(path) = arg.strip_prefix("-o").or_else(|| arg.strip_prefix("--descriptor_set_out=")) {
            options.output = Some(path.into());
        } else if arg == "--include_imports" {
            options.imports = true;
        } else if arg == "--include_source_info" {
            options.source_info = true;
        } else if arg == "--experimental_allow_proto3_optional" {
            // Always allowed.
        } else if arg.starts_with('-') {
            return Err(format!("option {arg} is not supported by this stand-in; set PROTOC to a real protoc").into());
        } else {
            options.files.push(arg.into());
        }
    }
    Ok(options)
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = parse(env::args().skip(1))?;
    let output = options.output.ok_or("no output: pass -o FILE")?;
    let mut compiler = protox::Compiler::new(&options.includes)?;
    compiler.include_imports(options.imports).include_source_info(options.source_info);
    compiler.open_files(&options.files)?;
    fs::write(&output, compiler.file_descriptor_set().encode_to_vec())?;
    Ok(())
}

fn main() -> ExitCode {
    if env::args().any(|arg| arg == "--version") {
        println!("libprotoc 31.1 (protox)");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("protoc (protox): {error}");
            ExitCode::FAILURE
        }
    }
}
