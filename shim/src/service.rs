//! The task service (containerd `api/runtime/task/v3/shim.proto`): each verb one step from request to [`Pod`] and back.
//!
//! What changes something runs detached from its connection: a client's deadline or death cancels nothing half-way.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task as TaskService, create_task};
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message};
use ttrpc::r#async::{Service as Methods, TtrpcContext};

use crate::convert;
use crate::error::{Error, Result};
use crate::lifecycle::State;
use crate::metrics::metrics;
use crate::pod::Pod;

/// The services that the shim's socket offers. The task service has the same messages under both of its names; the
/// sandbox service, of which we have nothing, is there so that its methods are unimplemented and not unknown.
pub(crate) fn services(pod: &Arc<Pod>) -> HashMap<String, Methods> {
    let task = || -> Arc<dyn TaskService + Send + Sync> { Arc::new(Service { pod: pod.clone() }) };
    let mut services = create_task(task());
    let v2 = create_task(task()).into_values();
    services.extend(v2.map(|methods| ("containerd.task.v2.Task".to_owned(), methods)));
    let nothing = Methods {
        methods: HashMap::new(),
        streams: HashMap::new(),
    };
    services.insert("containerd.runtime.sandbox.v1.Sandbox".to_owned(), nothing);
    services
}

struct Service {
    pod: Arc<Pod>,
}

/// Runs a verb to its end whatever becomes of the client.
async fn detached<T: Send + 'static>(
    verb: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let result = match tokio::spawn(verb).await {
        Ok(result) => result,
        Err(panicked) => Err(Error::Internal(panicked.to_string())),
    };
    Ok(result?)
}

#[async_trait]
impl TaskService for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = self.pod.clone();
        let task = detached(async move { pod.create(request).await }).await?;
        Ok(CreateTaskResponse {
            pid: task.process("")?.pid(),
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let task = self.pod.task(&request.id)?;
        let pid = detached(async move {
            match request.exec_id.as_str() {
                "" => task.start().await,
                exec_id => task.start_exec(exec_id).await,
            }
        })
        .await?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let pod = self.pod.clone();
        let (pid, exit) = detached(async move {
            match request.exec_id.as_str() {
                "" => pod.delete(&request.id).await,
                exec_id => pod.task(&request.id)?.delete_exec(exec_id).await,
            }
        })
        .await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: convert::timestamp_field(exit.at),
            ..DeleteResponse::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.pod.task(&request.id)?.exec(&request)?;
        Ok(Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let task = self.pod.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        let exit = process.exit().filter(|_| process.state() == State::Stopped);
        Ok(StateResponse {
            id: process.id.clone(),
            bundle: task.bundle.clone(),
            pid: process.pid(),
            status: EnumOrUnknown::new(convert::status(task.state_of(&process))),
            stdin: process.streams.stdin.clone(),
            stdout: process.streams.stdout.clone(),
            stderr: process.streams.stderr.clone(),
            terminal: process.streams.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: convert::timestamp_field(exit.and_then(|exit| exit.at)),
            ..StateResponse::default()
        })
    }

    /// Not detached: a client that is gone waits no more.
    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.pod.task(&request.id)?.process(&request.exec_id)?;
        let exit = process.wait().await;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: convert::timestamp_field(exit.at),
            ..WaitResponse::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let task = self.pod.task(&request.id)?;
        let signal = request.signal.cast_signed();
        detached(async move { task.kill(&request.exec_id, signal, request.all).await }).await?;
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.pod.task(&request.id)?.pids().await?;
        Ok(PidsResponse {
            processes: pids.into_iter().map(process_info).collect(),
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let task = self.pod.task(&request.id)?;
        detached(async move { task.pause().await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let task = self.pod.task(&request.id)?;
        detached(async move { task.resume().await }).await?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.pod.task(&request.id)?;
        let resources = convert::resources(request.resources.as_ref())?;
        detached(async move { task.update(resources).await }).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let task = self.pod.task(&request.id)?;
        task.resize(&request.exec_id, request.width, request.height)
            .await?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        self.pod
            .task(&request.id)?
            .process(&request.exec_id)?
            .close_stdin();
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.pod.task(&request.id)?.stats().await?;
        Ok(StatsResponse {
            stats: Some(metrics(&stats)).into(),
            ..StatsResponse::default()
        })
    }

    /// Unknown ids are answered, too: a restarted containerd connects before it knows what the shim has.
    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let init = self.pod.task(&request.id).and_then(|task| task.process(""));
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: init.map_or(0, |process| process.pid()),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.shutdown();
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(Error::Unimplemented("checkpoint".into()).into())
    }
}

/// A process as Pids lists it; exec'd ones name themselves.
fn process_info((pid, exec_id): (u32, Option<String>)) -> ProcessInfo {
    let details = exec_id.map(|exec_id| {
        let details = ProcessDetails {
            exec_id,
            ..ProcessDetails::default()
        };
        Any {
            type_url: "containerd.runc.v1.ProcessDetails".into(),
            // Encoding into memory fails only beyond 2 GiB.
            value: details.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        }
    });
    ProcessInfo {
        pid,
        info: details.into(),
        ..ProcessInfo::default()
    }
}
