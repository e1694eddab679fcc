//! Events for containerd, in the order in which they happened: one queue, one event under way at a time, and one that
//! could not be delivered holds back those after it until containerd is there again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use ttrpc::context;

use crate::convert::timestamp;

/// More than a busy pod makes while containerd restarts, or ten thousand execs as fast as they go while containerd is slow to
/// take their events; beyond it the oldest are dropped, with a warning.
const MAX_QUEUE: usize = 64 << 10;
/// As containerd's own publisher.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(1);
/// How often an event that containerd itself refuses is offered.
const MAX_REFUSALS: u32 = 3;

/// An event of the task service.
pub(crate) trait TaskEvent: Message {
    /// Its topic.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ident => $topic:ident,)*) => {
        $(impl TaskEvent for $event { const TOPIC: &'static str = topics::$topic; })*
    };
}

topics! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC,
    TaskStart => TASK_START_EVENT_TOPIC,
    TaskOOM => TASK_OOM_EVENT_TOPIC,
    TaskExit => TASK_EXIT_EVENT_TOPIC,
    TaskDelete => TASK_DELETE_EVENT_TOPIC,
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskPaused => TASK_PAUSED_EVENT_TOPIC,
    TaskResumed => TASK_RESUMED_EVENT_TOPIC,
}

/// The queue's end that verbs see. Sending never waits.
#[derive(Debug)]
pub(crate) struct Events {
    namespace: String,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Envelope>,
    dropped: usize,
    /// Events that were taken off the queue.
    taken: u64,
    closed: bool,
}

impl Events {
    /// An empty queue of a containerd namespace.
    pub(crate) fn new(namespace: &str) -> Arc<Events> {
        Arc::new(Events {
            namespace: namespace.into(),
            queue: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Appends an event.
    pub(crate) fn send<E: TaskEvent>(&self, event: &E) {
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.into(),
            event: MessageField::some(Any {
                type_url: format!("containerd.events.{}", E::NAME),
                // Encoding into memory fails only beyond 2 GiB.
                value: event.write_to_bytes().unwrap_or_default(),
                ..Any::default()
            }),
            ..Envelope::default()
        };
        let mut queue = self.lock();
        if queue.waiting.len() >= MAX_QUEUE {
            queue.waiting.pop_front();
            queue.dropped += 1;
        }
        queue.waiting.push_back(envelope);
        drop(queue);
        self.changed.notify_one();
    }

    /// No more events will come: [`publish`] ends when all are delivered.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// How many events were taken off the queue so far: while this grows, containerd takes them.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// The oldest event; `None` once the queue is closed and empty.
    async fn next(&self) -> Option<Envelope> {
        loop {
            {
                let mut queue = self.lock();
                let dropped = std::mem::take(&mut queue.dropped);
                if dropped > 0 {
                    tracing::warn!(dropped, "containerd took no events for too long");
                }
                if let Some(envelope) = queue.waiting.pop_front() {
                    queue.taken += 1;
                    return Some(envelope);
                }
                if queue.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The lock is held for a few instructions only.
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Delivers the queue to containerd's events service at `address` until it is closed and empty.
pub(crate) async fn publish(events: Arc<Events>, address: String) {
    let mut publisher = Publisher {
        address: if address.contains("://") {
            address
        } else {
            format!("unix://{address}")
        },
        client: None,
    };
    while let Some(envelope) = events.next().await {
        publisher.deliver(envelope).await;
    }
}

struct Publisher {
    address: String,
    client: Option<EventsClient>,
}

impl Publisher {
    /// Tries until containerd has the event. One that containerd answers with an error is given up after a few times,
    /// or it would hold back all others for good.
    async fn deliver(&mut self, envelope: Envelope) {
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..ForwardRequest::default()
        };
        let mut delay = FIRST_DELAY;
        let mut refusals = 0;
        loop {
            let error = match self.forward(&request).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if let ttrpc::Error::RpcStatus(_) = error {
                refusals += 1;
                if refusals == MAX_REFUSALS {
                    tracing::error!(topic = request.envelope.topic, %error, "event refused");
                    return;
                }
            } else {
                tracing::debug!(topic = request.envelope.topic, %error, "event not delivered yet");
                self.client = None;
            }
            sleep(delay).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> ttrpc::Result<()> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let connected = timeout(CALL_TIMEOUT, Client::connect(&self.address))
                    .await
                    .map_err(|_| ttrpc::Error::Others("connect timed out".into()))??;
                EventsClient::new(connected)
            }
        };
        let result = client
            .forward(context::with_duration(CALL_TIMEOUT), request)
            .await;
        self.client = Some(client);
        result.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use containerd_shim_protos::shim_async::{Events as EventsService, create_events};
    use protobuf::well_known_types::empty::Empty;
    use ttrpc::r#async::{Server, TtrpcContext};

    #[derive(Default)]
    struct Containerd {
        seen: Mutex<Vec<Envelope>>,
        refuse: Option<&'static str>,
    }

    #[async_trait]
    impl EventsService for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let envelope = request.envelope.unwrap();
            if self.refuse == Some(envelope.topic.as_str()) {
                return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                    ttrpc::Code::INVALID_ARGUMENT,
                    "no",
                )));
            }
            self.seen.lock().unwrap().push(envelope);
            Ok(Empty::new())
        }
    }

