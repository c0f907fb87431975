"""Answers in, Penn Treebank tokens out: lower-cased, punctuation removed, as DriveLM's language metrics see them.

The rules describe what the Stanford PTB tokenizer 3.4.1 (`-preserveLines -lowerCase`) does, found by running it. As
there, the longest rule wins, a rule's look-ahead counts towards its length, and the earlier rule wins a tie. A line's
tokens can depend on the next line ("C." keeps its full stop unless "The ..." follows), so texts are tokenised as one
stream of lines.
"""

import re
from collections.abc import Sequence

from trainer.evaluate.ptb_characters import (
    DIGITS,
    ENTITY_LETTERS,
    LETTERS,
    SYMBOLS,
    entities_for_letters,
    letters_for_entities,
)

LINE_BREAK = re.compile("\r\n|[\r\n\v\f\u2028\u2029]")
"""What ends a line for the PTB tokenizer. DriveLM makes "\\n" a space; others shift later answers by a line."""

_LONGEST_SCAN = 500
"""Characters a rule may look ahead for a hyphen or an @ that may never come; keeps huge answers linear."""

_LONGEST_LABEL, _MOST_LABELS = 63, 8
"""Characters and number of the parts of a name with full stops (a host, a file), for the same reason."""

_PUNCTUATION = frozenset(
    ["''", "``", "--", "---", "----", "...", "....", ".....", ". . .", ". . . .", *"'`.?!,:-;\""]
    + list(
        "\u0085\u0091\u0092\u0093\u0094\u0096\u0097\u00ab\u00ad\u00bb\u2013\u2014\u2015\u2018\u2019\u201b\u201c\u201d\u2026\u2039\u203a"
    )
    + ["&quot;", "&apos;"]
)
_QUOTES = {
    "`": "`", "\u2018": "`", "\u2019": "'", "\u201b": "`", "\u201c": "``", "\u201d": "''", "\u2039": "`", "\u203a": "'",
    "\u00ab": "``", "\u00bb": "''", "\u0091": "`", "\u0092": "'", "\u0093": "``", "\u0094": "''", "\u201a": "\u201a",
}  # fmt: skip
_NORMAL_FORM = {
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\u0080": "$", "\u00a2": "cents",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_REWRITES = {"&amp;": "&", "(": "-lrb-", ")": "-rrb-", " ": "\u00a0", "\u00ad": ""}
_REWRITE = re.compile("|".join(map(re.escape, _REWRITES)))
_NOTHING = re.compile("(?i:&(?:nbsp|md|mdash|ndash);)")

_ABBREVIATIONS = (
    "al|ala|apr|ariz|assn|aug|bancorp|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|esq|est|etc|ext|feb|fla"
    "|fri|ga|inc|ind|intl|jan|jr|jul|jun|kans?|ky|ltd|mar|md|mich|minn|mon?|mont|neb|nev|nov|oct|okla|penn|plc|pte|pty"
    r"|ph\.d|rd|rt|sept?|seq|sq|sr|sys|tel|tenn|thurs|tues?|univ|va|vt|wed|wisc?|wyo"
)
_TITLES = (
    "adj|adm|adv|alex|assoc|asst|atty|ave|brig|capt|cf|cie|cmdr|col|cpl|dept|det|drs?|elec|ens|ft|gen|govs?|hon|insp"
    "|invt|jos|lt|maj|messrs|mfg|mlle|mme|mr|mrs|ms|msgr|mt|mtg|natl|pfc|ph|pres|prof|pvt|reps?|rev|sens?|sfc|sgt|spc"
    "|ste?|supt|thur|treas|vs|wm"
)
_CAPITAL_ABBREVIATIONS = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"
_NUMBERED_ABBREVIATIONS = "art|ca|figs?|nos?|op|pp|prop"
_SENTENCE_STARTERS = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other"
    "|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
_FILE_ENDINGS = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|pptx?|ps|py|sql"
    "|tar|txt|wav|x|xml|zip"
)

