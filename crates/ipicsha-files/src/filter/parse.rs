//! Rules as they are written.
//!
//! Decides what a line means. Must not know what rules are applied to.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::rule::{Base, Rule, Sides, Verdict};
use crate::path::{Name, RelativePath, escape};

/// What everybody who uses version control leaves out.
const CVS_PATTERNS: &str = "RCS SCCS CVS CVS.adm RCSLOG cvslog.* tags TAGS .make.state .nse_depinfo \
    *~ #* .#* ,* _$* *$ *.old *.bak *.BAK *.orig *.rej .del-* *.a *.olb *.o *.obj *.so *.exe *.Z \
    *.elc *.ln core .svn/ .git/ .hg/ .bzr/";

/// Files may name files; deeper than this they name one another.
const MERGE_DEPTH_MAX: usize = 16;

/// Why a rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not a rule.
    #[error("\"{rule}\" is no filter rule: {reason}")]
    Syntax {
        /// As it was written.
        rule: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file with rules cannot be read.
    #[error("cannot read the filter file \"{path}\": {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Identity of a per-directory file, wherever its rule is.
static SPECS: AtomicUsize = AtomicUsize::new(0);

fn next_spec() -> usize {
    SPECS.fetch_add(1, Ordering::Relaxed)
}

/// A per-directory file on its way to the other half.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Spec;

    pub(super) fn serialize<S: Serializer>(
        spec: &Arc<Spec>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        spec.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Spec>, D::Error> {
        Spec::deserialize(deserializer).map(Arc::new)
    }
}

/// A file looked for in every directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    #[serde(skip, default = "next_spec")]
    pub(super) id: usize,
    pub(super) name: Name,
    /// Its rules hold in the directories below too.
    pub(super) inherited: bool,
    /// It is looked for above the transfer's root too.
    pub(super) above: bool,
    style: Style,
}

impl Spec {
    /// The rules in what the file of one directory contains.
    pub(super) fn parse(
        &self,
        content: &[u8],
        base: &Base,
        config: RulesConfig,
    ) -> Result<Vec<Item>, FilterError> {
        let mut items = Vec::new();
        Reader { config, base: base.clone(), depth: 0 }.content(
            content,
            &self.style,
            &mut items,
        )?;
        Ok(items)
    }
}

/// One element of a list of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Item {
    Rule(Box<Rule>),
    /// The rules found in the directories, at this place of the order.
    PerDirectory(#[serde(with = "shared")] Arc<Spec>),
    /// Rules found above are no longer inherited.
    Clear,
}

/// How the lines of a file are to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Style {
    /// Lines are patterns of this verdict, without a prefix.
    verdict: Option<Verdict>,
    /// White space ends a rule.
    words: bool,
    nul: bool,
    sides: Option<Sides>,
    perishable: bool,
    /// Patterns may be preceded by `+ ` or `- `.
    old_prefixes: bool,
}

impl Style {
    const RULES: Self = Self {
        verdict: None,
        words: false,
        nul: false,
        sides: None,
        perishable: false,
        old_prefixes: false,
    };
}

/// What holds for all rules of one transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesConfig {
    /// `--delete-excluded`: rules that name no half speak to the sender only.
    pub delete_excluded: bool,
}

/// The rules of one transfer, in the order in which they were given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rules {
    pub(super) items: Vec<Item>,
    pub(super) config: RulesConfig,
}

impl Rules {
    /// None yet.
    pub fn new(config: RulesConfig) -> Self {
        Self { items: Vec::new(), config }
    }

    /// `--filter=RULE`.
    ///
    /// # Errors
    /// It is no rule, or names a file that cannot be read.
    pub fn filter(&mut self, rule: &[u8]) -> Result<(), FilterError> {
        self.reader().rule(rule, &Style::RULES, &mut self.items)
    }

    /// `--exclude=PATTERN` and `--include=PATTERN`.
    ///
    /// # Errors
    /// The pattern is empty.
    pub fn pattern(&mut self, verdict: Verdict, pattern: &[u8]) -> Result<(), FilterError> {
        let style = Style { verdict: Some(verdict), old_prefixes: true, ..Style::RULES };
        self.reader().rule(pattern, &style, &mut self.items)
    }

    /// `--exclude-from` and `--include-from`: the patterns in `content`, which end with lines or,
    /// with `nul`, with NULs.
    ///
    /// # Errors
    /// A pattern cannot be used.
    pub fn patterns(
        &mut self,
        verdict: Verdict,
        content: &[u8],
        nul: bool,
    ) -> Result<(), FilterError> {
        let style = Style { verdict: Some(verdict), old_prefixes: true, nul, ..Style::RULES };
        self.reader().content(content, &style, &mut self.items)
    }

