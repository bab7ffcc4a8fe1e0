//! The watches on one open stream: which has which number, what is still to be sent, how far each
//! is, and what follows from what the server says. It is told which ranges to watch and answers
//! with [`Effect`]s; whose they are and what to tell them is left to others.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use waymark_core::model::Revision;

use crate::{
    etcd::{Event, Range, WatchAnswer, WatchRequest},
    metrics::RestartReason,
};

/// The number asked for by the first watch of a stream. Not 0, which leaves the choice to the
/// server.
pub(super) const FIRST_ID: i64 = 1;

/// The number a server gives an answer that concerns no watch, or all of them.
const NO_WATCH: i64 = -1;

/// A token is not doubted for so long after it was given.
const FRESH: Duration = Duration::from_secs(5);

/// For a watch that depends on nothing that was read before. No cluster has this id.
pub(super) const ANY_CLUSTER: u64 = 0;

/// A range of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RangeId {
    pub(super) watcher: u64,
    pub(super) range: usize,
}

/// A range that is to be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: RangeId,
    pub(super) range: Range,
    /// The revision that has not been told yet.
    pub(super) from: Revision,
    /// Whose history that is.
    pub(super) cluster: u64,
}

impl Wanted {
    /// Asks for the watch, under this number.
    pub(super) fn request(&self, id: i64) -> WatchRequest {
        WatchRequest::Create { id, range: self.range.clone(), from: self.from }
    }
}

/// How old the token is by whose right a stream watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenAge {
    /// There is no user, and no token.
    NoToken,
    /// It may be of any age.
    Unknown,
    /// It was given at this moment.
    Since(Instant),
}

impl TokenAge {
    /// Whether a refusal may be no more than the end of the token.
    fn may_have_ended(self) -> bool {
        match self {
            Self::NoToken => false,
            Self::Unknown => true,
            Self::Since(given) => given.elapsed() >= FRESH,
        }
    }
}

/// What is to be done after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Tell the watcher what happened in one of its ranges, which resumes from `next` on.
    Tell { id: RangeId, events: Vec<Event>, next: Revision },
    /// Nothing is missing in this range before `next`: it resumes from there on.
    Resume { id: RangeId, next: Revision },
    /// Everything was told in this range that had happened, up to this revision, when its watch
    /// began.
    InStep { id: RangeId, goal: Revision },
    /// The watcher cannot go on: have it begin anew.
    Restart { watcher: u64, reason: RestartReason, detail: String },
    /// The watch was refused in these words, perhaps because the token has ended: try it with a new
    /// one.
    Renew { id: RangeId, words: String },
}

/// One watch on this stream.
#[derive(Debug)]
struct Watch {
    cluster: u64,
    /// The revision that has not been told yet.
    next: Revision,
    /// The server's number for it. `None`: not created yet.
    server_id: Option<i64>,
    /// Where the store was when the watch was created: in step when everything up to there was
    /// told.
    goal: Revision,
    in_step: bool,
}

impl Watch {
    /// Whether what this cluster says is about another history than the one that was read.
    fn is_of_another(&self, cluster: u64) -> bool {
        self.cluster != ANY_CLUSTER && self.cluster != cluster
    }

    fn cluster_changed(&self, watcher: u64, cluster: u64) -> Effect {
        let detail = format!("cluster {cluster:x} answers instead of {:x}", self.cluster);
        Effect::Restart { watcher, reason: RestartReason::ClusterChanged, detail }
    }
}

#[derive(Debug)]
pub(super) struct Watches {
    token: TokenAge,
    /// Not sent yet. Sending waits while the server takes nothing, and answers must be read
    /// meanwhile.
    outbox: VecDeque<WatchRequest>,
    /// Asked for and not answered yet, with the numbers asked for. etcd answers in order, under
    /// those numbers; its proxy answers under numbers of its own, so the order is what counts where
    /// no number fits. Without a range it is nobody's, and is cancelled as soon as it is created.
    creating: VecDeque<(i64, Option<RangeId>)>,
    /// Those that are wanted, whether or not they are created.
    by_range: HashMap<RangeId, Watch>,
    /// The server's numbers.
    by_server_id: HashMap<i64, RangeId>,
    next_id: i64,
    /// Created, and not known to have caught up.
    behind: HashSet<RangeId>,
}

