"""Whether a sentence is a statement its speaker makes about themselves, worth keeping as it stands.

Choices:

1. English only, by patterns. A sentence that is missed is still found in its turn; one kept wrongly is noise in every
   later search, so that what is doubtful stays out.
2. Out stay: questions, requests to the assistant and dialogue about the dialogue ("I see", "I have a question"),
   hypotheticals, hedges ("I think"), what others said, what is said to
   somebody ("you"), promises without a time ("I'll try"), sentences that only point ("I like that one"), and secrets
   such as passwords, which must not travel into prompts.
"""

# ruff: noqa: SIM905 - a long list of words reads better as text

from __future__ import annotations

import re

_I = r"(?:i(?:'m|'ve|'d|'ll)?|we(?:'re|'ve|'d|'ll)?|me and my|my|mine|our|ours)"
_OPENER = re.compile(
    r"^(?:(?:hi|hello|hey|thanks|thank you|ok|okay|alright|well|so|and|but|or|also|actually|by the way|btw|yes|yeah|"
    r"yep|yup|no|nope|oh|ah|hm+|um+|anyway|to be honest|honestly|frankly|fyi|note that|note|for context|context|"
    r"for the record|i(?:'d like| would like| want| need) you to (?:remember|know|note)(?: that)?|just so you know|"
    r"(?:please )?(?:remember|note|know|keep in mind|bear in mind|don't forget|do not forget) that|"
    r"(?:please )?remember|unfortunately|luckily|sadly|fortunately|in fact|then|however|plus|lately|recently|"
    r"currently|now|right now|nowadays|these days|personally|as you know|sure|great|cool|haha|lol|nice|sorry|wow|"
    r"update|besides|although|though|because|since then|still|finally|again|generally|usually|normally|mostly|"
    r"in general|at the moment|good (?:morning|afternoon|evening)|there|guess what|you know|you see|i mean|exactly|"
    r"right|correct|true|interesting)\b[\s,:;!.–—-]*|[\s\"'“(*_-]+)+"
)
_SUBJECT = re.compile(rf"\b{_I}\b")
_LEAD = re.compile(
    r"^(?:(?:yesterday|today|tonight|tomorrow|once|ago|last|this|next|in|between|on|at|since|when|while|as|after|"
    r"before|during|for|every|each|until|till|with|without|from|by|over|around|about|growing|both|back|up|like|"
    r"unlike|most|some|all|one|two|three|four|five|six|seven|eight|nine|ten|a|an|the|early|earlier|later|whenever|"
    r"where|because|although|though|despite|thanks to|due to|ever|january|february|march|april|may|june|july|august|"
    r"september|october|november|december|monday|tuesday|wednesday|thursday|friday|saturday|sunday|\d+(?:st|nd|rd|"
    r"th)?)\b)"
)
_NOT_IN_LEAD = re.compile(
    r"\b(?:if|unless|whether|suppose|supposing|imagine|pretend|assuming|say|says|said|saying|tells?|told|asks?|asked|"
    r"write|make|help|please|can|could|let|let's|you|your|you're|maybe|perhaps|possibly|what|why|how|who|is|are|was|"
    r"were)\b"
)
_TIED = re.compile(
    r"^(?!this\b|that\b|these\b|those\b|it\b|here\b|there\b|which\b|you\b|your\b|what\b|if\b|he\b|she\b|they\b)"
    r"[\w' ,.&-]{2,60}? (?:is|are|was|were) (?:still |now |also |both |one of )?(?:my|our|mine|ours)\b"
)
_CALLED = re.compile(
    r"^(?:please |just |you can )*call me [\w'-]+(?: [\w'-]+)?[.!]*$|^(?:people|friends|everyone|everybody) calls? me\b"
)
_QUESTION = re.compile(
    r"\?[\"'”’)\s]*$|^(?:can|could|do|does|did|is|are|was|were|am|will|would|should|shall|may|might|must|have|has|"
    r"had|what|who|whom|whose|which|why|how|where|isn't|aren't|don't|doesn't|didn't|won't|can't|couldn't|wouldn't|"
    r"shouldn't)(?:'s|'re|'d)? (?:i|you|we|my|our|the|there|that|this|it|is|are|do|does|did|can|could|would|should|"
    r"to|much|many|long|often|far|if|has|have)\b"
)
_ARTEFACT = (
    r"(?:\w+ ){0,3}?(?:list|summary|poem|story|function|script|regex|code|snippet|explanation|answer|examples?|"
    r"translation|recipes?|plan|table|essay|email|e-mail|letter|paragraph|sentence|version|prompt|query|command|"
    r"outline|draft|ideas?|suggestions?|recommendations?|advice|tips?|overview|itinerary|synonyms?|names?|titles?|"
    r"comparison|review|report|template|speech|joke|haiku|limerick|slogan|caption|bio|response|reply|information|"
    r"info|details|way|ways|solution|tutorial|guide|image|picture|diagram|schedule|quiz|questions?|help|hand|"
    r"favou?r|minute|second)"
)
_REQUEST = re.compile(
    rf"^(?:i|we)(?:'d| would)?(?: really| also| just| still)? (?:want|need|like|love|prefer|expect|require|wish|"
    rf"ask)(?:ed)? (?:for )?(?:you\b|to (?:know|see|ask|understand|hear (?:more|your|from you)|find out|"
    rf"get {_ARTEFACT}|have {_ARTEFACT})\b|(?:an?|some|the|another|more|your|one more|any)? ?{_ARTEFACT}\b|help\b)|"
    rf"^(?:i am|i'm|we're|we are)(?: just| currently| also)? (?:looking for|after|in need of|hoping for) "
    rf"(?:an?|some|the|any|more|your)? ?{_ARTEFACT}\b|"
    r"^(?:i|we) (?:request|demand|order|command|insist)\b|^(?:i'll|i will) (?:give|send|show|paste|share|provide|"
    r"ask|tell)\b|^my (?:next |last |first |other |main )?(?:questions?|requests?|point|guess|bad|apologies|"
    r"prompts?|instructions?|query|queries|message|code|script|function|input|output|error|command|understanding is|"
    r"assumption|mistake)\b"
)
_DIALOGUE = re.compile(
    r"^(?:i|we)(?:'m| am|'ve| have|'ll| will|'d| would)?(?: really| also| just| still| totally| already| do| did|"
    r" even)* (?:see(?! (?:an?|my)\b)|can (?:see|imagine|tell|relate)|can't wait|agree|disagree|understand|"
    r"understood|think|thought|guess|suppose|mean|meant|bet|wonder|wondered|wondering|was wondering|was thinking|"
    r"wish|assume|assumed|imagine|heard (?:that|you)|asked (?:you|about|if|what|how|why|whether)|asking|said|saying|"
    r"say|told you|tried (?:that|this|it|your|what|the)|try (?:that|this|it|your)|appreciate|apologi[sz]e|sorry|beg|"
    r"repeat|copied|pasted|attached|uploaded|sent you|got it|get it|believe (?:so|that|you|it|this)|hope (?:that|"
    r"this|you|it|so)|(?:don't|do not|didn't|did not|can't|cannot|couldn't) (?:know|understand|get|see|think|mean|"
    r"believe|follow|say|ask|remember|tell|care|agree|need (?:you|that|this|it)|want you)|(?:have|had|got) (?:a|an|"
    r"one|some|the|a few|two|another|no)(?: \w+)? (?:question|questions|request|doubt|doubts|idea|feeling|"
    r"problem with)|(?:discussed|talked|spoke|chatted) (?:about|before|earlier|last)|were (?:talking|discussing)|"
    r"(?:forgot|forget) to (?:say|mention|add|ask|tell)|notice|noticed (?:that|you))\b|^(?:i am|i'm|we are|"
    r"we're)(?: (?:very|so|really|a bit|just|not|all|still|quite|pretty))* (?:sure|unsure|sorry|back|here|ready|"
    r"done|fine|good(?! (?:at|with|in)\b)|ok|okay|confused|stuck|curious|afraid|glad|asking|referring|talking|"
    r"looking at|using this|testing|kidding|joking|lost|impressed|certain|aware|happy (?:with|that)|following|"
    r"pleased|thinking|wondering|saying|serious|bored|hungry|tired|sleepy|busy|listening|interested in (?:knowing|"
    r"hearing|your))\b|^(?:i'd|i would) (?:say|think|guess|imagine|suggest|argue|recommend|appreciate|rather you)\b|"
    r"^(?:i am|i'm)(?: \w+)? (?:happy|sad|angry|excited|worried|nervous|cold|hot|annoyed|upset|scared|exhausted|"
    r"thirsty|surprised|amazed|relieved|grateful|thankful|disappointed|frustrated|better|late|early|home|"
    r"done)(?: (?:and|but) \w+)?$|^we (?:need to|should|can|could|have to|must|are going to|were|discussed|"
    r"haven't (?:talked|spoken))\b|^(?:i|we)(?:'ll| will|'m gonna|'re gonna| won't)\b(?!.*\b(?:next|tomorrow|"
    r"tonight|soon|this|in (?:a|an|two|three|\d+|january|february|march|april|may|june|july|august|september|"
    r"october|november|december)|on \w+day)\b)"
)
_TO_SOMEBODY = re.compile(r"\byou(?:r|rs|'re|'ve|'ll|'d)?\b")
_HYPOTHETICAL = re.compile(
    r"^(?:i|we)(?: (?:could|might|may|should|would(?! (?:love|like|prefer|rather|always|often|never))|were to)|"
    r"'d(?! (?:love|like|prefer|rather|been|had|lived|gone|worked|always|never|better|\w{2,}ed)))\b|"
    r"\bas if\b|\bhypothetical\w*\b|\bif i (?:were|was|had|could|would)\b|\bi would(?:'ve| have)\b|\bin my (?:story|"
    r"novel|game) i\b"
)
_POINTING = re.compile(
    r"^(?:i|we)(?:'m|'ve|'ll| am| have| had| will)?(?: [\w']+){1,3}? (?:it|that|this|them|those|these|so|too|one|"
    r"there|him|her)(?: (?:too|one|now|already|a lot|very much|so much|as well|anyway|again|all))*$"
)
_SECRET = re.compile(
    r"\b(?:password|passcode|passphrase|pin(?: code| number)?|cvv|api[ -]?key|secret key|access token|private key|"
    r"credit card|debit card|card number|iban|account number|social security|ssn|seed phrase|recovery phrase)\b.*"
    r"(?:\bis\b|\bare\b|:|=)|\b(?:\d[ -]?){12,19}\b|\b(?:sk|pk|ghp|rp_live)[-_][\w-]{8,}"
)
_QUOTES = re.compile(
    r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”|«[^»\n]{1,300}»|`[^`\n]{1,300}`|(?<!\w)'[^'\n]{12,300}'(?!\w)"
)
_STOP = frozenset(
    "i i'm i've i'd i'll we we're we've my our mine am is are was were be been have has had do did a an the to of "
    "in on it "
    "and or but so too very really just that this not no yes".split()
)


def bare(sentence: str) -> str:
    """The sentence in small letters, without quotations, openers ("Well, …") and final marks: what the tests see."""
    text = _QUOTES.sub("«»", sentence.replace("’", "'").replace("‘", "'"))
    return without_opener(" ".join(text.lower().split())).strip(" *_")


def without_opener(sentence: str) -> str:
    """The sentence without "Well, by the way, " and the like before it."""
    lowered = sentence.lower()
    opener = _OPENER.match(lowered)
    if opener and opener.end() < len(lowered) == len(sentence):
        return sentence[opener.end() :]
    return sentence


def holds_secret(sentence: str) -> bool:
    """Whether it gives away a password, a key or a number of that kind."""
    return bool(_SECRET.search(sentence.lower()))


def is_statement(sentence: str) -> bool:
    """Whether the sentence says something lasting about its speaker."""
    text = bare(sentence)
    if _QUESTION.search(text) or _SECRET.search(text):
        return False
    if _CALLED.match(text) or _TIED.match(text):
        return True
    subject = _SUBJECT.search(text)
    if subject is None or not _may_lead(text[: subject.start()]):
        return False
    main = text[subject.start() :].rstrip(" .!…;,)\"'”")
    if any(pattern.search(main) for pattern in (_REQUEST, _DIALOGUE, _TO_SOMEBODY, _HYPOTHETICAL, _POINTING)):
        return False
    words = re.findall(r"[^\W_][\w'-]*", main)
    return len(words) + main.count("'") >= 3 and any(word not in _STOP for word in words)


def _may_lead(lead: str) -> bool:
    """What may stand before the subject: nothing, or when, where and with whom it was."""
    return not lead or (len(lead) <= 60 and bool(_LEAD.match(lead)) and not _NOT_IN_LEAD.search(lead))
