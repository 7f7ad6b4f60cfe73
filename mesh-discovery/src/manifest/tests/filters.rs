//! Filters of a route: what is read of them, and each refusal.

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::route::{
    Cors, Filter, Match, Mirror, Outcome, PathMatch, PathRewrite, Redirect, Rewrite, Rule,
};
use inmesh_core::snapshot::{Object, Op, Severity};

use super::{only, problems, refusal, route};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]\n";

/// The route of one rule, in flow style.
fn of_rule(rule: &str) -> String {
    route(&format!("{PARENT}rules: [{{{rule}}}]"))
}

/// The rule that a text makes, and the warnings about it.
fn a_rule(rule: &str) -> (Rule, Vec<(String, String)>) {
    match only(&of_rule(rule)) {
        Op::Put(Object::Route(route), problems) => {
            let warnings = problems.into_iter().map(|p| (p.field, p.message));
            (route.rules[0].clone(), warnings.collect())
        }
        op => panic!("{rule}: {op:#?}"),
    }
}

/// A rule is refused for a field of its, below `spec.rules[0]`.
#[track_caller]
fn refused(rule: &str, field: &str, message: &str) {
    let (_, problems) = refusal(&of_rule(rule));
    let field = format!("spec.rules[0].{field}");
    let found = problems.iter().any(|problem| {
        problem.severity == Severity::Refused
            && problem.field == field
            && problem.message.contains(message)
    });
    assert!(
        found,
        "{field}: {message}\nis not in {problems:#?}\nof {rule}"
    );
}

#[test]
fn redirects_are_read() {
    let redirect = |filter: &str| {
        let (rule, warnings) = a_rule(&format!("filters: [{{type: RequestRedirect, {filter}}}]"));
        assert_eq!(warnings, [], "{filter}");
        match rule.outcome {
            Outcome::Redirect(redirect) => redirect,
            other => panic!("{filter}: {other:?}"),
        }
    };
    let new = Redirect::new;
    for (filter, wanted) in [
        (
            "requestRedirect: {scheme: https}",
            new().with_scheme("https"),
        ),
        ("requestRedirect: {port: 8443}", Ok(new().with_port(8443))),
        (
            "requestRedirect: {hostname: a.b, statusCode: 302}",
            new().with_host("a.b"),
        ),
        (
            "requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /a/b}}",
            PathRewrite::full("/a/b").map(|path| new().with_path(path)),
        ),
        (
            // A rule without matches has the one of the prefix `/`.
            "requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}",
            PathRewrite::prefix("/").map(|path| new().with_path(path)),
        ),
    ] {
        assert_eq!(Ok(redirect(filter)), wanted, "{filter}");
    }
    for status in [301, 302, 303, 307, 308] {
        let found = redirect(&format!(
            "requestRedirect: {{port: 81, statusCode: {status}}}"
        ));
        assert_eq!(found.status().as_u16(), status);
        assert_eq!(Ok(found), new().with_port(81).with_status(status));
    }
}

#[test]
fn rewrites_are_read_at_rules_and_backends() {
    let prefix = "{type: ReplacePrefixMatch, replacePrefixMatch: /v2}";
    let rewrite = format!("{{type: URLRewrite, urlRewrite: {{hostname: v2.lab, path: {prefix}}}}}");
    let (rule, warnings) = a_rule(&format!(
        "matches: [{{path: {{value: /v1}}}}], filters: [{rewrite}], \
         backendRefs: [{{name: a, port: 80, filters: [{rewrite}]}}, {{name: b, port: 80}}]"
    ));
    assert_eq!(warnings, []);
    let path = PathRewrite::prefix("/v2").expect("a path");
    let wanted = Rewrite::new().with_host("v2.lab").expect("a host");
    let wanted = [Filter::Rewrite(wanted.with_path(path))];
    assert_eq!(rule.filters, wanted);
    assert_eq!(rule.backends()[0].filters, wanted);
    assert_eq!(rule.backends()[1].filters, []);
    let v1 = PathMatch::literal("/v1", true).expect("a path");
    assert_eq!(rule.matches, [Match::path(v1)]);
    // As an API server has it: an empty match is the prefix `/` too.
    let (rule, _) = a_rule(&format!("matches: [{{}}], filters: [{rewrite}]"));
    assert_eq!(rule.filters, wanted);
}

