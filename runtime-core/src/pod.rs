//! A pod: what its containers share. One shim serves one pod (design, principle 3).

use std::sync::Arc;

use crate::config::Config;
use crate::error::Result;

/// State shared by the containers of one shim.
#[derive(Debug)]
pub struct Pod {
    config: Config,
}

impl Pod {
    /// A pod without containers. Nothing is made until the first container is.
    pub fn new(config: Config) -> Result<Arc<Pod>> {
        Ok(Arc::new(Pod { config }))
    }

    /// The configuration the pod was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
