//! What ends in a task, told to containerd: the exit of init comes last.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use containerd_shim_protos::events::task as event;
use runtime_core::Container;

use super::Task;
use crate::process::Process;
use crate::reap::{self, Exit};
use crate::{convert, oom};

impl Task {
    /// Publishes kills for want of memory, and last of all the exit of init.
    pub(super) async fn watch_init(self: Arc<Self>, pidfd: OwnedFd) {
        let oom = oom::Watch::oom_kills(&self.container.cgroup_dir());
        let mut kills = oom.as_ref().and_then(oom::Watch::count).unwrap_or(0);
        let exit = {
            let exit = reap::exit(pidfd);
            tokio::pin!(exit);
            loop {
                let changed = async {
                    match &oom {
                        Some(oom) => oom.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    exit = &mut exit => break exit,
                    () = changed => self.publish_oom(oom.as_ref(), &mut kills),
                }
            }
        };
        self.lock().init_gone = true;
        if let Err(error) = self.on_container(Container::stopped).await {
            tracing::error!(container = self.id, %error, "stopping");
        }
        // The sender is ours, so the wait cannot fail.
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
        let _gate = self.start_gate.lock().await;
        self.publish_oom(oom.as_ref(), &mut kills);
        self.init.exited(exit);
        self.publish_exit(&self.init, exit);
        self.exit_published.send_replace(true);
    }

    pub(super) fn publish_exit(&self, process: &Process, exit: Exit) {
        self.events.send(&event::TaskExit {
            container_id: self.id.clone(),
            id: process.id.clone(),
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: convert::timestamp_field(exit.at),
            ..event::TaskExit::default()
        });
    }

    fn publish_oom(&self, watch: Option<&oom::Watch>, seen: &mut u64) {
        if let Some(count) = watch.and_then(oom::Watch::count)
            && count > *seen
        {
            *seen = count;
            self.events.send(&event::TaskOOM {
                container_id: self.id.clone(),
                ..event::TaskOOM::default()
            });
        }
    }
}