#[test]
fn redirects_and_rewrites_are_refused() {
    let redirect =
        |of: &str| format!("filters: [{{type: RequestRedirect, requestRedirect: {{{of}}}}}]");
    let rewrite = |of: &str| format!("filters: [{{type: URLRewrite, urlRewrite: {{{of}}}}}]");
    let long = format!(
        "path: {{type: ReplaceFullPath, replaceFullPath: /{}}}",
        "a".repeat(1024)
    );
    for (of, field, message) in [
        ("statusCode: 304", "statusCode", "a redirect has 301"),
        ("statusCode: 200", "statusCode", "a redirect has 301"),
        ("statusCode: '301'", "statusCode", "not a whole number"),
        ("scheme: ftp", "scheme", "is not one of http, https"),
        ("port: 0", "port", "not within"),
        ("port: 65536", "port", "not within"),
        ("code: 301", "code", "is not a known field"),
    ] {
        refused(
            &redirect(of),
            &format!("filters[0].requestRedirect.{field}"),
            message,
        );
    }
    for (of, field, message) in [
        ("hostname: A.b", "hostname", "lower case"),
        ("hostname: 'a.b:80'", "hostname", "lower case"),
        ("hostname: '*.b'", "hostname", "lower case"),
        ("hostname: ''", "hostname", "lower case"),
        ("path: {replaceFullPath: /a}", "path.type", "is missing"),
        ("path: {type: ReplaceAll}", "path.type", "is not one of"),
        (
            "path: {type: ReplaceFullPath}",
            "path.replaceFullPath",
            "is missing",
        ),
        (
            "path: {type: ReplacePrefixMatch}",
            "path.replacePrefixMatch",
            "is missing",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /a}",
            "path.replacePrefixMatch",
            "not allowed where the type is ReplaceFullPath",
        ),
        (
            "path: {type: ReplacePrefixMatch, replaceFullPath: /a, replacePrefixMatch: /a}",
            "path.replaceFullPath",
            "not allowed where the type is ReplacePrefixMatch",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: a}",
            "path.replaceFullPath",
            "\"a\"",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: ''}",
            "path.replaceFullPath",
            "\"\"",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /a/../b}",
            "path.replaceFullPath",
            "canonical",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}",
            "path.replaceFullPath",
            "no query",
        ),
        (&long, "path.replaceFullPath", "longer than 1024"),
    ] {
        refused(
            &redirect(of),
            &format!("filters[0].requestRedirect.{field}"),
            message,
        );
        refused(
            &rewrite(of),
            &format!("filters[0].urlRewrite.{field}"),
            message,
        );
    }
}

/// The rules of the schema about a filter and what stands beside it.
#[test]
fn filters_that_do_not_go_together_are_refused() {
    let redirect = "{type: RequestRedirect, requestRedirect: {port: 81}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a}}";
    let backend = "backendRefs: [{name: a, port: 80";
    for (rule, field, message) in [
        (
            format!("filters: [{redirect}], {backend}}}]"),
            "filters[0]",
            "not both",
        ),
        (
            format!("filters: [{redirect}, {rewrite}]"),
            "filters[1]",
            "not both",
        ),
        (
            format!("filters: [{rewrite}, {redirect}]"),
            "filters[1]",
            "not both",
        ),
        (
            format!("filters: [{redirect}, {redirect}]"),
            "filters[1]",
            "a second",
        ),
        (
            format!("filters: [{rewrite}, {rewrite}]"),
            "filters[1]",
            "a second",
        ),
        (
            format!("{backend}, filters: [{redirect}]}}]"),
            "backendRefs[0].filters[0]",
            "a backend does not",
        ),
        (
            format!("{backend}, filters: [{rewrite}, {redirect}]}}]"),
            "backendRefs[0].filters[1]",
            "not both",
        ),
        (
            "filters: [{type: RequestRedirect}]".into(),
            "filters[0].requestRedirect",
            "is missing",
        ),
        (
            "filters: [{type: URLRewrite}]".into(),
            "filters[0].urlRewrite",
            "is missing",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}, requestRedirect: {port: 81}}]"
                .into(),
            "filters[0].requestRedirect",
            "is not a known field",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {}}]".into(),
            "filters[0].type",
            "ExtensionRef is valid in the Gateway API, but not done yet",
        ),
    ] {
        refused(&rule, field, message);
    }
}