_ALNUM = r"[A-Za-z0-9]"
_LETTER = rf"[A-Za-z\u00ad{LETTERS}{ENTITY_LETTERS}]"
_DIGIT = f"[0-9{DIGITS}]"
_WORD = rf"[A-Za-z0-9\u00ad{LETTERS}{DIGITS}]+"
_LETTERED = rf"{_LETTER}[A-Za-z0-9\u00ad{LETTERS}{DIGITS}{ENTITY_LETTERS}]*"
_APOSTROPHE = "(?:['\u0092\u2019]|(?i:&apos;))"
_AND = "(?:(?i:&amp;)|&)"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
_SPACE_OR_LINE = "[ \t\n\u00a0\u2000-\u200a\u3000]"
_NUMBER = rf"(?:{_DIGIT}*(?:[.:,\u00ad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)"
_ELISION = rf"(?:[dDoOlL]{_APOSTROPHE}[A-Za-z0-9{LETTERS}{DIGITS}])?"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+\."
_AUXILIARY = "(?:'(?i:[msd]|re|ve|ll)(?![A-Za-z])|(?:[\u0092\u2019]|(?i:&apos;))(?i:[msd]|re|ve|ll))"
_JOINED = rf"{_LETTERED}(?:[.!?]{_LETTERED})+"
_HYPHENATED = rf"{_ELISION}{_WORD}(?:{_HYPHEN}{_ELISION}{_WORD})*"
_NUMBERED_COMPOUND = rf"{_ALNUM}[A-Za-z0-9.,\u00ad]{{0,{_LONGEST_SCAN}}}+(?:-(?:{_INITIALS}|[A-Za-z0-9\u00ad]+))+"
_COMPOUND = r"(?:-[A-Za-z]+){0,2}"
_MARKUP_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_MARKUP_ATTRIBUTE = rf""" +{_MARKUP_NAME}(?: *= *(?:"[^"\n]*"|'[^'\n]*'))?"""
_MARKUP = rf"<(?:[!?][A-Za-z-][^>\n]{{0,{_LONGEST_SCAN}}}+|/?{_MARKUP_NAME}(?:{_MARKUP_ATTRIBUTE}){{0,20}} *(?:/ *)?)>"
_URL_END = r"[^ \t\n\f\"<>|.!?(){},-]"
_URL_PATH = rf"(?:/[^ \t\n\f\"<>|()]+{_URL_END})?"
_LABELS = rf"{{1,{_LONGEST_LABEL}}}+\.){{1,{_MOST_LABELS}}}"
_DOMAIN = rf"(?:[^ \t\n\f\"`'|!(){{}},-_$]{_LABELS}(?i:com|net|org|edu){_URL_PATH}"
_EMAIL_CHARACTER = r"[^ \t\n\f\"<>|(){}\u00a0@]"
_EMAIL_DOMAIN = r"[^ \t\n\f\"<>|(){}.\u00a0]"
_EMAIL = rf"(?:(?i:&lt;)|<)?{_ALNUM}{_EMAIL_CHARACTER}{{0,{_LONGEST_SCAN}}}+@(?:{_EMAIL_DOMAIN}+\.)*{_EMAIL_DOMAIN}+>?"
_PHONE = (
    r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}"
    r"|(?:\+\+?)?(?:\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}"
)

