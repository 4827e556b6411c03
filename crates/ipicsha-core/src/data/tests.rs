//! The bytes of every message, and what makes two values the same.

use super::*;

fn origin(byte: u8) -> Origin {
    Origin { uuid: DatabaseUuid([byte; 16]), incarnation: 2 }
}

fn database() -> DatabaseName {
    DatabaseName("d".into())
}

fn compare(step: CompareStep) -> Data {
    Data::Compare { database: database(), run: 5, step }
}

/// Every message about changes with the bytes it has had since it exists.
fn changes() -> Vec<(Data, &'static str)> {
    let key = vec![Value::Integer(-1), Value::Text(b"k".to_vec())];
    let columns =
        vec![Value::Null, Value::Real(0.5), Value::Blob(vec![0, 255]), Value::Integer(300)];
    vec![
        (
            Data::Attach(Attach {
                database: database(),
                turn: 1,
                log: Some(LogExtent {
                    origin: origin(7),
                    first: Seq(3),
                    last: Seq(9),
                    last_wall: Some(WallTime(-2)),
                }),
                applied: Some(Applied { origin: origin(8), seq: Seq(4), wall: Some(WallTime(7)) }),
                synced: true,
                tables: vec![TableState {
                    name: "t".into(),
                    schema_hash: [1; 16],
                    standing: Standing::Behind,
                    sequence: Some(-2),
                }],
                schema: [6; 16],
                open: true,
            }),
            "010164010107070707070707070707070707070707020612010301080808080808080808080808080808080208010e01010174010101010101010101010101010101010101030606060606060606060606060606060601",
        ),
        (
            Data::Batch(Batch {
                database: database(),
                origin: origin(7),
                from: Seq(1),
                to: Seq(3),
                to_wall: Some(WallTime(6)),
                base: Seq(2),
                tables: vec!["t".into()],
                rows: vec![
                    Row {
                        table: 0,
                        seq: Seq(2),
                        wall: WallTime(-5),
                        change: Change::Upsert(columns.clone()),
                    },
                    Row {
                        table: 0,
                        seq: Seq(3),
                        wall: WallTime(6),
                        change: Change::Delete(key.clone()),
                    },
                ],
                sequences: vec![(0, 5)],
                follows: Follows::Later,
            }),
            "03016407070707070707070707070707070707020206010c040101740200040900040002000000000000e03f040200ff01d80400060c0102010103016b01000a02",
        ),
        (
            Data::Ack { database: database(), origin: origin(7), to: Seq(3) },
            "040164070707070707070707070707070707070206",
        ),
    ]
}

/// How to build a missing file.
fn schemas() -> Vec<(Data, &'static str)> {
    vec![(
        Data::Schema {
            database: database(),
            schema: Schema {
                statements: vec!["S".into()],
                page_size: 4096,
                encoding: "UTF-8".into(),
                auto_vacuum: 0,
                user_version: 3,
                application_id: -1,
            },
        },
        "0201640101538020055554462d38000601",
    )]
}

/// Every question of a comparison, and short answers.
fn questions() -> Vec<(Data, &'static str)> {
    let key = vec![Value::Integer(-1), Value::Text(b"k".to_vec())];
    let columns =
        vec![Value::Null, Value::Real(0.5), Value::Blob(vec![0, 255]), Value::Integer(300)];
    vec![
        (
            compare(CompareStep::Begin { apply: true, initial: false, tables: vec!["t".into()] }),
            "05016405000100010174",
        ),
        (compare(CompareStep::Ready), "0501640501"),
        (
            compare(CompareStep::Ranges {
                table: 0,
                after: None,
                ranges: vec![Range { upto: Some(key.clone()), count: 2, hash: [3; 16] }],
            }),
            "05016405020000010102010103016b0203030303030303030303030303030303",
        ),
        (compare(CompareStep::DifferingRanges(vec![(1, 64)])), "0501640503010140"),
        (
            compare(CompareStep::Rows {
                table: 0,
                after: None,
                upto: Some(key.clone()),
                rows: vec![(key.clone(), [4; 8])],
            }),
            "050164050400000102010103016b0102010103016b0404040404040404",
        ),
        (compare(CompareStep::DifferingKeys(vec![key.clone()])), "05016405050102010103016b"),
        (
            compare(CompareStep::Fix {
                table: 0,
                base: Seq(2),
                rows: vec![
                    (vec![Value::Null], PrimaryVersion::Absent),
                    (vec![Value::Null], PrimaryVersion::Hash([5; 16])),
                    (vec![Value::Null], PrimaryVersion::Contents(columns.clone())),
                    (vec![Value::Null], PrimaryVersion::Refused),
                ],
            }),
            "050164050600040401000001000105050505050505050505050505050505010002040002000000000000e03f040200ff01d804010003",
        ),
    ]
}

