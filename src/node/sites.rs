//! What the gateway needs to know: which application answers for a host name,
//! whether this member holds it, and who else does.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{
    content::{self, Content},
    listeners,
};
use crate::{
    base::{
        AppName, RelPath, ServiceName,
        catalog::AppSpec,
        tree::{Chunk, Tree},
    },
    driver::{
        routes,
        services::{Endpoints, UnderWay},
    },
    gateway::{
        Affinity, Backends, Certificates, KeyOf, Lead, Leads, Process, Route, Secured, Site, Sites,
        Target, Turn,
    },
    member::view::SiteRoute,
};

/// The routing table, replaced as a whole.
#[derive(Default)]
pub(super) struct SiteTable {
    table: RwLock<Arc<Table>>,
    endpoints: Arc<Endpoints>,
    /// This member is about to stop: what others pass on is for others again.
    closed: AtomicBool,
    certificates: Certificates,
}

#[derive(Default)]
struct Table {
    routes: Vec<SiteRoute>,
    content: Option<Content>,
}

/// A request under way to a program of this member.
struct Asked(UnderWay);

impl Process for Asked {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn load(&self) -> usize {
        self.0.load()
    }

    fn is_unwell(&self) -> bool {
        self.0.is_unwell()
    }

    fn turn(&self) -> Option<Turn<'_>> {
        let turn = async {
            let turn = self.0.turn().await;
            turn.map(|turn| Box::new(turn) as Box<dyn Send>)
        };
        self.0.takes_turns().then(|| Box::pin(turn) as Turn<'_>)
    }
}

/// What of `app` is asked, by a number: its program, or its files and whatever else. Only for
/// this process.
fn number(app: &AppName, service: Option<&ServiceName>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (app, service).hash(&mut hasher);
    hasher.finish()
}

/// The route's affinity as the gateway has it.
fn affinity(route: &routes::Route) -> Affinity {
    match &route.affinity {
        None => Affinity::None,
        Some(routes::Affinity::Cookie) => Affinity::Cookie(route.path.clone()),
        Some(routes::Affinity::Address) => Affinity::Key(KeyOf::Address),
        Some(routes::Affinity::Path) => Affinity::Key(KeyOf::Path),
        Some(routes::Affinity::Header(name)) => Affinity::Key(KeyOf::Header(name.clone())),
        Some(routes::Affinity::CookieOf(name)) => Affinity::Key(KeyOf::Cookie(name.clone())),
    }
}

impl SiteTable {
    /// Routes nothing yet; programs are asked at `endpoints`.
    pub fn new(endpoints: Arc<Endpoints>) -> Self {
        let (closed, certificates) = (AtomicBool::new(false), Certificates::default());
        Self { table: RwLock::default(), endpoints, closed, certificates }
    }

    /// By a program, if `path` of what this member holds leads to one; by the one here only if it
    /// `is_asked`.
    fn program(
        &self,
        site: &content::Site,
        of: &SiteRoute,
        path: &str,
        is_asked: bool,
    ) -> Option<Backends> {
        let route = site.routes().find(path)?;
        let here = is_asked.then(|| self.endpoints.begin(site.app(), &route.service)).flatten();
        let rewritten = route.rewritten(path);
        Some(Backends {
            of: number(site.app(), Some(&route.service)),
            here: here.map(|asked| (of.me, Box::new(Asked(asked)) as _)),
            others: of.holders.clone(),
            affinity: affinity(route),
            path: (rewritten != path).then(|| rewritten.to_owned()),
            within: route.within,
            body_max: route.body_max,
            prefer: route.prefer.clone(),
            tags: Arc::clone(&of.tags),
        })
    }

    /// By this member, as it holds `site`. Who is not asked itself, as it is on standby, still knows
    /// which of the others are to answer, and passes on what is for files.
    fn here(
        &self,
        table: &Table,
        found: &SiteRoute,
        site: Arc<content::Site>,
        Target { path, secure, .. }: Target<'_>,
        is_asked: bool,
    ) -> Option<Route> {
        if let Some(tls) = site.tls().filter(|tls| tls.redirect && !secure) {
            return Some(Route::ByTls(tls.port));
        }
        match self.program(&site, found, path, is_asked) {
            Some(backends) => Some(Route::Service(backends)),
            None if is_asked => table.local(found, site).map(Route::Local),
            None => None,
        }
    }

    /// What this member holds, by application, in the order of their names.
    pub fn held(&self) -> Vec<Arc<content::Site>> {
        let table = self.current();
        let Some(content) = &table.content else { return Vec::new() };
        table.routes.iter().filter_map(|route| content.site(&route.app)).collect()
    }