_WORD_RULES = tuple(
    re.compile(rule)
    for rule in (
        r"(?i:(can)not|(gon)na|(got)ta|(lem)me|(gim)me|(wan)na)",
        rf"({_JOINED}|{_LETTERED}|{_WORD}(?:{_HYPHEN}{_WORD})*){_AUXILIARY}",
        rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)[nN](?:`|{_APOSTROPHE})[tT]",
        rf"[nN](?:`|{_APOSTROPHE})[tT]",
        _WORD,
        _LETTERED,
        rf"((?i:{_ABBREVIATIONS})\.).|(?=[A-Z])((?i:{_CAPITAL_ABBREVIATIONS})\.).",
        _JOINED,
        _HYPHENATED,
        _NUMBERED_COMPOUND,
        rf"{_LETTER}+[aeiouyAEIOUY]['`\u0092\u2019][aeiouA-Z]{_LETTER}*",
        rf"{_ALNUM}+{_COMPOUND}(?:\\?/{_ALNUM}+{_COMPOUND}){{1,2}}",
        rf"[A-Z]+(?:(?:\+|{_AND})[A-Z]+)+",
        rf"([A-Z]+(?:(?:\+|{_AND})[A-Z]+)+\.)[,;:]",
        _NUMBER,
        r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        _PHONE,
        rf"(?i:{_ABBREVIATIONS}|{_TITLES})\.",
        rf"(?=[A-Z])(?i:{_CAPITAL_ABBREVIATIONS})\.",
        rf"((?i:{_NUMBERED_ABBREVIATIONS})\.){_SPACE_OR_LINE}?\d",
        rf"((?:{_HYPHENATED}|{_JOINED}|{_NUMBERED_COMPOUND})\.)[,;:]",
        r"[A-Za-z]\.",
        _INITIALS,
        rf"([A-Za-z])\.{_SPACE_OR_LINE}+(?:{_SENTENCE_STARTERS}|M[rs]\.|{_MARKUP}){_SPACE_OR_LINE}",
        rf"[A-HJ-XZn](?:`|{_APOSTROPHE})[A-Za-z\u00ad{LETTERS}]{{2,}}",
        rf"[lLdDjJ]{_APOSTROPHE}|[yY]{_APOSTROPHE}(?=[A-Za-z])",
        rf"(?i:(?:ol|dunkin|somethin){_APOSTROPHE}|c{_APOSTROPHE}(?:mon|est)|cap{_APOSTROPHE}n)",
        rf"[A-Z]+\$|[CcFf]#|[cC]\+\+|pro-|anti-|S{_AND}P-500|S{_AND}Ls",
        rf"https?://[^ \t\n\f\"<>|()]+{_URL_END}",
        rf"www\.(?:[^ \t\n\f\"<>|.!?(){{}},]{_LABELS}[a-zA-Z]{{2,4}}{_URL_PATH}",
        _DOMAIN,
        _EMAIL,
        rf"{_WORD}(?:\.{_WORD}){{0,{_MOST_LABELS}}}\.(?i:{_FILE_ENDINGS})(?=[.?!,]|{_SPACE_OR_LINE})",
    )
)
_SYMBOL_RULES = tuple(
    re.compile(rule, re.DOTALL)
    for rule in (
        _MARKUP,
        r"&(?i:amp|lt|gt|quot|apos|nbsp|md|mdash|ndash|ht|tl|ur|lr|q[clr]|[oc]dq|#\d+);",
        _AUXILIARY,
        rf"({_APOSTROPHE}[tT])(?i:is|was)",
        rf"{_APOSTROPHE}(?i:em|till?|cause)",
        rf"{_APOSTROPHE}[nN](?:{_APOSTROPHE}|(?={_SPACE_OR_LINE}))",
        rf"{_APOSTROPHE}(?:[2-9]0s|\d\d(?={_SPACE_OR_LINE}))",
        rf"[+-]?{_NUMBER}",
        _PHONE,
        _EMAIL,
        _DOMAIN,
        r"(?i:-[LR][RCS]B-)",
        r"@[A-Za-z_][A-Za-z_0-9]*",
        rf"#{_LETTER}+",
        rf"[<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]](?!{_ALNUM})",
        r"[-^=~<>']_[-^=~<>']|\([-^=~<>'][_.]?[-^=~<>']\)",
        rf"[{''.join(_QUOTES)}]{{2}}",
        r"\.{3,5}|\. \. \.(?: \.)?",
        r"[!?]{2,}|-{5,}|-{2,4}|_+|\*+|#+|@+|<<|>>|``|''|\\\*",
        ".",
    )
)
_ANY_APOSTROPHE = re.compile("['\u0092\u2019]|&apos;")
_CONTRACTION = re.compile(f"(?i:{_APOSTROPHE}(?:[msd]|re|ve|ll)|n{_APOSTROPHE}t)")
_TAG = r"<c\d{1,3},CAM(?:_[A-Z]+)+,\d+\.\d+,\d+\.\d+>"
_ABBREVIATION = f"(?i:[A-Z]|{_ABBREVIATIONS}|{_TITLES}|{_CAPITAL_ABBREVIATIONS}|{_NUMBERED_ABBREVIATIONS})"
_PLAIN_WORD = (
    r"(?!(?i:cannot|gonna|gotta|lemme|gimme|wanna)(?![A-Za-z]))(?:[A-Za-z]++,?(?=[ \n])"
    rf"|(?!{_ABBREVIATION}\.)[A-Za-z]++\.(?=\n| [A-Za-z<]))"
)
_PLAIN = re.compile(rf"(?:(?:{_PLAIN_WORD}|{_TAG}[.,]?(?=[ \n])) *){{1,100}}")
"""What most answers are made of, plain words and well-formed tags: tokens that no rule sees differently."""

