//! The client's side of one task: requests and calls about it, as containerd makes them.

use std::time::Duration;

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, ShutdownRequest, StartRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::TaskClient;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::json;
use ttrpc::context;

/// Longer than any call takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The deadline of one call.
#[must_use]
pub fn soon() -> context::Context {
    context::with_duration(DEADLINE)
}

/// A task's names. An empty exec id means its first process.
#[derive(Debug, Clone)]
pub struct Task {
    /// Container id.
    pub id: String,
    /// Path of its bundle, where the shim is.
    pub bundle: String,
}

impl Task {
    /// A request to create it from `root.path`, without streams.
    #[must_use]
    pub fn create_request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            ..CreateTaskRequest::default()
        }
    }

    /// A request to register process `exec`, without streams.
    #[must_use]
    pub fn exec_request(&self, exec: &str, args: &[&str]) -> ExecProcessRequest {
        let process = json!({
            "args": args, "cwd": "/", "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
        });
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            spec: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: process.to_string().into_bytes(),
                ..Any::default()
            }),
            ..ExecProcessRequest::default()
        }
    }

    /// Starts init or an exec'd process: its pid.
    ///
    /// # Errors
    /// Of the call.
    pub async fn start(&self, client: &TaskClient, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..StartRequest::default()
        };
        Ok(client.start(soon(), &request).await?.pid)
    }

    /// Waits for a process's end: its exit status.
    ///
    /// # Errors
    /// Of the call.
    pub async fn wait(&self, client: &TaskClient, exec: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..WaitRequest::default()
        };
        Ok(client.wait(soon(), &request).await?.exit_status)
    }

    /// Deletes a process that has ended, or the container.
    ///
    /// # Errors
    /// Of the call.
    pub async fn delete(&self, client: &TaskClient, exec: &str) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..DeleteRequest::default()
        };
        client.delete(soon(), &request).await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Of the call.
    pub async fn kill(&self, client: &TaskClient, exec: &str, signal: u32) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            signal,
            ..KillRequest::default()
        };
        client.kill(soon(), &request).await.map(drop)
    }

    /// Kills init and waits for its end.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn stop(&self, client: &TaskClient) -> ttrpc::Result<u32> {
        self.kill(client, "", 9).await?;
        self.wait(client, "").await
    }

    /// Kills and deletes the container.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn end(&self, client: &TaskClient) -> ttrpc::Result<DeleteResponse> {
        self.stop(client).await?;
        self.delete(client, "").await
    }

    /// Runs a process in it: its exit status.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn execute(
        &self,
        client: &TaskClient,
        exec: &str,
        args: &[&str],
    ) -> ttrpc::Result<u32> {
        client.exec(soon(), &self.exec_request(exec, args)).await?;
        self.start(client, exec).await?;
        self.wait(client, exec).await?;
        Ok(self.delete(client, exec).await?.exit_status)
    }

    /// The pid of the shim that serves it.
    ///
    /// # Errors
    /// Of the call.
    pub async fn shim_pid(&self, client: &TaskClient) -> ttrpc::Result<u32> {
        let request = ConnectRequest {
            id: self.id.clone(),
            ..ConnectRequest::default()
        };
        Ok(client.connect(soon(), &request).await?.shim_pid)
    }

    /// Asks the shim to exit.
    ///
    /// # Errors
    /// Of the call.
    pub async fn shutdown(&self, client: &TaskClient) -> ttrpc::Result<()> {
        let request = ShutdownRequest {
            id: self.id.clone(),
            ..ShutdownRequest::default()
        };
        client.shutdown(soon(), &request).await.map(drop)
    }
}
