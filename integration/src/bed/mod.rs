//! What the bodies of cases work with, a file for each client: a node that the case has for itself, and short words for
//! what people type there.

pub mod cri;
pub mod ctr;
pub mod docker;
