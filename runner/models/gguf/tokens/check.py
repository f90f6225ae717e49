"""The tokenizer made of a GGUF file held against the file's vocabulary and a text in several languages."""

from __future__ import annotations

from tokenizers import Tokenizer

from runner.models.gguf.tokens.tokenizer import Vocabulary
from runner.types import UserError

TEXT = """The harbour master keeps a ledger of every boat that ties up before dawn. On Tuesday, 14 March, he counted \
37 of them: trawlers, two ferries and a yacht whose owner hadn't paid since 2019. "It's not the money," he said, "it's \
the principle." Nobody believed him, of course. Prices at the fish market rose by 12.5% in a week, from $4.80 to $5.40 \
a kilo, and the cafés along the quay began to close at three in the afternoon.

Das Schiff fährt über die Straße des Meeres, natürlich nur bei schönem Wetter. L'été dernier, où étiez-vous ? \
¿Cuándo llegará el próximo tren a Málaga? Wczoraj padał śnieg w Łodzi. Вчера в порту было тихо.
Σήμερα έχει ήλιο και θάλασσα. 今天早上港口很安静。只有三艘渔船出海。市場は朝の五時に開きます。
오늘은 바람이 거의 없습니다. كان الميناء هادئا هذا الصباح. השוק נפתח בשעה חמש. आज बंदरगाह शांत है। วันนี้ทะเลสงบมาก

def tide(hours: float) -> float:
\treturn 1.8 * math.sin(hours / 12.42 * 2 * math.pi)  # metres

| boat | berth |   | 1234567 | \u26f5\ufe0f\U0001f41f | x² \u2264 \u221a2 |"""


def check(tokenizer: Tokenizer, vocabulary: Vocabulary, rows: int) -> None:
    """Raises UserError where the tokenizer is not the file's. ``rows``: how many tokens the embedding knows."""
    file, tokens = vocabulary.file, vocabulary.tokens
    if len(tokens) > rows:
        raise file.error(f"its vocabulary has {len(tokens):,} tokens, its embedding {rows:,}")
    if tokenizer.get_vocab_size() != len(tokens):
        raise file.error(f"its tokenizer makes {tokenizer.get_vocab_size():,} tokens of {len(tokens):,}")
    control = {token.content: at for at, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, at in control.items():
        if tokenizer.encode(token, add_special_tokens=False).ids != [at]:
            raise file.error(f"its tokenizer does not know the control token {token!r}")
    _check_text(tokenizer, vocabulary)


def _check_text(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    back = tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False).ids, skip_special_tokens=False)
    if back != TEXT:
        at = next((at for at, pair in enumerate(zip(back, TEXT, strict=False)) if pair[0] != pair[1]), len(back))
        raise _changed(vocabulary, TEXT[at : at + 12], back[at : at + 12])
    with_bos = tokenizer.encode("a").ids[: 1 if vocabulary.bos else 0]
    if with_bos != [vocabulary.ids[bos] for bos in (vocabulary.bos,) if bos]:
        raise vocabulary.file.error("its tokenizer does not begin texts as the file says")


def _changed(vocabulary: Vocabulary, text: str, back: str) -> UserError:
    return vocabulary.file.error(f"its tokenizer does not give a text back: {text!r} becomes {back!r}")