    /// What the applications here are served with over TLS.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The host names of `app`.
    pub fn hosts(&self, app: &AppName) -> Vec<String> {
        let table = self.current();
        let route = table.routes.iter().find(|route| route.app == *app);
        let spec = route.and_then(|route| route.specs.values().next_back());
        spec.map(|spec| spec.hosts.clone()).unwrap_or_default()
    }

    /// Requests from now on are routed by `routes`.
    pub fn set(&self, routes: Vec<SiteRoute>, content: &Content) {
        let table = Arc::new(Table { routes, content: Some(content.clone()) });
        // A poisoned lock holds a whole table: it is replaced in one step.
        *self.table.write().unwrap_or_else(|e| e.into_inner()) = table;
    }

    /// Whether each application that somebody may ask for has somebody who answers.
    pub fn is_warm(&self) -> bool {
        let table = self.current();
        let Some(content) = &table.content else { return false };
        table.routes.iter().all(|route| {
            if !route.holders.is_empty() {
                return true;
            }
            let Some(site) = content.site(&route.app) else { return false };
            let served = site.routes().served().into_iter();
            let mut served =
                served.chain(site.listeners().0.iter().filter_map(|l| l.service.clone()));
            served.all(|service| self.endpoints.get(&route.app, &service).is_some())
        })
    }

    /// From now on other members are told to ask others.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    fn current(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(|e| e.into_inner()))
    }
}

/// By other members.
fn elsewhere(found: &SiteRoute) -> Route {
    if found.holders.is_empty() {
        let why = format!("No member that can be reached serves {} yet.", found.app);
        return Route::Unavailable { status: 503, why };
    }
    Route::Remote { of: number(&found.app, None), others: found.holders.clone() }
}

impl Table {
    /// What is asked for.
    fn asked(&self, target: Target<'_>) -> Option<&SiteRoute> {
        match target.app {
            Some(app) => self.named(app),
            None => self.find(target.host),
        }
    }

    fn named(&self, app: &AppName) -> Option<&SiteRoute> {
        self.routes.iter().find(|route| route.app == *app)
    }

    /// The application that claims `host`, else the default one, else the
    /// only one there is.
    fn find(&self, host: Option<&str>) -> Option<&SiteRoute> {
        let is = |route: &SiteRoute, what: &dyn Fn(&AppSpec) -> bool| {
            route.specs.values().next_back().is_some_and(|spec| what(spec))
        };
        let claims = |host: &str| {
            let mut all = self.routes.iter();
            all.find(|route| is(route, &|spec| spec.hosts.iter().any(|h| h == host)))
        };
        let claimed = host.and_then(claims);
        let by_default = || self.routes.iter().find(|route| is(route, &|spec| spec.default));
        let only = || if let [only] = self.routes.as_slice() { Some(only) } else { None };
        claimed.or_else(by_default).or_else(only)
    }

    /// What this member holds of it, served as that version says.
    fn local(&self, route: &SiteRoute, site: Arc<content::Site>) -> Option<Arc<dyn Site>> {
        let content = self.content.as_ref()?;
        let spec = route.specs.get(&site.version()).or_else(|| route.specs.values().next_back())?;
        Some(Arc::new(LocalSite { site, content: content.clone(), spec: spec.clone() }))
    }
}

/// One version that this member holds.
struct LocalSite {
    site: Arc<content::Site>,
    content: Content,
    spec: Arc<AppSpec>,
}

impl Site for LocalSite {
    fn app(&self) -> &AppName {
        self.site.app()
    }

    fn version(&self) -> u64 {
        self.site.version()
    }

    fn tree(&self) -> &Tree {
        self.site.tree()
    }

    fn spec(&self) -> &AppSpec {
        &self.spec
    }

    fn open(&self, path: &RelPath) -> Option<std::fs::File> {
        self.site.open(path)
    }

    fn chunk(&self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        self.content.store().read(&chunk.digest).map_err(io::Error::other)
    }

    fn earlier(&self) -> Vec<Arc<dyn Site>> {
        let as_site = |site| {
            let (content, spec) = (self.content.clone(), self.spec.clone());
            Arc::new(LocalSite { site, content, spec }) as _
        };
        self.content.earlier(self.app()).into_iter().map(as_site).collect()
    }
}

impl Sites for SiteTable {
    fn route(&self, target: Target<'_>) -> Route {
        self.routed(target).0
    }

    fn named(&self, target: Target<'_>) -> Option<(AppName, Option<u64>)> {
        let table = self.current();
        let app = table.asked(target)?;
        let site = table.content.as_ref().and_then(|content| content.site(&app.app));
        Some((app.app.clone(), site.map(|site| site.version())))
    }

