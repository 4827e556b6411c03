//! `completions` and `man`: what shells and the manual know of the command line, made from its own words.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::exit::{Failure, Kind};

/// Prints what a shell completes.
pub(super) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ipicsha", &mut text);
    print(&text)
}

/// Prints the manual page, or writes one for every verb.
pub(super) fn man(folder: Option<&Path>) -> Result<ExitCode, Failure> {
    if let Some(folder) = folder {
        return clap_mangen::generate_to(Cli::command(), folder)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| {
                Failure::new(Kind::Failed, format!("{}: {error}", folder.display()))
                    .hinted("give a directory that exists and can be written")
            });
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(anyhow::Error::from)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(text) {
        // Whoever read it has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => {
            written.map(|()| ExitCode::SUCCESS).map_err(|error| anyhow::Error::from(error).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_completed_and_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        man(Some(folder.path())).unwrap();
        let mut bash = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "ipicsha", &mut bash);
        let bash = String::from_utf8(bash).unwrap();
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            assert!(bash.contains(name), "{name}");
            assert!(folder.path().join(format!("ipicsha-{name}.1")).exists(), "{name}");
        }
        assert!(man(Some(Path::new("/nonexistent"))).is_err());
    }
}
