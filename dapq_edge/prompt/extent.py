"""Questions that ask for all of a document: for a list, a count, a comparison or a summary. On words, without a model.

What is asked of one place ("How many crew had the ship?") can have the same words, so that they alone decide nothing:
`reading/flat.py` looks at what the question finds.
"""

import re
from enum import Enum

# characters of a question that are looked at, its last ones
N_LOOKED_AT = 2000


class Extent(str, Enum):
    """Kind of an answer that all of a document is needed for."""

    SUMMARY = "summary"
    COMPARE = "compare"
    COUNT = "count"
    LIST = "list"


# what the patterns below have in common
_PARTS = {
    # a sentence begins, perhaps politely
    "start": r"(?:^|(?<=[.!?:;\n])\s*|(?<=,)\s+)(?:(?:<polite>)[, ]+)*",
    "polite": r"please|kindly|now|then|and|(?:can|could|would|will) you(?: please)?|i (?:want|need) you to"
    r"|i(?: would|'d) like you to|bitte|(?:kannst du|können sie)(?: bitte)?|s'il (?:te|vous) pla[iî]t"
    r"|peux-tu|pouvez-vous|por favor|puedes|podrías",
    "text": r"(?:\w+ )?(?:text|document|book|article|report|paper|story|file|page|transcript|minutes|contract)s?",
    "named": r"(?:mentioned|named|listed|described|discussed|referred to|contained|included|cited)",
    "genannt": r"(?:genannt|erwähnt|beschrieben|aufgeführt)",
    "nommé": r"(?:mentionné|cité|nommé|décrit)",
    "...": r".{1,80}?",
    "words": r"[\w ]{1,80}?",
}

