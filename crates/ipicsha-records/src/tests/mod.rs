//! Tests on real files: a second connection or a second process is the application.

mod apply;
mod at_once;
mod bad_input;
mod barrier;
mod capture;
mod census;
mod follow;
mod full_log;
mod identity;
mod lifecycle;
mod merge;
mod model;
mod pair;
mod reader;
mod repair;
mod replaced;
mod resume;
mod rewritten;
mod right;
mod rollback;
mod seed;
mod series;
mod support;
mod switchover;
mod undo;
