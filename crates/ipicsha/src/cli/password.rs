//! Passwords: from a file, or typed without being shown; never an argument.

use std::io::{BufRead, IsTerminal, Write};

use super::PasswordArgs;
use crate::exit::{Failure, Kind};

/// From a file, or typed without being shown; never an argument.
pub(crate) fn read(args: &PasswordArgs, prompt: &str, twice: bool) -> Result<String, Failure> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Kind::Usage, format!("cannot read {}: {error}", path.display()))
                .hinted("give a file with the password as its first line")
        })?;
        return Ok(text.lines().next().unwrap_or("").to_owned());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            "the password is asked on a terminal, and there is none",
        )
        .hinted("give it with --password-file FILE"));
    }
    let typed = type_hidden(prompt)?;
    if twice && type_hidden("Again: ")? != typed {
        return Err(Failure::new(Kind::Usage, "the two passwords differ").hinted("try again"));
    }
    Ok(typed)
}

fn type_hidden(prompt: &str) -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::Failed, format!("the terminal: {error}")).hinted("use --password-file")
    };
    let shown = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    eprint!("{prompt}");
    std::io::stderr().flush().map_err(|error| failed(&error))?;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(&error))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &shown);
    eprintln!();
    read.map_err(|error| failed(&error))?;
    restored.map_err(|error| failed(&error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