impl Watches {
    /// Those of a stream that was opened with a request for `first`, under [`FIRST_ID`].
    pub(super) fn new(first: &Wanted, token: TokenAge) -> Self {
        let mut watches = Self {
            token,
            outbox: VecDeque::new(),
            creating: VecDeque::new(),
            by_range: HashMap::new(),
            by_server_id: HashMap::new(),
            next_id: FIRST_ID,
            behind: HashSet::new(),
        };
        watches.expect(first);
        watches
    }

    /// Awaits the answer to a request for this watch. Returns its number.
    fn expect(&mut self, wanted: &Wanted) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.creating.push_back((id, Some(wanted.id)));
        let watch = Watch {
            cluster: wanted.cluster,
            next: wanted.from,
            server_id: None,
            goal: Revision::default(),
            in_step: false,
        };
        self.by_range.insert(wanted.id, watch);
        id
    }

    /// Asks for one more watch.
    pub(super) fn create(&mut self, wanted: &Wanted) {
        let id = self.expect(wanted);
        self.outbox.push_back(wanted.request(id));
    }

    /// Asks for a watch that only has to be answered.
    pub(super) fn probe(&mut self, range: Range) {
        let id = self.next_id;
        self.next_id += 1;
        self.creating.push_back((id, None));
        self.outbox.push_back(WatchRequest::Create { id, range, from: Revision(0) });
    }

    /// Asks how far the store is.
    pub(super) fn ask_progress(&mut self) {
        self.outbox.push_back(WatchRequest::Progress);
    }

    /// Ends a watch, if there is one: nobody wants it any more.
    pub(super) fn cancel(&mut self, id: RangeId) {
        let Some(watch) = self.remove(id) else { return };
        match watch.server_id {
            Some(id) => self.outbox.push_back(WatchRequest::Cancel { id }),
            None => {
                for (_, asked) in self.creating.iter_mut().filter(|(_, asked)| *asked == Some(id)) {
                    *asked = None;
                }
            }
        }
    }

    /// Ends all watches but these.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(RangeId) -> bool) {
        for id in self.by_range.keys().copied().filter(|id| !is_wanted(*id)).collect::<Vec<_>>() {
            self.cancel(id);
        }
    }

    /// Whether this range is watched, or a watch on it was asked for.
    pub(super) fn has(&self, id: RangeId) -> bool {
        self.by_range.contains_key(&id)
    }

    /// Whether it was asked for a watch that somebody wants, and has not answered yet.
    pub(super) fn awaits_some(&self) -> bool {
        self.creating.iter().any(|(_, asked)| asked.is_some())
    }

    /// Whether it was asked for a watch that nobody wants, and has not answered yet.
    pub(super) fn awaits_probe(&self) -> bool {
        self.creating.iter().any(|(_, asked)| asked.is_none())
    }

    /// Whether some watch has yet to catch up.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// What is to be sent next.
    pub(super) fn to_send(&self) -> Option<&WatchRequest> {
        self.outbox.front()
    }

    /// What was to be sent next has been sent.
    pub(super) fn sent(&mut self) {
        self.outbox.pop_front();
    }

    /// Takes back the asking for a watch, and says for which range it was. `None`: nobody's.
    pub(super) fn refuse(&mut self, answer: &WatchAnswer) -> Option<RangeId> {
        let id = self.take_creating(answer.id)?;
        self.remove(id);
        Some(id)
    }

    fn take_creating(&mut self, id: i64) -> Option<RangeId> {
        let index = self.creating.iter().position(|(asked, _)| *asked == id).unwrap_or(0);
        self.creating.remove(index).and_then(|(_, id)| id)
    }

    fn remove(&mut self, id: RangeId) -> Option<Watch> {
        let watch = self.by_range.remove(&id)?;
        self.behind.remove(&id);
        if let Some(server_id) = watch.server_id {
            self.by_server_id.remove(&server_id);
        }
        Some(watch)
    }

    /// Takes what the server says.
    pub(super) fn on_answer(&mut self, answer: WatchAnswer) -> Vec<Effect> {
        let id =
            if answer.created { self.take_creating(answer.id) } else { self.by_server_id.get(&answer.id).copied() };
        let Some(id) = id else {
            if answer.created && !answer.canceled {
                // It was dropped while it was being created, or it is nobody's.
                self.outbox.push_back(WatchRequest::Cancel { id: answer.id });
            } else if answer.id == NO_WATCH && !answer.canceled {
                return self.on_progress(answer.revision);
            }
            return Vec::new();
        };
        if answer.canceled {
            self.remove(id);
            return vec![self.ended(id, &answer)];
        }
        let Some(watch) = self.by_range.get_mut(&id) else { return Vec::new() };
        if answer.created {
            watch.server_id = Some(answer.id);
            self.by_server_id.insert(answer.id, id);
        }
        if watch.is_of_another(answer.cluster) {
            return vec![watch.cluster_changed(id.watcher, answer.cluster)];
        }
        if answer.created {
            return self.on_created(id, answer.revision);
        }
        let (effect, reached) = if answer.events.is_empty() {
            // A notification for this one watch, which is in step: it may resume from there.
            watch.next = watch.next.max(answer.revision.next());
            (Effect::Resume { id, next: watch.next }, answer.revision)
        } else {
            let last = answer.events.iter().map(Event::mod_revision).max().unwrap_or_default();
            watch.next = watch.next.max(last.next());
            (Effect::Tell { id, events: answer.events, next: watch.next }, last)
        };
        [effect].into_iter().chain(self.reached(id, reached)).collect()
    }

    /// What follows from the end of a watch that the server ended.
    fn ended(&self, id: RangeId, answer: &WatchAnswer) -> Effect {
        if answer.is_refusal() && self.token.may_have_ended() {
            return Effect::Renew { id, words: answer.words() };
        }
        let (reason, detail) = match answer.compacted {
            Some(at) => (RestartReason::Compacted, format!("history before revision {at} was compacted")),
            None => (RestartReason::Refused, answer.words()),
        };
        Effect::Restart { watcher: id.watcher, reason, detail }
    }

    /// A watch has begun. Is the store as far as it was?
    fn on_created(&mut self, id: RangeId, revision: Revision) -> Vec<Effect> {
        let Some(watch) = self.by_range.get_mut(&id) else { return Vec::new() };
        let next = watch.next;
        if revision.next() < next {
            // etcd would wait in silence for its store to get there.
            let detail = format!("the store is at revision {revision}, and was at {} before", next.0 - 1);
            return vec![Effect::Restart { watcher: id.watcher, reason: RestartReason::RevisionWentBack, detail }];
        }
        watch.goal = revision;
        self.behind.insert(id);
        if revision < next { self.reached(id, revision).into_iter().collect() } else { Vec::new() }
    }

    /// How far the whole stream is. It does not move the resume revision: etcd before 3.4.25 and
    /// 3.5.8 answers this before it has sent all events (etcd-io/etcd#15220), and a loss just then
    /// would skip them.
    fn on_progress(&mut self, revision: Revision) -> Vec<Effect> {
        let behind = self.behind.iter().copied().collect::<Vec<_>>();
        behind.into_iter().filter_map(|id| self.reached(id, revision)).collect()
    }

    /// Everything up to `revision` was told in this range.
    fn reached(&mut self, id: RangeId, revision: Revision) -> Option<Effect> {
        let watch = self.by_range.get_mut(&id)?;
        if watch.in_step || watch.server_id.is_none() || revision < watch.goal {
            return None;
        }
        watch.in_step = true;
        self.behind.remove(&id);
        Some(Effect::InStep { id, goal: watch.goal })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::etcd::Kv;

    const CLUSTER: u64 = 7;

    fn id(watcher: u64) -> RangeId {
        RangeId { watcher, range: 0 }
    }

    fn wanted(watcher: u64, from: i64) -> Wanted {
        Wanted { id: id(watcher), range: Range::key(format!("k{watcher}")), from: Revision(from), cluster: CLUSTER }
    }

    fn answer(id: i64, revision: i64) -> WatchAnswer {
        WatchAnswer { id, revision: Revision(revision), cluster: CLUSTER, ..WatchAnswer::default() }
    }

    fn created(id: i64, revision: i64) -> WatchAnswer {
        WatchAnswer { created: true, ..answer(id, revision) }
    }

    fn refused(id: i64) -> WatchAnswer {
        WatchAnswer { canceled: true, reason: "permission denied".into(), ..created(id, 9) }
    }

    fn event(revision: i64) -> Event {
        let (key, value) = (b"k".to_vec(), b"v".to_vec());
        Event::Put(Kv { key, value, mod_revision: Revision(revision), lease: None })
    }

    fn events(id: i64, revisions: &[i64]) -> WatchAnswer {
        WatchAnswer { events: revisions.iter().copied().map(event).collect(), ..answer(id, 0) }
    }

    /// What was to be sent up to now.
    fn sent(watches: &mut Watches) -> Vec<WatchRequest> {
        watches.outbox.drain(..).collect()
    }

    fn restart(watcher: u64, reason: RestartReason, detail: &str) -> Vec<Effect> {
        vec![Effect::Restart { watcher, reason, detail: detail.into() }]
    }

    /// The watches 1 to `n`, all created at revision 9, where each resumes.
    fn standing(n: u64) -> Watches {
        let mut watches = Watches::new(&wanted(1, 10), TokenAge::NoToken);
        for watcher in 2..=n {
            watches.create(&wanted(watcher, 10));
        }
        for watcher in 1..=n {
            let effects = watches.on_answer(created(watcher.cast_signed(), 9));
            assert_eq!(effects, [Effect::InStep { id: id(watcher), goal: Revision(9) }]);
        }
        sent(&mut watches);
        watches
    }

    #[test]
    fn a_watch_that_begins_in_the_past_is_in_step_once_all_of_it_was_told() {
        let mut watches = Watches::new(&wanted(1, 5), TokenAge::NoToken);
        assert_eq!(watches.on_answer(created(1, 9)), []);
        assert!(watches.is_behind());
        let told = watches.on_answer(events(1, &[6, 7]));
        assert_eq!(told, [Effect::Tell { id: id(1), events: vec![event(6), event(7)], next: Revision(8) }]);
        let told = watches.on_answer(events(1, &[9]));
        let tell = Effect::Tell { id: id(1), events: vec![event(9)], next: Revision(10) };
        assert_eq!(told, [tell, Effect::InStep { id: id(1), goal: Revision(9) }]);
        assert!(!watches.is_behind());
    }

    #[test]
    fn progress_of_the_stream_puts_in_step_and_moves_no_watch() {
        let mut watches = Watches::new(&wanted(1, 5), TokenAge::NoToken);
        watches.create(&wanted(2, 5));
        assert_eq!([watches.on_answer(created(1, 9)), watches.on_answer(created(2, 11))], [vec![], vec![]]);
        assert_eq!(watches.on_answer(answer(NO_WATCH, 10)), [Effect::InStep { id: id(1), goal: Revision(9) }]);
        assert!(watches.is_behind(), "the other began later");
        // What is told of one watch alone does move it.
        let effects = watches.on_answer(answer(2, 12));
        let in_step = Effect::InStep { id: id(2), goal: Revision(11) };
        assert_eq!(effects, [Effect::Resume { id: id(2), next: Revision(13) }, in_step]);
        assert_eq!(watches.on_answer(answer(NO_WATCH, 20)), []);
    }

    #[test]
    fn another_history_than_the_one_that_was_read_is_not_watched() {
        let mut watches = standing(2);
        let other = WatchAnswer { cluster: 8, ..events(1, &[10]) };
        let changed = restart(1, RestartReason::ClusterChanged, "cluster 8 answers instead of 7");
        assert_eq!(watches.on_answer(other), changed);
        let mut watches = Watches::new(&wanted(1, 10), TokenAge::NoToken);
        assert_eq!(watches.on_answer(WatchAnswer { cluster: 8, ..created(1, 20) }), changed);
        let mut watches = Watches::new(&wanted(1, 10), TokenAge::NoToken);
        let back = restart(1, RestartReason::RevisionWentBack, "the store is at revision 8, and was at 9 before");
        assert_eq!(watches.on_answer(created(1, 8)), back);
        // One that depends on nothing takes any.
        let any = Wanted { cluster: ANY_CLUSTER, from: Revision(0), ..wanted(1, 0) };
        let mut watches = Watches::new(&any, TokenAge::NoToken);
        assert_eq!(watches.on_answer(WatchAnswer { cluster: 8, ..created(1, 3) }), []);
    }

    #[test]
    fn a_watch_whose_history_is_gone_is_begun_anew_and_not_cancelled_again() {
        let mut watches = standing(2);
        let gone = WatchAnswer { canceled: true, compacted: Some(Revision(50)), ..answer(1, 60) };
        let compacted = restart(1, RestartReason::Compacted, "history before revision 50 was compacted");
        assert_eq!(watches.on_answer(gone), compacted);
        watches.cancel(id(1));
        assert_eq!(sent(&mut watches), []);
        assert!(!watches.has(id(1)) && watches.has(id(2)));
    }

    #[test]
    fn a_refusal_is_tried_anew_where_the_token_may_have_ended() {
        let renew = vec![Effect::Renew { id: id(1), words: "permission denied".into() }];
        let for_good = restart(1, RestartReason::Refused, "permission denied");
        let now = Instant::now();
        for (token, wanted_effects) in [
            (TokenAge::NoToken, &for_good),
            (TokenAge::Unknown, &renew),
            (TokenAge::Since(now), &for_good),
            (TokenAge::Since(now.checked_sub(FRESH).unwrap()), &renew),
        ] {
            let mut watches = Watches::new(&wanted(1, 10), token);
            assert_eq!(&watches.on_answer(refused(1)), wanted_effects, "{token:?}");
            assert!(!watches.has(id(1)) && !watches.awaits_some());
        }
        // One that ended later was no refusal to begin it.
        let mut watches = Watches::new(&wanted(1, 10), TokenAge::Unknown);
        watches.on_answer(created(1, 9));
        let ended = WatchAnswer { canceled: true, ..answer(1, 9) };
        assert_eq!(watches.on_answer(ended), restart(1, RestartReason::Refused, "etcd ended the watch"));
    }

    #[test]
    fn what_nobody_wants_is_cancelled_once_it_has_a_number() {
        let mut watches = standing(2);
        watches.create(&wanted(3, 10));
        watches.probe(Range::key("k1"));
        sent(&mut watches);
        watches.retain(|range| range == id(1));
        assert_eq!(sent(&mut watches), [WatchRequest::Cancel { id: 2 }]);
        assert!(watches.awaits_probe() && !watches.awaits_some());
        for number in [3, 4] {
            assert_eq!(watches.on_answer(created(number, 20)), []);
            assert_eq!(sent(&mut watches), [WatchRequest::Cancel { id: number }]);
        }
        assert_eq!(watches.on_answer(events(2, &[21])), [], "it was on its way");
    }

    #[test]
    fn answers_under_other_numbers_are_taken_in_the_order_of_the_requests() {
        let mut watches = Watches::new(&wanted(1, 10), TokenAge::NoToken);
        watches.create(&wanted(2, 10));
        assert_eq!(sent(&mut watches), [wanted(2, 10).request(FIRST_ID + 1)]);
        watches.on_answer(created(100, 9));
        watches.on_answer(created(200, 9));
        let told = watches.on_answer(events(200, &[10]));
        assert_eq!(told, [Effect::Tell { id: id(2), events: vec![event(10)], next: Revision(11) }]);
        watches.cancel(id(1));
        assert_eq!(sent(&mut watches), [WatchRequest::Cancel { id: 100 }]);
    }
}