/// A prefix is replaced where one was matched: the one match is of type PathPrefix.
#[test]
fn a_replaced_prefix_needs_one_match_by_prefix() {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}";
    let places = [
        (
            format!("filters: [{{type: RequestRedirect, requestRedirect: {{{prefix}}}}}]"),
            "filters[0].requestRedirect.path.replacePrefixMatch",
        ),
        (
            format!("filters: [{{type: URLRewrite, urlRewrite: {{{prefix}}}}}]"),
            "filters[0].urlRewrite.path.replacePrefixMatch",
        ),
        (
            format!(
                "backendRefs: [{{name: a, port: 80}}, {{name: b, port: 80, \
                 filters: [{{type: URLRewrite, urlRewrite: {{{prefix}}}}}]}}]"
            ),
            "backendRefs[1].filters[0].urlRewrite.path.replacePrefixMatch",
        ),
    ];
    for (filters, field) in &places {
        for matches in [
            "[]",
            "[{path: {type: Exact, value: /a}}]",
            "[{path: {type: RegularExpression, value: /a.*}}]",
            "[{path: {value: /a}}, {path: {value: /b}}]",
            "[{path: {value: /a}}, {path: {type: Exact, value: /b}}]",
        ] {
            refused(
                &format!("matches: {matches}, {filters}"),
                field,
                "one match, of type PathPrefix",
            );
        }
        for matches in ["[{path: {value: /a}}]", "[{}]", "[{method: GET}]"] {
            let (_, warnings) = a_rule(&format!("matches: {matches}, {filters}"));
            assert_eq!(warnings, [], "{matches}, {filters}");
        }
    }
}

#[test]
fn filters_without_effect_are_reported() {
    let changes = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}";
    let redirect = "{type: RequestRedirect, requestRedirect: {port: 81}}";
    for (filters, field, message) in [
        (
            "{type: URLRewrite, urlRewrite: {}}".into(),
            "filters[0].urlRewrite",
            "changes nothing",
        ),
        (
            "{type: RequestRedirect, requestRedirect: {statusCode: 301}}".into(),
            "filters[0].requestRedirect",
            "leads to the location that was asked for",
        ),
        (
            format!("{changes}, {redirect}"),
            "filters[0]",
            "has no effect beside RequestRedirect",
        ),
        (
            format!("{redirect}, {changes}"),
            "filters[1]",
            "has no effect beside RequestRedirect",
        ),
    ] {
        let (_, warnings) = a_rule(&format!("filters: [{filters}]"));
        let [(at, said)] = &warnings[..] else {
            panic!("{filters}: {warnings:?}");
        };
        assert_eq!(*at, format!("spec.rules[0].{field}"), "{filters}");
        assert!(said.contains(message), "{filters}: {said}");
    }
    // What changes the answer does so for a redirect too.
    let answer = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}";
    let op = only(&of_rule(&format!("filters: [{redirect}, {answer}]")));
    assert_eq!(problems(&op), []);
}

/// A mirror to port 80 of a Service.
fn to(namespace: &str, name: &str) -> Mirror {
    let namespace = Namespace::new(namespace).expect("a name");
    Mirror::new(ServiceName::new(&namespace, name).expect("a name"), 80)
}

#[test]
fn mirrors_are_read() {
    let mirror = |of: &str| format!("{{type: RequestMirror, requestMirror: {{{of}}}}}");
    let whole = mirror("backendRef: {name: a, port: 80}");
    let tenth = mirror("backendRef: {group: '', kind: Service, name: b, port: 80}, percent: 10");
    let third = mirror(
        "backendRef: {name: c, namespace: lab, port: 80}, fraction: {numerator: 1, denominator: 3}",
    );
    let of_100 = mirror("backendRef: {name: a, port: 80}, fraction: {numerator: 5}");
    let (rule, warnings) = a_rule(&format!(
        "filters: [{whole}, {tenth}, {third}], \
         backendRefs: [{{name: cart, port: 80, filters: [{of_100}, {whole}]}}]"
    ));
    assert_eq!(warnings, []);
    let share = |mirror: Mirror, n, d| Filter::Mirror(mirror.with_share(n, d).expect("a share"));
    let wanted = [
        Filter::Mirror(to("shop", "a")),
        share(to("shop", "b"), 10, 100),
        share(to("lab", "c"), 1, 3),
    ];
    assert_eq!(rule.filters, wanted);
    let wanted = [
        share(to("shop", "a"), 5, 100),
        Filter::Mirror(to("shop", "a")),
    ];
    assert_eq!(rule.backends()[0].filters, wanted);
}

