//! The copies of a request: which mirrors take one, and what becomes of each.

use http::Request;

use super::inbound;
use super::sent::Copied;
use super::value::Verdict;
use super::{Question, Scene, authority_of, sent_on, with_authority};
use crate::balance::foresee;
use crate::error::{Error, Reason};
use crate::leave;
use crate::local::Local;
use crate::model::Draw;
use crate::plan::{Planned, PlannedMirror, draw_of_copy};
use crate::route::MIRRORED;

/// Where copies of a request are sent. It is as it was admitted, and `left` is what the request itself
/// still draws from.
pub(super) fn of(
    scene: &Scene<'_>,
    (local, question): (&Local, &Question),
    planned: &Planned,
    (request, authority): (&Request<()>, &str),
    left: &Draw,
) -> Vec<Copied> {
    let mut nth = 0;
    let one = |(mirror, copy): (&crate::route::Mirror, Option<&PlannedMirror>)| {
        let (numerator, denominator) = mirror.share();
        let mut seen = Copied {
            service: mirror.service().to_string(),
            port: mirror.port(),
            numerator,
            denominator,
            ..Copied::default()
        };
        let missed = match copy {
            None if request.headers().contains_key(MIRRORED) => "the request is a copy itself",
            None => "it is not drawn",
            Some(_) if leave::Head::of(request).leaves => "the request may leave HTTP",
            Some(copy) => {
                let copy = (copy, draw_of_copy(left, nth));
                nth += 1;
                let sent = send(
                    scene,
                    (local, question),
                    copy,
                    (request, authority),
                    &mut seen,
                );
                let grpc = question.is_grpc();
                seen.verdict = Some(sent.unwrap_or_else(|e| Verdict::refused(&e, grpc)));
                return seen;
            }
        };
        seen.missed = Some(missed.into());
        seen
    };
    planned.all_mirrors().into_iter().map(one).collect()
}

fn send(
    scene: &Scene<'_>,
    (local, question): (&Local, &Question),
    (copy, mut draw): (&PlannedMirror, Draw),
    (request, authority): (&Request<()>, &str),
    seen: &mut Copied,
) -> Result<Verdict, Error> {
    let mut request = request.clone();
    with_authority(&mut request, authority);
    let trace = sent_on(question, copy.protocol(), &mut request);
    copy.edit(&mut request);
    trace.write(request.headers_mut());
    let authority = authority_of(&request).unwrap_or_else(|| authority.to_owned());
    seen.sent = Some(question.head(&request, &authority));
    copy.permit(local, &request)?;
    let Some(to) = copy.backend() else {
        return Err(Error::new(Reason::NoRoute, "the mirror leads nowhere"));
    };
    let (_, set) = to.find(scene.snapshot)?;
    let taken = foresee(set, to.choice, scene.now, &mut draw);
    let taken = taken.map_err(|none| to.without_endpoint(none))?;
    inbound::judge(
        scene,
        question,
        (to, set, taken),
        &mut request,
        &mut seen.inbound,
    )
}
