//! Values between SQLite and the messages: bind, read, hash, quote, show.
//!
//! Decides when two keys are the same record under SQLite's collations. Must not know tables.

use std::{fmt::Write as _, sync::Arc};

use ipicsha_core::data::{BriefHash, RowHash, Value};
use rusqlite::{
    Row, Statement, ToSql,
    types::{ToSqlOutput, ValueRef},
};

/// A value as parameter of a statement; text is bound as the bytes it is.
pub(crate) struct Bound<'a>(pub(crate) &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(*integer),
            Value::Real(real) => ValueRef::Real(*real),
            Value::Text(bytes) => ValueRef::Text(bytes),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Binds `values` to the parameters from `first` on.
pub(crate) fn bind<'a>(
    statement: &mut Statement<'_>,
    first: usize,
    values: impl IntoIterator<Item = &'a Value>,
) -> rusqlite::Result<()> {
    for (index, value) in values.into_iter().enumerate() {
        statement.raw_bind_parameter(first + index, Bound(value))?;
    }
    Ok(())
}

/// The value of one result column.
pub(crate) fn read(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(bytes) => Value::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// `count` result columns from `first` on.
pub(crate) fn read_columns(
    row: &Row<'_>,
    first: usize,
    count: usize,
) -> rusqlite::Result<Vec<Value>> {
    (first..first + count).map(|index| row.get_ref(index).map(read)).collect()
}

/// Appends a value unambiguously: storage class, length, bytes.
#[inline(always)] // copying each value on its way here was 8 % of a comparison
pub(crate) fn encode(to: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => to.push(0),
        ValueRef::Integer(integer) => encode_word(to, 1, integer.to_le_bytes()),
        ValueRef::Real(real) => encode_word(to, 2, real.to_bits().to_le_bytes()),
        ValueRef::Text(bytes) => encode_bytes(to, 3, bytes),
        ValueRef::Blob(bytes) => encode_bytes(to, 4, bytes),
    }
}

/// In one piece, for this is most of what a comparison does.
fn encode_word(to: &mut Vec<u8>, tag: u8, word: [u8; 8]) {
    let [a, b, c, d, e, f, g, h] = word;
    to.extend_from_slice(&[tag, a, b, c, d, e, f, g, h]);
}

fn encode_bytes(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    to.reserve(9 + bytes.len());
    encode_word(to, tag, (bytes.len() as u64).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn as_ref(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(bytes) => ValueRef::Text(bytes),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    }
}

/// Whether both are the same storage class with the same bits.
pub(crate) fn is_same(a: &Value, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (Value::Null, ValueRef::Null) => true,
        (Value::Integer(a), ValueRef::Integer(b)) => *a == b,
        (Value::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (Value::Text(a), ValueRef::Text(b)) | (Value::Blob(a), ValueRef::Blob(b)) => a == b,
        (Value::Null | Value::Integer(_) | Value::Real(_) | Value::Text(_) | Value::Blob(_), _) => {
            false
        }
    }
}

/// Hash over the encoding of a row.
pub(crate) fn hash(encoded: &[u8]) -> RowHash {
    short(&blake3::hash(encoded))
}

/// The beginning of the same hash.
pub(crate) fn brief(encoded: &[u8]) -> BriefHash {
    let mut brief = [0; 8];
    brief.copy_from_slice(&hash(encoded)[..8]);
    brief
}

/// The part of a hash that travels.
pub(crate) fn short(hash: &blake3::Hash) -> RowHash {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

/// Hash over the contents of one row.
pub(crate) fn hash_row(values: &[Value]) -> RowHash {
    let mut encoded = Vec::with_capacity(64);
    values.iter().for_each(|value| encode(&mut encoded, as_ref(value)));
    hash(&encoded)
}

/// The collations SQLite has built in; others live in the application only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collation {
    /// Byte for byte.
    Binary,
    /// ASCII letters of either case are equal.
    NoCase,
    /// Trailing spaces do not count.
    RTrim,
}

impl Collation {
    /// The collation called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Binary, Self::NoCase, Self::RTrim]
            .into_iter()
            .find(|collation| collation.name().eq_ignore_ascii_case(name))
    }

    /// Its name in SQL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Binary => "BINARY",
            Self::NoCase => "NOCASE",
            Self::RTrim => "RTRIM",
        }
    }
}

/// Two keys of a table are the same record exactly when these bytes are equal.
pub(crate) fn identity(key: &[Value], collations: &[Collation]) -> Arc<[u8]> {
    let mut encoded = Vec::with_capacity(key.len() * 10);
    for (index, value) in key.iter().enumerate() {
        let collation = collations.get(index).copied().unwrap_or(Collation::Binary);
        match (value, collation) {
            (Value::Text(bytes), Collation::NoCase) => {
                encode_bytes(&mut encoded, 3, &bytes.to_ascii_lowercase());
            }
            (Value::Text(bytes), Collation::RTrim) => {
                let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                encode_bytes(&mut encoded, 3, &bytes[..end]);
            }
            // SQLite compares 1 and 1.0 as equal; a column without affinity can hold both.
            (Value::Real(real), _) if real.fract() == 0.0 && real.abs() < 9.0e15 => {
                encode(&mut encoded, ValueRef::Integer(*real as i64));
            }
            (value, _) => encode(&mut encoded, as_ref(value)),
        }
    }
    encoded.into()
}

/// A name as SQL identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value for people to read.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(bytes) => format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''")),
        Value::Blob(bytes) => {
            let mut text = String::from("x'");
            bytes.iter().take(64).for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
            text.push_str(if bytes.len() > 64 { "...'" } else { "'" });
            text
        }
    }
}

/// A key for people to read.
pub(crate) fn describe_key(key: &[Value]) -> String {
    key.iter().map(describe).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_as_sqlite_compares_them() {
        let text = |text: &str| vec![Value::Text(text.into())];
        let id = |key: &[Value], collation| identity(key, &[collation]);
        assert_eq!(id(&text("Ab"), Collation::NoCase), id(&text("aB"), Collation::NoCase));
        assert_ne!(id(&text("Ab"), Collation::Binary), id(&text("aB"), Collation::Binary));
        assert_eq!(id(&text("a  "), Collation::RTrim), id(&text("a"), Collation::RTrim));
        assert_ne!(
            id(&text("a"), Collation::Binary),
            id(&[Value::Blob(b"a".into())], Collation::Binary)
        );
        assert_eq!(
            id(&[Value::Real(2.0)], Collation::Binary),
            id(&[Value::Integer(2)], Collation::Binary)
        );
    }

    #[test]
    fn contents_are_hashed_by_type_and_boundary() {
        let text = |text: &str| Value::Text(text.into());
        assert_ne!(hash_row(&[text("ab"), text("c")]), hash_row(&[text("a"), text("bc")]));
        assert_ne!(hash_row(&[Value::Integer(1)]), hash_row(&[Value::Real(1.0)]));
        assert_ne!(hash_row(&[Value::Null]), hash_row(&[text("")]));
        assert_ne!(hash_row(&[Value::Real(0.0)]), hash_row(&[Value::Real(-0.0)]));
    }
}
