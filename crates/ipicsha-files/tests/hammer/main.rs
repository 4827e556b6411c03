//! A hundred thousand swaps of a directory and a link that leads outside, while entries are made,
//! replaced and deleted beneath it: nothing outside of the root ever changes.

mod outside;
mod replicate;
mod swap;
mod sync;
