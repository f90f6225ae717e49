"""Which label a freely written answer means.

A label that its clause denies ("not a very positive review", "不太正面", "spam: no") is not meant. One that the answer
begins with is, unless the answer lists others there ("spam or ham"). Where these rules are in doubt they leave no label
or two, and the row is an error.

Articles and prepositions that are written to the word behind them may stand before a label of three letters or more.
With a root of three letters most of them make another word ("מספר", a number, of "ספר", a book), so that only Hebrew's
and, the, in and to, and the Arabic article with what comes before it, may stand before such a label. A label of one
Chinese letter is a word where no other letter stands beside it that would make another word of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import regex

from runner.text.scripts import SPACELESS, folded
from runner.types import RowError

_WORD, _GAP = r"[\w--_]", r"[\W_]+"
_PARTS = regex.compile(rf"(?V1){_WORD}+(?:{_GAP}{_WORD}+)*")
_HANGUL = r"\p{Hangul}"
_ALONE = regex.compile(rf"(?V1){SPACELESS}")
_KOREAN = regex.compile(_HANGUL)
# What may not stand beside a label's first or last letter: another one of a script with spaces between words.
_LETTER = rf"[\w--[_\p{{Hangul}}{SPACELESS}]]"

# What is written to the word behind it: to one of three letters, and to longer ones.
_PREFIXES = {
    regex.compile(r"\p{Arabic}"): ("(?:[وف]?[بك]?ال|[وف]?لل)?", "[وف]?(?:[بك]?ال|لل|[بكل])?"),
    regex.compile(r"\p{Hebrew}"): ("\u05d5?[הבל]?", "[ושהבכלמ]{0,3}"),
}
_ARTICLE = "ال"
_LEAST = 3  # letters of a label that may have them: shorter ones end too many other words
_HAN = regex.compile(r"\p{Han}")
_HAN_BEFORE, _HAN_AFTER = (rf"[\p{{Han}}--[{letters}]]" for letters in ("是为為即選选很最非不没沒", "的了吗嗎呢吧啊"))

# What denies a label: before it, with up to five words of the same clause between ("not a very positive review").
_NEGATIONS = (
    r"not(?!\s+(?:only|just|merely))|(?:is|are|was|were|do|does|did|would|could|should|ca)nt|n['\u2019]t|cannot|never|nor"
    r"|neither|no(?!\s+(?:doubt|question)|\s+s[oó]lo)|nothing(?!\s+but)|without(?!\s+(?:an?y?\s+)?doubt)|hardly|barely"
    r"|scarcely|unlikely|far\s+from|anything\s+but|(?:rather|other|less)\s+than|instead\s+of|opposed\s+to"
    r"|opposite\s+of|none\s+of|nobody|lack(?:s|ing)?|fails?\s+to|refuses?\s+to|impossible|doubtful"
    r"|(?<!\ba\s+)few\s+(?:\w+\s+){0,2}?(?:would|could|will|can)(?!\s+(?:\w+\s+)?(?:dis|den|doubt|question|object|argu|hesitat))"
    r"|(?:too\s+\w+\s+to\s+be|(?:hard|difficult|a\s+stretch|hesita(?:nt|te)|reluctant|too\s+\w+)\s+to\s+(?:call|describe|consider)"
    r"\s+(?:it|this|that|them|these))"
    r"|(?:i|we)\s+(?:\w+ly\s+)?doubt"
    r"|nicht(?!\s+nur)|kein(?!\s+zweifel)(?:e[mnrs]?)?|weder(?:\W+\w+){1,4}?\W+noch|weder|keine(?:sweg|sfall)s|nie(?:mals)?|ohne(?!\s+zweifel)|kaum"
    r"|pas|ni|non(?!\s+seulement|\s+solo)|jamais|sans(?!\s+(?:aucun\s+)?doute)|aucune?|sin(?!\s+duda)|ning[uú]na?|nunca|tampoco"
    r"|não|nem|sem(?!\s+dúvida)|nenhuma?|senza(?!\s+dubbio)|né|niet|geen|ikke|inte|не(?!\s+только)|ни|нет|без(?!\s+сомнен)"
    r"|ні|bukan|tidak|không|chẳng|नहीं|न|و?ليست?|غير|\u05d5?לא|אינו|אינה|איננו|안"
)
_TURNS = (
    r"but|because|since|hence|therefore|thus|so\s+(?:it|this|i|the)"
    r"|sondern|aber|weil|mais|pero|sino|porque|но|\u0430|אלא"
)
_END_OF_CLAUSE = r".,;:!?\u2013\u2014\u060c\u061b\n"
_SIGNS = rf"(?:(?!\s-+\s)[^\w{_END_OF_CLAUSE}])"
_OF_SPACELESS = (
    r"(?:并非|並非|不(?!仅|僅|但|只|错|錯|得不)|没有?|沒有?|非(?!常)|未|无(?!疑)|無(?!疑))"
    r"[是太很怎么麼那够夠特别別算得上能说說属屬于於为為会會十分完全真可以被称稱一个個条條篇种種任何]{0,7}"
    r"|ไม่(?:ใช่|ค่อย|ได้|เป็น|น่าจะ|ถือว่า)*|ບໍ່(?:ແມ່ນ)?|មិន(?:មែន)?"
)
_WORD_OF_CLAUSE = rf"{_SIGNS}+(?!(?:{_TURNS})(?!\w))\w+"
# What denies though a sign stands between: before a comma not the words that are an answer by themselves ("No, ham").
_ANSWERS = r"no|non|não|nein|нет|ні|nunca|never|jamais"
_ASIDE = rf",(?:{_SIGNS}*\w+){{1,5}}\s*,"  # "not, in my view, spam"
_PAUSE = rf"(?:{_SIGNS}*(?:[:\u2026]|\.{{2,}})|(?<!(?<!\w)(?:{_ANSWERS}))\s*(?:{_ASIDE}|[,;\u2013\u2014]|-\s)){_SIGNS}*"
_OTHER = rf"(?:{_SIGNS}+\w+)?{_SIGNS}+(?:n?or|oder|noch|ou|o|ni|или|ни)(?!\w)"
_FIRST = rf"\A\W*(?!(?:{_ANSWERS})(?!\w))(?:{_NEGATIONS})\W+\Z"  # "Not. Spam."
_CROSSED = r"(?:\A|[\n,;|])\s*(?:[-*]\s+)?(?:[\u2717\u2718\u274c\u2610]|\[\s?\])\s*\Z"
_NOT_BEFORE = regex.compile(
    rf"(?<![\w'\u2019])(?:\w+(?=n['\u2019]t))?(?:{_NEGATIONS})(?!\w)"
    rf"(?:(?:{_WORD_OF_CLAUSE}){{0,5}}+(?:{_OTHER})?{_SIGNS}*|\s+|{_PAUSE})\Z"
    rf"|(?<!\w)(?:(?:non|un|anti)-|(?:not?|non|un)_)\Z|{_FIRST}|(?:[\u2260\xac]\s*|(?<![\w!])!)\Z|{_CROSSED}|(?:{_OF_SPACELESS})[\s\"'“「『【*_:]*\Z|~~\Z|(?<!\w)(?:nein|nee|nej|false|wrong)\s*:\s*\Z"
)
# Words that deny in one language and mean something else in another ("no" is "in the" in Portuguese), by what shows
# that an answer, or a label, is in the other.
_OTHERWISE = {
    regex.compile(rf"(?<!\w){word}(?!\w)"): regex.compile(shown)
    for word, shown in {
        "no": r"[ãõ]|(?<!\w)(?:é|uma|em|aos?|pel[oa]s?|com|nos|nas|seu|sua)(?!\w)"
        r"|(?:\A|[.,;:!?\n]\s*)o\s+(?!bien|sea|no(?!\w))\w|\b(?:encaixa|enquadra)",
        "sin": r"[åæøä]|(?<!\w)(?:er|och?|og|det|den|som|har|et|ett)(?!\w)",
        "ni": r"[åæø]|(?<!\w)(?:är|och|det|den|som|har|ett)(?!\w)",
        "pas": r"(?<!\w)(?:het|een|deze|dit|is|dat)(?!\w)",
    }.items()
}
_FAR = 200  # characters that are searched for a negation
_QUOTES = r"[\s\"'`”」』】*_]*"
_NOT_AFTER = regex.compile(
    rf"{_QUOTES}(?:(?:という|な)?(?:わけ|もの|内容)?(?:では|じゃ|で)(?:な[いくか]|あり?ません)|と[はも](?:言|い|思|呼)[えべ](?:な[いく]|ません)"
    r"|[이가]?\s*(?:아니|아닌|아닙)|적인\s*것[은이]\s*아니|(?:적이)?지\s*않|(?:적이)?라고\s*(?:는\s*)?\w+\s*(?:수\s*(?:는\s*)?없|어렵|힘들)"
    r"|(?:\s+\w+){0,2}\s+(?:değil|नहीं)|(?:[^\S\n]+\w+){0,4},?[^\S\n]+(?:not|nicht|niet|inte|ikke)\s*(?:[.!?\n]|$)"
    r"|\s*(?:[:=(\u2192\u2013\u2014]|-+>|-\s)\W*(?:no(?:pe|ne)?|not(?:\s+at\s+all)?|never|false|incorrect|wrong|nein|non|нет|否|0(?:\.0+)?(?!\.?\d))"
    r"\s*(?:[^\w\s]|\Z)|\s*[:=]?\s*[\u2717\u2718\u274c]\s*(?:[\n,;|]|\Z)"
    r"|\s+(?:is|was|seems|would\s+be)\s+(?:wrong|incorrect|false|impossible|not)(?!\w)"
    r"|\?+[\s\"'”*]+(?!yes|yeah|ja|oui|s[ií]|да)\w)"
)
# What stands between labels that an answer lists without choosing one: "spam or ham", {"spam": 0.1, "ham": 0.9}.
_OR = r"and|n?or|und|oder|noch|et|ou|y|e|o|и|или|ни|ve|veya|ya da|و|أو|או|和|与|與|或者?|还是|還是|と|または|か|또는"
_LISTED = regex.compile(rf"[^\w\n]*(?:{_OR})(?!\w)[^\w\n]*|\W*[:=]\W*\d[\d.,%]*\W*|[^\w\n]*(?P<bare>)")
_END_OF_PART = regex.compile(r"[^\S\n]*(?:[^\w\s]|\n|\Z)")
_BEFORE_A_NOUN = regex.compile(r"[a-z][^\S\n]+\w")
# A whole number is none within another number, in a range or as what another one is out of.
_NUMBER_BEFORE, _NUMBER_AFTER = (
    r"(?<!\d[.,\u2044]|(?<!\w)[-\u2212]|\d\s*[-\u2013\u2014/]\s*|\bout\s+of\s+)",
    r"(?:\.0{1,2})?(?![.,\u2044]?\d|\s*[-\u2013\u2014]\s*\d)",
)


class Matcher:
    """Finds labels, given as name -> surface text, in answers."""

    def __init__(self, surfaces: Mapping[str, str]) -> None:
        self._exact = {surface.strip(): name for name, surface in surfaces.items()}
        self._surfaces = folded("\n".join(surfaces.values()))
        self._patterns = {name: _pattern(surface.strip()) for name, surface in surfaces.items()}

    def match(self, answer: str) -> str:
        """The label that an answer is or begins with, else the only one that occurs in it as a whole word.

        Case, width and what stands between a label's words do not matter, unless the answer is exactly a label; a label
        within a longer one does not count, nor does one that is negated. Where a script has no spaces between words, or
        hangs particles on them, a label need not end where a word does. RowError if there is no such label.
        """
        if exact := self._exact.get(answer.strip()):
            return exact
        text = folded(answer)
        names = {name for _, _, name in _chosen(text, self._spans(text))}
        if len(names) == 1:
            return names.pop()
        what = "more than one label" if names else "no label"
        raise RowError("unmatched label", f"{what} in the answer {answer[:80]!r}")

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        """Where words with labels begin and end, those inside of a longer label and those that are denied left out."""
        hits = [(hit, name) for name, pattern in self._patterns.items() for hit in pattern.finditer(text)]
        inside = _inside({hit.span("label") for hit, _ in hits})
        whole = [(hit, name) for hit, name in hits if hit.span("label") not in inside]
        said = self._without_other_words(text)
        return [(*hit.span(), name) for hit, name in whole if not _is_denied(said, *hit.span("label"))]

    def _without_other_words(self, text: str) -> str:
        """The text without the words that deny in another language than its own."""
        for word, shown in _OTHERWISE.items():
            if word.search(text) and (shown.search(text) or shown.search(self._surfaces)):
                text = word.sub(lambda hit: "x" * len(hit[0]), text)
        return text


def _chosen(text: str, found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The labels that the answer begins with, unless it only lists labels there; else all that it has."""
    first = [hit for hit in found if _is_first(text, *hit[:2])]
    end = max((end for _, end, _ in first), default=len(text))
    lists = any(other[0] >= end and other[2] != first[0][2] and _lists(text, end, other) for other in found)
    return first if first and not lists else found


