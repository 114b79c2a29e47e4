//! The main job, once, from an empty folder to a rollback.

use crate::support::*;

#[test]
fn a_site_is_staged_sealed_activated_served_and_rolled_back() {
    let site = Site::new();
    assert_eq!(site.refused(1, ["activate", "live"]).lines().count(), 1);
    let one = site.seal(&[("index.html", "one"), ("css/site.css", "body {}")]);
    site.activate(&one);
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    assert_eq!(http.get("/index.html").text(), "one");
    let two = site.seal(&[("index.html", "two"), ("css/site.css", "body {}")]);
    assert_eq!(http.get("/index.html").text(), "one");
    site.activate(&two);
    assert_eq!(http.get("/index.html").text(), "two");
    assert_eq!(site.ok(["rollback"]), one);
    assert_eq!(http.get("/index.html").text(), "one");
    assert_eq!(http.get("/nothing").status, 404);
}
