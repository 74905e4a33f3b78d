//! Who asked for a change with a token: told with it, wherever that is done.

use super::*;
use crate::{
    base::{OperatorName, operator::AskedBy},
    member::{change::Held, command::By},
};

fn alice(at: &str) -> AskedBy {
    AskedBy { operator: OperatorName::parse("alice").unwrap(), at: MemberName::parse(at).unwrap() }
}

impl Cluster {
    /// A command of alice, who showed her token on `who`; event 41 there tells of it.
    fn ask_as_alice(&mut self, who: usize, command: Command) -> Result<Outcome, Refusal> {
        self.tickets += 1;
        let ticket = self.tickets;
        let by = Some(By { operator: alice("m1").operator, event: 41 });
        self.send(who, Duration::ZERO, Input::Command { ticket, command, by });
        self.run(Duration::from_secs(12));
        self.replies.remove(&ticket).expect("every command is answered")
    }

    /// The one event with `part` in it, and who tells it.
    fn told_once(&self, part: &str) -> &(usize, Event) {
        let mut found = self.events.iter().filter(|(_, event)| event.text.contains(part));
        let first = found.next().unwrap_or_else(|| panic!("{part}: {:?}", self.events));
        assert!(found.next().is_none(), "{part}: {:?}", self.events);
        first
    }

    /// Alice publishes version 1 on m1, until it is committed. Its root.
    fn publish_as_alice(&mut self, app: &AppName) -> Digest {
        let root = Digest::of_bytes(b"version 1");
        let command = Command::Publish {
            app: app.clone(),
            staged: command::Staged { root, files: 1, bytes: 5 },
            spec: Box::default(),
            message: String::new(),
            base: None,
        };
        let by = Some(By { operator: alice("m1").operator, event: 41 });
        self.send(1, Duration::ZERO, Input::Command { ticket: 0, command, by });
        self.run(Duration::from_secs(1));
        let publication = self.view(2).window.unwrap().publication.unwrap();
        assert_eq!(publication.asked, Some(alice("m1")));
        let from = self.ids[1];
        for who in [0, 2] {
            self.send(who, Duration::ZERO, Input::Fetched { root, from, result: Ok(()) });
        }
        self.run(Duration::from_secs(5));
        assert!(self.catalog(2).application(app).is_some(), "a majority holds it");
        root
    }

    /// What `who` says to others because of `input`.
    fn tell(&mut self, who: usize, input: Input) -> Vec<(MemberId, Message)> {
        let (now, wall, mut effects) = (self.now, self.wall(), Vec::new());
        self.members[who].as_mut().unwrap().handle(now, wall, input, &mut effects);
        let said = effects.iter().filter_map(|effect| match effect {
            Effect::Message { to, bytes } => {
                Some((*to, wire::decode::<Message>(Kind::Message, bytes).ok()?))
            }
            _ => None,
        });
        said.collect()
    }

    fn view(&self, who: usize) -> view::View {
        self.members[who].as_ref().unwrap().view(self.now)
    }
}

#[test]
fn what_is_proposed_where_it_was_asked_names_the_operator_and_follows_from_the_act() {
    let mut cluster = Cluster::new(3);
    let member = MemberName::parse("m2").ok();
    cluster.ask_as_alice(1, Command::Service { member: member.clone(), on: false }).unwrap();
    let (who, event) = cluster.told_once("m2 is out of service");
    assert_eq!((*who, event.cause), (1, Some(41)));
    assert_eq!(event.asked, Some(alice("m1")));
    let part = "on standby, by operator alice, at m1 (catalog ";
    assert!(event.text.contains(part), "{}", event.text);

    // Through the socket it is nobody's token.
    cluster.ask(1, Command::Service { member, on: true }).unwrap();
    let (_, event) = cluster.told_once("m2 is in service");
    assert_eq!((event.cause, &event.asked), (None, &None));
    assert!(!event.text.contains("operator"), "{}", event.text);
}

