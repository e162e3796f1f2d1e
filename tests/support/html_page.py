"""A parser that finds what is wrong with a page, and what is in it."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Checks that every element is closed in order.

    Attributes:
      seen: tags with their attributes, in order.
      text: what is shown, with ``between`` after each piece.
      rows: of tables, the texts of their cells.
    """

    def __init__(self, text, between="\n"):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.text, self.rows, self.between = [], [], "", [], between
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag in _VOID:
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data + self.between
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data + "|"

    def all(self, tag):
        return [attrs for name, attrs in self.seen if name == tag]

    @property
    def sections(self):
        return [attrs["id"] for attrs in self.all("section")]