#[test]
fn mirrors_are_refused() {
    let backend = "backendRef: {name: a, port: 80}";
    for (of, field, message) in [
        (String::new(), ".backendRef", "is missing"),
        (
            "backendRef: {name: a}".into(),
            ".backendRef.port",
            "is missing",
        ),
        (
            "backendRef: {port: 80}".into(),
            ".backendRef.name",
            "is missing",
        ),
        (
            "backendRef: {name: a, port: 0}".into(),
            ".backendRef.port",
            "not within",
        ),
        (
            "backendRef: {kind: Pod_, name: a, port: 80}".into(),
            ".backendRef.kind",
            "is no kind",
        ),
        (
            "backendRef: {name: a, port: 80, weight: 1}".into(),
            ".backendRef.weight",
            "not a known field",
        ),
        (
            format!("{backend}, percent: 101"),
            ".percent",
            "not within 0 and 100",
        ),
        (
            format!("{backend}, percent: -1"),
            ".percent",
            "not within 0 and 100",
        ),
        (
            format!("{backend}, fraction: {{}}"),
            ".fraction.numerator",
            "is missing",
        ),
        (
            format!("{backend}, fraction: {{numerator: -1}}"),
            ".fraction.numerator",
            "not within",
        ),
        (
            format!("{backend}, fraction: {{numerator: 0, denominator: 0}}"),
            ".fraction.denominator",
            "not within",
        ),
        (
            format!("{backend}, fraction: {{numerator: 101}}"),
            ".fraction",
            "101 of 100 is no share",
        ),
        (
            format!("{backend}, percent: 1, fraction: {{numerator: 1}}"),
            ".fraction",
            "not both",
        ),
        (
            "backendRef: {name: cart, port: 80}".into(),
            ".backendRef",
            "not mirrored to itself",
        ),
        (
            "backendRef: {name: cart, namespace: shop, port: 81}".into(),
            ".backendRef",
            "not mirrored to itself",
        ),
    ] {
        let filter = format!("filters: [{{type: RequestMirror, requestMirror: {{{of}}}}}]");
        refused(
            &filter,
            &format!("filters[0].requestMirror{field}"),
            message,
        );
        let of_backend = format!("backendRefs: [{{name: a, port: 80, {filter}}}]");
        refused(
            &of_backend,
            &format!("backendRefs[0].filters[0].requestMirror{field}"),
            message,
        );
    }
    // A Service of the same name elsewhere is another one.
    let elsewhere = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: cart, namespace: lab, port: 80}}}]";
    assert_eq!(
        a_rule(elsewhere).0.filters,
        [Filter::Mirror(to("lab", "cart"))]
    );
    for share in ["percent: 0", "fraction: {numerator: 0, denominator: 7}"] {
        let none =
            format!("filters: [{{type: RequestMirror, requestMirror: {{{backend}, {share}}}}}]");
        let (_, warnings) = a_rule(&none);
        assert!(
            matches!(&warnings[..], [(_, said)] if said.contains("mirrors nothing")),
            "{warnings:?}"
        );
    }
    let beside = format!(
        "filters: [{{type: RequestMirror, requestMirror: {{{backend}}}}}, \
         {{type: RequestRedirect, requestRedirect: {{port: 81}}}}]"
    );
    let (_, warnings) = a_rule(&beside);
    assert!(
        matches!(&warnings[..], [(at, _)] if at == "spec.rules[0].filters[0]"),
        "{warnings:?}"
    );
}

