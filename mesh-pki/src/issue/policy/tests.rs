use std::time::Duration;

use super::*;
use crate::testing::{domain, id, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";
const ADMIN: &str = "spiffe://td/ns/kube-system/sa/admin";

fn rules() -> Rules {
    Rules::new(domain("td"), id("spiffe://td/inmesh/ca"))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn check(
    attested: &Attested,
    requested: Option<&str>,
    rules: &Rules,
    expected: Result<(&str, Attestor), Refused>,
) {
    let requested = requested.map(id);
    let none = Revocations::none();
    let got = may_issue(attested, requested.as_ref(), rules, None, &none, noon());
    let got = got.map(|grant| (grant.id().to_string(), grant.by()));
    let expected = expected.map(|(id, by)| (id.to_owned(), by));
    assert_eq!(got, expected, "{attested:?} asks for {requested:?}");
}

fn token(for_id: &str) -> Attested {
    Attested::JoinToken { id: id(for_id) }
}

fn account(namespace: &str, service_account: &str) -> Attested {
    Attested::Kubernetes {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
    }
}

fn svid(of: &str, not_after: SystemTime) -> Attested {
    Attested::Svid {
        id: id(of),
        serial: "0a".to_owned(),
        not_before: noon() - secs(500),
        not_after,
    }
}

fn not_proven(asked: &str, got: &str) -> Refused {
    Refused::NotProven {
        asked: id(asked),
        got: id(got),
    }
}

fn foreign(foreign: &str) -> Refused {
    Refused::WrongTrustDomain {
        id: id(foreign),
        trust_domain: domain("td"),
    }
}

#[test]
fn a_token_gives_the_id_that_it_names() {
    let rules = rules();
    let granted = Ok((CART, Attestor::JoinToken));
    check(&token(CART), None, &rules, granted.clone());
    check(&token(CART), Some(CART), &rules, granted);
    check(
        &token(CART),
        Some(ADMIN),
        &rules,
        Err(not_proven(ADMIN, CART)),
    );
}

#[test]
fn a_service_account_gives_its_own_id() {
    let on = rules().with_kubernetes();
    let granted = Ok((CART, Attestor::Kubernetes));
    check(&account("shop", "cart"), None, &on, granted.clone());
    check(&account("shop", "cart"), Some(CART), &on, granted);
    check(
        &account("shop", "cart"),
        Some(ADMIN),
        &on,
        Err(not_proven(ADMIN, CART)),
    );
    for (namespace, name, reason) in [
        ("", "cart", IdError::EmptySegment),
        ("shop", "", IdError::EmptySegment),
        ("..", "cart", IdError::DotSegment),
        ("shop/sa/admin", "x", IdError::PathChar { got: '/' }),
        ("shop", "cart?", IdError::PathChar { got: '?' }),
    ] {
        check(
            &account(namespace, name),
            None,
            &on,
            Err(Refused::BadId { reason }),
        );
    }
    let got = "service-account tokens of Kubernetes";
    check(
        &account("shop", "cart"),
        None,
        &rules(),
        Err(Refused::Disabled { got }),
    );
}

#[test]
fn an_svid_renews_itself_while_it_lives() {
    let rules = rules();
    let granted = Ok((CART, Attestor::Svid));
    check(&svid(CART, noon() + secs(1)), None, &rules, granted.clone());
    check(&svid(CART, noon()), Some(CART), &rules, granted);
    check(
        &svid(CART, noon() + secs(1)),
        Some(ADMIN),
        &rules,
        Err(not_proven(ADMIN, CART)),
    );
    let not_after = noon() - secs(1);
    let expired = Refused::Expired {
        id: id(CART),
        not_after,
    };
    assert_eq!(
        expired.to_string(),
        "the SVID of spiffe://td/ns/shop/sa/cart has expired at 2027-01-15T07:59:59Z"
    );
    check(&svid(CART, not_after), None, &rules, Err(expired));
}

/// Which leaf is revoked is one question, how it is presented another: alive or in a window.
#[test]
fn a_revoked_svid_renews_nothing_however_it_is_presented() {
    let begin = noon() - secs(500);
    let window = Window::new(noon(), secs(100), secs(100));
    for (serial, of, before, revoked) in [
        ("0a", "", begin, true),
        ("0b", "", begin, false),
        ("0b", CART, begin + secs(1), true),
        ("0b", CART, begin, false),
        ("0b", ADMIN, noon(), false),
    ] {
        let mut revocations = Revocations::none();
        revocations.revoke_serial(serial.to_owned());
        if !of.is_empty() {
            revocations.revoke_id(id(of), before);
        }
        for not_after in [noon() + secs(1), noon() - secs(50)] {
            let svid = svid(CART, not_after);
            let got = may_issue(&svid, None, &rules(), Some(window), &revocations, noon());
            let refused = matches!(got, Err(Refused::Revoked { .. }));
            assert_eq!(refused, revoked, "{serial} {of} {got:?}");
        }
        // What another issuer vouches for is judged there.
        let none_of_ours = may_issue(&token(CART), None, &rules(), None, &revocations, noon());
        none_of_ours.unwrap();
    }
}

#[test]
fn a_window_has_bounds() {
    let far = Window {
        until: noon() + 9 * LONGEST_WINDOW,
        expired_since: SystemTime::UNIX_EPOCH,
    };
    let widest = Window::new(noon(), Duration::MAX, Duration::MAX);
    assert_eq!(far.bounded(noon()), widest);
    assert_eq!(widest.until, noon() + LONGEST_WINDOW);
    assert_eq!(widest.expired_since, noon() - LONGEST_WINDOW);
    let small = Window::new(noon(), secs(1), secs(2));
    assert_eq!(small.bounded(noon()), small);
}

#[test]
fn an_expired_svid_renews_itself_only_within_an_open_window() {
    let window = Window {
        until: noon() + secs(100),
        expired_since: noon() - secs(100),
    };
    let ask = |of: &str, not_after, window, now| {
        let none = Revocations::none();
        may_issue(&svid(of, not_after), None, &rules(), window, &none, now)
            .map(|grant| (grant.id().clone(), grant.by()))
            .map_err(|refused| std::mem::discriminant(&refused))
    };
    let granted = Ok((id(CART), Attestor::Recovery));
    let expired = Err(std::mem::discriminant(&Refused::Expired {
        id: id(CART),
        not_after: noon(),
    }));
    let ended = noon() - secs(50);
    assert_eq!(ask(CART, ended, Some(window), noon()), granted);
    assert_eq!(ask(CART, ended, None, noon()), expired);
    assert_eq!(
        ask(CART, noon() - secs(100), Some(window), noon()),
        granted,
        "the first moment counts"
    );
    assert_eq!(
        ask(CART, noon() - secs(101), Some(window), noon()),
        expired,
        "ended too long ago"
    );
    let last = noon() + secs(99);
    assert_eq!(ask(CART, ended, Some(window), last), granted);
    assert_eq!(
        ask(CART, ended, Some(window), noon() + secs(100)),
        expired,
        "closed"
    );
    assert_eq!(
        ask(CART, noon() + secs(1), Some(window), noon()),
        Ok((id(CART), Attestor::Svid)),
        "a live one needs no window"
    );
    let own = ask("spiffe://td/inmesh/ca", ended, Some(window), noon());
    assert!(own.is_err(), "not the CA's own");
}

fn rule(issuer: &str, claims: &[(&str, &str)], of: &str) -> OidcRule {
    OidcRule {
        issuer: issuer.to_owned(),
        claims: claims
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        id: id(of),
    }
}

fn oidc(issuer: &str, claims: &[(&str, &[&str])]) -> Attested {
    Attested::Oidc {
        issuer: issuer.to_owned(),
        claims: claims
            .iter()
            .map(|(name, values)| {
                let values = values.iter().map(|value| (*value).to_owned()).collect();
                ((*name).to_owned(), values)
            })
            .collect(),
    }
}

#[test]
fn claims_are_compared_whole_with_what_an_operator_wrote() {
    let rules = rules()
        .with_oidc(rule("https://ci", &[("sub", "repo:shop/cart")], CART))
        .unwrap()
        .with_oidc(rule(
            "https://ci",
            &[("sub", "repo:shop/cart"), ("env", "admin")],
            ADMIN,
        ))
        .unwrap()
        .with_oidc(rule("https://other", &[("sub", "x")], ADMIN))
        .unwrap()
        .with_oidc(rule(
            "https://ci",
            &[("sub", "repo:shop/cart"), ("a", "b")],
            CART,
        ))
        .unwrap();
    let sub: (&str, &[&str]) = ("sub", &["repo:shop/cart"]);
    let granted = Ok((CART, Attestor::Oidc));
    check(&oidc("https://ci", &[sub]), None, &rules, granted.clone());
    check(
        &oidc("https://ci", &[sub]),
        Some(CART),
        &rules,
        granted.clone(),
    );
    check(
        &oidc("https://ci", &[sub]),
        Some(ADMIN),
        &rules,
        Err(not_proven(ADMIN, CART)),
    );
    // Two rules with the same ID are no doubt.
    check(
        &oidc("https://ci", &[sub, ("a", &["b"])]),
        None,
        &rules,
        granted.clone(),
    );
    // Two with different ones are, until one is asked for.
    let both = oidc("https://ci", &[sub, ("env", &["dev", "admin"])]);
    let ambiguous = Refused::Ambiguous {
        one: id(CART),
        other: id(ADMIN),
    };
    check(&both, None, &rules, Err(ambiguous));
    check(&both, Some(CART), &rules, granted);
    check(&both, Some(ADMIN), &rules, Ok((ADMIN, Attestor::Oidc)));

    let no_rule = |issuer: &str| Refused::NoRule {
        issuer: issuer.to_owned(),
    };
    for (issuer, claims) in [
        ("https://evil", sub),
        ("https://ci/", sub),
        ("https://ci", ("sub", &["repo:shop/cart2"] as &[&str])),
        ("https://ci", ("sub", &["repo:shop/car"])),
        ("https://ci", ("sub", &["*"])),
        ("https://ci", ("sub", &[])),
        ("https://ci", ("name", &["repo:shop/cart"])),
        ("https://other", ("sub", &["repo:shop/cart"])),
    ] {
        let attested = oidc(issuer, &[claims]);
        check(&attested, None, &rules, Err(no_rule(issuer)));
        check(&attested, Some(ADMIN), &rules, Err(no_rule(issuer)));
    }
    check(
        &oidc("https://ci", &[]),
        None,
        &rules,
        Err(no_rule("https://ci")),
    );
}

#[test]
fn nobody_gets_the_cas_own_id_or_one_of_another_domain() {
    let rules = rules().with_kubernetes();
    let own = "spiffe://td/inmesh/ca";
    assert_eq!(
        (rules.trust_domain(), rules.own()),
        (&domain("td"), &id(own))
    );
    let reserved = |of: &str| Err(Refused::Reserved { id: id(of) });
    let later = noon() + secs(9);
    for of in [own, "spiffe://td"] {
        check(&token(of), None, &rules, reserved(of));
        check(&token(of), Some(of), &rules, reserved(of));
        check(&svid(of, later), None, &rules, reserved(of));
    }
    for of in [
        "spiffe://other/ns/shop/sa/cart",
        "spiffe://td.evil/a",
        "spiffe://other",
    ] {
        check(&token(of), None, &rules, Err(foreign(of)));
        check(&svid(of, later), Some(of), &rules, Err(foreign(of)));
    }
    // The shape of a workload's ID can be the CA's own, if an operator chose it so.
    let rules = Rules::new(domain("td"), id(CART)).with_kubernetes();
    check(&account("shop", "cart"), None, &rules, reserved(CART));
}

#[test]
fn a_rule_that_can_grant_nothing_or_everything_is_refused() {
    let rule = |of: &str, claims: &[(&str, &str)]| OidcRule {
        issuer: "https://ci".to_owned(),
        claims: claims
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        id: id(of),
    };
    let error = |rule| rules().with_oidc(rule).unwrap_err();
    let some = &[("sub", "x")];
    assert_eq!(
        error(rule("spiffe://other/a", some)),
        RuleError::Id(foreign("spiffe://other/a"))
    );
    let own = id("spiffe://td/inmesh/ca");
    assert_eq!(
        error(rule(own.as_str(), some)),
        RuleError::Id(Refused::Reserved { id: own })
    );
    assert_eq!(
        error(rule(CART, &[])),
        RuleError::NoClaim {
            id: id(CART),
            issuer: "https://ci".to_owned()
        }
    );
}

#[test]
fn host_names_are_what_an_operator_wrote_for_an_id() {
    let names = |rules: &Rules, attested: &Attested| {
        let none = Revocations::none();
        let grant = may_issue(attested, None, rules, None, &none, noon()).unwrap();
        grant.host_names().to_vec()
    };
    let mut rules = rules().with_kubernetes();
    for name in ["cart.shop.svc", "Cart.Shop.svc", "cart"] {
        rules = rules.with_host_name(id(CART), name).unwrap();
    }
    // However the ID is proven.
    for proof in [
        token(CART),
        account("shop", "cart"),
        svid(CART, noon() + secs(9)),
    ] {
        assert_eq!(names(&rules, &proof), ["cart.shop.svc", "cart"]);
    }
    assert!(names(&rules, &token(ADMIN)).is_empty());

    let own = id("spiffe://td/inmesh/ca");
    let refused = |of: SpiffeId, name: &str| rules.clone().with_host_name(of, name).unwrap_err();
    for name in [
        "",
        "*.shop.svc",
        "cart.",
        "a b",
        "cart/..",
        "spiffe://td",
        "b\u{fc}cher",
    ] {
        let error = refused(id(CART), name);
        assert!(matches!(error, RuleError::HostName { .. }), "{name}");
    }
    assert!(matches!(refused(own, "a"), RuleError::Id(_)));
    let mut many = rules.clone();
    for nth in 2..MAX_HOST_NAMES {
        many = many.with_host_name(id(CART), &format!("n{nth}")).unwrap();
    }
    assert!(many.with_host_name(id(CART), "one-more").is_err());
}
