//! The task API of real shims with real containers, called as containerd calls it.

mod bed;
mod load;
mod order;