#[test]
fn cors_is_read() {
    let cors = |of: &str| {
        let (rule, warnings) = a_rule(&format!("filters: [{{type: CORS, cors: {{{of}}}}}]"));
        assert_eq!(warnings, [], "{of}");
        match &rule.filters[..] {
            [Filter::Cors(cors)] => (**cors).clone(),
            other => panic!("{of}: {other:?}"),
        }
    };
    let full = cors(
        "allowOrigins: [https://a.b, 'http://*.c.d:8080'], allowMethods: [GET, PUT], \
         allowHeaders: [X-A, x-b], exposeHeaders: [x-c], allowCredentials: true, maxAge: 3600",
    );
    let wanted = Cors::new()
        .allow_origin("https://a.b")
        .and_then(|c| c.allow_origin("http://*.c.d:8080"))
        .and_then(|c| c.allow_method("GET")?.allow_method("PUT"))
        .and_then(|c| c.allow_header("X-A")?.allow_header("x-b"))
        .and_then(|c| c.expose_header("x-c"))
        .map(|c| c.allow_credentials(true).with_max_age(3600));
    assert_eq!(Ok(full), wanted);
    let all = cors(
        "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*', a]",
    );
    let wanted = Cors::new()
        .allow_origin("*")
        .and_then(|c| c.allow_method("*")?.allow_header("*")?.expose_header("*"));
    assert_eq!(Ok(all), wanted);
}

#[test]
fn cors_is_refused() {
    for (of, field, message) in [
        (
            "allowOrigins: ['*', 'http://a']",
            "allowOrigins[1]",
            "stands alone",
        ),
        (
            "allowOrigins: ['http://a', '*']",
            "allowOrigins[1]",
            "stands alone",
        ),
        (
            "allowMethods: [GET, '*']",
            "allowMethods[1]",
            "stands alone",
        ),
        ("allowHeaders: ['*', a]", "allowHeaders[1]", "stands alone"),
        (
            "allowOrigins: ['http://a', 'http://a']",
            "allowOrigins[1]",
            "stands twice",
        ),
        ("exposeHeaders: [a, a]", "exposeHeaders[1]", "stands twice"),
        ("allowOrigins: ['']", "allowOrigins[0]", "has 0 characters"),
        ("allowOrigins: [a.b]", "allowOrigins[0]", "not an origin"),
        (
            "allowOrigins: ['ftp://a']",
            "allowOrigins[0]",
            "not an origin",
        ),
        (
            "allowOrigins: ['http://a/']",
            "allowOrigins[0]",
            "not an origin",
        ),
        (
            "allowOrigins: ['http://a.*']",
            "allowOrigins[0]",
            "not an origin",
        ),
        (
            "allowOrigins: ['http://a:0']",
            "allowOrigins[0]",
            "not an origin",
        ),
        (
            "allowOrigins: ['http://a:65536']",
            "allowOrigins[0]",
            "not an origin",
        ),
        (
            "allowMethods: [get]",
            "allowMethods[0]",
            "is not one of GET",
        ),
        ("allowHeaders: ['a b']", "allowHeaders[0]", "not a name"),
        ("allowCredentials: 'yes'", "allowCredentials", "is a text"),
        ("maxAge: 0", "maxAge", "not within"),
        ("maxage: 1", "maxage", "is not a known field"),
    ] {
        let filter = format!("filters: [{{type: CORS, cors: {{{of}}}}}]");
        refused(&filter, &format!("filters[0].cors.{field}"), message);
    }
    refused("filters: [{type: CORS}]", "filters[0].cors", "is missing");
    let cors = "{type: CORS, cors: {allowOrigins: ['*']}}";
    refused(
        &format!("filters: [{cors}, {cors}]"),
        "filters[1]",
        "a second CORS",
    );
    for (of, field, message) in [
        ("allowOrigins: []", "", "allows no origin"),
        ("allowMethods: [GET]", "", "allows no origin"),
        (
            "allowOrigins: ['*'], allowCredentials: true, exposeHeaders: ['*']",
            ".exposeHeaders[0]",
            "has no effect with allowCredentials",
        ),
    ] {
        let (_, warnings) = a_rule(&format!("filters: [{{type: CORS, cors: {{{of}}}}}]"));
        let [(at, said)] = &warnings[..] else {
            panic!("{of}: {warnings:?}");
        };
        assert_eq!(*at, format!("spec.rules[0].filters[0].cors{field}"), "{of}");
        assert!(said.contains(message), "{of}: {said}");
    }
}
