//! A served service changes processes without a gap: the one before goes on being asked
//! until its successor is ready, ends what is under way, and only then is stopped. One
//! whose successor never gets ready stays.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    What,
    endpoint::Endpoint,
    log::ServiceLog,
    run::Run,
    service::{Wanted, number, of_status},
    supervise::Shared,
};

/// How long requests have to end that a process is still answering when it should go.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(30);

/// A process that goes on until it is released. Dropped, it is killed.
pub(super) struct Predecessor {
    released: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// What a process is and belongs to.
pub(super) struct Serving {
    pub wanted: Arc<Wanted>,
    pub run: Run,
    pub endpoint: Arc<Endpoint>,
    pub log: Arc<ServiceLog>,
    pub shared: Arc<Shared>,
}

impl Predecessor {
    /// Keeps `serving` until there is a successor.
    pub fn keep(serving: Serving) -> Self {
        let released = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(serving.until(released.clone())));
        Self { released, task }
    }

    /// Its successor is ready, or nobody wants it any more. It ends by itself.
    pub fn release(&self) {
        self.released.cancel();
    }

    /// Whether nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.task.is_finished()
    }

    /// Returns when nothing of it is left.
    pub async fn gone(self) {
        self.release();
        // A panic in there has been told of.
        let _ended = self.task.await;
    }
}

impl Serving {
    async fn until(self, released: CancellationToken) {
        let Self { wanted, run, endpoint, log, shared } = self;
        let key = (wanted.app.clone(), wanted.name.clone());
        let by_itself = tokio::select! {
            () = run.ended() => true,
            () = released.cancelled() => false,
        };
        shared.endpoints.take(&key, &endpoint);
        let mut killed = false;
        if by_itself {
            run.kill().await;
        } else {
            tokio::select! {
                () = run.ended() => {}
                _over = timeout(DRAIN_MAX, endpoint.drained()) => {}
            }
            let stop = &wanted.service.stop;
            run.signal(number(stop.signal));
            killed = timeout(stop.within, run.gone()).await.is_err();
            if killed {
                run.kill().await;
            }
        }
        let ended = run.finish(&shared.spawner).await.map(of_status);
        let what = match ended {
            Some(what) if by_itself => what,
            _ => What::Stopped { killed },
        };
        shared.tell(&wanted, &log, what);
    }
}
