//! Two workers in processes of their own, a link that breaks between them, and writers on both
//! sides: whatever happens, both directories are equal in the end and nothing is lost.

mod edits;
mod histories;
mod link;
mod node;
mod pair;
mod random;
mod walk;
mod wire;
