//! The decisions, without a socket or a file read.

use std::collections::BTreeMap;

use super::fake::{FakeSite, noise};
use crate::gateway::{
    answer::{Answer, Body, decide},
    request,
};

fn site() -> FakeSite {
    let css = "a { color: red }\n".repeat(100);
    FakeSite::new(
        7,
        &[
            ("index.html", b"<p>home</p>"),
            ("style.css", css.as_bytes()),
            ("photo.png", &noise(5_000, 1)),
            ("small.txt", b"0123456789"),
            ("void", b""),
            ("a b/ä.txt", b"umlaut"),
            ("docs/index.html", b"docs"),
            ("docs/deep/page.html", b"page"),
            ("app.3f9c2b71.js", b"js"),
            ("links/inside", b"-> ../docs/deep/page.html"),
            ("links/dir", b"-> ../docs"),
            ("links/again", b"-> inside"),
            ("links/root", b"-> .."),
            ("links/above", b"-> ../../etc/passwd"),
            ("absolute", b"-> /small.txt"),
            ("links/round", b"-> round"),
            ("links/gone", b"-> nothing"),
            ("links/below", b"-> ../small.txt/x"),
            ("\\evil.example/index.html", b"x"),
        ],
    )
}

fn ask(site: &FakeSite, method: &str, target: &str, lines: &str) -> Answer {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let (request, _) = request::parse(head.as_bytes()).unwrap().expect("a whole head");
    decide(&request, site)
}

fn get(site: &FakeSite, target: &str) -> Answer {
    ask(site, "GET", target, "")
}

