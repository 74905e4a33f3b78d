//! What the gateway needs to know: which application answers for a host name,
//! whether this member holds it, and who else does.

use std::{
    io,
    sync::{Arc, RwLock},
};

use tokio::io::Join;

use super::content::Content;
use crate::{
    base::{AppName, MemberId},
    gateway::{Forward, Route, Sites},
    member::view::SiteRoute,
    net::{Net, RecvStream, SendStream, StreamKind},
};

/// The routing table, replaced as a whole.
#[derive(Default)]
pub(super) struct SiteTable {
    table: RwLock<Arc<Table>>,
}

#[derive(Default)]
struct Table {
    routes: Vec<SiteRoute>,
    content: Option<Arc<Content>>,
}

impl SiteTable {
    /// Requests from now on are routed by `routes`.
    pub fn set(&self, routes: Vec<SiteRoute>, content: &Arc<Content>) {
        let table = Arc::new(Table { routes, content: Some(Arc::clone(content)) });
        // A poisoned lock holds a whole table: it is replaced in one step.
        *self.table.write().unwrap_or_else(|e| e.into_inner()) = table;
    }

    fn current(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Table {
    /// The application that claims `host`, else the default one, else the
    /// only one there is.
    fn find(&self, host: Option<&str>) -> Option<&SiteRoute> {
        let claimed = host.and_then(|host| {
            self.routes.iter().find(|r| r.spec.hosts.iter().any(|h| h == host))
        });
        let by_default = || self.routes.iter().find(|r| r.spec.default);
        let only = || if let [only] = self.routes.as_slice() { Some(only) } else { None };
        claimed.or_else(by_default).or_else(only)
    }

    fn local(&self, app: &AppName) -> Option<Arc<dyn crate::gateway::Site>> {
        let site = self.content.as_ref()?.site(app)?;
        Some(site as Arc<dyn crate::gateway::Site>)
    }
}

impl Sites for SiteTable {
    fn route(&self, host: Option<&str>) -> Route {
        let table = self.current();
        let Some(found) = table.find(host) else {
            let why = if table.routes.is_empty() {
                "This cluster holds no application yet."
            } else {
                "No application of this cluster answers to this host name."
            };
            return Route::Unavailable { status: 404, why: why.to_owned() };
        };
        if let Some(site) = table.local(&found.app) {
            return Route::Local(site);
        }
        if found.holders.is_empty() {
            let why = format!("No member that can be reached serves {} yet.", found.app);
            return Route::Unavailable { status: 503, why };
        }
        Route::Remote(found.holders.clone())
    }
}

/// Takes requests to other members over the cluster's own connections.
pub(super) struct Forwarder(pub Net);

impl Forward for Forwarder {
    type Stream = Join<RecvStream, SendStream>;

    async fn connect(&self, member: MemberId) -> io::Result<Self::Stream> {
        let (send, recv) =
            self.0.open(member, StreamKind::Http).await.map_err(io::Error::other)?;
        Ok(tokio::io::join(recv, send))
    }
}
