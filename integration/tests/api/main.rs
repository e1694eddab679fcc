//! The task API of real shims with real containers, called as containerd calls it.

mod base_filter;
mod bed;
mod bounds;
mod devices;
mod load;
mod order;
mod process;
mod terminals;
