//! The stream of the status page: server-sent events (WHATWG HTML, "Server-sent
//! events"). `view` on every change and at least every five seconds, `metrics`
//! with the latter, `event` for each event.
//!
//! Only events carry an id, `START-NUMBER`: a reader that reconnects receives
//! what it missed, as far as it is still kept, and one that had an earlier
//! start of the member receives the latest anew. A reader that is slow is
//! asked for nothing: the stream is pulled, and what it sleeps through it
//! finds in the events that are kept.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast, watch},
    time::{Instant, sleep_until},
};

use super::{
    routes::{Site, refuse_with},
    source::Source,
};
use crate::{
    base::{Reason, Refusal},
    member::{event::Event, view::View},
};

/// A view is sent at least this often.
const BEAT: Duration = Duration::from_secs(5);
/// A comment goes out if nothing else did for this long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// After this time a reader that was cut off comes back.
const RETRY: Duration = Duration::from_secs(2);
/// Events that a reader receives at first.
const BACKLOG: usize = 200;

/// For readers that can't set the header on a reconnect of their own.
#[derive(Deserialize)]
pub(super) struct Last {
    last: Option<String>,
}

/// `GET /api/v1/stream`
pub(super) async fn stream<S: Source>(
    State(site): State<Site<S>>,
    query: Result<Query<Last>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(place) = Arc::clone(&site.streams).try_acquire_owned() else {
        return refuse_with(
            StatusCode::SERVICE_UNAVAILABLE,
            &Refusal::new(
                Reason::Busy,
                "There is no further stream.",
                "As many readers as a member serves are connected to this one.",
                "Close another page, or look at another member.",
            ),
        );
    };
    // A query that can't be read is an id that is not known.
    let last = query.ok().and_then(|Query(Last { last })| last);
    let header = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let after = header.or(last.as_deref()).and_then(|id| number_of(&site.start, id));
    match Tail::start(site, after, place).await {
        Ok(tail) => Sse::new(unfold(tail, Tail::next))
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response(),
        Err(refusal) => super::routes::refuse(&refusal),
    }
}

/// The number in an event's id, if it is of this start.
fn number_of(start: &str, id: &str) -> Option<u64> {
    let (of, number) = id.split_once('-')?;
    (of == start).then(|| number.parse().ok()).flatten()
}

/// One reader's place in what happens.
struct Tail<S> {
    site: Site<S>,
    views: watch::Receiver<Arc<View>>,
    events: broadcast::Receiver<Event>,
    /// The number of the last event that was sent.
    after: u64,
    ready: VecDeque<sse::Event>,
    beat: Instant,
    _place: OwnedSemaphorePermit,
}

impl<S: Source> Tail<S> {
    async fn start(
        site: Site<S>,
        after: Option<u64>,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, Refusal> {
        // Subscribed before anything is read, so that nothing falls between.
        let (mut views, events) = (site.source.watch(), site.source.events());
        // What is in it may be old: views are made only while somebody looks.
        views.mark_unchanged();
        let mut tail = Self {
            site,
            views,
            events,
            after: after.unwrap_or(0),
            ready: VecDeque::from([sse::Event::default().retry(RETRY)]),
            beat: Instant::now(),
            _place: place,
        };
        tail.take_events(if after.is_some() { usize::MAX } else { BACKLOG });
        tail.take_beat().await?;
        Ok(tail)
    }

    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            tokio::select! {
                () = self.site.shutdown.cancelled() => return None,
                received = self.events.recv() => match received {
                    Ok(event) => {
                        self.take_events(usize::MAX);
                        self.take_event(&event);
                    }
                    // What the channel lost is still kept, or too old for all.
                    Err(broadcast::error::RecvError::Lagged(_)) => self.take_events(usize::MAX),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                changed = self.views.changed() => {
                    changed.ok()?; // the member is gone, and the stream with it
                    let view = Arc::clone(&self.views.borrow_and_update());
                    self.take_view(&view);
                }
                () = sleep_until(self.beat) => {
                    self.take_events(usize::MAX);
                    self.take_beat().await.ok()?;
                }
            }
        }
    }

    /// The events since the last one, the latest `most` of them.
    fn take_events(&mut self, most: usize) {
        let events = self.site.source.recent_events(self.after);
        for event in &events[events.len().saturating_sub(most)..] {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: &Event) {
        if event.number > self.after {
            self.after = event.number;
            let id = format!("{}-{}", self.site.start, event.number);
            self.ready.push_back(frame("event", event).id(id));
        }
    }

    fn take_view(&mut self, view: &View) {
        self.ready.push_back(frame("view", view));
        self.beat = Instant::now() + BEAT;
    }

    /// A view and the metrics of now.
    async fn take_beat(&mut self) -> Result<(), Refusal> {
        let view = self.site.source.view().await?;
        let metrics = self.site.source.metrics().await?;
        self.take_view(&view);
        self.ready.push_back(frame("metrics", &metrics));
        Ok(())
    }
}

fn frame(name: &'static str, data: &impl Serialize) -> sse::Event {
    // Our own types, with string keys and finite numbers: they always serialise.
    let text = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    sse::Event::default().event(name).data(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_start_counts_for_nothing() {
        assert_eq!(number_of("19a", "19a-7"), Some(7));
        for other in ["19b-7", "7", "", "19a-", "19a--1", "19a-7-7"] {
            assert_eq!(number_of("19a", other), None, "{other}");
        }
    }
}