# English, German, French, Spanish; the first kind that matches counts
_PATTERNS = {
    Extent.SUMMARY: (
        r"<start>(?:summari[sz]e|sum up|recap|outline|abridge|condense)\b",
        r"<start>(?:give|write|make|provide|create|produce|draft)\b<...>\b(?:summary|overview|outline|synopsis)\b",
        r"\bi (?:want|need|would like|'d like) an? (?:\w+ ){0,2}(?:summary|overview|outline|synopsis)\b",
        r"\b(?:what is|what's|what are) (?:this|these|the|that) <text>(?: all)? about\b",
        r"\b(?:main|key|central|most important|principal) (?:\w+ )?"
        r"(?:points|ideas|topics|themes|arguments|findings|takeaways|messages|conclusions)\b",
        r"\bgist of\b|\bin a nutshell\b|\btl;?dr\b",
        r"^(?:a )?(?:short |brief )?(?:summary|overview)(?: of <...>)?[.!?]?$",
        r"<start>fass\w* <...>\bzusammen\b|<start>resümiere?",
        r"\b(?:gib|schreib|erstell|mach)\w* <...>\b(?:zusammenfassung|überblick|übersicht|inhaltsangabe)\b",
        r"\bworum geht es in (?:dem|der|diesem|dieser|den)\b|\b(?:haupt|kern)aussagen?\b",
        r"\b(?:wichtigste|zentrale|wesentliche)n? (?:punkte|aussagen|themen|thesen|ergebnisse)\b",
        r"<start>(?:résume[zr]?|résumer|synthétise[zr]?)\b",
        r"\b(?:fais|faites|écris|écrivez|donne|donnez|rédige)\b<...>\b(?:résumé|synthèse|aperçu)\b",
        r"\bde quoi (?:parle|traite|s'agit)|\bidées (?:principales|clés|essentielles)\b",
        r"\b(?:points|thèmes|arguments) (?:principaux|clés|essentiels)\b",
        r"<start>(?:resume|resuma|resumir|sintetiza)\b",
        r"\b(?:haz|haga|escribe|escriba|da|dame|redacta)\b<...>\b(?:resumen|síntesis)\b",
        r"\bde qué (?:trata|habla|va)\b|\b(?:puntos|temas|argumentos|ideas) (?:principales|clave)\b",
    ),
    Extent.COMPARE: (
        r"<start>(?:compare|contrast|juxtapose)\b|\bcomparison (?:of|between)\b",
        r"\b(?:differences?|similarit(?:y|ies)) (?:are there )?between\b|\bwhat (?:do|did) <...> have in common\b",
        r"\bhow (?:do|does|did) <...>\b(?:differ|compare)\b|\bhow (?:are|is|were|was) <...> different from\b",
        r"<start>vergleich\w*|<start>stell\w* <...>\bgegenüber\b",
        r"\bunterschiede? zwischen\b|\bgemeinsamkeiten\b|\b(?:worin|wie) unterscheide\w+\b",
        r"<start>compare[zr]?\b|\b(?:différences?|ressemblances?|comparaison) entre\b|\ben quoi diff",
        r"<start>compar(?:a|e|ar)\b|\b(?:diferencias?|similitudes|comparación) entre\b|\ben qué se diferencia",
    ),
    Extent.COUNT: (
        r"<start>count (?:the|all|every|each|how)\b",
        r"\bhow (?:many times|often) (?:is|are|was|were|does|do|did) <...>\b(?:<named>|appear|occur)",
        r"\bhow many (?:different|distinct)\b|\bhow many <words> in (?:the|this|these|all) <text>\b",
        r"\bhow many <words> (?:are|were|is|get) (?:<named>|there\b)",
        r"\bhow many <words> do(?:es)? (?:the|this|that) <text> (?:mention|name|list|describe|discuss|contain|have)",
        r"\bnumber of (?:all |different |distinct )?<words> <named>\b",
        r"\bwie oft (?:wird|werden|kommt|kommen|erscheint)\b|\banzahl (?:aller|der)\b",
        r"<start>zähle? (?:die|alle|wie)\b|\bwie viele (?:verschiedene|unterschiedliche)\b",
        r"\bwie viele <...> <genannt>\b|\bwie viele <words> (?:gibt es|kommen|enthält)\b",
        r"\bcombien de fois\b|\bcombien <...>(?:<nommé>|y a-t-il)|\bnombre (?:total )?de <...><nommé>",
        r"<start>compte[zr]? (?:les|tous|toutes|le nombre|combien)\b|\bcombien d\w* \w+ différent",
        r"\bcuántas veces\b|<start>cuenta (?:los|las|todos|todas|cuánt)",
        r"\bcuánt[oa]s <...>(?:mencion|nombra|cita|aparece|hay\b|diferentes\b|distint[oa]s\b)",
    ),
    Extent.LIST: (
        r"<start>(?:list|enumerate|itemi[sz]e)\b(?! prices?\b| is\b| of\b)",
        r"\b(?:list|enumerate|name|give|find|show|extract|collect|identify|quote|tell|state|mention|gather)\w*"
        r"(?: me| us)?(?: out)? (?:(?:the|a|an) )?(?:(?:full|complete|names?|titles?|dates?|list) )?"
        r"(?:of )?(?:all|every|each)\b",
        r"<start>(?:give|make|write|create|provide|show|compile|draw up)\b<...>\blist of\b",
        r"\b(?:what|who|which|where) (?:are|were) (?:all|each)\b|\bwho (?:is|are|was|were) (?:all )?<named>\b",
        r"\b(?:what|which|whose) (?:\w+ ){1,4}(?:are|were|is|get) (?:all )?<named>\b",
        r"\ball (?:of )?the <words> <named>\b|\b(?:all|every) <words> in (?:the|this|these) <text>\b",
        r"<start>(?:liste|zähl)\w* <...>\bauf\b|\balle <...> (?:auflisten|aufzählen|nennen)\b",
        r"<start>(?:nenn|find|zeig|such|gib)\w*(?: \w+)? (?:alle|sämtliche|jede)\w*\b",
        r"\b(?:welche|wer) <...> <genannt>\b|\bwas sind alle\b|\bliste (?:aller|von allen|mit allen)\b",
        r"<start>(?:énumère[zr]?|énumérez|liste[zr]?)\b|\bliste (?:de tous|de toutes|complète)\b",
        r"<start>(?:cite|donne|nomme|trouve|indique|montre)[zr]?(?:-moi)?(?: les noms de)? (?:tous|toutes|chaque)\b",
        r"\b(?:quels|quelles|qui) sont (?:tous|toutes)\b|\bquel(?:le)?s <...> sont <nommé>",
        r"<start>(?:enumera|enumere|lista|liste|listar)\b(?! de)|\blista (?:de todos|de todas|completa)\b",
        r"<start>(?:nombra|nombre|dime|da|dame|encuentra|muestra|menciona)(?: los nombres de)? (?:todos|todas|cada)\b",
        r"\b(?:cuáles|quiénes) son (?:todos|todas)\b|\bqué <...> se (?:mencionan|nombran|citan|describen)\b",
    ),
}


def _compiled(pattern: str) -> re.Pattern[str]:
    while found := re.search(r"<([^<>=!]+)>", pattern):
        pattern = pattern.replace(found[0], _PARTS[found[1]])
    return re.compile(pattern, re.IGNORECASE)


_TABLE = [(extent, _compiled(pattern)) for extent, patterns in _PATTERNS.items() for pattern in patterns]


# a count, if all of a text is asked; otherwise it may have its answer in one place
_HOW_MANY = re.compile(r"\b(?:how many|wie viele|combien d|cuánt[oa]s)\b", re.IGNORECASE)


def extent_of(question: str, *, asks_for_all: bool = False) -> Extent | None:
    """Return what kind of answer a question asks for, if by its words all of a text is needed for it; None otherwise.

    English, German, French and Spanish.

    Args:
        question: Of any length.
        asks_for_all: Whether it is known that all of a text is asked.
    """
    text = question.strip()[-N_LOOKED_AT:].replace("’", "'")  # noqa: RUF001
    found = next((extent for extent, pattern in _TABLE if pattern.search(text)), None)
    return Extent.COUNT if found is None and asks_for_all and _HOW_MANY.search(text) else found
