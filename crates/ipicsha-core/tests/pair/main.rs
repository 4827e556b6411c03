//! Two real `Node`s over drifting clocks, lossy and one-way links, pauses and crashing disks.

mod certificate;
mod data;
mod invariants;
mod life;
mod node_states;
mod parting;
mod random;
mod stories;
mod witness;
mod world;
