"""Drops answers that refuse, and counts where a trace talks about its instructions."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from filters._text.prose import blanked, clip
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record

_SHOWN = 5
_APOSTROPHE = str.maketrans("’‘", "''")
# How far back a quotation is looked for.
_LINE = 500
# So much of a question is read; each phrase is looked for in it.
_LONGEST_QUESTION = 20_000

_CANNOT = (
    r"(?:ca(?:n't|nnot|n not)|won't(?: be able to)?|will not(?: be able to)?|"
    r"am (?:unable|not (?:able|allowed|permitted)) to)"
    r"(?: (?:and|or|really|directly|actually|personally|will not|cannot|won't|currently)){0,3}"
)
_THIS = r"(?:this|that|such|your|these)"
_WISH = (
    r"(?:requests?|tasks?|questions?|topics?|subjects?|matters?|conversation|kind|types?|content)"
)
_HELP = (
    r"(?:help|instructions|information|advice|guidance|assistance|support|opinions|details on|"
    r"content|material|stor(?:y|ies)|essays?|jokes)\b"
)
_MEDIUM = r"(?:images?|pictures?|figures?|diagrams?|attach\w+|photos?)"
_DO = (
    r"(?:help(?! (?:but|it|myself)\b)|assist|comply|engage (?:in|with)|participate in|browse|"
    r"(?:fulfill?|accommodate|support|process|complete|discuss|continue)(?: with)? "
    rf"{_THIS} {_WISH}|"
    r"fulfill? (?:this|that)[.!,]|discuss (?:this|that)[.!,]|(?:provide|share) (?:this|that)[.!,]|"
    rf"(?:answer|respond to) {_THIS}(?: (?:question|request|query))?+"
    r"(?! (?:yet|directly|immediately|until|without|before|by|from))|"
    r"provide you\b|(?:provide|share|offer|give|generate|create|write|produce) "
    rf"(?:\S{{1,30}} ){{0,4}}{_HELP}|"
    r"access (?:the (?:internet|web)|external|real|your|websites|urls|files|links)|"
    rf"open (?:links|urls|files|attachments)|(?:see|view) (?:(?:the|any|your) )?{_MEDIUM})"
)
_AI = r"(?:an ai\b|an artificial intelligence|a (?:large )?language model)"
_AI_ZH = r"作为(?:一[个名款位])?(?:ai|人工智能|大?语言模型|智能助手)"
# By language: words of which a refusal has one, and phrases, in lower case. A phrase says who
# refuses and what, since "cannot" alone is mathematics.
_REFUSALS = {
    "en": (
        ("i", " ai", "language model"),
        [
            rf"\bi {_CANNOT} {_DO}",
            rf"\bi(?:'m| am) (?:unable|not (?:able|allowed|permitted|going)) to {_DO}",
            rf"\band (?:cannot|can't|won't) {_DO}",
            r"\bnot something (?:that )?i can (?:help|assist)",
            r"\bi(?:'d| would) (?:rather|prefer) not (?:to )?(?:answer|discuss|help|say)\b",
            r"\bi(?:'m| am) (?:programmed|designed) to\b",
            r"\bmy (?:guidelines|programming|polic\w+) (?:do not|don't|prohibit|prevent|forbid)",
            r"\bviolates? (?:\w+ ){0,2}(?:usage|content|safety) polic",
            r"\bsorry,?(?: but)? i (?:can't|cannot|won't)(?: do (?:this|that|it))?[.!]",
            rf"\bas {_AI}[^.!?\n]{{0,40}}?\bi\b",
            rf"\bi(?:'m| am) (?:just |only )?{_AI}",
            r"\b(?:against|violates?) my (?:guidelines|programming|polic\w+|principles|values)",
            r"\bi (?:must|have to|need to)(?: \w+)? decline\b",
            r"\bi(?:'m| am| do)(?: not|n't) (?:feel )?comfortable (?:\w+ing|with)\b",
            r"\binappropriate for me to\b",
            r"\bi (?:do not|don't) have (?:access to (?:the internet|real|external|your|current)|"
            r"the (?:ability|capability|capacity) to (?:browse|access|view|see|open)|"
            r"personal (?:opinions|feelings))",
        ],
    ),
    "zh": (
        ("我", "作为"),
        [
            r"我(?:\w{0,2})?(?:无法|不能|没有?办法)"
            r"(?:为您|为你|给您|给你|向您|向你|直接|继续|在这里)?"
            r"(?:提供(?:帮助|协助|这|该|此|相关|任何|医疗|法律|信息|有关)|协助|帮助?(?:您|你)|"
            r"满足(?:您|你|这)|回答|访问|浏览|查看(?:图|链接)|生成(?:此|这|该|相关)|参与|"
            r"讨论(?:此|这|该))",
            r"(?:抱歉|对不起)[，, ]{0,2}(?:\w{0,4}，)?我(?:无法|不能|不可以|看不到|没办法)"
            r"[^。！？\n]{0,12}(?:[。！]|$)",
            _AI_ZH,
            r"超出了?我的(?:能力|知识)范围",
            r"违反了?我的(?:\w{0,4})(?:政策|规定|准则|原则)",
        ],
    ),
    "fr": (
        ("je ", "en tant qu"),
        [
            r"\bje ne (?:peux|puis|pourrai)(?: malheureusement)? pas (?:(?:vous|te|y) |t')?"
            r"(?:aider|assister|fournir|répondre à (?:cette|votre|ta)|accéder à|donner suite|"
            r"faire cela|générer|participer|naviguer|voir (?:l'image|d'images))",
            r"\bje ne suis pas (?:en mesure|capable|autorisée?) (?:de |d')(?:vous |t')?"
            r"(?:aider|fournir|répondre|accéder|donner|générer)",
            r"\ben tant qu(?:'ia\b|'intelligence artificielle|e modèle de lang|'assistant)",
            r"\bje (?:dois|préfère) (?:refuser|décliner)",
        ],
    ),
    "de": (
        ("ich ", "als "),
        [
            r"\b(?:ich kann|kann ich)(?: [\w-]+){0,5}? nicht (?:dabei |damit )?(?:helfen|"
            r"weiterhelfen|behilflich|beantworten|bereitstellen|erfüllen|nachkommen|zugreifen)",
            r"\bkann ich(?: [\w-]+){0,4}? keine?n?(?: [\w-]+){0,2}? "
            r"(?:ratschläge|auskunft|hilfe|anleitung|informationen|beratung)",
            r"\bich bin nicht in der lage,(?: [\w-]+){0,5}? zu (?:helfen|beantworten|erfüllen)",
            r"\bals (?:ki\b|ki-|künstliche intelligenz|sprachmodell|großes sprachmodell)",
            r"\bich (?:muss|möchte)(?: [\w-]+){0,3}? ablehnen",
        ],
    ),
    "es": (
        ("no pued", "no poder", "como ", "rechazar", "declinar", "internet"),
        [
            r"\blamento no poder (?:ayudar|cumplir|responder)",
            r"\bno puedo (?:ayudar|asistir|proporcionar|brindar|cumplir|"
            r"responder (?:a )?(?:esta|esa|tu|su)\b|acceder a|generar (?:ese|este|contenido)|"
            r"participar|navegar|ver (?:la imagen|imágenes))",
            r"\blo siento,?(?: pero)? no puedo(?: hacer (?:eso|esto))?[.!]",
            r"\bcomo (?:una? )?(?:ia\b|inteligencia artificial|modelo de lenguaje|"
            r"asistente (?:de ia|virtual))",
            r"\b(?:debo|tengo que) (?:rechazar|declinar)",
            r"\bno tengo acceso a internet",
        ],
    ),
    "ru": (
        ("я ", "как ", "являясь", "будучи"),
        [
            r"\bя не (?:могу|в состоянии) (?:вам |тебе |вас )?(?:помочь|предоставить|"
            r"ответить на (?:этот|ваш|твой)|выполнить (?:эту|этот|ваш|вашу)|обсуждать|"
            r"создать такой)",
            r"\b(?:как|являясь|будучи) (?:ии\b|искусственн\w+ интеллект|языков\w+ модел)",
        ],
    ),
    "ja": (
        ("できません", "かねます", "として"),
        [
            r"(?:お答え|お手伝い|ご提供|お応え|ご対応)(?:する|すること)?[はが]?"
            r"(?:できません|できかねます)",
            r"提供(?:する)?(?:こと)?[はが]?(?:できません|できかねます)",
            r"申し訳[^。！？\n]{0,30}(?:できません|できかねます|いたしかねます)",
            r"(?:ai|人工知能|言語モデル)(?:アシスタント|モデル)?として",
        ],
    ),
}
_META = (
    (" user", "instruct", "guideline", "polic", "system ", " supposed", " told", "training"),
    [
        r"\bthe users?(?:'s)? (?:ask|want|is asking|has asked|said|say|provid|gave|request|need)",
        r"\b(?:the|my) (?:system (?:prompt|message)|instructions?|guidelines|polic(?:y|ies)) "
        r"(?:say|tell|ask|require|state|want|forbid|prohibit|do not|don't)",
        r"\bi (?:was|am|have been) (?:told|instructed|asked|supposed) to\b",
        r"\bmy (?:training data|knowledge cutoff|training)\b",
    ],
)
_META_OTHERS = (
    (
        " ai",
        "language model",
        "用户",
        "系统",
        "作为",
        "utilisat",
        "nutzer",
        "usuario",
        "польз",
        "ユー",
    ),
    [
        rf"\b(?:as|i'm|i am) (?:just )?{_AI}",
        rf"用户(?:问|想|要求|希望|让|需要|提)|系统提示|{_AI_ZH}",
        r"\bl'utilisat(?:eur|rice) (?:demande|veut|souhaite)",
        r"\bder (?:be)?nutzer (?:fragt|möchte|will|hat)",
        r"\bel usuario (?:pregunta|pide|quiere|ha )",
        r"\bпользователь (?:спрашивает|просит|хочет)",
        r"ユーザー(?:は|が|の質問)",
    ],
)
_Phrases = list[tuple[tuple[str, ...], re.Pattern[str]]]
_REFUSAL: _Phrases = [(keys, re.compile("|".join(all_))) for keys, all_ in _REFUSALS.values()]
_TALK: _Phrases = [(keys, re.compile("|".join(all_))) for keys, all_ in (_META, _META_OTHERS)]


class Config(FilterConfig):
    """Options of `refusal`."""

    measures: ClassVar[Measures] = {"refusals": "refusal", "meta": "talk of instructions"}

    refusals_max: float | None = Field(
        0, ge=0, description="Most phrases in the answer that refuse or name the model an AI"
    )
    meta_max: float | None = Field(
        None, ge=0, description="Most phrases about the user or the instructions, anywhere"
    )


def build(config: Config, context: Context) -> Check:
    """The measurement: how many phrases refuse, and how many talk about the instructions.

    Refusals are looked for in the answer, in English, Chinese, French, German, Spanish, Russian
    and Japanese; in the reasoning a model may weigh one and answer all the same. Talk of the
    instructions (`the user asks`, `the system prompt says`) is counted in both parts and decides
    nothing by default: chains of thought are full of it. Code and formulas, quotations, and
    what the question says itself do not count.
    """

    def measure(record: Record) -> Figures:
        question = _readable(record.task.question[:_LONGEST_QUESTION])
        refusals = _found("answer", record.answer, _REFUSAL, question)
        meta = _found("reasoning", record.reasoning or "", _TALK, question)
        meta += _found("answer", record.answer, _TALK, question)
        values = {"refusals": float(len(refusals)), "meta": float(len(meta))}
        if not refusals and not meta:
            return Figures(values)
        return Figures(values, {"refusals": refusals[:_SHOWN], "meta": meta[:_SHOWN]})

    return measure


def _found(part: str, text: str, phrases: _Phrases, question: str) -> list[dict[str, str | int]]:
    prose = _readable(blanked(text))
    return [
        {
            "part": part,
            "start": found.start(),
            "end": found.end(),
            "phrase": clip(text[found.start() : found.end()]),
        }
        for keys, pattern in phrases
        if any(key in prose for key in keys)
        for found in pattern.finditer(prose)
        if not _quoted(prose, found.start()) and found[0] not in question
    ]


def _quoted(prose: str, place: int) -> bool:
    """Whether a quotation that began in this line is still open."""
    before = prose[max(0, place - _LINE) : place].rpartition("\n")[2]
    pairs = (("“", "”"), ("«", "»"), ("「", "」"), ("『", "』"))
    return before.count('"') % 2 == 1 or any(
        before.count(opened) > before.count(closed) for opened, closed in pairs
    )


def _readable(text: str) -> str:
    """In lower case and with plain apostrophes; as long as before (only İ would grow)."""
    return text.replace("İ", "I").translate(_APOSTROPHE).lower()
