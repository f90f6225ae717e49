"""A report as a browser reads it."""

import html.parser


class Page(html.parser.HTMLParser):
    """What a browser would see: elements that are open at the end, those of each name, the text."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, content):
        super().__init__()
        self.open, self.seen, self.text, self.attributes = [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
