//! Files that options name: rules, patterns and lists of names.
//!
//! Decides how they are read. What rules mean is decided in `ipicsha-files`.

use std::{ffi::OsStr, io::Read, os::unix::ffi::OsStrExt};

use ipicsha_files::{
    filter::{FilterError, Rules, RulesConfig, Verdict},
    sync::Exit,
};

use super::Refused;

/// One option about rules, in the order they were typed.
#[derive(Debug)]
pub(super) enum RuleOption {
    Filter(Vec<u8>),
    Pattern(Verdict, Vec<u8>),
    From(Verdict, Vec<u8>),
    /// `-F`, for the first and for the second time.
    RulesInDirectories(u8),
}

/// All rules of a transfer.
pub(super) fn rules(
    given: &[RuleOption],
    config: RulesConfig,
    nul: bool,
    cvs: bool,
) -> Result<Rules, Refused> {
    let mut rules = Rules::new(config);
    let refused = |error: FilterError| match error {
        FilterError::Syntax { .. } => Refused::usage(error.to_string()),
        FilterError::File { .. } => Refused::new(Exit::FileIo, error.to_string()),
    };
    for option in given {
        match option {
            RuleOption::Filter(rule) => rules.filter(rule),
            RuleOption::Pattern(verdict, pattern) => rules.pattern(*verdict, pattern),
            RuleOption::From(verdict, file) => rules.patterns(*verdict, &content(file)?, nul),
            RuleOption::RulesInDirectories(1) => rules.filter(b"dir-merge /.rsync-filter"),
            RuleOption::RulesInDirectories(_) => rules.filter(b"exclude .rsync-filter"),
        }
        .map_err(refused)?;
    }
    if cvs {
        let mut more = Vec::new();
        if let Some(home) = std::env::var_os("HOME") {
            // Most people have none.
            let own = std::path::Path::new(&home).join(".cvsignore");
            more.extend(std::fs::read(own).unwrap_or_default());
        }
        more.push(b'\n');
        more.extend(std::env::var_os("CVSIGNORE").unwrap_or_default().as_bytes());
        rules.cvs(&more).map_err(refused)?;
    }
    Ok(rules)
}

/// What a file contains; `-` is the standard input.
fn content(file: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    let read = if file == b"-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(OsStr::from_bytes(file))
    };
    read.map_err(|error| {
        let shown = ipicsha_files::path::escape(file);
        Refused::new(Exit::FileIo, format!("cannot read \"{shown}\": {error}"))
    })
}

/// The names of `--files-from`.
pub(super) fn names(file: &[u8], nul: bool) -> Result<Vec<Vec<u8>>, Refused> {
    let content = content(file).map_err(|refused| Refused::usage(refused.message))?;
    let ends = |b: &u8| if nul { *b == 0 } else { matches!(b, b'\n' | b'\r') };
    let comment = |line: &[u8]| !nul && matches!(line.first(), Some(b'#' | b';'));
    let lines = content.split(ends).filter(|line| !line.is_empty() && !comment(line));
    Ok(lines.map(<[u8]>::to_vec).collect())
}
