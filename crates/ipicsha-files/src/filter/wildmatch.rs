//! Shell patterns on paths.
//!
//! `?` and `*` stop at slashes, `**` does not; `[...]` is a set, `\` takes the next character as it
//! is. Decides whether a text fits in time linear in text times pattern, whatever the pattern is.
//! Must not know what the text stands for.

/// One step of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// Any byte but a slash.
    Any,
    /// Any number of bytes but slashes.
    Star,
    /// Any number of bytes.
    Stars,
    /// One byte of a set, never a slash.
    Set(Box<[bool; 256]>),
}

/// A pattern ready to be compared; one that is malformed fits nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Option<Vec<Token>>);

impl Pattern {
    pub(super) fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            let token = match first {
                b'\\' => match rest.split_first() {
                    Some((byte, after)) => {
                        rest = after;
                        Token::Byte(*byte)
                    }
                    None => return Self(None),
                },
                b'?' => Token::Any,
                b'*' => {
                    let stars = rest.iter().take_while(|b| **b == b'*').count();
                    rest = &rest[stars..];
                    if stars > 0 { Token::Stars } else { Token::Star }
                }
                b'[' => match set(rest) {
                    Some((set, after)) => {
                        rest = after;
                        Token::Set(set)
                    }
                    None => return Self(None),
                },
                byte => Token::Byte(*byte),
            };
            tokens.push(token);
        }
        Self(Some(tokens))
    }

    /// Whether all of `text` fits: the set of places in the pattern that the text so far leads to.
    pub(super) fn fits(&self, text: &[u8]) -> bool {
        let Some(tokens) = &self.0 else { return false };
        let mut now = vec![false; tokens.len() + 1];
        now[0] = true;
        skip_stars(tokens, &mut now);
        for byte in text {
            let mut next = vec![false; now.len()];
            for (at, token) in tokens.iter().enumerate().filter(|(at, _)| now[*at]) {
                match token {
                    Token::Star => next[at] |= *byte != b'/',
                    Token::Stars => next[at] = true,
                    Token::Any => next[at + 1] |= *byte != b'/',
                    Token::Byte(wanted) => next[at + 1] |= byte == wanted,
                    Token::Set(set) => next[at + 1] |= set[usize::from(*byte)],
                }
            }
            skip_stars(tokens, &mut next);
            if !next.contains(&true) {
                return false;
            }
            now = next;
        }
        now[tokens.len()]
    }
}

/// Stars may stand for nothing.
fn skip_stars(tokens: &[Token], places: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        if places[at] && matches!(token, Token::Star | Token::Stars) {
            places[at + 1] = true;
        }
    }
}

/// Reads a set behind its `[`; gives it with what follows its `]`.
fn set(pattern: &[u8]) -> Option<(Box<[bool; 256]>, &[u8])> {
    let mut set = Box::new([false; 256]);
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut rest = &pattern[usize::from(negated)..];
    let mut first = true;
    let mut previous = None;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b']' if !first => break,
            b'-' if previous.is_some() && !matches!(rest.first(), None | Some(b']')) => {
                let (end, after) = literal(rest)?;
                rest = after;
                let begin = previous.take().unwrap_or(end);
                (begin..=end).for_each(|b| set[usize::from(b)] = true);
            }
            b'[' if rest.first() == Some(&b':') && rest.contains(&b']') => {
                previous = None;
                match named(&rest[1..])? {
                    Some((class, after)) => {
                        rest = after;
                        (0..=255u8).filter(class).for_each(|b| set[usize::from(b)] = true);
                    }
                    None => set[usize::from(b'[')] = true,
                }
            }
            b'\\' => {
                let (byte, after) = rest.split_first()?;
                rest = after;
                set[usize::from(*byte)] = true;
                previous = Some(*byte);
            }
            byte => {
                set[usize::from(*byte)] = true;
                previous = Some(*byte);
            }
        }
        first = false;
    }
    if negated {
        set.iter_mut().for_each(|member| *member = !*member);
    }
    set[usize::from(b'/')] = false;
    Some((set, rest))
}

fn literal(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (byte, after) = rest.split_first()?;
    let (byte, after) = if *byte == b'\\' { after.split_first()? } else { (byte, after) };
    Some((*byte, after))
}

type Class = fn(&u8) -> bool;

/// Reads `alpha:]`. `None` in the inside when it is no such class but characters of the set; `None`
/// outside when there is no class of that name.
#[allow(clippy::option_option)]
fn named(text: &[u8]) -> Option<Option<(Class, &[u8])>> {
    let Some(end) = text.iter().position(|b| *b == b']') else { return Some(None) };
    let Some(name) = text[..end].strip_suffix(b":") else { return Some(None) };
    let class: Class = match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |b| matches!(b, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |b| matches!(b, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    };
    Some(Some((class, &text[end + 1..])))
}