_PLAIN_MARK = re.compile(r"[.,](?= |$)")
_PLAIN_TAG = re.compile(r"<(c\d+),(CAM[A-Z_]+),([\d.]+),([\d.]+)>")
_CHUNK = re.compile(r"[^\s<]{1,40}+(?<!\.)(?:(?<![\d)])(?= )|(?= \D))")
"""Characters up to a space that no rule which starts in them looks beyond: their tokens are always the same."""

_WORD_START = re.compile(f"{_LETTER}|{_DIGIT}")
_KNOWN = re.compile(rf"[!-~\u0080{LETTERS}{ENTITY_LETTERS}{DIGITS}{SYMBOLS}]")
_SPACES = re.compile(f"{_SPACE}+")
_CLOSED = re.compile(
    rf"(?:^| )(?:(?!(?i:{_NUMBERED_ABBREVIATIONS})\.$)[A-Za-z]{{2,}}\.?"
    rf"|{_TAG}[.,]?)$"
)
"""Ends a line whose tokens do not depend on the lines that follow."""


def tokenize(text: str) -> str:
    """Tokens of one answer joined by single spaces, as if it were the only line."""
    return tokenize_lines([text])[0]


def tokenize_lines(texts: Sequence[str]) -> list[str]:
    """Tokens of each text, joined by single spaces, in the context of the lines around it.

    Line breaks inside a text are made spaces, also those at which the original loses count of its lines.
    """
    lines = [letters_for_entities(LINE_BREAK.sub(" ", text) if LINE_BREAK.search(text) else text) for text in texts]
    stream = "\n".join(lines) + "\n"
    known: dict[str, str] = {}
    chunks: dict[str, list[str]] = {}
    tokenized = []
    position = 0
    for line in lines:
        tokens = known.get(line)
        if tokens is None:
            tokens = " ".join(_line_tokens(stream, position, position + len(line), chunks))
            if _CLOSED.search(line):
                known[line] = tokens
        tokenized.append(entities_for_letters(tokens))
        position += len(line) + 1
    return tokenized


def _line_tokens(stream: str, position: int, end: int, chunks: dict[str, list[str]]) -> list[str]:
    """Tokens of a line, the stream between two positions; what follows can matter. `chunks` keeps tokens of chunks."""
    tokens: list[str] = []
    while position < end:
        if spaces := _SPACES.match(stream, position):
            position = spaces.end()
        elif plain := _PLAIN.match(stream, position):
            tokens += _split_plain(plain[0])
            position = plain.end()
        elif chunk := _CHUNK.match(stream, position):
            if chunk[0] not in chunks:
                chunks[chunk[0]] = _rule_tokens(stream, position, chunk.end())
            tokens += chunks[chunk[0]]
            position = chunk.end()
        else:
            token, position = _next_token(stream, position)
            tokens += [token] if token else []
    return tokens


def _split_plain(plain: str) -> list[str]:
    """Tokens of what `_PLAIN` found."""
    text = _PLAIN_MARK.sub("", plain)
    if "<" in text:
        text = _PLAIN_TAG.sub(r"< \1 \2 ,\3,\4 >", text)
    return text.lower().split()


def _rule_tokens(stream: str, position: int, end: int) -> list[str]:
    """Tokens between two positions, as the rules have them."""
    tokens = []
    while position < end:
        token, position = _next_token(stream, position)
        tokens += [token] if token else []
    return tokens


def _next_token(stream: str, position: int) -> tuple[str, int]:
    """The token that starts at `position`, normalised ("" for what is dropped), and where it ends."""
    rules = _WORD_RULES if _WORD_START.match(stream, position) else _SYMBOL_RULES
    longest = -1
    start, end = position, position
    for rule in rules:
        match = rule.match(stream, position)
        if match and match.end() > longest:
            longest = match.end()
            start, end = match.span(match.lastindex or 0)
    return _normalise(stream[start:end]), end


def _normalise(token: str) -> str:
    if len(token) == 2 and token[0] in _QUOTES and token[1] in _QUOTES:
        token = _QUOTES[token[0]] + _QUOTES[token[1]]
    if token in _PUNCTUATION or _NOTHING.fullmatch(token) or (len(token) == 1 and not _KNOWN.match(token)):
        return ""
    if _CONTRACTION.fullmatch(token):
        token = _ANY_APOSTROPHE.sub("'", token)
    if token.startswith("<") and token.endswith(">"):
        return token.lower().replace(" ", "\u00a0")
    token = token.lower()
    return _NORMAL_FORM.get(token) or _REWRITE.sub(lambda match: _REWRITES[match[0]], token)
