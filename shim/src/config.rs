//! Where the configuration comes from (design D3): a file, and what runtime options put over it.

use std::path::{Path, PathBuf};

use runtime_core::{Config, DEFAULT_PATH};

use crate::error::Result;

/// What runtime options say of the configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// File instead of the default one.
    pub(crate) path: Option<PathBuf>,
    /// TOML over the file; empty for none.
    pub(crate) body: String,
}

impl Source {
    /// Reads and checks it.
    pub(crate) fn load(&self) -> Result<Config> {
        let path = self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        let config = Config::load(path)?;
        if self.body.is_empty() {
            return Ok(config);
        }
        Ok(config.override_with(&self.body)?)
    }
}
