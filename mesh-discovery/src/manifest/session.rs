//! `sessionPersistence` of the Gateway API (GEP-1619), as rules of routes and our own policies have it.

use inmesh_core::traffic::{CookieLifetime, SessionPersistence, SessionType};

use super::strict::Value;
use super::text;

pub(super) fn read(value: &Value<'_>) -> Option<SessionPersistence> {
    value.object(|fields| {
        let (name, by) = (fields.get("sessionName"), fields.get("type"));
        let (absolute, idle) = (fields.get("absoluteTimeout"), fields.get("idleTimeout"));
        let cookie = fields.get("cookieConfig");
        let by = by.map_or(Some("Cookie"), |by| by.choice(&["Cookie", "Header"]));
        let lifetime = match &cookie {
            Some(cookie) => cookie.object(|fields| {
                let lifetime = fields.get("lifetimeType");
                let of = ["Permanent", "Session"];
                Some(
                    match lifetime.map_or(Some("Session"), |of_it| of_it.choice(&of))? {
                        "Permanent" => CookieLifetime::Permanent,
                        _ => CookieLifetime::Session,
                    },
                )
            }),
            None => Some(CookieLifetime::Session),
        };
        let time = |value: Option<Value<'_>>| match value {
            Some(value) => value.check(text::duration(value.text()?)).map(Some),
            None => Some(None),
        };
        let (absolute, idle) = (time(absolute), time(idle));
        let by = match by? {
            "Header" => {
                if let Some(cookie) = &cookie {
                    cookie.refuse("has no effect where the type is Header");
                }
                SessionType::Header
            }
            _ => SessionType::Cookie(lifetime?),
        };
        let mut session = SessionPersistence::new(by);
        if let Some(name) = name {
            session = name.check(session.named(name.text()?))?;
        }
        session = value.check(session.with_timeouts(absolute?, idle?))?;
        value.check(session.check())?;
        Some(session)
    })
}
