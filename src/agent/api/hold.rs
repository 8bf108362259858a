//! Health checks that are held: a load balancer that takes the server to be down hears of its recovery at once, and not
//! when it asks for the next time. It can ask rarely then, and every question is a TLS handshake.

use axum::http::HeaderMap;
use std::time::Duration;

/// Nobody's connection is held for longer.
const LONGEST: Duration = Duration::from_secs(30);

/// How long the answer "not healthy" may be held back. Both are needed for it: `Prefer: wait=SECONDS` (RFC 7240), and
/// that the one who asks holds the server to be down already, which HAProxy says with `http-check send-state`.
pub fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let state = text("x-haproxy-server-state")?;
    if !state.trim_start().starts_with("DOWN") {
        return None;
    }
    let preferences = text("prefer")?.split([',', ';']).filter_map(|preference| preference.split_once('='));
    let mut waits = preferences.filter(|(name, _)| name.trim().eq_ignore_ascii_case("wait"));
    let seconds = waits.next()?.1.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_already_is_made_to_wait() {
        let patience = |prefer: Option<&str>, state: Option<&str>| {
            let headers = [("prefer", prefer), ("x-haproxy-server-state", state)].into_iter();
            let headers: HeaderMap = headers
                .filter_map(|(name, value)| Some((name.parse().ok()?, value?.parse().ok()?)))
                .collect();
            super::patience(&headers).map(|patience| patience.as_secs())
        };
        assert_eq!(patience(Some("wait=1"), Some("DOWN; name=primary/pg-1; node=a")), Some(1));
        assert_eq!(
            patience(Some("respond-async, Wait = \"2\""), Some("DOWN 1/2; name=primary/pg-1")),
            Some(2)
        );
        assert_eq!(patience(Some("wait=100000"), Some("DOWN")), Some(30));
        for (prefer, state) in [
            (Some("wait=1"), None),
            (None, Some("DOWN")),
            (Some("wait=1"), Some("UP 1/3; name=primary/pg-1")),
            (Some("wait=1"), Some("NOLB")),
            (Some("wait=soon"), Some("DOWN")),
            (Some("return=minimal"), Some("DOWN")),
        ] {
            assert_eq!(patience(prefer, state), None, "{prefer:?} {state:?}");
        }
    }
}