def _is_first(text: str, start: int, end: int) -> bool:
    is_article = end - start == 1 and _BEFORE_A_NOUN.match(text, start)
    return not is_article and not any(map(str.isalnum, text[:start]))


def _lists(text: str, end: int, other: tuple[int, int, str]) -> bool:
    start, other_end, _ = other
    between = _LISTED.fullmatch(text, end, start)
    return between is not None and (between["bare"] is None or _END_OF_PART.match(text, other_end) is not None)


def _pattern(surface: str) -> regex.Pattern[str]:
    """A label as a whole word: its words with anything that is no word between them, signs at its ends as they are."""
    surface = folded(surface) or surface
    found = _PARTS.search(surface)
    start, end = found.span() if found else (len(surface), len(surface))
    words = regex.split(rf"(?V1){_GAP}", surface[start:end])
    between = _GAP.join(map(regex.escape, words))
    text = regex.escape(surface[:start]) + between + regex.escape(surface[end:])
    before = _before(surface[:1]) + _prefix(surface)
    label = f"{before}(?P<label>{_fused(text)}){_after(surface[-1:])}"
    if surface.isdecimal():
        label = f"{_NUMBER_BEFORE}{label}{_NUMBER_AFTER}"
    return regex.compile(
        f"(?V1)(?<!{_HAN_BEFORE}){label}(?!{_HAN_AFTER})" if _is_one_letter(surface) else f"(?V1){label}"
    )