fn headers(answer: &Answer) -> BTreeMap<&str, &str> {
    answer.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn file(answer: &Answer) -> String {
    match &answer.body {
        Body::File { file, start, len } => format!("{}[{start}+{len}]", file.path),
        Body::Gzip(file) => format!("gzip {}", file.path),
        Body::Page(_) => "page".into(),
        Body::None => "none".into(),
    }
}

#[test]
fn where_paths_lead() {
    let site = site();
    for (target, status, body) in [
        ("/", 200, "index.html[0+11]"),
        ("/?x=/..", 200, "index.html[0+11]"),
        ("/index.html", 200, "index.html[0+11]"),
        ("/small.txt", 200, "small.txt[0+10]"),
        ("/void", 200, "void[0+0]"),
        ("/a%20b/%c3%A4.txt", 200, "a b/ä.txt[0+6]"),
        ("/docs/", 200, "docs/index.html[0+4]"),
        ("/docs", 301, "page"),
        ("/docs/deep", 404, "page"),
        ("/docs/deep/", 404, "page"),
        ("/docs/deep/page.html", 200, "docs/deep/page.html[0+4]"),
        ("/small.txt/", 404, "page"),
        ("/small.txt/x", 404, "page"),
        ("/nothing", 404, "page"),
        ("//", 404, "page"),
        ("//docs", 404, "page"),
        ("/docs//", 404, "page"),
        ("/docs%2fdeep%2fpage.html", 404, "page"),
        ("/links/inside", 200, "docs/deep/page.html[0+4]"),
        ("/links/again", 200, "docs/deep/page.html[0+4]"),
        ("/links/dir", 301, "page"),
        ("/links/dir/", 200, "docs/index.html[0+4]"),
        ("/links/dir/deep/page.html", 200, "docs/deep/page.html[0+4]"),
        ("/links/root/small.txt", 200, "small.txt[0+10]"),
        ("/links/root/links/root/small.txt", 200, "small.txt[0+10]"),
        ("/links/above", 404, "page"),
        ("/absolute", 404, "page"),
        ("/links/round", 404, "page"),
        ("/links/gone", 404, "page"),
        ("/links/below", 404, "page"),
        ("/../etc/passwd", 400, "page"),
        ("/%2e%2e/etc/passwd", 400, "page"),
        ("/docs/./", 400, "page"),
        ("/%", 400, "page"),
        ("/%0", 400, "page"),
        ("/%00", 400, "page"),
    ] {
        let answer = get(&site, target);
        assert_eq!((answer.status, file(&answer).as_str()), (status, body), "{target}");
        assert_eq!(headers(&answer)["Althing-Version"], "shop/7", "{target}");
    }
}

#[test]
fn a_redirect_stays_on_this_host_and_keeps_the_query() {
    let site = site();
    assert_eq!(headers(&get(&site, "/docs?a=1&b=/x"))["Location"], "/docs/?a=1&b=/x");
    assert_eq!(headers(&get(&site, "/%64ocs"))["Location"], "/docs/");
    assert_eq!(headers(&get(&site, "/links/dir"))["Location"], "/links/dir/");
    // A browser would read a backslash here as a slash, and //host as a host.
    assert_eq!(headers(&get(&site, "/\\evil.example"))["Location"], "/%5Cevil.example/");
}

#[test]
fn the_headers_of_a_file() {
    let site = site();
    let plain = get(&site, "/style.css");
    let lines = headers(&plain);
    assert_eq!(lines["Content-Type"], "text/css; charset=utf-8");
    assert_eq!(lines["Cache-Control"], "no-cache");
    assert_eq!(lines["Vary"], "Accept-Encoding");
    assert_eq!(lines["Accept-Ranges"], "bytes");
    assert_eq!(lines["ETag"].len(), 34);
    assert!(!lines.contains_key("Last-Modified") && !lines.contains_key("Content-Encoding"));
    let picture = get(&site, "/photo.png");
    assert_eq!(headers(&picture)["Content-Type"], "image/png");
    assert!(!headers(&picture).contains_key("Vary"));
    assert_eq!(headers(&get(&site, "/void"))["Content-Type"], "application/octet-stream");
    assert_eq!(
        headers(&get(&site, "/app.3f9c2b71.js"))["Cache-Control"],
        "public, max-age=31536000, immutable"
    );
}

#[test]
fn names_that_carry_a_hash() {
    let lasting = |name: &str| {
        let site = FakeSite::new(1, &[(name, b"x")]);
        headers(&get(&site, &format!("/{name}")))["Cache-Control"] != "no-cache"
    };
    for name in [
        "app.3f9c2b71.js",
        "app-3f9c2b71aa55.min.css",
        "logo_0a1b2c3d4e5f60718293a4b5c6d7e8f9.svg",
        "static/chunk.12345abc.js.map",
    ] {
        assert!(lasting(name), "{name}");
    }
    for name in [
        "app.js",
        "3f9c2b71.js",         // all there is may be an identifier
        "report-20240131.pdf", // a date
        "a-feedface.js",       // a word
        "page-3f9c2b71.html",  // a page
        "me-550e8400-e29b-41d4-a716-0242ac120002.png", // a UUID
        "IMG-3F9C2B71.jpg",    // a camera
        "app-3f9c2b7.js",      // too short
        "app-3f9c2b71",        // no extension
    ] {
        assert!(!lasting(name), "{name}");
    }
}

#[test]
fn gzip_is_a_form_of_its_own() {
    let site = site();
    let plain = get(&site, "/style.css");
    let packed = ask(&site, "GET", "/style.css", "Accept-Encoding: br, gzip\r\n");
    assert_eq!(file(&packed), "gzip style.css");
    let digest = headers(&plain)["ETag"].trim_matches('"');
    assert_eq!(headers(&packed)["ETag"], format!("\"{digest}-gzip\""));
    assert_eq!(headers(&packed)["Content-Encoding"], "gzip");
    assert_eq!(headers(&packed)["Vary"], "Accept-Encoding");
    for (target, lines) in [
        ("/style.css", "Accept-Encoding: gzip;q=0\r\n"),
        ("/style.css", "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n"),
        ("/photo.png", "Accept-Encoding: gzip\r\n"),
        ("/small.txt", "Accept-Encoding: gzip\r\n"),
    ] {
        let answer = ask(&site, "GET", target, lines);
        assert!(!headers(&answer).contains_key("Content-Encoding"), "{target} {lines}");
        assert!(!file(&answer).starts_with("gzip"), "{target} {lines}");
    }
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    let site = site();
    let plain = headers(&get(&site, "/style.css"))["ETag"].to_owned();
    let gzip = "Accept-Encoding: gzip\r\n";
    let packed = headers(&ask(&site, "GET", "/style.css", gzip))["ETag"].to_owned();
    for (method, lines, status) in [
        ("GET", format!("If-None-Match: {plain}\r\n"), 304),
        ("HEAD", format!("If-None-Match: {plain}\r\n"), 304),
        ("GET", format!("If-None-Match: W/{plain}\r\n"), 304),
        ("GET", format!("If-None-Match: \"x\", {plain}\r\n"), 304),
        ("GET", format!("If-None-Match: \"x\"\r\nIf-None-Match: {plain}\r\n"), 304),
        ("GET", "If-None-Match: *\r\n".into(), 304),
        ("GET", format!("If-None-Match: {plain}\r\nRange: bytes=0-1\r\n"), 304),
        ("GET", format!("If-None-Match: {packed}\r\n{gzip}"), 304),
        ("GET", format!("If-None-Match: {packed}\r\n"), 200),
        ("GET", format!("If-None-Match: {plain}\r\n{gzip}"), 200),
        ("GET", "If-None-Match: \"x\"\r\n".into(), 200),
        ("GET", format!("If-None-Match: {}\r\n", plain.trim_matches('"')), 200),
    ] {
        let answer = ask(&site, method, "/style.css", &lines);
        assert_eq!(answer.status, status, "{lines}");
        if status == 304 {
            assert_eq!(answer.body, Body::None);
            let lines = headers(&answer);
            assert!(lines.contains_key("ETag") && lines.contains_key("Cache-Control"));
            assert_eq!(lines["Vary"], "Accept-Encoding");
            assert!(!lines.contains_key("Content-Type"));
        }
    }
    assert_eq!(ask(&site, "GET", "/nothing", "If-None-Match: *\r\n").status, 404);
}

#[test]
fn ranges() {
    let site = site();
    let tag = headers(&get(&site, "/small.txt"))["ETag"].to_owned();
    for (method, lines, status, body, words) in [
        ("GET", "Range: bytes=2-4\r\n".into(), 206, "small.txt[2+3]", Some("bytes 2-4/10")),
        ("GET", "Range: bytes=-1\r\n".into(), 206, "small.txt[9+1]", Some("bytes 9-9/10")),
        ("GET", "Range: bytes=0-\r\n".into(), 206, "small.txt[0+10]", Some("bytes 0-9/10")),
        ("GET", "Range: bytes=10-\r\n".into(), 416, "page", Some("bytes */10")),
        ("GET", "Range: bytes=0-1,3-4\r\n".into(), 200, "small.txt[0+10]", None),
        ("GET", "Range: bites=0-1\r\n".into(), 200, "small.txt[0+10]", None),
        ("HEAD", "Range: bytes=2-4\r\n".into(), 200, "small.txt[0+10]", None),
        (
            "GET",
            format!("Range: bytes=1-1\r\nIf-Range: {tag}\r\n"),
            206,
            "small.txt[1+1]",
            Some("bytes 1-1/10"),
        ),
        ("GET", format!("Range: bytes=1-1\r\nIf-Range: W/{tag}\r\n"), 200, "small.txt[0+10]", None),
        ("GET", "Range: bytes=99-\r\nIf-Range: \"x\"\r\n".into(), 200, "small.txt[0+10]", None),
        (
            "GET",
            "Range: bytes=1-1\r\nIf-Range: Sat, 01 Jan 2022 00:00:00 GMT\r\n".into(),
            200,
            "small.txt[0+10]",
            None,
        ),
    ] {
        let lines: String = lines;
        let answer = ask(&site, method, "/small.txt", &lines);
        assert_eq!((answer.status, file(&answer).as_str()), (status, body), "{method} {lines}");
        assert_eq!(headers(&answer).get("Content-Range").copied(), words, "{method} {lines}");
    }
    assert_eq!(ask(&site, "GET", "/void", "Range: bytes=0-\r\n").status, 416);
    assert_eq!(ask(&site, "GET", "/nothing", "Range: bytes=0-1\r\n").status, 404);
}

#[test]
fn the_site_s_own_names_for_pages() {
    let long = "not here ".repeat(200);
    let mut site = FakeSite::new(
        1,
        &[
            ("404.html", b"default"),
            ("errors/gone.txt", long.as_bytes()),
            ("main.htm", b"main"),
            ("sub/main.htm", b"sub"),
            ("sub/index.html", b"no"),
        ],
    );
    let answer = ask(&site, "GET", "/x", "Range: bytes=0-1\r\nIf-None-Match: *\r\n");
    assert_eq!((answer.status, file(&answer).as_str()), (404, "404.html[0+7]"));
    assert_eq!(headers(&answer)["Cache-Control"], "no-cache");
    assert!(!headers(&answer).contains_key("ETag"), "a missing page has nothing to validate");

    site.spec.not_found = Some("/errors/gone.txt".into());
    site.spec.index = Some("main.htm".into());
    assert_eq!(file(&get(&site, "/x/y")), "errors/gone.txt[0+1800]");
    let packed = ask(&site, "GET", "/x", "Accept-Encoding: gzip\r\n");
    assert_eq!((packed.status, file(&packed).as_str()), (404, "gzip errors/gone.txt"));
    assert_eq!(file(&get(&site, "/")), "main.htm[0+4]");
    assert_eq!(file(&get(&site, "/sub/")), "sub/main.htm[0+3]");

    site.spec.not_found = Some("../../etc/passwd".into());
    site.spec.index = Some("../../etc/passwd".into());
    assert_eq!(file(&get(&site, "/")), "page");
    site.spec.index = Some(String::new());
    assert_eq!((get(&site, "/").status, get(&site, "/sub/").status), (404, 404));
}

#[test]
fn our_own_pages_carry_no_markup_from_outside() {
    let answer = Answer::unavailable(503, "<script>\"it's\" & more</script>");
    let Body::Page(page) = &answer.body else { panic!("{answer:?}") };
    let page = String::from_utf8(page.clone()).unwrap();
    assert!(
        page.contains("&lt;script&gt;&quot;it&#39;s&quot; &amp; more&lt;/script&gt;"),
        "{page}"
    );
    assert_eq!(headers(&answer)["Retry-After"], "5");
    assert_eq!(Answer::unavailable(200, "").status, 503, "no status but a failure");
    assert!(!headers(&Answer::unavailable(404, "")).contains_key("Retry-After"));
}