    impl Containerd {
        async fn listen(self: &Arc<Self>, address: &str) -> Server {
            let service: Arc<dyn EventsService + Send + Sync> = self.clone();
            let mut server = Server::new()
                .bind(address)
                .unwrap()
                .register_service(create_events(service));
            server.start().await.unwrap();
            server
        }

        fn ids(&self) -> Vec<String> {
            let seen = self.seen.lock().unwrap();
            seen.iter()
                .map(|e| {
                    let any = e.event.as_ref().unwrap();
                    assert_eq!(any.type_url, "containerd.events.TaskOOM");
                    TaskOOM::parse_from_bytes(&any.value).unwrap().container_id
                })
                .collect()
        }
    }

    fn oom(id: usize) -> TaskOOM {
        TaskOOM {
            container_id: id.to_string(),
            ..TaskOOM::default()
        }
    }

    fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| n.to_string()).collect()
    }

    #[tokio::test]
    async fn order_survives_a_restart_of_containerd() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let address = format!("unix://{}", path.display());
        let containerd = Arc::new(Containerd::default());
        let events = Events::new("ns");
        let publisher = tokio::spawn(publish(events.clone(), path.display().to_string()));

        events.send(&oom(0)); // Before containerd is there at all.
        sleep(Duration::from_millis(50)).await;
        let mut server = containerd.listen(&address).await;
        for n in 1..50 {
            events.send(&oom(n));
        }
        while containerd.seen.lock().unwrap().len() < 20 {
            sleep(Duration::from_millis(1)).await;
        }
        server.shutdown().await.unwrap();
        drop(server);
        let _ = std::fs::remove_file(&path);
        for n in 50..100 {
            events.send(&oom(n));
        }
        let _server = containerd.listen(&address).await;
        events.close();
        timeout(Duration::from_secs(10), publisher)
            .await
            .unwrap()
            .unwrap();
        let mut ids = containerd.ids();
        ids.dedup(); // The one under way when the connection broke may come twice.
        assert_eq!(ids, numbers(0..100));
        assert_eq!(containerd.seen.lock().unwrap()[0].namespace, "ns");
        assert_eq!(containerd.seen.lock().unwrap()[0].topic, "/tasks/oom");
    }

    #[tokio::test]
    async fn a_refused_event_does_not_hold_back_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/ttrpc", dir.path().display());
        let containerd = Arc::new(Containerd {
            refuse: Some("/tasks/paused"),
            ..Containerd::default()
        });
        let _server = containerd.listen(&address).await;
        let events = Events::new("ns");
        events.send(&oom(0));
        events.send(&TaskPaused::new());
        events.send(&oom(1));
        events.close();
        timeout(Duration::from_secs(10), publish(events, address))
            .await
            .unwrap();
        assert_eq!(containerd.ids(), numbers(0..2));
    }

    #[test]
    fn the_queue_is_bounded() {
        let events = Events::new("ns");
        for n in 0..=MAX_QUEUE {
            events.send(&oom(n));
        }
        let queue = events.lock();
        assert_eq!((queue.waiting.len(), queue.dropped), (MAX_QUEUE, 1));
    }
}