def _is_one_letter(surface: str) -> bool:
    return len(surface) == 1 and _HAN.match(surface) is not None


def _is_denied(text: str, start: int, end: int) -> bool:
    return bool(_NOT_BEFORE.search(text, max(0, start - _FAR), start) or _NOT_AFTER.match(text, end))


def _prefix(surface: str) -> str:
    known = (prefixes for script, prefixes in _PREFIXES.items() if script.match(surface))
    return next(known, ("", ""))[len(surface) > _LEAST] if len(surface) >= _LEAST else ""


def _fused(text: str) -> str:
    """A label with the Arabic article also as it is behind the preposition that takes its first letter."""
    rest = text.removeprefix(_ARTICLE)
    return text if rest == text or len(rest) < _LEAST else f"{text}|لل{rest}"


def _before(letter: str) -> str:
    if _ALONE.match(letter):
        return ""
    return f"(?<!{_HANGUL})" if _KOREAN.match(letter) else f"(?<!{_LETTER})"


def _after(letter: str) -> str:
    return "" if _ALONE.match(letter) or _KOREAN.match(letter) else f"(?!{_LETTER})"


def _inside(spans: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those that lie within another one."""
    ordered = sorted(spans, key=lambda span: (span[0], -span[1]))
    reaches = accumulate((end for _, end in ordered), max, initial=-1)
    return {span for span, reach in zip(ordered, reaches, strict=False) if span[1] <= reach}