    /// `-C`: what version control leaves out, `more` patterns (of the user's own file and
    /// environment), and `.cvsignore` in every directory.
    ///
    /// # Errors
    /// A pattern cannot be used.
    pub fn cvs(&mut self, more: &[u8]) -> Result<(), FilterError> {
        self.filter(b":C")?;
        let style = cvs_style();
        self.reader().content(CVS_PATTERNS.as_bytes(), &style, &mut self.items)?;
        self.reader().content(more, &style, &mut self.items)
    }

    /// Entries of the receiver that match are never deleted.
    pub fn protect(&mut self, pattern: &[u8]) {
        let mut rule = Rule::new(Verdict::Exclude, pattern, Base::Beneath(RelativePath::root()));
        rule.sides = Sides::RECEIVER;
        self.items.push(Item::Rule(Box::new(rule)));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn reader(&self) -> Reader {
        let base = Base::Beneath(RelativePath::root());
        Reader { config: self.config, base, depth: 0 }
    }
}

fn cvs_style() -> Style {
    Style { verdict: Some(Verdict::Exclude), words: true, perishable: true, ..Style::RULES }
}

/// Letters behind the kind of a rule.
#[derive(Default)]
struct Modifiers<'a>(&'a [u8]);

impl Modifiers<'_> {
    fn has(&self, letter: u8) -> bool {
        self.0.contains(&letter)
    }

    fn sides(&self) -> Option<Sides> {
        match (self.has(b's'), self.has(b'r')) {
            (false, false) => None,
            (sender, receiver) => Some(Sides { sender, receiver }),
        }
    }
}

/// Kind of a rule by its first letter or its name.
fn kind(rule: &[u8]) -> Option<(u8, &[u8])> {
    const NAMES: [(&str, u8); 9] = [
        ("exclude", b'-'),
        ("include", b'+'),
        ("dir-merge", b':'),
        ("merge", b'.'),
        ("hide", b'H'),
        ("show", b'S'),
        ("protect", b'P'),
        ("risk", b'R'),
        ("clear", b'!'),
    ];
    let named = NAMES.iter().find_map(|(name, kind)| {
        let rest = rule.strip_prefix(name.as_bytes())?;
        matches!(rest.first(), None | Some(b' ' | b'_' | b',')).then_some((*kind, rest))
    });
    named.or_else(|| match rule.split_first() {
        Some((kind @ (b'-' | b'+' | b'.' | b':' | b'H' | b'S' | b'P' | b'R' | b'!'), rest)) => {
            Some((*kind, rest))
        }
        _ => None,
    })
}

struct Reader {
    config: RulesConfig,
    base: Base,
    depth: usize,
}

impl Reader {
    fn content(
        &self,
        content: &[u8],
        style: &Style,
        items: &mut Vec<Item>,
    ) -> Result<(), FilterError> {
        let ends = |b: &u8| match style {
            Style { nul: true, .. } => *b == 0,
            Style { words: true, .. } => b.is_ascii_whitespace(),
            _ => matches!(b, b'\n' | b'\r'),
        };
        let comment = |line: &[u8]| !style.words && matches!(line.first(), Some(b'#' | b';'));
        let lines = content.split(ends).filter(|line| !line.is_empty() && !comment(line));
        lines.into_iter().try_for_each(|line| self.rule(line, style, items))
    }

    fn rule(&self, text: &[u8], style: &Style, items: &mut Vec<Item>) -> Result<(), FilterError> {
        if let Some(verdict) = style.verdict {
            return self.plain(text, verdict, style, items);
        }
        let syntax = |reason| FilterError::Syntax { rule: escape(text), reason };
        let (kind, rest) = kind(text).ok_or_else(|| syntax("it begins with no known kind"))?;
        let end = rest.iter().position(|b| matches!(b, b' ' | b'_')).unwrap_or(rest.len());
        let letters = rest[..end].strip_prefix(b",").unwrap_or(&rest[..end]);
        let pattern = rest.get(end + 1..).unwrap_or_default();
        let allowed: &[u8] = match kind {
            b'.' | b':' => b"-+Cenwsrp/",
            b'!' => b"",
            b'H' | b'S' | b'P' | b'R' => b"/!p",
            _ => b"/!Csrp",
        };
        if letters.iter().any(|letter| !allowed.contains(letter)) {
            return Err(syntax("a modifier is not known here"));
        }
        let modifiers = Modifiers(letters);
        match kind {
            b'!' if pattern.is_empty() => clear(items),
            b'!' => return Err(syntax("nothing may follow")),
            b'.' | b':' => return self.merge(kind, &modifiers, pattern, text, items),
            b'-' | b'+' if modifiers.has(b'C') => {
                self.content(CVS_PATTERNS.as_bytes(), &cvs_style(), items)?;
            }
            _ if pattern.is_empty() => return Err(syntax("the pattern is missing")),
            _ => self.push(kind, &modifiers, pattern, style, items),
        }
        Ok(())
    }