/// Rows for an empty table.
fn fillings() -> Vec<(Data, &'static str)> {
    let (key, columns) = (vec![Value::Integer(-1)], vec![Value::Null, Value::Integer(300)]);
    vec![
        (
            compare(CompareStep::Fill { table: 1, base: Seq(2), rows: vec![columns.clone()] }),
            "050164050a010401020001d804",
        ),
        (
            compare(CompareStep::Fetch { table: 1, after: Some(key.clone()), upto: None }),
            "050164050b010101010100",
        ),
        (
            compare(CompareStep::Fetched { base: Seq(2), rows: vec![columns], more: true }),
            "050164050c0401020001d80401",
        ),
        (
            compare(CompareStep::Progress { pass: 2, rows: 300, total: Some(1) }),
            "050164050d02ac020101",
        ),
        (
            compare(CompareStep::FixedNewer {
                base: Seq(2),
                found: Differences { differing: 1, ..Differences::default() },
                copies: Vec::new(),
                gone: Vec::new(),
                newer: vec![vec![Value::Null]],
            }),
            "050164050e0400000100000000010100",
        ),
        (
            compare(CompareStep::Fix {
                table: 0,
                base: Seq(2),
                rows: vec![(
                    vec![Value::Null],
                    PrimaryVersion::Dated { columns: vec![Value::Null], wall: WallTime(-5) },
                )],
            }),
            "0501640506000401010004010009",
        ),
    ]
}

/// Every step of undoing a repair.
fn undoing() -> Vec<(Data, &'static str)> {
    let undo = |step| Data::Undo { database: database(), run: 5, step };
    let kept = KeptVersion {
        id: 3,
        table: "t".into(),
        columns: vec!["c".into()],
        key: vec![Value::Null],
        version: Some(vec![Value::Integer(-1)]),
        winner: None,
    };
    vec![
        (undo(UndoStep::Ask { after: 2, restored: vec![1] }), "0601640500040102"),
        (
            undo(UndoStep::Kept { entries: vec![kept], more: true }),
            "0601640501010601740101630100010101010001",
        ),
        (undo(UndoStep::Ended { restored: vec![3] }), "06016405020106"),
    ]
}

/// What follows.
fn results() -> Vec<(Data, &'static str)> {
    let columns =
        vec![Value::Null, Value::Real(0.5), Value::Blob(vec![0, 255]), Value::Integer(300)];
    let found = Differences {
        only_primary: 1,
        only_secondary: 2,
        differing: 3,
        journaled: 4,
        remaining: 5,
    };
    vec![
        (
            compare(CompareStep::Fixed {
                base: Seq(2),
                found: found.clone(),
                copies: vec![columns],
                gone: vec![vec![Value::Null]],
            }),
            "050164050704010203040501040002000000000000e03f040200ff01d804010100",
        ),
        (
            compare(CompareStep::Done(RepairReport {
                database: database(),
                tables: vec![TableReport { table: "t".into(), differences: found }],
                passes: 2,
                rows_compared: 300,
                applied: true,
            })),
            "05016405080164010174010203040502ac0201",
        ),
        (compare(CompareStep::Interrupted("r".into())), "05016405090172"),
    ]
}

fn all() -> impl Iterator<Item = (Data, &'static str)> {
    let invite = (Data::Invite { database: database() }, "000164");
    let expect = (Data::Expect { database: database() }, "070164");
    let all = changes().into_iter().chain(questions()).chain(results()).chain(fillings());
    all.chain(undoing()).chain(schemas()).chain([invite, expect])
}

#[test]
fn the_bytes_of_every_message_stay_as_they_are() {
    for (message, expected) in all() {
        let bytes = postcard::to_stdvec(&message).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{message:?}");
        assert_eq!(postcard::from_bytes::<Data>(&bytes).unwrap(), message);
        assert_eq!(message.database(), &database());
    }
}

#[test]
fn values_are_equal_bit_by_bit() {
    assert_eq!(Value::Real(f64::NAN), Value::Real(f64::NAN));
    assert_ne!(Value::Real(0.0), Value::Real(-0.0));
    assert_ne!(Value::Real(1.0), Value::Integer(1));
    assert_ne!(Value::Text(b"a".to_vec()), Value::Blob(b"a".to_vec()));
    assert_ne!(Value::Null, Value::Text(Vec::new()));
    assert_eq!(Value::Text(vec![0xff]), Value::Text(vec![0xff]));
}

#[test]
fn a_log_goes_on_only_where_nothing_is_missing() {
    let log = LogExtent { origin: origin(7), first: Seq(5), last: Seq(9), last_wall: None };
    let at = |byte, seq| Some(Applied { origin: origin(byte), seq: Seq(seq), wall: None });
    for (applied, goes_on) in [
        (at(7, 4), true),
        (at(7, 9), true),
        (at(7, 3), false),
        (at(7, 10), false),
        (at(8, 6), false),
        (None, false),
    ] {
        assert_eq!(log.continues(applied), goes_on, "{applied:?}");
    }
}
