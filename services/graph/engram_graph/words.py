"""Words that are no names although a sentence may begin with them, and words that tell of time."""

from __future__ import annotations

MONTHS: dict[str, int] = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul",
            "august aug", "september sept sep", "october oct", "november nov", "december dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
"""Month names and their short forms, lower case, to their number."""

WEEKDAYS: dict[str, int] = {
    name: number
    for number, names in enumerate(
        ("monday mon", "tuesday tues tue", "wednesday wed", "thursday thurs thur thu",
         "friday fri", "saturday sat", "sunday sun")
    )
    for name in names.split()
}  # fmt: skip
"""Weekday names and their short forms, lower case, to their number (Monday is 0)."""

COUNTS: dict[str, int] = {
    "a": 1, "an": 1, "one": 1, "two": 2, "couple": 2, "three": 3, "few": 3, "four": 4, "five": 5, "six": 6,
    "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
"""Numbers in words."""

TIME_WORDS: frozenset[str] = frozenset(MONTHS) | {"yesterday", "today", "tomorrow", "tonight", "ago", "last", "next"}
"""A text with none of these and no digit holds no date."""

TITLES = frozenset({"dr", "mr", "mrs", "ms", "prof", "st"})
"""Titles, which are followed by a full stop inside a name."""

CONNECTORS = frozenset(
    ["of", "the", "de", "da", "del", "della", "di", "la", "le", "van", "von", "der", "den", "du", "y", "bin", "al"]
)
"""Words in small letters that may stand inside a name."""

CONTRACTIONS = frozenset({"m", "ll", "re", "ve", "d", "t", "em", "all"})
"""What stands behind the apostrophe of a shortened word."""

BEGIN_NAMES = frozenset({"new", "great", "little", "big", "old", "north", "south", "east", "west", "high"})
"""Common words that many names begin with."""

_COMMON = """
a about above absolutely account across actually add after again against ago agreed ah aha ain't all almost along
already alright also although altogether always am amazing among an and another any anybody anyone anything anyway
anyways apart apparently appreciate are aren't around as asap ask at aw away awesome aww awww back bad be beautiful
because been before behind being believe below besides best better between big both bravo bring btw but by bye call
came can can't cannot care cause certainly check cheers cherish chill clearly come coming congrats congratulations
consider considering cool could couldn't crazy creating curious cute day dear deep definitely despite did didn't
different do does doesn't doing don't done down due during each early east either else enjoy enough especially even
eventually ever every everybody everyone everything exactly excellent except excited exciting experiencing fair family
fantastic feel feeling few finally find finding fine first following for forget fortunately from fun funny further fyi
gave get getting gimme give given giving glad go going gonna good goodbye gorgeous gosh got gotta great guess guys ha
had hadn't haha half hang happy hard has hasn't have haven't having he he's heck hello help hence her here here's hers
herself hey hi high him himself his hm hmm hold holy honestly hope hopefully how how'd how's however huge i i'd i'll
i'm i've idk if imagine imo impressive in incredible indeed initially inside inspiring instead interesting into is
isn't it it'd it'll it's its itself just keep keeping kind know last late lately later learn learning least leave left
less let let's life like likewise listen little living lmao lol long look looking looks losing lots love loved lovely
loving luckily made mainly make makes making man many maybe me mean meanwhile meet meeting might mind mine miss mm mmm
more moreover morning most mostly much must my myself nah name near nearly need neither never nevertheless new next
nice night no nobody none nope nor north not note nothing now number obviously of off often oh ok okay old omg on once
one only onto ooh oops open or other otherwise our ours ourselves out outside over overall own part people perfect
perhaps personally pic pics plan playing please plus pm pretty previously probably promise proud ps putting question
quick quite rather read reading ready real really recently regarding relax remember right rock said same saw say
saying see seeing seems seen self several shall share she she's should shouldn't show similarly simply since slowly
small so some somebody someday somehow someone something sometimes somewhere soon sorry sounds south speaking special
spending start starting stay still stoked stop such super supporting sure surely surprisingly swamped sweet take
taking talk talking tbh tell than thank thankfully thanks that that'd that'll that's the their theirs them themselves
then there there's therefore these they they'd they'll they're they've thing things think this those though thought
three through throughout thus time to today together tomorrow tonight tons too took total totally toward towards tried
trip true truly trust try trying turns tv two ugh uh uhh um under unfortunately unless unlike until up upon us use
used using usually very via volunteering wait wanna want wanted was wasn't watch watching way we we'd we'll we're
we've week welcome well were weren't west what what'd what's whatever when whenever where where's wherever whether
which while who who's whoa whole whom whose why will wise wish with within without won't wonder wonderful woo work
working worry would wouldn't wow write writing y'all ya yay yeah year years yep yes yesterday yet you you'd you'll
you're you've your yours yourself yup
"""

COMMON: frozenset[str] = frozenset(MONTHS) | frozenset(WEEKDAYS) | TITLES | frozenset(_COMMON.split())
"""Lower-case words that are not taken as a name for standing in capitals at the head of a sentence."""
