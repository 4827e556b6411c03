//! Watching real directories: what a consumer knows by hints alone is what is on the disk.

mod bursts;
mod directories;
mod flush;
mod limits;
mod mirror;
mod random;
mod roots;
mod settle;
