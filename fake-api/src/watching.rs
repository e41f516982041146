//! A watch: what is there, if it is asked for, and then what happens.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::Call;
use crate::connection::Connection;
use crate::kind::kinds;
use crate::selector::Filter;
use crate::signal::Listener;
use crate::status::Refused;
use crate::store::{Happening, Store};

/// A watch that asks for them gets a bookmark this often.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch ends after this, unless it says when.
const LENGTH: u64 = 1800;

pub(crate) struct Watch {
    connection: Connection,
    kind: usize,
    filter: Filter,
    seen: u64,
    lines: VecDeque<String>,
    signal: Listener,
    cuts: Listener,
    ends: Instant,
    bookmark: Option<Instant>,
    over: bool,
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

impl Watch {
    /// # Errors
    /// A selector that cannot be read.
    pub(crate) fn start(connection: &Connection, store: &Store, call: &Call) -> Result<Self, Refused> {
        let length = call.text("timeoutSeconds").parse().unwrap_or(LENGTH);
        let from: u64 = call.text("resourceVersion").parse().unwrap_or(0);
        let now = Instant::now();
        let mut started = Self {
            connection: connection.clone(),
            kind: call.kind,
            filter: call.filter()?,
            seen: from,
            lines: VecDeque::new(),
            signal: store.signal(call.kind),
            cuts: connection.cuts(),
            ends: now + Duration::from_secs(length),
            bookmark: call.flag("allowWatchBookmarks").then_some(now + BOOKMARKS),
            over: false,
        };
        let streaming = call.flag("sendInitialEvents");
        if from == 0 || streaming {
            let all = store.list(call.kind, &started.filter, None);
            started.lines.extend(all.map(|(_, object)| line("ADDED", object)));
            started.seen = store.version();
            if streaming {
                started.lines.push_back(started.bookmark_line(true));
            }
        } else if from < store.compacted() {
            // As the server's cache answers it: with an event, not with a status.
            started.expire(store.compacted());
        }
        started.signal.mark_raised();
        Ok(started)
    }

    fn bookmark_line(&self, initial: bool) -> String {
        let kind = &kinds()[self.kind];
        let mut object = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "spec": {},
            "metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null},
        });
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &object)
    }

    /// What a happening is to this watch: an object may come into its selection or leave it.
    fn event(&self, happening: &Happening) -> Option<String> {
        let before = happening.before.as_ref().is_some_and(|b| self.filter.takes(b));
        let now = !happening.deleted && self.filter.takes(&happening.object);
        match (before, now) {
            (false, true) => Some(line("ADDED", &happening.object)),
            (true, true) => Some(line("MODIFIED", &happening.object)),
            (true, false) => Some(line("DELETED", &happening.object)),
            (false, false) => None,
        }
    }

    fn expire(&mut self, compacted: u64) {
        let gone = Refused::gone(format!("too old resource version: {} ({compacted})", self.seen));
        self.lines.push_back(line("ERROR", &gone.body()));
        self.over = true;
    }

    fn catch_up(&mut self) {
        let store = self.connection.api.store();
        if store.missed(self.kind, self.seen) {
            let compacted = store.compacted();
            drop(store);
            return self.expire(compacted);
        }
        let happenings = store.happenings(self.kind, self.seen);
        drop(store);
        for happening in happenings {
            self.seen = happening.version;
            self.lines.extend(self.event(&happening));
        }
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.connection.is_dead() {
                std::future::pending::<()>().await;
            }
            if self.cuts.is_raised() {
                return None;
            }
            if let Some(line) = self.lines.pop_front() {
                let (delay, times) = self.connection.next_delivery();
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                    if self.cuts.is_raised() {
                        return None;
                    }
                }
                return Some(line.repeat(times));
            }
            if self.over {
                return None;
            }
            let bookmark = self.bookmark.unwrap_or(self.ends);
            tokio::select! {
                biased;
                () = self.cuts.raised() => return None,
                () = self.signal.raised() => self.catch_up(),
                () = tokio::time::sleep_until(self.ends) => return None,
                () = tokio::time::sleep_until(bookmark) => {
                    self.bookmark = Some(Instant::now() + BOOKMARKS);
                    // What this kind has not seen of other kinds' versions it has still passed.
                    self.seen = self.connection.api.store().version();
                    return Some(self.bookmark_line(false));
                }
            }
        }
    }

    pub(crate) fn lines(self) -> impl Stream<Item = Result<String, std::convert::Infallible>> + Send {
        futures::stream::unfold(self, |mut watch| async { watch.next().await.map(|line| (Ok(line), watch)) })
    }
}