    /// A pattern whose verdict is known.
    fn plain(
        &self,
        text: &[u8],
        verdict: Verdict,
        style: &Style,
        items: &mut Vec<Item>,
    ) -> Result<(), FilterError> {
        let (verdict, pattern) = match text {
            b"!" => {
                clear(items);
                return Ok(());
            }
            [b'+', b' ', rest @ ..] if style.old_prefixes => (Verdict::Include, rest),
            [b'-', b' ', rest @ ..] if style.old_prefixes => (Verdict::Exclude, rest),
            all => (verdict, all),
        };
        if pattern.is_empty() {
            let reason = "the pattern is missing";
            return Err(FilterError::Syntax { rule: escape(text), reason });
        }
        let kind = if verdict == Verdict::Include { b'+' } else { b'-' };
        self.push(kind, &Modifiers::default(), pattern, style, items);
        Ok(())
    }

    fn push(
        &self,
        kind: u8,
        modifiers: &Modifiers<'_>,
        pattern: &[u8],
        style: &Style,
        items: &mut Vec<Item>,
    ) {
        let verdict = match kind {
            b'+' | b'S' | b'R' => Verdict::Include,
            _ => Verdict::Exclude,
        };
        let mut rule = Rule::new(verdict, pattern, self.base.clone());
        let unsaid = if self.config.delete_excluded { Sides::SENDER } else { Sides::BOTH };
        rule.sides = match kind {
            b'H' | b'S' => Sides::SENDER,
            b'P' | b'R' => Sides::RECEIVER,
            _ => modifiers.sides().or(style.sides).unwrap_or(unsaid),
        };
        rule.negated = modifiers.has(b'!');
        rule.absolute = modifiers.has(b'/');
        rule.perishable = modifiers.has(b'p') || style.perishable;
        items.push(Item::Rule(Box::new(rule)));
    }

    fn merge(
        &self,
        kind: u8,
        modifiers: &Modifiers<'_>,
        file: &[u8],
        text: &[u8],
        items: &mut Vec<Item>,
    ) -> Result<(), FilterError> {
        let syntax = |reason| FilterError::Syntax { rule: escape(text), reason };
        let cvs = modifiers.has(b'C');
        let file = if file.is_empty() && cvs { b".cvsignore" } else { file };
        let verdict = match (modifiers.has(b'-') || cvs, modifiers.has(b'+')) {
            (true, true) => return Err(syntax("`-` and `+` exclude one another")),
            (true, false) => Some(Verdict::Exclude),
            (false, true) => Some(Verdict::Include),
            (false, false) => None,
        };
        let style = Style {
            verdict,
            words: modifiers.has(b'w') || cvs,
            sides: modifiers.sides(),
            perishable: modifiers.has(b'p') || cvs,
            ..Style::RULES
        };
        if file.is_empty() {
            return Err(syntax("the file is missing"));
        }
        if kind == b'.' {
            return self.file(file, &style, items);
        }
        let above = file.starts_with(b"/");
        let name = file.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let name = Name::new(name).map_err(|_| syntax("the file has no usable name"))?;
        let id = SPECS.fetch_add(1, Ordering::Relaxed);
        let inherited = !(modifiers.has(b'n') || cvs);
        if modifiers.has(b'e') {
            let base = Base::Beneath(RelativePath::root());
            items.push(Item::Rule(Box::new(Rule::new(Verdict::Exclude, name.as_bytes(), base))));
        }
        items.push(Item::PerDirectory(Arc::new(Spec { id, name, inherited, above, style })));
        Ok(())
    }

    fn file(&self, path: &[u8], style: &Style, items: &mut Vec<Item>) -> Result<(), FilterError> {
        use std::os::unix::ffi::OsStrExt;
        if self.depth >= MERGE_DEPTH_MAX {
            let reason = "files name one another without end";
            return Err(FilterError::Syntax { rule: escape(path), reason });
        }
        let os = Path::new(std::ffi::OsStr::from_bytes(path));
        let content =
            std::fs::read(os).map_err(|source| FilterError::File { path: escape(path), source })?;
        let inner = Self { config: self.config, base: self.base.clone(), depth: self.depth + 1 };
        inner.content(&content, style, items)
    }
}

fn clear(items: &mut Vec<Item>) {
    items.clear();
    items.push(Item::Clear);
}
