//! As much of PostgreSQL's protocol as the measurements need: simple queries over a Unix socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context, Result, bail};

/// Version 3.0.
const PROTOCOL: i32 = 196_608;

/// One connection of a client that is trusted.
pub(crate) struct Client(UnixStream);

impl Client {
    /// Connects as `postgres` to the server whose socket lies in `folder`.
    pub(crate) fn connect(folder: &Path, port: u16) -> Result<Self> {
        let path = folder.join(format!(".s.PGSQL.{port}"));
        let mut client = Self(UnixStream::connect(&path)?);
        let mut start = PROTOCOL.to_be_bytes().to_vec();
        start.extend(b"user\0postgres\0database\0postgres\0\0");
        client.write(&start)?;
        client.answers().context("start")?;
        Ok(client)
    }

    fn write(&mut self, body: &[u8]) -> Result<()> {
        let length = i32::try_from(body.len() + 4)?;
        Ok(self.0.write_all(&[&length.to_be_bytes(), body].concat())?)
    }

    /// Runs SQL; returns the first column of every row.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Vec<String>> {
        self.0.write_all(b"Q")?;
        self.write(&[sql.as_bytes(), b"\0"].concat())?;
        self.answers().with_context(|| sql.chars().take(200).collect::<String>())
    }

    /// The first column of the first row; empty without one.
    pub(crate) fn one(&mut self, sql: &str) -> Result<String> {
        Ok(self.query(sql)?.into_iter().next().unwrap_or_default())
    }

    /// Everything until the server is ready again.
    fn answers(&mut self) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            self.0.read_exact(&mut body)?;
            match head[0] {
                b'Z' => break,
                b'E' => failure = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'R' if body != [0; 4] => bail!("the server wants a password"),
                b'D' => rows.push(first_column(&body)),
                _ => {}
            }
        }
        failure.map_or(Ok(rows), |failure| bail!("PostgreSQL: {failure}"))
    }
}

fn first_column(row: &[u8]) -> String {
    let length = row.get(2..6).map_or(-1, |l| i32::from_be_bytes([l[0], l[1], l[2], l[3]]));
    let value = usize::try_from(length).ok().and_then(|length| row.get(6..6 + length));
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