    fn routed(&self, target: Target<'_>) -> (Route, Option<(AppName, Option<u64>)>) {
        let by_member = target.by_member;
        if by_member && self.closed.load(Relaxed) {
            return (Route::Remote { of: 0, others: Arc::default() }, None);
        }
        let table = self.current();
        let Some(found) = table.asked(target) else {
            let why = if table.routes.is_empty() {
                "This cluster holds no application yet."
            } else {
                "No application of this cluster answers to this host name."
            };
            return (Route::Unavailable { status: 404, why: why.to_owned() }, None);
        };
        let held = table.content.as_ref().and_then(|content| content.site(&found.app));
        let named = Some((found.app.clone(), held.as_ref().map(|site| site.version())));
        // What another member passes on is answered all the same: it knew of nobody better.
        let is_asked = found.here || by_member;
        let route = held.and_then(|site| self.here(&table, found, site, target, is_asked));
        (route.unwrap_or_else(|| elsewhere(found)), named)
    }

    fn secured(&self, host: Option<&str>) -> Option<Secured> {
        let table = self.current();
        let app = &table.find(host)?.app;
        let certificate = self.certificates.of(app)?;
        let site = table.content.as_ref().and_then(|content| content.site(app));
        let hsts = site.and_then(|site| site.tls().map(|tls| tls.hsts)).unwrap_or_default();
        Some(Secured { certificate, hsts })
    }
}

impl Leads for SiteTable {
    fn lead(&self, app: &AppName, port: u16, by_member: bool) -> Option<Lead> {
        let table = self.current();
        let found = table.named(app)?;
        let site = table.content.as_ref()?.site(app)?;
        let all = &site.listeners().0;
        let listener = all.iter().find(|listener| listener.port == port)?;
        let service = listener.service.as_ref()?;
        // On standby others are asked, as for requests.
        let is_asked = if by_member { !self.closed.load(Relaxed) } else { found.here };
        let here = is_asked.then(|| self.endpoints.begin(app, service)).flatten();
        Some(Lead {
            here: here.map(|asked| (found.me, Box::new(Asked(asked)) as _)),
            others: found.holders.clone(),
            of: number(app, Some(service)),
            proxy: listener.proxy.map(listeners::version),
            idle: listener.idle,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        base::{MemberId, SecretKey},
        node::content::Made,
        proto::balance::choice::Candidate,
        store::ContentStore,
    };

    fn candidate(seed: u8) -> Candidate {
        let id: MemberId = SecretKey::from_seed([seed; 32]).member();
        Candidate { id, capacity: 1 }
    }

    #[test]
    fn who_is_on_standby_still_knows_by_whom_requests_are_to_be_answered() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        let store = ContentStore::open(&place("content")).unwrap();
        let content = Content::open(store, place("live"), place("state")).unwrap();
        fs::create_dir(place("source")).unwrap();
        fs::write(place("source").join("index.html"), "a page").unwrap();
        let text = |at: &str, text: &str| (RelPath::parse(at.as_bytes()).unwrap(), text.to_owned());
        let texts = vec![
            text(".althing/services.toml", "[services.api]\nrun = [\"bin/api\"]\n"),
            text(
                ".althing/routes.toml",
                "[[routes]]\npath = \"/api\"\nservice = \"api\"\nwithin = \"7s\"\naffinity = \"cookie\"\n\
                 prefer = [{ from = [\"10.0.0.0/8\"], members = \"site == far\" }]\n",
            ),
        ];
        let made = Made { texts, ..Made::default() };
        let root = content.stage(&place("source"), &[], &made).unwrap().root;
        let (app, spec) = (AppName::parse("shop").unwrap(), AppSpec::default());
        content.activate(&app, 1, 1, root, &spec).unwrap();

        let sites = SiteTable::new(Arc::default());
        let set = |here| {
            let route = SiteRoute {
                app: app.clone(),
                specs: [(1, Arc::new(spec.clone()))].into(),
                holders: [candidate(2), candidate(3)].into(),
                tags: Arc::default(),
                me: candidate(1),
                here,
            };
            sites.set(vec![route], &content);
        };
        let asked = |path: &str, by_member| {
            sites.route(Target { app: None, host: None, path, by_member, secure: false })
        };
        for here in [true, false] {
            set(here);
            let Route::Service(backends) = asked("/api/x", false) else { panic!("here: {here}") };
            assert_eq!(backends.others.len(), 2, "here: {here}");
            assert_eq!((backends.within.as_secs(), backends.prefer.0.len()), (7, 1), "{here}");
            assert!(matches!(backends.affinity, Affinity::Cookie(_)), "here: {here}");
            // Files are those of others, unless one of them asks.
            assert_eq!(matches!(asked("/", false), Route::Local(_)), here);
            assert_eq!(matches!(asked("/", false), Route::Remote { .. }), !here);
            assert!(matches!(asked("/", true), Route::Local(_)), "here: {here}");
        }
    }
}
