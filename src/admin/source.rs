//! What the admin listening need of a member: a seam, so that routes, stream and
//! page are tested without one. [`Handle`] is the member; a fake is in the tests.

use std::{future::Future, sync::Arc};

use tokio::sync::{broadcast, mpsc, watch};

use crate::{
    base::{
        MemberName, Refusal,
        metric::Series,
        operator::{Operator, TokenHash},
    },
    gateway::Served,
    member::{
        command::{By, Command, Outcome},
        event::Event,
        view::View,
    },
    node::{
        Acted, Ask, Edits, Handle, Heard, Listening, Metrics, Publish, SecretEdits,
        inspect::{Findings, Question},
        levels::LevelsQuestion,
        telemetry::asking::{Measured, SeriesQuestion},
        uploads::{Brought, Uploads},
    },
    proto::{rule::level::Levels, telemetry::statsd::Measure},
};

/// What can be asked of a member. See [`Handle`] for what each answers.
pub trait Source: Clone + Send + Sync + 'static {
    /// See [`Handle::command`]. `by` is whoever showed a token.
    fn command(
        &self,
        command: Command,
        by: Option<By>,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// See [`Handle::publish`]. `by` is whoever showed a token.
    fn publish(
        &self,
        publish: Publish,
        by: Option<By>,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// Publishes what was brought from another machine. `by` is whoever showed a token.
    fn publish_brought(
        &self,
        brought: Brought,
        by: Option<By>,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// What is being brought from other machines; refused once the member stops.
    fn uploads(&self) -> Result<Uploads, Refusal>;
    /// See [`Handle::publish_edits`].
    fn publish_edits(&self, edits: Edits) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// See [`Handle::secrets`].
    fn secrets(&self, edits: SecretEdits) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// See [`Handle::inspect`].
    fn inspect(&self, question: Question)
    -> impl Future<Output = Result<Findings, Refusal>> + Send;
    /// See [`Handle::services`].
    fn services(
        &self,
        member: Option<MemberName>,
        ask: Ask,
    ) -> impl Future<Output = Result<mpsc::Receiver<Heard>, Refusal>> + Send;
    /// See [`Handle::stop`].
    fn stop(&self) -> impl Future<Output = ()> + Send;
    /// See [`Handle::operator`].
    fn operator(
        &self,
        token: TokenHash,
    ) -> impl Future<Output = Result<Option<Operator>, Refusal>> + Send;
    /// See [`Handle::acted`].
    fn acted(&self, acted: Acted) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// See [`Handle::view`].
    fn view(&self) -> impl Future<Output = Result<View, Refusal>> + Send;
    /// See [`Handle::metrics`].
    fn metrics(&self) -> impl Future<Output = Result<Metrics, Refusal>> + Send;
    /// See [`Handle::series`].
    fn series(
        &self,
        question: SeriesQuestion,
    ) -> impl Future<Output = Result<Measured, Refusal>> + Send;
    /// See [`Handle::levels`].
    fn levels(
        &self,
        question: LevelsQuestion,
    ) -> impl Future<Output = Result<Levels, Refusal>> + Send;
    /// See [`Handle::served`].
    fn served(&self) -> Served;
    /// See [`Handle::custom`].
    fn custom(&self) -> Vec<(Series, Measure)>;
    /// See [`Handle::listening`].
    fn listening(&self) -> Listening;
    /// See [`Handle::watch`].
    fn watch(&self) -> watch::Receiver<Arc<View>>;
    /// See [`Handle::events`].
    fn events(&self) -> broadcast::Receiver<Event>;
    /// See [`Handle::recent_events`].
    fn recent_events(&self, after: u64) -> Vec<Event>;
}

impl Source for Handle {
    async fn command(&self, command: Command, by: Option<By>) -> Result<Outcome, Refusal> {
        self.command_by(command, by).await
    }

    async fn publish(&self, publish: Publish, by: Option<By>) -> Result<Outcome, Refusal> {
        self.publish_by(publish, by).await
    }

    async fn publish_brought(&self, brought: Brought, by: Option<By>) -> Result<Outcome, Refusal> {
        Self::publish_brought(self, brought, by).await
    }

    fn uploads(&self) -> Result<Uploads, Refusal> {
        Self::uploads(self)
    }

    async fn publish_edits(&self, edits: Edits) -> Result<Outcome, Refusal> {
        Self::publish_edits(self, edits).await
    }

    async fn secrets(&self, edits: SecretEdits) -> Result<Outcome, Refusal> {
        Self::secrets(self, edits).await
    }

    async fn inspect(&self, question: Question) -> Result<Findings, Refusal> {
        Self::inspect(self, question).await
    }

    async fn services(
        &self,
        member: Option<MemberName>,
        ask: Ask,
    ) -> Result<mpsc::Receiver<Heard>, Refusal> {
        Self::services(self, member, ask).await
    }

    async fn stop(&self) {
        Self::stop(self).await;
    }

    async fn operator(&self, token: TokenHash) -> Result<Option<Operator>, Refusal> {
        Self::operator(self, token).await
    }

    async fn acted(&self, acted: Acted) -> Result<u64, Refusal> {
        Self::acted(self, acted).await
    }

    async fn view(&self) -> Result<View, Refusal> {
        Self::view(self).await
    }

    async fn metrics(&self) -> Result<Metrics, Refusal> {
        Self::metrics(self).await
    }

    async fn series(&self, question: SeriesQuestion) -> Result<Measured, Refusal> {
        Self::series(self, question).await
    }

    async fn levels(&self, question: LevelsQuestion) -> Result<Levels, Refusal> {
        Self::levels(self, question).await
    }

    fn served(&self) -> Served {
        Self::served(self)
    }

    fn custom(&self) -> Vec<(Series, Measure)> {
        Self::custom(self)
    }

    fn listening(&self) -> Listening {
        Self::listening(self)
    }

    fn watch(&self) -> watch::Receiver<Arc<View>> {
        Self::watch(self)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        Self::events(self)
    }

    fn recent_events(&self, after: u64) -> Vec<Event> {
        Self::recent_events(self, after)
    }
}