#[test]
fn a_window_names_the_operator_on_the_coordinator_and_in_every_view() {
    let mut cluster = Cluster::new(3);
    let open = Command::WindowOpen { scope: vec![], failover: None, automatic: false };
    cluster.ask_as_alice(2, open.clone()).unwrap();
    let (who, event) = cluster.told_once("a window was opened by m2 and is held");
    assert_eq!((*who, event.cause), (0, None), "it presides, and has numbers of its own");
    assert_eq!(event.asked, Some(alice("m2")));
    for who in 0..3 {
        assert_eq!(cluster.view(who).window.unwrap().asked, Some(alice("m2")), "{who}");
    }
    cluster.ask(1, Command::WindowClose).unwrap();
    assert!(!cluster.told_once("was closed").1.text.contains("alice"));
    cluster.ask(2, open).unwrap();
    assert_eq!(cluster.view(0).window.unwrap().asked, None);
}

#[test]
fn a_version_names_the_operator_where_it_is_committed_where_it_is_switched_to_and_in_history() {
    let (mut cluster, app) = (Cluster::new(3), AppName::parse("web").unwrap());
    let root = cluster.publish_as_alice(&app);
    for part in ["a window was opened for web version 1", "web version 1 is committed"] {
        let (who, event) = cluster.told_once(part);
        assert_eq!((*who, &event.asked), (0, &Some(alice("m1"))), "{part}");
        assert!(event.text.contains(", by operator alice, at m1 (catalog "), "{}", event.text);
    }
    for who in 0..3 {
        let result = Ok(Switched::whole(root));
        let done = Input::Activated { app: app.clone(), version: 1, result };
        cluster.send(who, Duration::ZERO, done);
    }
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.told("web switched to version 1, by operator alice, at m1"), 3);
    for who in 0..3 {
        assert_eq!(cluster.view(who).applications[0].versions[0].asked, Some(alice("m1")));
    }
}

#[test]
fn who_decides_a_hung_vote_is_told_to_the_member_whose_content_is_right() {
    let (mut cluster, app) = (Cluster::new(3), AppName::parse("web").unwrap());
    cluster.publish_as_alice(&app);
    let member = MemberName::parse("m2").unwrap();
    let command = Command::Resolve { app: app.clone(), member };
    let by = Some(By { operator: alice("m1").operator, event: 42 });
    let sent = cluster.tell(1, Input::Command { ticket: 9, command, by });
    let is_asked =
        |(_, message): &&(MemberId, Message)| matches!(message, Message::ResolveFor { .. });
    let (to, message) = sent.iter().find(is_asked).unwrap_or_else(|| panic!("{sent:?}"));
    assert_eq!(*to, cluster.ids[2]);
    let (from, bytes) = (cluster.ids[1], wire::encode(Kind::Message, message));
    cluster.tell(2, Input::Message { from, bytes });
    // It has taken what it holds, and asks whoever presides.
    let staged = command::Staged { root: Digest::of_bytes(b"theirs"), files: 1, bytes: 6 };
    let sent = cluster.tell(2, Input::Ingested { app, result: Ok(staged) });
    let open = sent.iter().find_map(|(_, message)| match message {
        Message::Forward { change, .. } => match &**change {
            Change::Open(open) => Some(open),
            _ => None,
        },
        _ => None,
    });
    let open = open.unwrap_or_else(|| panic!("{sent:?}"));
    assert_eq!(open.publication().unwrap().version.publisher, cluster.ids[2]);
    assert_eq!(open.asked(), Some(&alice("m1")), "where it was asked, and not whose content it is");
}

#[test]
fn what_a_window_is_for_is_written_as_before_where_nobody_showed_a_token() {
    for (held, before) in [(Held::ByHand, 0_u8), (Held::Automatic, 2)] {
        let plain = wire::encode(Kind::Message, &change::OpenFor::held(held, None));
        assert_eq!(plain[1..], [before]);
        let named = change::OpenFor::held(held, Some(alice("m1")));
        let bytes = wire::encode(Kind::Message, &named);
        assert_eq!(wire::decode::<change::OpenFor>(Kind::Message, &bytes), Ok(named));
    }
}
