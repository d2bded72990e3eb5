//! Pages: one file that needs nothing else, neither scripts nor the network. They are well-formed XML, so that other
//! programs may read them too.

use super::svg::escape;

const STYLE: &str = "\
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em }\n\
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }\n\
table { border-collapse: collapse; font-variant-numeric: tabular-nums }\n\
th, td { padding: 0.2em 0.7em; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }\n\
th { border-bottom: 1px solid #222 } .words th, .words td { text-align: left } .wide { overflow-x: auto }\n\
figure { margin: 1.5em 0; break-inside: avoid } figcaption { max-width: 45em; color: #555 }\n\
svg { max-width: 100%; height: auto } pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 13px }\n\
.failed { border-left: 4px solid #d55e00; padding-left: 1em }\n\
@media print { body { margin: 0; max-width: none; font-size: 11px } }\n";

/// A page under this title; `body` is XHTML.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n\
         <meta charset=\"utf-8\"/>\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A figure in a page.
pub fn figure(svg: &str, caption: &str) -> String {
    format!("<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(caption))
}
