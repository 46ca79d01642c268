//! The HTTP API over a real connection: the engine's end is played by the test, the store is a [`Shelf`].

#![allow(clippy::unwrap_used, reason = "the rig is test code; clippy knows only functions marked as tests for such")]

mod access;
mod calls;
mod hostile;
mod https;
pub(crate) mod shelf;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use sagad::admin::{Access, Api, Server, router};
use sagad::broker::message::{Outgoing, Taken};
use sagad::broker::names::Names;
use sagad::broker::publisher;
use sagad::config::Config;
use sagad::core::id::SagaId;
use sagad::core::input::{Input, Order};
use sagad::core::saga::Status;
use sagad::definitions::Definitions;
use sagad::health::{Health, Part};
use sagad::intake::{Intake, Item, Refusal, Request, Settle, Start, Started};
use sagad::metrics::Metrics;
use serde_json::Value;
use shelf::Shelf;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type AnswerStart = Box<dyn FnMut(&Start) -> Result<Started, Refusal> + Send>;
type AnswerOrder = Box<dyn FnMut() -> Result<(), Refusal> + Send>;

/// What the engine was asked, and what it answers.
#[derive(Default)]
struct Engine {
    starts: Vec<Start>,
    signals: Vec<(SagaId, Input)>,
    orders: Vec<(SagaId, String, Order)>,
    answer_start: Option<AnswerStart>,
    answer_order: Option<AnswerOrder>,
    published: Vec<Outgoing>,
    /// No queue takes it: nothing is confirmed.
    broker_refuses: bool,
}

/// A running API.
struct Rig {
    address: SocketAddr,
    client: Client,
    shelf: Shelf,
    engine: Arc<Mutex<Engine>>,
    health: Health,
    ended: broadcast::Sender<SagaId>,
    stopping: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Rig {
        Rig::configured("").await
    }

    /// With more configuration than the port.
    async fn configured(toml: &str) -> Rig {
        let config = Config::parse("test", &format!("http.listen = \"127.0.0.1:0\"\n{toml}")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (items, mut asked) = mpsc::channel(16);
        let (publisher, mut publications) = publisher::channel();
        let (ended, _) = broadcast::channel(16);
        let (shelf, engine, health) = (Shelf::default(), Arc::<Mutex<Engine>>::default(), Health::new());
        health.up(Part::Store);
        health.up(Part::Broker);
        let stopping = CancellationToken::new();
        let api = Api {
            store: shelf.clone(),
            intake: Intake::new(items, publisher, ended.clone()),
            health: health.clone(),
            names: Names::new("sagad"),
            definitions: Arc::new(Definitions::new(folder.path().to_owned(), shelf.clone())),
            clock: sagad::clock::system(),
            metrics: Metrics::install().unwrap(),
            max_body: config.http.max_body,
            read_timeout: config.http.read_timeout,
            stopping: stopping.clone(),
        };
        let server = Server::bind(&config.http).await.unwrap();
        let address = server.address();
        let router = router(Arc::new(api), Access::new(&config.http));
        let server = tokio::spawn(server.serve(router, stopping.clone()));
        let played = engine.clone();
        tokio::spawn(async move {
            while let Some(item) = asked.recv().await {
                played.lock().unwrap().take(item);
            }
        });
        let played = engine.clone();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while publications.recv_many(&mut batch, 1).await > 0 {
                for publication in batch.drain(..) {
                    let mut engine = played.lock().unwrap();
                    engine.published.push((*publication.message).clone());
                    if let (false, Some(told)) = (engine.broker_refuses, publication.told) {
                        let _ = told.send(Taken::Yes);
                    }
                }
            }
        });
        Rig { address, client: Client::new(), shelf, engine, health, ended, stopping, server, folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(self.url(path))).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.client.post(self.url(path)).json(&body)).await
    }

    fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// Stops it and sees that nothing is left running.
    async fn stop(self) {
        self.stopping.cancel();
        drop(self.client);
        self.server.await.unwrap();
    }
}

impl Engine {
    fn take(&mut self, item: Item) {
        match (item.request, item.settle) {
            (Request::Start(start), Settle::Started(told)) => {
                let answer = match &mut self.answer_start {
                    Some(answer) => answer(&start),
                    None => Err(Refusal::UnknownDefinition(start.definition.clone())),
                };
                self.starts.push(start);
                let _ = told.send(answer);
            }
            (Request::Saga(id, Input::Operator { actor, order }), Settle::Ordered(told)) => {
                self.orders.push((id, actor, order));
                let _ = told.send(self.answer_order.as_mut().map_or(Ok(()), |answer| answer()));
            }
            (Request::Saga(id, input @ Input::Signal { .. }), Settle::Ordered(told)) => {
                self.signals.push((id, input));
                let _ = told.send(self.answer_order.as_mut().map_or(Ok(()), |answer| answer()));
            }
            (request, _) => panic!("not for the engine: {request:?}"),
        }
    }
}

/// An answer, read to its end. Every error is checked to be a problem document.
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Answer {
    async fn of(request: RequestBuilder) -> Answer {
        Answer::read(request.send().await.unwrap()).await
    }

    async fn read(response: Response) -> Answer {
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = Answer { status, headers, text: response.text().await.unwrap() };
        if status.is_client_error() || status.is_server_error() {
            answer.check_problem();
        }
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        answer
    }

    fn check_problem(&self) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["type"].as_str().unwrap().starts_with("urn:sagad:problem:"), "{problem}");
        assert!(!problem["title"].as_str().unwrap().is_empty(), "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{problem}");
        for error in problem["errors"].as_array().unwrap() {
            assert!(error["detail"].is_string(), "{problem}");
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Status and the last word of the problem's type.
    fn problem(&self) -> (u16, String) {
        let kind = self.json()["type"].as_str().unwrap_or_default().trim_start_matches("urn:sagad:problem:").to_owned();
        (self.status.as_u16(), kind)
    }

    fn pointers(&self) -> Vec<String> {
        let problem = self.json();
        let errors = problem["errors"].as_array().unwrap();
        let name =
            |error: &Value| error["pointer"].as_str().or(error["parameter"].as_str()).unwrap_or_default().to_owned();
        errors.iter().map(name).collect()
    }
}

/// Ids that sort as their numbers do.
fn id(number: u128) -> SagaId {
    SagaId(Uuid::from_u128(number))
}

fn started(id: SagaId, created: bool) -> Result<Started, Refusal> {
    Ok(Started { saga: id, status: Status::Running, created })
}
