//! Which origins may read answers: the filter `CORS`.

use inmesh_core::route::{Cors, InvalidRoute};

use super::super::strict::Value;
use super::matches::{METHODS, field_name};

/// The longest origin, in characters (Gateway API).
const ORIGIN_CHARS: usize = 253;

type Add = fn(Cors, &str) -> Result<Cors, InvalidRoute>;

/// A text of a list, as far as the schema checks it.
type Check = fn(&str) -> Result<&str, String>;

pub(super) fn read(value: &Value<'_>) -> Option<Cors> {
    value.object(|fields| {
        let lists: [(_, _, _, Check, Add); 4] = [
            (
                "allowOrigins",
                fields.get("allowOrigins"),
                64,
                origin,
                Cors::allow_origin,
            ),
            (
                "allowMethods",
                fields.get("allowMethods"),
                9,
                method,
                Cors::allow_method,
            ),
            (
                "allowHeaders",
                fields.get("allowHeaders"),
                64,
                field_name,
                Cors::allow_header,
            ),
            (
                "exposeHeaders",
                fields.get("exposeHeaders"),
                64,
                field_name,
                Cors::expose_header,
            ),
        ];
        let (credentials, max_age) = (fields.get("allowCredentials"), fields.get("maxAge"));
        let mut cors = Cors::new();
        if let Some(credentials) = credentials {
            cors = cors.allow_credentials(credentials.boolean()?);
        }
        if let Some(max_age) = max_age {
            cors = cors.with_max_age(max_age.integer_in(1, i64::from(i32::MAX))?);
        }
        let (mut origins, mut good) = (0, true);
        for (name, list, most, check, add) in lists {
            let Some(list) = list else { continue };
            let mut seen = Vec::new();
            for item in list.list_of_or_empty(most)? {
                let text = item.text().and_then(|text| item.check(check(text)));
                let Some(text) = text else {
                    good = false;
                    continue;
                };
                if seen.contains(&text) {
                    item.refuse(format_args!("{text:?} stands twice"));
                }
                seen.push(text);
                cors = item.check(add(cors, text))?;
                if (name, text, cors.credentials()) == ("exposeHeaders", "*", true) {
                    item.warn("has no effect with allowCredentials: write the names");
                }
            }
            origins += if name == "allowOrigins" {
                seen.len()
            } else {
                0
            };
        }
        if good && origins == 0 {
            value.warn("allows no origin");
        }
        good.then_some(cors)
    })
}

fn origin(text: &str) -> Result<&str, String> {
    match text.chars().count() {
        1..=ORIGIN_CHARS => Ok(text),
        len => Err(format!(
            "has {len} characters; 1 to {ORIGIN_CHARS} are allowed"
        )),
    }
}

fn method(text: &str) -> Result<&str, String> {
    if text == "*" || METHODS.contains(&text) {
        return Ok(text);
    }
    Err(format!("{text:?} is not one of {}, *", METHODS.join(", ")))
}
