//! Streams that are each in the order of time become one that is.

use super::Entry;
use jiff::Timestamp;
use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// An entry, and when it came to this machine.
#[derive(Debug)]
pub(super) struct Arrived {
    pub entry: Entry,
    pub at: Instant,
}

struct Stream {
    coming: mpsc::Receiver<Arrived>,
    head: Option<Arrived>,
    ended: bool,
    /// A clock that was set back does not hold up the others.
    latest: Timestamp,
}

/// Gives the oldest entry once no older one can come: when every stream that has not ended shows its next,
/// or, with a window, when the entry has waited that long.
pub(super) struct Merge {
    streams: Vec<Stream>,
    window: Option<Duration>,
}

impl Merge {
    pub(super) fn new(streams: Vec<mpsc::Receiver<Arrived>>, window: Option<Duration>) -> Self {
        let stream = |coming| Stream { coming, head: None, ended: false, latest: Timestamp::MIN };
        Self { streams: streams.into_iter().map(stream).collect(), window }
    }

    /// The next entry; none when all streams have ended.
    pub(super) async fn next(&mut self) -> Option<Entry> {
        loop {
            let oldest = self.oldest();
            let complete = self.streams.iter().all(|stream| stream.ended || stream.head.is_some());
            let due = oldest.map(|index| self.streams[index].head.as_ref().map(|head| head.at));
            let due = due.flatten().zip(self.window).map(|(at, window)| at + window);
            if complete || due.is_some_and(|due| due <= Instant::now()) {
                return self.streams[oldest?].head.take().map(|head| head.entry);
            }
            match due {
                None => self.more().await,
                // Whichever comes first, both are looked at again.
                Some(due) => drop(tokio::time::timeout_at(due.into(), self.more()).await),
            }
        }
    }

    fn oldest(&self) -> Option<usize> {
        let shown = self.streams.iter().enumerate().filter(|(_, stream)| stream.head.is_some());
        shown.min_by_key(|(_, stream)| stream.latest).map(|(index, _)| index)
    }

    /// Waits until a stream that shows nothing shows something or ends.
    async fn more(&mut self) {
        poll_fn(|context| {
            let mut news = false;
            for stream in self.streams.iter_mut().filter(|stream| !stream.ended && stream.head.is_none()) {
                match stream.coming.poll_recv(context) {
                    Poll::Ready(Some(arrived)) => {
                        stream.latest = stream.latest.max(arrived.entry.time);
                        stream.head = Some(arrived);
                        news = true;
                    }
                    Poll::Ready(None) => {
                        stream.ended = true;
                        news = true;
                    }
                    Poll::Pending => {}
                }
            }
            if news { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(second: i64, host: &str) -> Arrived {
        let entry = Entry {
            time: Timestamp::from_second(second).unwrap(),
            host: host.parse().unwrap(),
            source: "etcd".to_owned(),
            priority: 6,
            message: String::new(),
        };
        Arrived { entry, at: Instant::now() }
    }

    async fn all(merge: &mut Merge) -> Vec<(i64, String)> {
        let mut seen = Vec::new();
        while let Some(entry) = merge.next().await {
            seen.push((entry.time.as_second(), entry.host.to_string()));
        }
        seen
    }

    fn stream(seconds: &[i64], host: &str) -> (mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>) {
        let (sender, receiver) = mpsc::channel(16);
        for second in seconds {
            sender.try_send(arrived(*second, host)).unwrap();
        }
        (sender, receiver)
    }

    #[tokio::test]
    async fn finished_streams_come_out_in_the_order_of_time() {
        let (_, a) = stream(&[1, 4, 9], "a");
        let (_, b) = stream(&[2, 3, 10], "b");
        let (_, empty) = stream(&[], "c");
        let mut merge = Merge::new(vec![a, b, empty], None);
        let seen: Vec<_> = all(&mut merge).await.into_iter().map(|(second, _)| second).collect();
        assert_eq!(seen, [1, 2, 3, 4, 9, 10]);
    }

    #[tokio::test]
    async fn a_silent_host_holds_the_others_up_for_the_window_alone() {
        let (_alive, a) = stream(&[1, 2], "a");
        let (late, b) = stream(&[], "b");
        let mut merge = Merge::new(vec![a, b], Some(Duration::from_millis(300)));
        let begun = Instant::now();
        let first = merge.next().await.unwrap();
        assert_eq!(first.time.as_second(), 1);
        assert!(begun.elapsed() >= Duration::from_millis(250), "it waited for older ones");
        // Its successor came at the same time and has waited as long.
        assert_eq!(merge.next().await.unwrap().time.as_second(), 2);
        assert!(begun.elapsed() < Duration::from_secs(5));
        // One that comes within the window is put where it belongs.
        late.send(arrived(4, "b")).await.unwrap();
        _alive.send(arrived(3, "a")).await.unwrap();
        assert_eq!(merge.next().await.unwrap().time.as_second(), 3);
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_keeps_its_own_order() {
        let (_, a) = stream(&[10, 2, 11], "a");
        let (_, b) = stream(&[5, 12], "b");
        let seen = all(&mut Merge::new(vec![a, b], None)).await;
        let seen: Vec<_> = seen.into_iter().map(|(second, _)| second).collect();
        assert_eq!(seen, [5, 10, 2, 11, 12]);
    }
}
